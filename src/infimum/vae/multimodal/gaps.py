"""What sub-sampling costs a model: the gap of every subset's bound to the evidence, and the moments of linear models."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.evidence import Draws, Estimate, Plan, elbo, evaluate, iw_eubo, iwae
from infimum.vae.likelihoods import Gaussian
from infimum.vae.multimodal.bounds import SubsampledELBO
from infimum.vae.multimodal.items import Items
from infimum.vae.multimodal.model import Mixture, MultimodalVAE
from infimum.vae.multimodal.networks import ModalityNet

__all__ = ["linear_moments", "subset_gaps"]


class _GivenELBO(SubsampledELBO):
    """E_q[log p(x, z) - log q(z | x_A)] with the density of q as a whole, no mean over its components."""

    def constant(self, x: Items, s: Mixture) -> Float[Tensor, "B"]:
        return torch.zeros_like(s[2][:, 0])

    def terms(self, x: Items, s: Mixture, draws: Draws) -> Float[Tensor, "K B"]:
        z = self.model.sample(s, draws)
        return self.model.log_joint(x, z) - self.model.log_proposal(s, z)


def subset_gaps(
    model: MultimodalVAE,
    x: Items,
    subsets: Iterable[tuple[str, ...]] | None = None,
    *,
    k: int = 1000,
    seed: int = 0,
    latents: Any = None,
) -> dict[tuple[str, ...], Estimate]:
    """log p(x) - L_A = KL(q(z|x_A) to p(z|x)) item by item, in nats: the price of reconstructing everything from x_A (21, F3).

    Its mean over items is at least that of the best encoder of x_A, G_A. The evidence comes from importance weights of the whole
    posterior: below (side "lower"), or, with exact posterior ``latents`` of simulated items, above (side "upper").
    Where only single modalities are components, q(z|x_A) of several is their mixture, with its own density.

    Args:
        model: in eval mode.
        x: items that have all modalities.
        subsets: tuples of names; the components of the model's posterior if not given.
        k: draws an item of each part.
        seed: of the draws; the parts use seed and seed + 1.
        latents: (1, N, D), see `MultimodalVAE.simulate`.
    """
    if subsets is None:
        subsets = [tuple(n for n, here in zip(model.names, row, strict=True) if here) for row in model.members.tolist()]
    if latents is None:
        evidence = evaluate(model, x, Plan.iid(k), iwae, seed=seed)
    else:
        evidence = evaluate(model, x, Plan(levels=k), iw_eubo, seed=seed, latents=latents)
    found = {}
    for names in subsets:
        one = len(names) == 1 or not bool((model.members.sum(1) == 1).all())
        bound = SubsampledELBO(model, names) if one else _GivenELBO(model, names)
        below = evaluate(bound, x, Plan.iid(k), elbo, seed=seed + 1)
        found[names] = dataclasses.replace(
            evidence - below,
            side="lower" if latents is None else "upper",
            name=f"{evidence.name} - ELBO of {'+'.join(names)}",
            target=f"KL(q(z|{','.join(names)}) to p(z|x))",
            obstacle="a gap of two estimates has a side in expectation only",
        )
    return found


def linear_moments(model: MultimodalVAE) -> tuple[Float[Tensor, "P"], Float[Tensor, "P P"]]:
    """Mean and covariance of p(x), all modalities side by side, of a model whose decoders are linear with Gaussian noise.

    Raises:
        UserError: another decoder, likelihood or prior.
    """
    weights, biases, noise = [], [], []
    for name, net in model.nets.items():
        assert isinstance(net, ModalityNet)
        layers = list(net.decoder.children())
        linear = isinstance(net.decoder, nn.Linear) or (len(layers) == 1 and isinstance(layers[0], nn.Linear))
        if not linear or not isinstance(net.likelihood, Gaussian) or model.config.family != "normal":
            raise UserError(
                f"the moments of p(x) are known for linear decoders (hidden=()), 'gaussian' likelihoods and a normal prior; "
                f"modality {name!r} has others: use importance weights"
            )
        layer: Any = net.decoder if isinstance(net.decoder, nn.Linear) else layers[0]
        weights.append(layer.weight * model.prior_log_scale().exp())
        biases.append(layer.bias)
        noise.append((2 * net.likelihood.log_scale).exp())
    w, psi = torch.cat(weights).double(), torch.cat(noise).double()
    return torch.cat(biases).double(), w @ w.T + torch.diag(psi)
