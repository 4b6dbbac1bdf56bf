"""A product of independent one-dimensional models whose integrals are done by quadrature."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from infimum.evidence.draws import Draws
from infimum.evidence.sampling import draw
from infimum.testing.oracles.base import Oracle, Start, double

__all__ = ["QuadratureProduct"]

POINTS, REACH = 4000, 12.0  # the trapezoidal rule on [-12, 12] is exact to rounding for smooth integrands


class QuadratureProduct(Oracle):
    """z_d ~ N(0, 1), x_d|z_d ~ likelihood(z)_d, independent over d = 1..D. x (B, D), z (K, B, D).

    log p(x) is a sum of D integrals by the trapezoidal rule on 4,000 points of [-12, 12]. The posterior is not
    Gaussian; the proposal is: it has the posterior's (or the prior's) mean and standard deviation in each coordinate,
    then is shifted and stretched. Posterior draws invert the distribution function of the trapezoidal density.

    Args:
        dim: D.
        likelihood: from z (..., D) to a distribution of batch shape (..., D); Bernoulli(logits = 2 z) by default.
    """

    def __init__(
        self,
        dim: int,
        likelihood: Callable[[Tensor], Distribution] | None = None,
        *,
        proposal: Start = "posterior",
        shift: float | int = 0.0,
        stretch: float | int = 1.0,
    ) -> None:
        super().__init__(proposal, shift, stretch)
        self.dim = dim
        self.likelihood = likelihood or (lambda z: Bernoulli(logits=2 * z))
        self.register_buffer("grid", torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64), persistent=False)

    grid: Tensor

    def _log_joint_grid(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "G B D"]:
        z = self.grid[:, None, None].expand(-1, *x.shape)
        return Normal(0.0, 1.0).log_prob(z) + self.likelihood(z).log_prob(x)

    def log_evidence(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B"]:
        step = self.grid[1] - self.grid[0]
        return (self._log_joint_grid(x).logsumexp(0) + step.log()).sum(-1)

    def posterior_moments(self, x: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Mean and standard deviation of every coordinate of p(z|x)."""
        weight = self._log_joint_grid(x).softmax(0)
        mean = torch.einsum("g,gbd->bd", self.grid, weight)
        return mean, (torch.einsum("g,gbd->bd", self.grid**2, weight) - mean**2).sqrt()

    def encode(self, x: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Mean and standard deviation of the proposal."""
        prior = torch.zeros_like(x), torch.ones_like(x)
        mean, sd = self.posterior_moments(x) if self.proposal == "posterior" else prior
        return mean + self.shift * sd, self.stretch * sd

    def posterior(self, s: tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]) -> Independent:
        """The Gaussian proposal q(z|x)."""
        return Independent(Normal(*s), 1)

    def log_joint(self, x: Float[Tensor, "B D"], z: Float[Tensor, "K B D"]) -> Float[Tensor, "K B"]:
        return (Normal(0.0, 1.0).log_prob(z) + self.likelihood(z).log_prob(x)).sum(-1)

    def posterior_sample(self, x: Float[Tensor, "B D"], draws: Draws) -> Float[Tensor, "K B D"]:
        density = self._log_joint_grid(x).softmax(0).movedim(0, -1).contiguous()  # (B, D, G)
        area = (density[..., 1:] + density[..., :-1]) / 2
        upper = area.cumsum(-1)
        u = double(draws).uniform("posterior", self.dim).movedim(0, -1).contiguous() * upper[..., -1:]  # (B, D, K)
        cell = torch.searchsorted(upper, u).clamp_max(POINTS - 2)
        left, right = density.gather(-1, cell), density.gather(-1, cell + 1)
        rest = (u - upper.gather(-1, cell) + area.gather(-1, cell)).clamp_min(0.0)
        # Within a cell the density is linear: rest = left f + (right - left) f^2 / 2, solved without cancellation.
        root = (left**2 + 2 * (right - left) * rest).clamp_min(0.0).sqrt()
        fraction = (2 * rest / (left + root).clamp_min(1e-300)).clamp(0.0, 1.0)
        step = self.grid[1] - self.grid[0]
        return (self.grid[cell] + step * fraction).movedim(-1, 0)

    def _ancestral(self, draws: Draws) -> tuple[Float[Tensor, "K B D"], Float[Tensor, "K B D"]]:
        z = double(draws).normal("prior", self.dim)
        return z, draw(self.likelihood(z[0]), double(draws), "x")
