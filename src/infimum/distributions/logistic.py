"""The discretised logistic: a likelihood for integer-valued pixels whose masses sum to one."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from infimum.errors import UserError

__all__ = ["DiscretizedLogistic"]

LOG_SCALE_LIMIT = 40.0  # exp(+-40) is still far from overflow in float32, also when multiplied by a distance


class DiscretizedLogistic(Distribution):
    r"""Logistic density integrated over the cells of the integers 0 .. levels-1.

    The integers are laid on the grid y = 2 x / (levels - 1) - 1 in [-1, 1]; `loc` and `exp(log_scale)` are in
    units of y. Cell edges lie half-way between integers and the two outer cells are open, so that

        P(X = x) = sigmoid((y + h - loc) / s) - sigmoid((y - h - loc) / s),     h = 1 / (levels - 1)

    sums to one exactly (Kingma et al. 2016, arXiv 1606.04934; Salimans et al. 2017, arXiv 1701.05517).
    The difference is taken in logarithms without cancellation, for every scale and every distance from `loc`.
    `log_scale` is clamped to [-40, 40]. `mean`, `variance` and samples are in integer units.

    Args:
        loc: location, any shape that broadcasts with `log_scale`.
        log_scale: natural logarithm of the scale.
        levels: number of integers, at least 2 (256 for bytes).
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}  # noqa: RUF012
    has_enumerate_support = True

    def __init__(
        self,
        loc: Float[Tensor, "..."],
        log_scale: Float[Tensor, "..."],
        levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        if levels < 2:
            raise UserError(f"levels={levels}: a discretised logistic needs at least 2 levels; use 256 for bytes")
        self.levels = levels
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: "DiscretizedLogistic | None" = None
    ) -> "DiscretizedLogistic":
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        new.levels = self.levels
        new.loc, new.log_scale = self.loc.expand(batch_shape), self.log_scale.expand(batch_shape)
        super(DiscretizedLogistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _standardise(self, edge: Tensor) -> Tensor:
        """Distance from `loc` to the upper edge of cell `edge`, in scales."""
        y = (2 * edge + 1) / (self.levels - 1) - 1
        return (y - self.loc) * torch.exp(-self.log_scale.clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT))

    def log_prob(self, value: Float[Tensor, "..."] | Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-mass in nats.

        Raises:
            UserError: a value is not an integer in 0 .. levels-1.
        """
        x = value.to(self.loc.dtype)
        if self._validate_args:
            wrong = (x < 0) | (x > self.levels - 1) | (x != x.round())
            if wrong.any():
                raise UserError(
                    f"value {x[wrong].flatten()[0].item():g} is not an integer in 0..{self.levels - 1}: "
                    "pass pixels as integers, not rescaled to [0, 1] or [-1, 1]"
                )
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)); the open ends drop their factors
        upper = logsigmoid(self._standardise(x))
        lower = logsigmoid(-self._standardise(x - 1))
        first, last = x == 0, x == self.levels - 1
        zero = torch.zeros((), dtype=upper.dtype, device=upper.device)
        log_mass = torch.where(last, zero, upper) + torch.where(first, zero, lower)
        return log_mass + torch.where(first | last, zero, self._log_width())

    def _log_width(self) -> Tensor:
        """log(1 - exp(-d)) for the cell width d = 2 h / s in scales, also where d underflows."""
        log_d = math.log(2 / (self.levels - 1)) - self.log_scale.clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
        d = log_d.exp()
        small = d < 1e-3
        series = log_d - d / 2 + d**2 / 24
        return torch.where(small, series, torch.log(-torch.expm1(-torch.where(small, torch.ones_like(d), d))))

    def _survival(self) -> Float[Tensor, "... levels"]:
        """P(X >= x) for x = 1 .. levels-1, on a new last axis."""
        edges = torch.arange(self.levels - 1, dtype=self.loc.dtype, device=self.loc.device)
        column = DiscretizedLogistic(
            self.loc.unsqueeze(-1), self.log_scale.unsqueeze(-1), self.levels, validate_args=False
        )
        return torch.sigmoid(-column._standardise(edges))

    @property
    def mean(self) -> Float[Tensor, "..."]:
        """E[X] = sum over x >= 1 of P(X >= x), in integer units."""
        return self._survival().sum(-1)

    @property
    def variance(self) -> Float[Tensor, "..."]:
        """Var[X], from E[X^2] = sum over x >= 1 of (2 x - 1) P(X >= x)."""
        survival = self._survival()
        x = torch.arange(1, self.levels, dtype=survival.dtype, device=survival.device)
        mean = survival.sum(-1, keepdim=True)
        return ((2 * (x - mean) - 1) * survival).sum(-1) + mean.squeeze(-1) ** 2

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The smallest integer x with P(X <= x) >= value, for value in (0, 1)."""
        scale = torch.exp(self.log_scale.clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT))
        y = self.loc + scale * torch.logit(value)
        return torch.ceil(((y + 1) * (self.levels - 1) - 1) / 2).clamp(0, self.levels - 1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Float[Tensor, "..."]:
        """Integers in the dtype of `loc`."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            tiny = torch.finfo(u.dtype).tiny
            return self.icdf(u.clamp(tiny, 1 - torch.finfo(u.dtype).eps / 2))

    def enumerate_support(self, expand: bool = True) -> Float[Tensor, "..."]:
        x = torch.arange(self.levels, dtype=self.loc.dtype, device=self.loc.device)
        x = x.reshape(-1, *(1 for _ in self.batch_shape))
        return x.expand(-1, *self.batch_shape) if expand else x
