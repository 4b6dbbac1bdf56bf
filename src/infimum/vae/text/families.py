"""Families of q(z | x) with their priors: Gaussians in R^D, and von Mises-Fisher on the unit sphere."""

import math
from typing import Any

from jaxtyping import Float
from scipy.special import lambertw
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.evidence import Draws, event_sum
from infimum.vae.posteriors import LOG_SCALE, gaussian_divergence
from infimum.vae.regularisers.aggregate import aggregate_divergence, density_gap
from infimum.vae.text.config import TextVAEConfig
from infimum.vae.text.units import consistent_units

__all__ = ["BatchNormGaussian", "DeltaGaussian", "Family", "GaussianFamily", "delta_roots", "family_of"]


class Family(nn.Module):
    """A family of posteriors and the prior that they are held against.

    Attributes:
        inputs: encoder outputs that it needs.
        latent: dimensions of z.
    """

    inputs: int
    latent: int

    def split(self, h: Float[Tensor, "B inputs"]) -> Any:
        """Encoder outputs as parameters of q(z | x)."""
        raise NotImplementedError

    def sample(self, s: Any, draws: Draws) -> Float[Tensor, "K B D"]:
        """z from q(z | x), differentiable in its parameters. Stream: "z"."""
        raise NotImplementedError

    def log_prob(self, s: Any, z: Float[Tensor, "*n D"]) -> Float[Tensor, "*m"]:
        """log q(z | x) in nats; z is broadcast against the parameters."""
        raise NotImplementedError

    def log_prior(self, z: Float[Tensor, "*n D"]) -> Float[Tensor, "*n"]:
        """log p(z) in nats."""
        raise NotImplementedError

    def prior(self, draws: Draws) -> Float[Tensor, "K B D"]:
        """z from p(z). Stream: "prior"."""
        raise NotImplementedError

    def divergence(self, s: Any) -> Float[Tensor, "B"]:
        """KL(q(z | x) to p(z)) in nats, in closed form."""
        raise NotImplementedError

    def gap(
        self, s: Any, z: Float[Tensor, "M B D"], *, aggregate: int | None = None, marginal: bool = True
    ) -> Float[Tensor, ""]:
        """`density_gap` of mixtures of ``aggregate`` posteriors from the prior in nats, of joint densities (2211.00321, eq. 9).

        Args:
            marginal: the sum over dimensions alone (eq. 11), where the prior's are independent.
        """
        return density_gap(self.log_prob, self.log_prior, s, z, aggregate=aggregate)

    def unit_divergences(self, s: Any) -> Float[Tensor, "D"]:
        """KL(p_d to q_N^d) in nats of every dimension, q_N the mixture of all N posteriors: small where d is consistent."""
        raise NotImplementedError

    def centre(self, s: Any) -> Float[Tensor, "B D"]:
        """The mean, or the mean direction."""
        return s[0]


class GaussianFamily(Family):
    """N(mean, diag scale^2) against N(0, I); parameters: mean and log of the scale."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent, self.inputs = latent, 2 * latent

    def split(self, h: Float[Tensor, "B inputs"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance are the outputs; what is not a number is named."""
        mean, log_variance = h.chunk(2, -1)
        return mean, (0.5 * log_variance).clamp(-LOG_SCALE, LOG_SCALE)

    def sample(self, s: Any, draws: Draws) -> Float[Tensor, "K B D"]:
        return s[0] + s[1].exp() * draws.normal("z", self.latent).to(s[0].dtype)

    def log_prob(self, s: Any, z: Float[Tensor, "*n D"]) -> Float[Tensor, "*m"]:
        return event_sum(-0.5 * ((z - s[0]) * (-s[1]).exp()).square() - s[1], 1) - self._log_normaliser

    def log_prior(self, z: Float[Tensor, "*n D"]) -> Float[Tensor, "*n"]:
        return event_sum(-0.5 * z.square(), 1) - self._log_normaliser

    def prior(self, draws: Draws) -> Float[Tensor, "K B D"]:
        return draws.normal("prior", self.latent)

    def divergence(self, s: Any) -> Float[Tensor, "B"]:
        return gaussian_divergence(*s).sum(-1)

    def gap(
        self, s: Any, z: Float[Tensor, "M B D"], *, aggregate: int | None = None, marginal: bool = True
    ) -> Float[Tensor, ""]:
        return aggregate_divergence(s[0], s[1], z, aggregate=aggregate, marginal=marginal)

    def unit_divergences(self, s: Any) -> Float[Tensor, "D"]:
        return consistent_units(*s)

    @property
    def _log_normaliser(self) -> float:
        return 0.5 * self.latent * math.log(2 * math.pi)


class BatchNormGaussian(GaussianFamily):
    """BN-VAE (Zhu et al. 2020, 2004.12585): batch norm on the means, its scale frozen at gamma, its shift learned.

    The mean divergence of a training batch is at least D gamma^2 / 2 nats. The running statistics are used in eval mode.
    """

    def __init__(self, latent: int, gamma: float) -> None:
        super().__init__(latent)
        self.norm = nn.BatchNorm1d(latent)
        self.norm.weight.requires_grad_(False).fill_(gamma)

    def split(self, h: Float[Tensor, "B inputs"]) -> tuple[Tensor, Tensor]:
        mean, log_scale = super().split(h)
        if self.training and h.shape[0] < 2:
            raise UserError("batch norm of one item has no variance: use a batch of at least 8, or another posterior")
        return self.norm(mean), log_scale


def delta_roots(delta: float) -> tuple[float, float]:
    """The two variances at which a centred Gaussian is ``delta`` nats from N(0, 1): ln v - v + 2 delta + 1 = 0."""
    value = -math.exp(-(1 + 2 * delta))
    return float(-lambertw(value, 0).real), float(-lambertw(value, -1).real)


class DeltaGaussian(GaussianFamily):
    """delta-VAE (Razavi et al. 2019, 1901.03416): every dimension is at least ``delta`` nats from the prior."""

    def __init__(self, latent: int, delta: float) -> None:
        super().__init__(latent)
        self.delta = delta
        self.low, self.high = (math.sqrt(v) for v in delta_roots(delta))

    def split(self, h: Float[Tensor, "B inputs"]) -> tuple[Tensor, Tensor]:
        mean, raw = h.chunk(2, -1)
        scale = self.low + (self.high - self.low) * raw.sigmoid()
        log_scale = scale.log()
        # between the roots the sum below the root is not negative; rounding is
        floor = (2 * self.delta + 1 + 2 * log_scale - scale.square()).clamp_min(0.0)
        return (floor + mean.relu() + 1e-6).sqrt(), log_scale


def family_of(config: TextVAEConfig) -> Family:
    """The family that the configuration names."""
    if config.posterior == "vmf":
        from infimum.vae.text.sphere import SphereFamily

        return SphereFamily(config.latent, config.kappa)
    if config.posterior == "batch-norm":
        return BatchNormGaussian(config.latent, config.gamma)
    if config.posterior == "delta":
        return DeltaGaussian(config.latent, config.delta)
    return GaussianFamily(config.latent)
