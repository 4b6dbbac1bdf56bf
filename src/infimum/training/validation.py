"""Validation while training: what it measures, and when it has stopped improving."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from infimum.training import distributed
from infimum.training.average import EMA

__all__ = ["Best", "Measured", "Validate", "evaluating", "measure"]


@runtime_checkable
class Measured(Protocol):
    """An `infimum.evidence.Estimate`: its mean over items has a `value`."""

    def mean(self) -> Any: ...


Validate = Callable[[], float | Tensor | Measured]
"""Evidence or another score: larger is better (return minus a loss)."""


@dataclass
class Best:
    """The best validation so far, and for how many validations in a row it has stood."""

    value: float | None = None
    step: int | None = None
    waited: int = 0

    def see(self, value: float, step: int) -> bool:
        """Take note of a value; whether it is the best.  NaN never is."""
        if not math.isnan(value) and (self.value is None or value > self.value):
            self.value, self.step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False


@contextmanager
def evaluating(modules: Mapping[str, nn.Module], averages: Mapping[str, EMA]) -> Iterator[None]:
    """Evaluation mode, no gradients, averaged weights; afterwards everything as it was."""
    modes = {part: part.training for module in modules.values() for part in module.modules()}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for average in averages.values():
            stack.enter_context(average.swap())
        try:
            for module in modules.values():
                module.eval()
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def measure(validate: Validate, modules: Mapping[str, nn.Module], averages: Mapping[str, EMA]) -> tuple[float, float]:
    """The score of the modules as they are now and its standard error over items (NaN: unknown), means over processes."""
    with evaluating(modules, averages):
        score = validate()
        plain = isinstance(score, int | float | Tensor)
        both = (float(score), math.nan) if plain else _value(score)  # type: ignore[arg-type]
    device = next((p.device for module in modules.values() for p in module.parameters()), torch.device("cpu"))
    dtype = torch.float32 if device.type == "mps" else torch.float64
    if distributed.world() == 1:
        return both
    value, stderr = distributed.mean(torch.tensor(both, dtype=dtype, device=device)).tolist()
    return value, stderr


def _value(estimate: Measured) -> tuple[float, float]:
    mean = estimate.mean()
    return float(mean.value), float(getattr(mean, "population_stderr", math.nan))
