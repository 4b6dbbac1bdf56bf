"""Weightings w(lambda) of the noise error, and what each of them means as a likelihood (Kingma & Gao 2023, 2303.00848).

Every recipe minimises L_w = 1/2 int w(lambda) E|eps - eps^|^2 dlambda. w = 1 is the ELBO. A weighting that does not increase with
the log-SNR is an ELBO of noise-augmented data; any other is a signed mixture of ELBOs and no likelihood objective.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from infimum.diffusion.heads import SIGMA_DATA, Head, check_head, error_factor
from infimum.diffusion.schedules import Schedule
from infimum.errors import UserError

__all__ = [
    "EDM_PEAK",
    "ELBO",
    "Augmentation",
    "Weighting",
    "edm_monotonic_weighting",
    "edm_weighting",
    "exponential",
    "implied",
    "min_snr",
    "p2",
    "shifted",
    "sigmoid",
]

GRID = 8193


@dataclass(frozen=True)
class Augmentation:
    """A monotone weighting as a distribution over the time t up to which data are noised: L_w = E[L(t; x)] - L(1; x).

    Attributes:
        atom: mass at t = 0, the clean data: w(lambda_max) / w(lambda_min).
        density: of t in (0, 1]: dw(lambda_t)/dt / w(lambda_min); with the atom it integrates to one.
        signed: the weighting is not monotone, so that the density is negative somewhere: no likelihood objective.
    """

    atom: float
    density: Callable[[Tensor], Tensor]
    signed: bool


@dataclass(frozen=True)
class Weighting:
    """w(lambda) > 0, up to a constant.

    Attributes:
        name: for tables and messages.
        log: log w, element by element.
    """

    name: str
    log: Callable[[Tensor], Tensor]

    def __call__(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """w(lambda)."""
        return self.log(log_snr).exp()

    def _on(self, schedule: Schedule) -> tuple[Tensor, Tensor]:
        low, high = schedule.limits
        grid = torch.linspace(low, high, GRID, dtype=torch.float64)
        log_w = self.log(grid)
        if not bool(torch.isfinite(log_w).all()):
            worst = float(grid[~torch.isfinite(log_w)][0])
            raise UserError(
                f"weighting {self.name} is not a positive finite number at log-SNR {worst:.3f}, inside [{low:g}, {high:g}]: narrow "
                "the schedule, or change the weighting"
            )
        return grid, log_w

    def is_monotonic(self, schedule: Schedule) -> bool:
        """Whether w does not increase with the log-SNR between the schedule's ends: then L_w is a likelihood objective.

        Raises:
            UserError: a weighting that is not positive and finite there.
        """
        _, log_w = self._on(schedule)
        return bool((log_w.diff() <= 1e-9).all())

    def augmentation(self, schedule: Schedule) -> Augmentation:
        """The distribution of noise-augmented data whose ELBO L_w is; signed, with a warning, if there is none.

        Raises:
            UserError: a weighting that is not positive and finite between the schedule's ends.
        """
        monotone = self.is_monotonic(schedule)
        if not monotone:
            warnings.warn(
                f"weighting {self.name} increases with the log-SNR somewhere: its loss is a signed mixture of ELBOs, no likelihood",
                UserWarning,
                stacklevel=2,
            )
        low = schedule.low.detach().double()
        start = self.log(low)

        def density(t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
            log_snr = schedule.log_snr(t.double()).detach().requires_grad_()
            with torch.enable_grad():
                w = (self.log(log_snr) - start).exp()
                if not w.requires_grad:  # a constant
                    return torch.zeros_like(t)
                (gradient,) = torch.autograd.grad(w.sum(), log_snr)
            return (gradient * schedule.slope(t.double()).detach()).to(t.dtype)

        return Augmentation(float((self.log(schedule.high.detach().double()) - start).exp()), density, not monotone)


ELBO = Weighting("elbo", torch.zeros_like)
"""w = 1: maximum likelihood."""


def implied(head: Head, schedule: Schedule) -> Weighting:
    """What plain regression of a head at uniform times of a schedule minimises: p(lambda) over the head's `error_factor`.

    Raises:
        UserError: an unknown head.
    """
    check_head(head)
    return Weighting(
        f"{head}-mse", lambda snr: (schedule.density(snr).log() - error_factor(head, snr).log()).to(snr.dtype)
    )


def exponential() -> Weighting:
    """exp(-lambda / 2): v regression under the cosine schedule, and flow matching at uniform times."""
    return Weighting("exponential", lambda snr: -snr / 2)


def sigmoid(b: float = 2.0) -> Weighting:
    """sigmoid(b - lambda): monotone."""
    return Weighting(f"sigmoid({b:g})", lambda snr: F.logsigmoid(b - snr))


def _log_sech(u: Tensor) -> Tensor:
    return math.log(2) - u.abs() - torch.log1p(torch.exp(-2 * u.abs()))


def p2(gamma: float = 1.0) -> Weighting:
    """sech(lambda / 2) / (1 + exp(lambda))^gamma: noise regression under the cosine schedule, weighted (2204.00227, k = 1)."""
    return Weighting(f"p2({gamma:g})", lambda snr: _log_sech(snr / 2) - gamma * F.softplus(snr))


def min_snr(g: float = 5.0) -> Weighting:
    """sech(lambda / 2) min(1, g exp(-lambda)): noise regression under the cosine schedule, cut off (Hang et al. 2023, 2303.09556).

    Raises:
        UserError: g that is not positive.
    """
    if not 0 < g < math.inf:
        raise UserError(f"min-SNR cuts at a positive signal-to-noise ratio, got {g}: choose g > 0 (usually 5)")
    return Weighting(f"min-snr({g:g})", lambda snr: _log_sech(snr / 2) + (math.log(g) - snr).clamp_max(0.0))


def _log_edm(snr: Tensor) -> Tensor:
    normal = -0.5 * ((snr - 2.4) / 2.4).square() - math.log(2.4 * math.sqrt(2 * math.pi))
    return normal + torch.logaddexp(-snr, torch.full_like(snr, 2 * math.log(SIGMA_DATA)))


def _edm_peak() -> float:
    low, high = -10.0, 0.0  # where the derivative of the logarithm changes sign
    while high - low > 1e-13:
        middle = (low + high) / 2
        slope = -(middle - 2.4) / 2.4**2 - math.exp(-middle) / (math.exp(-middle) + SIGMA_DATA**2)
        low, high = (middle, high) if slope > 0 else (low, middle)
    return (low + high) / 2


EDM_PEAK = _edm_peak()
"""Log-SNR at which the weighting of EDM is largest."""


def edm_weighting() -> Weighting:
    """N(lambda; 2.4, 2.4^2) (exp(-lambda) + 1/4), the loss of EDM with its density of noise levels (2206.00364). Not monotone."""
    return Weighting("edm", _log_edm)


def edm_monotonic_weighting() -> Weighting:
    """EDM's weighting to the right of its peak, constant to the left (2303.00848)."""
    return Weighting("edm-monotonic", lambda snr: _log_edm(snr.clamp_min(EDM_PEAK)))


def shifted(weighting: Weighting, n: int) -> Weighting:
    """A weighting of 64 x 64 images for a side of n pixels: w(lambda - 2 log(64 / n)). Our choice: the paper does not define one.

    Raises:
        UserError: a side below 1.
    """
    if n < 1:
        raise UserError(f"an image has sides of at least 1 pixel, got {n}")
    return Weighting(f"{weighting.name}@{n}", lambda snr: weighting.log(snr - 2 * math.log(64 / n)))
