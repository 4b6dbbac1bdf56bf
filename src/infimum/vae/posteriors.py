"""Families of q(z | x): how encoder outputs become a distribution over D latent dimensions."""

from typing import Any, Literal

import torch
import torch.distributions as td
import zuko
from jaxtyping import Float
from torch import Tensor, nn

from infimum.distributions import DiagonalMixture
from infimum.errors import UserError

__all__ = ["Diagonal", "Flow", "FullCovariance", "Mixture", "Posterior", "posterior_of"]

Name = Literal["diagonal", "full", "mixture", "flow"]

LOG_SCALE = 10.0
"""Log standard deviations are clamped to +-10: beyond, log q spikes to infinity and takes the evidence with it."""


class Posterior(nn.Module):
    """A family of distributions on R^D.

    Attributes:
        inputs: encoder outputs that it needs.
    """

    inputs: int

    def split(self, h: Float[Tensor, "B inputs"]) -> Any:
        """Encoder outputs as parameters: tensors of leading axis B."""
        raise NotImplementedError

    def forward(self, s: Any) -> td.Distribution:
        """The distribution, batch (B,), event (D,)."""
        raise NotImplementedError

    def centre(self, s: Any) -> Float[Tensor, "B D"]:
        """A point in the middle: the mean where it has a closed form."""
        raise NotImplementedError


class Diagonal(Posterior):
    """A Gaussian with independent dimensions."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.inputs = 2 * latent

    def split(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = h.chunk(2, -1)
        return mean, log_scale.clamp(-LOG_SCALE, LOG_SCALE)

    def forward(self, s: tuple[Tensor, Tensor]) -> td.Independent:
        return td.Independent(td.Normal(s[0], s[1].exp(), validate_args=False), 1, validate_args=False)

    def centre(self, s: tuple[Tensor, Tensor]) -> Tensor:
        return s[0]


class FullCovariance(Posterior):
    """A Gaussian with any covariance, by its Cholesky factor."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.inputs = 2 * latent + latent * (latent - 1) // 2

    def split(self, h: Tensor) -> tuple[Tensor, Tensor]:
        d = self.latent
        mean, log_scale, rest = h.split((d, d, d * (d - 1) // 2), -1)
        row, column = torch.tril_indices(d, d, -1, device=h.device)
        lower = h.new_zeros(*h.shape[:-1], d, d)
        lower[..., row, column] = rest
        return mean, lower + log_scale.clamp(-LOG_SCALE, LOG_SCALE).exp().diag_embed()

    def forward(self, s: tuple[Tensor, Tensor]) -> td.MultivariateNormal:
        return td.MultivariateNormal(s[0], scale_tril=s[1], validate_args=False)

    def centre(self, s: tuple[Tensor, Tensor]) -> Tensor:
        return s[0]


class Mixture(Posterior):
    """A mixture of diagonal Gaussians; a stratified lead spreads the draws over its components."""

    def __init__(self, latent: int, components: int) -> None:
        super().__init__()
        if components < 2:
            raise UserError(f"a mixture posterior needs at least 2 components, got {components}")
        self.latent, self.components = latent, components
        self.inputs = components * (2 * latent + 1)
        # Equal components would stay equal: their means start one unit apart, in random directions.
        self.register_buffer("spread", torch.randn(components, latent))

    def split(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m, d = self.components, self.latent
        logits, mean, log_scale = h.split((m, m * d, m * d), -1)
        mean = mean.unflatten(-1, (m, d)) + self.spread
        return logits, mean, log_scale.unflatten(-1, (m, d)).clamp(-LOG_SCALE, LOG_SCALE)

    def forward(self, s: tuple[Tensor, Tensor, Tensor]) -> DiagonalMixture:
        return DiagonalMixture(s[0], s[1], s[2].exp(), validate_args=False)

    def centre(self, s: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return self(s).mean


class Flow(Posterior):
    """A conditional coupling flow of rational-quadratic splines (zuko): as fast to sample as to evaluate."""

    def __init__(self, latent: int, transforms: int, width: int) -> None:
        super().__init__()
        if latent < 2:
            raise UserError(
                f"a coupling flow needs at least 2 latent dimensions, got {latent}: use posterior 'mixture'"
            )
        self.inputs = 2 * latent + width
        self.latent = latent
        self.flow = zuko.flows.NSF(latent, width, transforms=transforms, hidden_features=(width, width), passes=2)

    def split(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_scale, context = h.split((self.latent, self.latent, h.shape[-1] - 2 * self.latent), -1)
        return mean, log_scale.clamp(-LOG_SCALE, LOG_SCALE), context

    def forward(self, s: tuple[Tensor, Tensor, Tensor]) -> td.TransformedDistribution:
        # The flow shapes a standardised latent; location and scale come straight from the encoder.
        affine = td.AffineTransform(s[0], s[1].exp(), event_dim=1)
        return td.TransformedDistribution(self.flow(s[2]), [affine], validate_args=False)

    def centre(self, s: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        q = self.flow(s[2])
        return s[0] + s[1].exp() * q.transform.inv(torch.zeros_like(s[0]))


def posterior_of(name: Name, latent: int, components: int, transforms: int, width: int) -> Posterior:
    """The family of that name.

    Raises:
        UserError: unknown name.
    """
    if name == "diagonal":
        return Diagonal(latent)
    if name == "full":
        return FullCovariance(latent)
    if name == "mixture":
        return Mixture(latent, components)
    if name == "flow":
        return Flow(latent, transforms, width)
    raise UserError(f"no posterior {name!r}: choose diagonal, full, mixture or flow")


def gaussian_divergence(mean: Float[Tensor, "B D"], log_scale: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """KL(N(mean, scale^2) to N(0, 1)) in nats, a dimension each."""
    return 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
