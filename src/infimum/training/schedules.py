"""Learning-rate schedules: pure functions of the step, so that nothing about them is saved or restored."""

import math
from collections.abc import Callable

__all__ = ["Schedule", "burda", "constant", "cosine", "warmup"]

Schedule = Callable[[int], float]
"""Factor on the optimizer's own learning rate at a step (counted from 0)."""


def constant() -> Schedule:
    """Factor 1 for ever."""
    return lambda step: 1.0


def warmup(steps: int) -> Schedule:
    """Linear from 1/steps to 1 over the first `steps` steps, then constant."""
    return lambda step: min(1.0, (step + 1) / max(steps, 1))


def cosine(steps: int, *, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Linear warm-up, then half a cosine from 1 down to `final` at step `steps` (Loshchilov & Hutter 2017, eq. 5)."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(steps - warmup, 1))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


def burda(epoch: int, *, stages: int = 8) -> Schedule:
    """10^(-i/7) for 3^i epochs, i = 0 .. stages - 1 (Burda et al. 2016, section 5; their base rate is 1e-3).

    Args:
        epoch: steps in an epoch.  The eight stages last (3^8 - 1)/2 = 3,280 epochs; the last factor stays.
    """

    def factor(step: int) -> float:
        stage = 0
        while stage < stages - 1 and step >= epoch * (3 ** (stage + 1) - 1) // 2:
            stage += 1
        return 10 ** (-stage / 7)

    return factor
