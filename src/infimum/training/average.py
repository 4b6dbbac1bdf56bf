"""Exponential moving average of a module's parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["EMA"]


class EMA:
    """average <- decay * average + (1 - decay) * parameter, after every update; starts at the parameters.

    Buffers are not averaged: while the average is in place they stay those of the module.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        parameters = [p.detach() for _, p in self.module.named_parameters()]
        torch._foreach_lerp_(list(self.values.values()), parameters, 1 - self.decay)

    def named(self) -> dict[str, Tensor]:
        """The averages by name; a tied parameter has several."""
        first = {p: name for name, p in self.module.named_parameters()}
        return {name: self.values[first[p]] for name, p in self.module.named_parameters(remove_duplicate=False)}

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Inside the block the module has the averaged parameters; afterwards its own again, bit for bit."""
        own = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        self._write(self.values)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.copy_(values[name])
