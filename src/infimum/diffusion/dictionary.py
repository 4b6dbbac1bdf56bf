"""The dictionary: published recipes as a head, a schedule and a weighting, each convertible into any other (2303.00848)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from infimum.diffusion import schedules, weightings
from infimum.diffusion.heads import Head, check_head, error_factor
from infimum.diffusion.schedules import FixedSchedule, Law, Schedule
from infimum.diffusion.weightings import Weighting
from infimum.errors import UserError

__all__ = ["TRAININGS", "Training", "training"]


@dataclass(frozen=True)
class Training:
    """How a denoiser is trained. Three independent choices; the weighting alone decides what is minimised in expectation.

    Attributes:
        name: of the recipe.
        head: what the network predicts.
        schedule: how log-SNRs are drawn: its density only changes the variance of the loss.
        weighting: w(lambda).
    """

    name: str
    head: Head
    schedule: Schedule
    weighting: Weighting

    def __post_init__(self) -> None:
        """Refuse a head that does not exist."""
        check_head(self.head)

    def to(
        self, *, head: Head | None = None, schedule: Schedule | None = None, weighting: Weighting | None = None
    ) -> "Training":
        """The same but for what is given: another head or schedule trains by the same weighting, hence the same loss."""
        return replace(
            self, head=head or self.head, schedule=schedule or self.schedule, weighting=weighting or self.weighting
        )

    @property
    def is_monotonic(self) -> bool:
        """Whether the loss is the ELBO of noise-augmented data."""
        return self.weighting.is_monotonic(self.schedule)

    def factor(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """What the head's squared error is multiplied by: w / (2 p) times `error_factor`, so that its mean over draws is L_w."""
        return 0.5 * self.weighting(log_snr) * error_factor(self.head, log_snr) / self.schedule.density(log_snr)


def _regression(head: Head, law: Callable[[], Law]) -> Callable[[str, float, float], Training]:
    def make(name: str, low: float, high: float) -> Training:
        schedule = FixedSchedule(law(), low, high)
        return Training(name, head, schedule, weightings.implied(head, schedule))

    return make


def _weighted(head: Head, law: Callable[[], Law], weighting: Weighting) -> Callable[[str, float, float], Training]:
    return lambda name, low, high: Training(name, head, FixedSchedule(law(), low, high), weighting)


TRAININGS: dict[str, Callable[[str, float, float], Training]] = {
    "elbo": _weighted("eps", schedules.linear, weightings.ELBO),
    "ddpm": _regression("eps", schedules.beta_linear),
    "iddpm": _regression("eps", schedules.cosine),
    "v-cosine": _regression("v", schedules.cosine),
    "x-cosine": _regression("x", schedules.cosine),
    "flow-matching": _regression("flow", schedules.flow),
    "indi": _regression("x", schedules.flow),
    "edm": _weighted("edm", schedules.edm, weightings.edm_weighting()),
    "edm-monotonic": _weighted("edm", schedules.edm, weightings.edm_monotonic_weighting()),
    "sigmoid": _weighted("v", schedules.cosine, weightings.sigmoid()),
    "p2": _weighted("eps", schedules.cosine, weightings.p2()),
    "min-snr": _weighted("eps", schedules.cosine, weightings.min_snr()),
}
"""Recipes by name: head, schedule and weighting as published."""


def training(name: str, low: float = -5.0, high: float = 13.3) -> Training:
    """A published recipe, its schedule cut off at the given log-SNRs.

    Args:
        name: of `TRAININGS`.
        low: lambda_min, at time 1.
        high: lambda_max, at time 0.

    Raises:
        UserError: an unknown name, or ends that its schedule does not reach ("ddpm": -10 to 9.21).
    """
    if name not in TRAININGS:
        raise UserError(f"no recipe {name!r}: choose one of {', '.join(TRAININGS)}")
    return TRAININGS[name](name, low, high)
