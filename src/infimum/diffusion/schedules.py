"""Noise schedules: the log-SNR over time, and the density of log-SNRs that uniform times give."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError

__all__ = [
    "LAWS",
    "FixedSchedule",
    "Law",
    "LearnedLinear",
    "Schedule",
    "alpha_sigma",
    "beta_linear",
    "check_range",
    "cosine",
    "edm",
    "flow",
    "linear",
    "velocity",
]


def alpha_sigma(log_snr: Float[Tensor, "*n"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """alpha and sigma of the variance-preserving path z = alpha f + sigma eps: alpha^2 = sigmoid(lambda) = 1 - sigma^2.

    Any other path of the same signal-to-noise ratio is this one, rescaled: z = z' / sqrt(alpha'^2 + sigma'^2).
    """
    return F.logsigmoid(log_snr).mul(0.5).exp(), F.logsigmoid(-log_snr).mul(0.5).exp()


def check_range(low: float, high: float) -> None:
    """Refuse endpoints that span nothing.

    Raises:
        UserError: not finite, or not low < high.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(
            f"log-SNR runs from {high} at time 0 down to {low} at time 1, expected two finite numbers, the first above the "
            "second: change low or high"
        )


class Schedule(nn.Module):
    """Log-SNR lambda over time t in [0, 1]: strictly decreasing from ``high`` at 0 (clean) to ``low`` at 1 (noise).

    A training schedule is a way to draw lambda: with t uniform its density is p(lambda) = -dt / dlambda. All in the dtype of what
    is given (float64 times of the engine give float64).
    """

    @property
    def low(self) -> Float[Tensor, ""]:
        """lambda_min, at time 1."""
        raise NotImplementedError

    @property
    def high(self) -> Float[Tensor, ""]:
        """lambda_max, at time 0."""
        raise NotImplementedError

    @property
    def limits(self) -> tuple[float, float]:
        """lambda_min and lambda_max as numbers."""
        return float(self.low.detach()), float(self.high.detach())

    def log_snr(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """lambda(t)."""
        raise NotImplementedError

    def slope(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """dlambda / dt, negative."""
        raise NotImplementedError

    def time(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """t with lambda(t) = log_snr."""
        raise NotImplementedError

    def density(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """p(lambda) = -dt / dlambda, which integrates to one over [low, high]."""
        return -1 / self.slope(self.time(log_snr))


@dataclass(frozen=True)
class Law:
    """A schedule before its ends are cut off.

    Attributes:
        name: of the schedule.
        later: untruncated time of a log-SNR, decreasing, up to an affine map.
        inverse: the log-SNR of such a time.
        density: -d later / d lambda.
        support: log-SNRs that have a time.
    """

    name: str
    later: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    density: Callable[[Tensor], Tensor]
    support: tuple[float, float] = (-math.inf, math.inf)


def linear() -> Law:
    """lambda linear in time: uniform density."""
    return Law("linear", lambda snr: -snr, lambda s: -s, torch.ones_like)


def cosine(shift: float = 0.0) -> Law:
    """lambda = shift - 2 log tan(pi t / 2) (Nichol & Dhariwal 2021, 2102.09672): density sech((lambda - shift) / 2) / (2 pi).

    For images of side n the shift is 2 log(64 / n) (Hoogeboom et al. 2023, 2301.11093).
    """
    return Law(
        "cosine",
        lambda snr: 2 / math.pi * torch.atan(torch.exp(-(snr - shift) / 2)),
        lambda s: shift - 2 * torch.log(torch.tan(math.pi / 2 * s)),
        lambda snr: 1 / (torch.cosh((snr - shift) / 2) * (2 * math.pi)),
    )


def beta_linear() -> Law:
    """lambda = -log expm1(1e-4 + 10 t^2): DDPM's betas in continuous time (2006.11239; VDM 2107.00630)."""

    def later(snr: Tensor) -> Tensor:
        return ((F.softplus(-snr) - 1e-4) / 10).clamp_min(0.0).sqrt()

    return Law(
        "beta-linear",
        later,
        lambda s: -torch.log(torch.expm1(1e-4 + 10 * s.square())),
        lambda snr: torch.sigmoid(-snr) / (20 * later(snr)),
        (-math.log(math.expm1(10.0001)), -math.log(math.expm1(1e-4))),
    )


def flow() -> Law:
    """lambda = 2 log((1 - t) / t): straight paths (1 - t) f + t eps (Lipman et al. 2023, 2210.02747).

    Its density is sech^2(lambda / 4) / 8.
    """
    return Law(
        "flow",
        lambda snr: torch.sigmoid(-snr / 2),
        lambda s: 2 * (torch.log1p(-s) - torch.log(s)),
        lambda snr: 1 / (8 * torch.cosh(snr / 4).square()),
    )


def edm(mean: float = -1.2, sd: float = 1.2) -> Law:
    """log of the noise level normal (Karras et al. 2022, 2206.00364): lambda ~ N(-2 mean, (2 sd)^2)."""
    centre, scale = -2 * mean, 2 * sd
    return Law(
        "edm",
        lambda snr: torch.special.ndtr(-(snr - centre) / scale),
        lambda s: centre - scale * torch.special.ndtri(s),
        lambda snr: torch.exp(-0.5 * ((snr - centre) / scale).square()) / (scale * math.sqrt(2 * math.pi)),
    )


def velocity() -> Law:
    """Density proportional to alpha^2, under which the ELBO of a v network is a plain mean (Zheng et al. 2023, 2305.03935)."""
    return Law("velocity", lambda snr: -F.softplus(snr), lambda s: torch.log(torch.expm1(-s)), torch.sigmoid)


LAWS: dict[str, Callable[[], Law]] = {
    "linear": linear, "cosine": cosine, "beta-linear": beta_linear, "flow": flow, "edm": edm, "velocity": velocity,
}  # fmt: skip
"""Fixed schedules by name."""


class FixedSchedule(Schedule):
    """A law, cut off at its ends and stretched to the whole of [0, 1].

    Args:
        law: or its name: `LAWS`.
        low: lambda_min, at time 1 (VDM for 8 bits: -5).
        high: lambda_max, at time 0 (VDM for 8 bits: 13.3).

    Raises:
        UserError: an unknown name, or ends that the law does not reach.
    """

    ends: Tensor

    def __init__(self, law: Law | str = "linear", low: float = -5.0, high: float = 13.3) -> None:
        super().__init__()
        if isinstance(law, str):
            if law not in LAWS:
                raise UserError(f"no schedule {law!r}: choose one of {', '.join(LAWS)}")
            law = LAWS[law]()
        check_range(low, high)
        if not law.support[0] <= low < high <= law.support[1]:
            raise UserError(
                f"schedule {law.name} has log-SNRs from {law.support[0]:.3f} to {law.support[1]:.3f}, and {low} to {high} was "
                "asked: narrow low and high, or take another schedule"
            )
        self.law = law
        self.register_buffer("ends", torch.tensor([low, high], dtype=torch.float64))

    @property
    def low(self) -> Float[Tensor, ""]:
        return self.ends[0]

    @property
    def high(self) -> Float[Tensor, ""]:
        return self.ends[1]

    def _cut(self) -> tuple[Tensor, Tensor]:
        start, end = self.law.later(self.high), self.law.later(self.low)
        return start, end - start

    def log_snr(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        start, length = self._cut()
        value = self.law.inverse(start + t.double() * length)
        return torch.minimum(torch.maximum(value, self.low), self.high).to(t.dtype)

    def slope(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return -1 / self.density(self.log_snr(t))

    def time(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        start, length = self._cut()
        return ((self.law.later(log_snr.double()) - start) / length).to(log_snr.dtype)

    def density(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return (self.law.density(log_snr.double()) / self._cut()[1]).to(log_snr.dtype)


class LearnedLinear(Schedule):
    """-lambda = b + |w| t with both ends learned (VDM, 2107.00630): the ELBO depends on a schedule through its ends alone.

    Args:
        low: lambda_min at the start.
        high: lambda_max at the start.

    Raises:
        UserError: ends that span nothing.
    """

    def __init__(self, low: float = -5.0, high: float = 13.3) -> None:
        super().__init__()
        check_range(low, high)
        self.b = nn.Parameter(torch.tensor(-high, dtype=torch.float64))
        self.w = nn.Parameter(torch.tensor(high - low, dtype=torch.float64))

    @property
    def low(self) -> Float[Tensor, ""]:
        return -(self.b + self.w.abs())

    @property
    def high(self) -> Float[Tensor, ""]:
        return -self.b

    def log_snr(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return (self.high - self.w.abs() * t.double()).to(t.dtype)

    def slope(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return (-self.w.abs()).expand(t.shape).to(t.dtype)

    def time(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return ((self.high - log_snr.double()) / self.w.abs()).to(log_snr.dtype)
