"""Noise schedules that are vectors: a log-SNR for every dimension, which may depend on the auxiliary latent."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from infimum.diffusion.schedules import Schedule, check_range
from infimum.errors import UserError

__all__ = [
    "Curves", "MonotoneCurves", "MonotoneSchedule", "PolynomialCurves", "PolynomialSchedule", "ScalarCurves", "ScalarSchedule",
    "VectorSchedule", "path_integral",
]  # fmt: skip

LARGEST = 2**28
"""Weights that a layer of a schedule may have."""


class Curves:
    """Log-SNRs over time, for every row its own: decreasing from ``high`` at 0 to ``low`` at 1. All in float64."""

    def log_snr(self, t: Float[Tensor, "N"]) -> Float[Tensor, "N d"]:
        """lambda(t), d = 1 or one for each dimension."""
        raise NotImplementedError

    def slope(self, t: Float[Tensor, "N"]) -> Float[Tensor, "N d"]:
        """dlambda / dt, not positive."""
        raise NotImplementedError

    def take(self, rows: Int[Tensor, "n"]) -> "Curves":
        """Those of some rows."""
        raise NotImplementedError


class PolynomialCurves(Curves):
    """-lambda = gamma = gamma_min + (gamma_max - gamma_min) P(t) / P(1), P' = (a t^2 + b t + e)^2 (MuLAN, 2312.13236).

    Args:
        a, b, e: coefficients (N, d).
        low: lambda_min.
        high: lambda_max.
    """

    def __init__(
        self, a: Float[Tensor, "N d"], b: Float[Tensor, "N d"], e: Float[Tensor, "N d"], low: float, high: float
    ) -> None:
        self.coefficients = a.double(), b.double(), e.double()
        self.low, self.high = low, high

    def _integral(self, t: Tensor) -> Tensor:
        a, b, e = self.coefficients
        powers = (e.square(), b * e, (b.square() + 2 * a * e) / 3, a * b / 2, a.square() / 5)
        value = torch.zeros_like(a)
        for factor in reversed(powers):
            value = (value + factor) * t
        return value

    def log_snr(self, t: Float[Tensor, "N"]) -> Float[Tensor, "N d"]:
        share = self._integral(t[:, None]) / self._integral(torch.ones_like(t)[:, None])
        return self.high - (self.high - self.low) * share

    def slope(self, t: Float[Tensor, "N"]) -> Float[Tensor, "N d"]:
        a, b, e = self.coefficients
        t = t[:, None]
        rate = ((a * t + b) * t + e).square() / self._integral(torch.ones_like(t))
        return (self.low - self.high) * rate

    def take(self, rows: Int[Tensor, "n"]) -> "PolynomialCurves":
        a, b, e = (part[rows] for part in self.coefficients)
        return PolynomialCurves(a, b, e, self.low, self.high)


class MonotoneCurves(Curves):
    """A `MonotoneSchedule` at its latents.

    Args:
        schedule: the network.
        context: (N, m).
    """

    def __init__(self, schedule: "MonotoneSchedule", context: Float[Tensor, "N m"]) -> None:
        self.schedule, self.context = schedule, context.double()
        ones = torch.ones(len(context), dtype=torch.float64, device=context.device)
        self.first, self.last = (schedule.raw(self.context, end * ones)[0] for end in (0.0, 1.0))

    def log_snr(self, t: Float[Tensor, "N"]) -> Float[Tensor, "N d"]:
        share = (self.schedule.raw(self.context, t)[0] - self.first) / (self.last - self.first)
        return self.schedule.high - (self.schedule.high - self.schedule.low) * share

    def slope(self, t: Float[Tensor, "N"]) -> Float[Tensor, "N d"]:
        rate = self.schedule.raw(self.context, t)[1] / (self.last - self.first)
        return (self.schedule.low - self.schedule.high) * rate

    def take(self, rows: Int[Tensor, "n"]) -> "MonotoneCurves":
        return MonotoneCurves(self.schedule, self.context[rows])


class ScalarCurves(Curves):
    """A schedule that is the same for all."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def log_snr(self, t: Float[Tensor, "N"]) -> Float[Tensor, "N 1"]:
        return self.schedule.log_snr(t.double())[:, None]

    def slope(self, t: Float[Tensor, "N"]) -> Float[Tensor, "N 1"]:
        return self.schedule.slope(t.double())[:, None]

    def take(self, rows: Int[Tensor, "n"]) -> "ScalarCurves":
        return self


class VectorSchedule(nn.Module):
    """Makes `Curves` of auxiliary latents, all with the same ends."""

    low: Any
    high: Any

    @property
    def limits(self) -> tuple[float, float]:
        """lambda_min and lambda_max as numbers."""
        return float(self.low.detach()), float(self.high.detach())

    def given(self, context: Float[Tensor, "N m"]) -> Curves:
        """The curves of every row."""
        raise NotImplementedError


class _Ends(VectorSchedule):
    """Fixed ends."""

    low: Tensor
    high: Tensor

    def __init__(self, dims: int, context: int, hidden: int, low: float, high: float) -> None:
        super().__init__()
        check_range(low, high)
        if dims < 1 or context < 0 or hidden < 1:
            raise UserError(
                f"a schedule needs a dimension, a hidden unit and a context of at least 0 numbers, got {dims}, {hidden}, {context}"
            )
        if max(dims, hidden) * hidden > LARGEST:
            raise UserError(
                f"a schedule of {dims} dimensions with {hidden} hidden units has layers of {max(dims, hidden) * hidden:,} weights: "
                "lower hidden (512 is ample)"
            )
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float64))


class PolynomialSchedule(_Ends):
    """Coefficients of `PolynomialCurves` by a network of two swish layers, whose a is 0 at the start.

    Args:
        dims: curves, 1 for one that all dimensions share.
        context: numbers of a latent; 0: the curves are free parameters.
        hidden: units of a layer (published code: as many as dimensions).
        low: lambda_min.
        high: lambda_max.

    Raises:
        UserError: sizes below 1, ends that span nothing, or layers too large.
    """

    def __init__(self, dims: int, context: int, hidden: int = 64, low: float = -5.0, high: float = 13.3) -> None:
        super().__init__(dims, context, hidden, low, high)
        self.body = nn.Sequential(nn.Linear(max(context, 1), hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.a, self.b, self.e = (nn.Linear(hidden, dims) for _ in range(3))
        nn.init.zeros_(self.a.weight)
        nn.init.zeros_(self.a.bias)

    def given(self, context: Float[Tensor, "N m"]) -> PolynomialCurves:
        with torch.autocast(context.device.type, enabled=False):
            dtype = self.a.weight.dtype
            told = (
                context.to(dtype)
                if context.shape[1]
                else torch.ones(len(context), 1, dtype=dtype, device=context.device)
            )
            h = self.body(told)
            return PolynomialCurves(
                self.a(h), self.b(h), 1e-3 + F.softplus(self.e(h)), float(self.low), float(self.high)
            )


class MonotoneSchedule(_Ends):
    """A network of positive weights that is told the latent and the time, hence monotone in both (VDM's, 2107.00630, H).

    h = |W1| (c, t) + b1; gamma~ = h + |W3| (2 sigmoid(|W2| h + b2) - 1) / H, stretched to the ends.

    Args:
        dims: curves, 1 for one that all dimensions share.
        context: numbers of a latent.
        hidden: H.
        low: lambda_min.
        high: lambda_max.

    Raises:
        UserError: as `PolynomialSchedule`.
    """

    def __init__(self, dims: int, context: int, hidden: int = 1024, low: float = -5.0, high: float = 13.3) -> None:
        super().__init__(dims, context, hidden, low, high)
        self.w1 = nn.Parameter(torch.cat((0.1 * torch.randn(dims, context), torch.full((dims, 1), high - low)), 1))
        self.b1 = nn.Parameter(torch.zeros(dims))
        self.w2 = nn.Parameter(torch.randn(hidden, dims) / dims)
        self.b2 = nn.Parameter(-0.5 * (high - low) * self.w2.detach().abs().sum(1))
        self.w3 = nn.Parameter(torch.randn(dims, hidden))

    def raw(
        self, context: Float[Tensor, "N m"], t: Float[Tensor, "N"]
    ) -> tuple[Float[Tensor, "N d"], Float[Tensor, "N d"]]:
        """gamma~, and its derivative in time."""
        with torch.autocast(context.device.type, enabled=False):
            w1, w2, w3 = (w.double().abs() for w in (self.w1, self.w2, self.w3))
            h = torch.cat((context, t[:, None]), 1) @ w1.T + self.b1
            g = torch.tanh((h @ w2.T + self.b2) / 2)  # 2 sigmoid - 1
            rate = w1[:, -1]
            inner = 0.5 * (1 - g.square()) * (w2 @ rate)
            return h + g @ w3.T / len(w2), rate + inner @ w3.T / len(w2)

    def given(self, context: Float[Tensor, "N m"]) -> MonotoneCurves:
        return MonotoneCurves(self, context)


class ScalarSchedule(VectorSchedule):
    """One schedule of `infimum.diffusion` for all dimensions and latents: no learned noise."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.inner = schedule

    @property
    def low(self) -> Float[Tensor, ""]:
        return self.inner.low

    @property
    def high(self) -> Float[Tensor, ""]:
        return self.inner.high

    def given(self, context: Float[Tensor, "N m"]) -> ScalarCurves:
        return ScalarCurves(self.inner)


def path_integral(field: Any, points: Float[Tensor, "T d"]) -> Float[Tensor, ""]:
    """1/2 int g(lambda) . d exp(lambda) in nats along straight pieces between log-SNRs: the diffusion loss of a vector schedule.

    It depends on the path unless g is a gradient in exp(lambda) (MuLAN, 2312.13236). Gauss's rule of five nodes on each piece:
    pieces longer than about 0.5 in log-SNR lose digits.

    Args:
        field: g, E(f_i - x^_i)^2 for every dimension at log-SNRs (N, d) to (N, d).
        points: of the path, noise last or first; the integral is taken towards the data, and so is positive.
    """
    points = points.double()
    nodes, weights = (torch.from_numpy(part).to(points.device) for part in np.polynomial.legendre.leggauss(5))
    step = points.diff(dim=0)
    at = points[:-1, None] + 0.5 * (1 + nodes[:, None]) * step[:, None]  # (T - 1, 5, d)
    g = field(at.flatten(0, 1)).view_as(at)
    total = 0.25 * (weights[:, None] * g * at.exp() * step[:, None]).sum()
    return total if bool(points[-1].sum() >= points[0].sum()) else -total
