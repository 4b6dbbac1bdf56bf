"""Fully connected networks."""

import itertools
from collections.abc import Sequence
from typing import Literal

from torch import nn

from infimum.errors import UserError

__all__ = ["ACTIVATIONS", "Activation", "mlp"]

Activation = Literal["tanh", "relu", "silu", "gelu"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


def mlp(inputs: int, hidden: Sequence[int], outputs: int, activation: Activation = "tanh") -> nn.Sequential:
    """Linear layers with an activation between them: (*, inputs) to (*, outputs).

    Raises:
        UserError: unknown activation, or a width below 1.
    """
    if activation not in ACTIVATIONS:
        raise UserError(f"no activation {activation!r}: choose one of {', '.join(ACTIVATIONS)}")
    widths = [inputs, *hidden, outputs]
    if min(widths) < 1:
        raise UserError(f"every layer needs a width of at least 1, got {widths}")
    layers: list[nn.Module] = []
    for left, right in itertools.pairwise(widths):
        layers += [nn.Linear(left, right), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
