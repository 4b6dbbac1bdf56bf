"""Schedules that are fitted while the model is trained: a monotone network, and bins that follow the error."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from infimum.diffusion.schedules import Schedule, check_range
from infimum.errors import UserError

__all__ = ["AdaptiveBins", "MonotoneNet"]


class MonotoneNet(Schedule):
    """Log-SNR by a network of positive weights, its ends free parameters (VDM, 2107.00630, appendix H).

    gamma~(t) = |w| t + b + |W3| g / H, g = 2 sigmoid(|W2| (2 t - 1) + b2) - 1 with H units; -lambda(t) runs from g0 to g1 as
    gamma~(t) runs from gamma~(0) to gamma~(1). `ends` are trained on the ELBO, `interior` on the variance of the loss, since the
    expected ELBO does not depend on it: see `DiffusionLearner`.

    Args:
        low: lambda_min at the start.
        high: lambda_max at the start.
        units: H.

    Raises:
        UserError: ends that span nothing, or fewer than one unit.
    """

    def __init__(self, low: float = -5.0, high: float = 13.3, units: int = 1024) -> None:
        super().__init__()
        check_range(low, high)
        if units < 1:
            raise UserError(f"a monotone network needs at least 1 unit, got {units}")
        self.ends = nn.Parameter(torch.tensor([-high, -low], dtype=torch.float64))
        self.w = nn.Parameter(torch.tensor(high - low, dtype=torch.float64))
        self.w2 = nn.Parameter(0.01 * torch.randn(units, dtype=torch.float64))
        self.b2 = nn.Parameter(torch.zeros(units, dtype=torch.float64))
        self.w3 = nn.Parameter(0.01 * torch.randn(units, dtype=torch.float64))

    @property
    def interior(self) -> list[nn.Parameter]:
        """Parameters that move nothing but the variance of the loss."""
        return [self.w, self.w2, self.b2, self.w3]

    @property
    def low(self) -> Float[Tensor, ""]:
        return -self.ends[1]

    @property
    def high(self) -> Float[Tensor, ""]:
        return -self.ends[0]

    def _raw(self, t: Float[Tensor, "*n"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """gamma~ less its constant, and its derivative."""
        a = self.w2.abs()
        g = torch.tanh((a * (2 * t[..., None] - 1) + self.b2) / 2)  # 2 sigmoid - 1
        weight = self.w3.abs() / len(a)
        value = self.w.abs() * t + (g * weight).sum(-1)
        return value, self.w.abs() + ((1 - g.square()) * (a * weight)).sum(-1)

    def _scale(self) -> tuple[Tensor, Tensor]:
        """gamma~(0), and what gamma~ is multiplied by."""
        start, end = self._raw(torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.w.device))[0]
        return start, (self.ends[1] - self.ends[0]) / (end - start)

    def log_snr(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        start, factor = self._scale()
        return -(self.ends[0] + factor * (self._raw(t.double())[0] - start)).to(t.dtype)

    def slope(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return -(self._scale()[1] * self._raw(t.double())[1]).to(t.dtype)

    @torch.no_grad()
    def time(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """By bisection to the last bits; without gradients."""
        wanted = log_snr.double()
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(60):
            middle = (low + high) / 2
            later = self.log_snr(middle) > wanted
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return ((low + high) / 2).to(log_snr.dtype)


class AdaptiveBins(Schedule):
    """Density of log-SNRs that follows E[w |eps - eps^|^2], constant in each of equal bins (2303.00848, section 3.6).

    Every density is unbiased; this one makes the loss the same at every noise level, so that its variance falls. A floor keeps the
    whole range in play.

    Args:
        low: lambda_min.
        high: lambda_max.
        bins: equal parts of the range.
        rate: of the moving average of a bin, for each draw that fell into it.
        floor: smallest height, over the mean height.

    Raises:
        UserError: ends that span nothing, no bins, or a rate or floor outside (0, 1).
    """

    ends: Tensor
    heights: Tensor

    def __init__(
        self, low: float = -5.0, high: float = 13.3, bins: int = 100, rate: float = 0.999, floor: float = 1e-3
    ) -> None:
        super().__init__()
        check_range(low, high)
        if bins < 1 or not 0 < rate < 1 or not 0 < floor < 1:
            raise UserError(
                f"adaptive bins need at least 1 bin and a rate and a floor inside (0, 1), got {bins}, {rate} and {floor}"
            )
        self.rate, self.floor = rate, floor
        self.register_buffer("ends", torch.tensor([low, high], dtype=torch.float64))
        self.register_buffer("heights", torch.ones(bins, dtype=torch.float64))

    @property
    def low(self) -> Float[Tensor, ""]:
        return self.ends[0]

    @property
    def high(self) -> Float[Tensor, ""]:
        return self.ends[1]

    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Width of a bin, densities, and the mass below each edge."""
        width = (self.high - self.low) / len(self.heights)
        mass = self.heights / self.heights.sum()
        return width, mass / width, F.pad(mass.cumsum(0), (1, 0))

    def _bin(self, log_snr: Float[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        width = (self.high - self.low) / len(self.heights)
        return ((log_snr.double() - self.low) / width).floor().long().clamp(0, len(self.heights) - 1)

    def log_snr(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        width, density, below = self._edges()
        u = (1 - t.double()).clamp(0, 1)
        j = (torch.searchsorted(below, u.contiguous(), right=True) - 1).clamp(0, len(self.heights) - 1)
        value = self.low + j * width + (u - below[j]) / density[j]
        return torch.minimum(torch.maximum(value, self.low), self.high).to(t.dtype)

    def slope(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return -1 / self.density(self.log_snr(t))

    def time(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        width, density, below = self._edges()
        j = self._bin(log_snr)
        return (1 - below[j] - (log_snr.double() - self.low - j * width) * density[j]).to(log_snr.dtype)

    def density(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return self._edges()[1][self._bin(log_snr)].to(log_snr.dtype)

    @torch.no_grad()
    def update(self, log_snr: Float[Tensor, "*n"], error: Float[Tensor, "*n"]) -> None:
        """Take in w |eps - eps^|^2 of draws: a bin hit n times keeps rate^n of its height. Sums over all processes.

        Raises:
            UserError: an error that is negative or not finite.
        """
        value = error.detach().double().flatten()
        if not bool(((value >= 0) & torch.isfinite(value)).all()):
            raise UserError(
                "adaptive bins take in squared errors, and got one that is negative or not finite: lower the learning rate"
            )
        sums = torch.zeros(2, len(self.heights), dtype=torch.float64, device=self.heights.device)
        sums.index_add_(1, self._bin(log_snr.flatten()), torch.stack((torch.ones_like(value), value)))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        count, total = sums
        kept = self.rate**count
        moved = kept * self.heights + (1 - kept) * total / count.clamp_min(1)
        self.heights.copy_(moved.clamp_min(self.floor * float(moved.mean())))
