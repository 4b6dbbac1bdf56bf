"""A mixture of diagonal Gaussians whose samples are differentiable in all parameters, the weights included."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.special import ndtr

from infimum.errors import UserError

__all__ = ["DiagonalMixture"]


class DiagonalMixture(Distribution):
    """q(z) = sum over m of softmax(logits)_m N(z; loc_m, diag(scale_m^2)).

    Batch shape `*B`, event shape `(D,)`. Samples take the component by index and shift and scale a standard
    normal. Gradients through a sample are implicit (Figurnov et al. 2018, arXiv 1805.08498; Graves 2016,
    arXiv 1607.05690): they follow the conditional distribution functions z_d | z_<d, hence they are unbiased for
    `logits`, `loc` and `scale` alike, which is not true of a gradient that holds the component fixed.

    Args:
        logits: unnormalised log-weights of the M components, (*B, M).
        loc: component means, (*B, M, D).
        scale: component standard deviations, (*B, M, D).
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real_vector,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        logits: Float[Tensor, "..."],
        loc: Float[Tensor, "..."],
        scale: Float[Tensor, "..."],
        validate_args: bool | None = None,
    ) -> None:
        if loc.shape != scale.shape or loc.shape[:-1] != logits.shape:
            raise UserError(
                f"mixture parameters do not fit: logits {tuple(logits.shape)}, loc {tuple(loc.shape)}, scale "
                f"{tuple(scale.shape)}; expected (*B, M), (*B, M, D) and (*B, M, D)"
            )
        self.logits = logits.log_softmax(-1)
        self.loc, self.scale = loc, scale
        super().__init__(logits.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: "DiagonalMixture | None" = None
    ) -> "DiagonalMixture":
        new = self._get_checked_instance(DiagonalMixture, _instance)
        m, d = self.loc.shape[-2:]
        new.logits = self.logits.expand(*batch_shape, m)
        new.loc, new.scale = self.loc.expand(*batch_shape, m, d), self.scale.expand(*batch_shape, m, d)
        super(DiagonalMixture, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def components(self) -> int:
        """M, the number of components."""
        return self.logits.shape[-1]

    @property
    def mean(self) -> Float[Tensor, "*B D"]:
        return torch.einsum("...m,...md->...d", self.logits.exp(), self.loc)

    @property
    def variance(self) -> Float[Tensor, "*B D"]:
        spread = self.scale**2 + (self.loc - self.mean.unsqueeze(-2)) ** 2
        return torch.einsum("...m,...md->...d", self.logits.exp(), spread)

    def _component_log_density(self, value: Tensor) -> Float[Tensor, "*KB M D"]:
        standard = (value.unsqueeze(-2) - self.loc) / self.scale
        return -0.5 * standard**2 - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def log_prob(self, value: Float[Tensor, "*KB D"]) -> Float[Tensor, "*KB"]:
        """Mixture log-density in nats; leading sample axes are free."""
        if self._validate_args:
            self._validate_sample(value)
        return (self.logits + self._component_log_density(value).sum(-1)).logsumexp(-1)

    def component_log_prob(self, value: Float[Tensor, "*KB D"]) -> Float[Tensor, "*KB M"]:
        """Log-density of each component alone, without its weight."""
        return self._component_log_density(value).sum(-1)

    def from_noise(self, component: Int[Tensor, "*KB"], noise: Float[Tensor, "*KB D"]) -> Float[Tensor, "*KB D"]:
        """The sample with this component index and this standard normal, differentiable in all parameters."""
        index = component[..., None, None].expand(*component.shape, 1, *self.event_shape)
        axes = (*component.shape, self.components, *self.event_shape)
        with torch.no_grad():
            loc, scale = (p.expand(axes).gather(-2, index).squeeze(-2) for p in (self.loc, self.scale))
            z = loc + scale * noise
        parameters = (self.logits, self.loc, self.scale)
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            return self._attach(z)
        return z

    def _attach(self, z: Float[Tensor, "*KB D"]) -> Float[Tensor, "*KB D"]:
        """`z` with gradient dz = -(dF/dz)^-1 dF/dtheta, where F_d(z) = P(Z_d <= z_d | z_<d)."""
        log_density = self._component_log_density(z)
        before = log_density.cumsum(-1) - log_density  # densities of z_<d
        weight = (self.logits.unsqueeze(-1) + before).softmax(-2)  # P(component m | z_<d), (*KB, M, D)
        below = ndtr((z.unsqueeze(-2) - self.loc) / self.scale)
        conditional = (weight * below).sum(-2)  # F, with the graph of the parameters
        with torch.no_grad():
            slope = (self.loc - z.unsqueeze(-2)) / self.scale**2  # d log N(z_j; m) / d z_j
            centred = weight * (below - conditional.unsqueeze(-2))
            jacobian = torch.einsum("...md,...mj->...dj", centred, slope).tril(-1)
            density = (weight * log_density.exp()).sum(-2).clamp_min(torch.finfo(z.dtype).tiny)
            jacobian = jacobian + torch.diag_embed(density)
        change = (conditional - conditional.detach()).unsqueeze(-1)
        return z - torch.linalg.solve_triangular(jacobian, change, upper=False).squeeze(-1)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Float[Tensor, "*KB D"]:
        """Draws from torch's generator; keyed draws go through `infimum.evidence.draw`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        weights = self.logits.detach().exp().expand(*shape, self.components)
        component = torch.multinomial(weights.reshape(-1, self.components), 1).reshape(shape)
        noise = torch.randn(*shape, *self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.from_noise(component, noise)
