"""The registry of runnable recipes: one line each, importing nothing."""

from dataclasses import dataclass

__all__ = ["RECIPES", "Entry"]


@dataclass(frozen=True)
class Entry:
    """One recipe.

    Attributes:
        target: where it is, ``module:Class``.
        title: what it does.
        arxiv: of the paper it follows.
        task: what is modelled.
        data: embedded data set that it runs on without flags.
        minutes: on two CPU cores, without flags.
    """

    target: str
    title: str
    arxiv: str
    task: str
    data: str
    minutes: float


RECIPES: dict[str, Entry] = {
    "vae": Entry(
        "infimum.recipes.vae:Vae", "variational auto-encoder, any posterior and gradient rule", "1312.6114", "density",
        "digits", 1,
    ),
    "vae-iwae": Entry(
        "infimum.recipes.vae_iwae:VaeIwae", "VAE against IWAE: which has the higher evidence?", "1509.00519", "comparison",
        "digits", 2,
    ),
    "iwae": Entry(
        "infimum.recipes.iwae:Iwae", "VAE, IWAE-5 and IWAE-50 over seeds, certified and ranked", "1509.00519", "reproduction",
        "digits", 9,
    ),
    "belief-net": Entry(
        "infimum.recipes.belief_net:BeliefNetRecipe", "binary belief net beside its exact evidence", "1402.0030", "density",
        "digits", 1,
    ),
    "dg-vae": Entry(
        "infimum.recipes.dg_vae:DgVae", "text VAEs by a density gap, beside the cures of posterior collapse", "2211.00321", "text",
        "wikipedia", 9,
    ),
    "mixture-vae": Entry(
        "infimum.recipes.mixture_vae:MixtureVae", "mixture of posteriors against the prior, PatchGAN", "2309.13160",
        "reproduction", "digits, faces", 20,
    ),
    "model-selection": Entry(
        "infimum.recipes.model_selection:ModelSelection", "how many components: evidence bound against BIC, Minka, CV",
        "1810.11859", "selection", "wine, digits", 3,
    ),
    "multimodal-vae": Entry(
        "infimum.recipes.multimodal_vae:MultimodalVae", "MVAE, MMVAE and MoPoE: likelihood, coherence, quality", "2110.04121",
        "multimodal", "polydigits", 8,
    ),
    "multimodal-gap": Entry(
        "infimum.recipes.multimodal_gap:MultimodalGap", "what sub-sampling modalities costs, in closed form", "2110.04121",
        "reproduction", "linear-Gaussian worlds", 9,
    ),
    "diffusion-elbo": Entry(
        "infimum.recipes.diffusion_elbo:DiffusionElbo", "diffusion by its ELBO in bits a dimension; weightings, times, flow",
        "2303.00848", "density", "digits", 9,
    ),
    "diffenc": Entry(
        "infimum.recipes.diffenc:Diffenc", "diffusion of a learned encoding beside plain diffusion", "2310.19789", "reproduction",
        "digits", 29,
    ),
    "mulan": Entry(
        "infimum.recipes.mulan:MulanRecipe", "diffusion with learned noise for each dimension, beside its ablations", "2312.13236",
        "reproduction", "digits", 32,
    ),
    "masked-diffusion": Entry(
        "infimum.recipes.masked_diffusion:MaskedDiffusionRecipe", "masked diffusion of text beside its autoregressive twin",
        "2406.07524", "text", "wikipedia-characters", 12,
    ),
    "spg": Entry(
        "infimum.recipes.spg:SpgRecipe", "sandwiched policy gradient: an upper surrogate for bad completions", "2510.09541",
        "alignment", "4x4 Sudoku", 2,
    ),
    "vrpo": Entry(
        "infimum.recipes.vrpo:VrpoRecipe", "preferences by ELBOs of little variance: shared masks, one mask a level", "2505.19223",
        "alignment", "4x4 Sudoku", 1,
    ),
    "gdpo": Entry(
        "infimum.recipes.gdpo:GdpoRecipe", "policy optimisation by quadrature over masking levels", "2510.08554", "alignment",
        "4x4 Sudoku", 3,
    ),
    "bgpo": Entry(
        "infimum.recipes.bgpo:BgpoRecipe", "policy optimisation with many masks in the memory of one", "2510.11683",
        "alignment", "4x4 Sudoku", 5,
    ),
}  # fmt: skip
