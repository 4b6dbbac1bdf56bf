"""What a multimodal VAE is built from, and the published members of the family by name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from infimum.errors import UserError
from infimum.nets import Activation
from infimum.vae import likelihoods

__all__ = ["Modality", "MultimodalConfig", "mmvae", "mopoe", "mvae"]

Subsets = Literal["full", "single", "all", "sample"] | tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Modality:
    """One modality: the shape of an item, what its values mean, and its networks.

    Attributes:
        shape: of one item; (1,) for a label.
        likelihood: "bernoulli" (0 and 1; the decoder gives logits), "categorical" (whole numbers, or one-hot along a last axis
            of ``levels``; logits), "discretised-logistic" (whole numbers), "gaussian" (real; the mean, a learned deviation),
            "laplace" (real; the median, a fixed scale).
        levels: of whole numbers: classes, words of a vocabulary, grey levels.
        scale: of "laplace" (PolyMNIST: 0.75).
        network: "mlp" with layers of widths ``hidden``, or "conv" with channels ``hidden``, each halving the picture.
        hidden: widths or channels of the encoder; the decoder has them in reverse.
        width: of the linear layer between convolutions and latent.
        activation: between layers.
    """

    shape: tuple[int, ...]
    likelihood: likelihoods.Name = "laplace"
    levels: int | None = None
    scale: float = 0.75
    network: Literal["mlp", "conv"] = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    width: int = 128
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Refuse sizes that build nothing."""
        if not self.shape or min(self.shape) < 1:
            raise UserError(f"shape is that of one item, every axis at least 1, got {self.shape}")
        if self.network == "conv" and (len(self.shape) != 3 or not self.hidden):
            raise UserError(
                f"network 'conv' is for pictures (C, H, W) and needs channels, got {self.shape}, {self.hidden}"
            )
        if self.likelihood == "laplace" and not 0 < self.scale < math.inf:
            raise UserError(f"a Laplace likelihood needs a positive scale, got {self.scale}")

    @property
    def dims(self) -> int:
        """Dimensions of one item."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class MultimodalConfig:
    """What a `MultimodalVAE` is built from.

    Attributes:
        modalities: by name; their order is that of the columns of a mask.
        latent: D, dimensions of z.
        subsets: S, which subsets of the modalities are components of q(z | x), each a product of its experts: "full" (one: all),
            "single" (M), "all" (2^M - 1, for M <= 12), "sample" (all, of which training draws one at random for every draw),
            or tuples of names.
        weights: w_A of each subset, positive; None: equal. They are normalised.
        prior_expert: in which products the prior is an expert: "all", "full" (only that of all modalities) or "none".
        family: "normal", or "laplace" for posterior and prior (for subsets of one modality: a product of them has no closed form).
        learn_prior: whether the scale of the prior is learned, its mean over dimensions held at 1 (1911.03393).
    """

    modalities: dict[str, Modality]
    latent: int = 16
    subsets: Subsets = "all"
    weights: tuple[float, ...] | None = None
    prior_expert: Literal["all", "full", "none"] = "full"
    family: Literal["normal", "laplace"] = "normal"
    learn_prior: bool = False

    def __post_init__(self) -> None:
        """Refuse what builds nothing."""
        from infimum.vae.multimodal.subsets import log_subset_weights, subset_members

        if not self.modalities:
            raise UserError("a multimodal model needs at least 1 modality, got none")
        if bad := [name for name in self.modalities if not name or "." in name]:
            raise UserError(f"a modality is called {bad[0]!r}: use a name without dots")
        if self.latent < 1:
            raise UserError(f"latent is the number of latent dimensions, at least 1, got {self.latent}")
        members = subset_members(tuple(self.modalities), self.subsets)
        log_subset_weights(len(members), self.weights)
        if self.family == "laplace" and (int(members.sum(1).max()) > 1 or self.prior_expert == "all"):
            raise UserError(
                "family 'laplace' has no products: use subsets 'single' (or tuples of one name) and prior_expert 'none'"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in order."""
        return tuple(self.modalities)


def mvae(modalities: Mapping[str, Modality], **options: Any) -> MultimodalConfig:
    """MVAE: one product of all experts and the prior (Wu & Goodman 2018, 1802.05335, section 2.2)."""
    return MultimodalConfig(dict(modalities), **{"subsets": "full", "prior_expert": "all"} | options)


def mmvae(modalities: Mapping[str, Modality], **options: Any) -> MultimodalConfig:
    """MMVAE: the mixture of the unimodal posteriors (Shi et al. 2019, 1911.03393, eq. 2).

    As published: ``family="laplace", learn_prior=True``.
    """
    return MultimodalConfig(dict(modalities), **{"subsets": "single", "prior_expert": "none"} | options)


def mopoe(modalities: Mapping[str, Modality], **options: Any) -> MultimodalConfig:
    """MoPoE: the mixture of the products of all non-empty subsets (Sutter et al. 2021, 2105.02470, eq. 6).

    The prior is an expert in the product of all modalities only, as in the published code.
    """
    return MultimodalConfig(dict(modalities), **{"subsets": "all", "prior_expert": "full"} | options)
