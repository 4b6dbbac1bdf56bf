"""Two small worked examples with known moments of the weights."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.testing.oracles.gaussian import LinearGaussian

__all__ = ["gamma2_example", "one_dimensional"]


def one_dimensional() -> tuple[LinearGaussian, Float[Tensor, "1 1"]]:
    """z ~ N(0, 1), x|z ~ N(z, 1), x = 1.2, q = N(0.1, exp(-0.4)): model and x. log p(x) = -1.62551."""
    sd = math.sqrt(0.5)  # of the posterior N(x / 2, 1/2)
    model = _unit(shift=(0.1 - 0.6) / sd, stretch=math.exp(-0.2) / sd)
    return model, torch.tensor([[1.2]], dtype=torch.float64)


def gamma2_example() -> tuple[LinearGaussian, Float[Tensor, "1 1"]]:
    """The same model with a proposal 1.3955 times too wide and shifted so that gamma2 = 1.681.

    Its third moment gives the expansion E[L_K] - log p = -0.8405/K - 0.969/K^2 + O(1/K^3). Many proposals share gamma2;
    this one also has the second-order biases -.1202 (K = 8) and -.0272 (K = 32).
    """
    return _unit(shift=1.569680, stretch=1.3955), torch.tensor([[1.2]], dtype=torch.float64)


def _unit(shift: float | int, stretch: float) -> LinearGaussian:
    one = torch.ones(1)
    return LinearGaussian(one[:, None], torch.zeros(1), one, shift=shift, stretch=stretch)
