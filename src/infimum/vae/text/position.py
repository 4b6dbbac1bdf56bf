"""Where a token stands in its sentence."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["positions"]


def positions(length: int, width: int, device: torch.device) -> Float[Tensor, "length width"]:
    """Sines and cosines of geometric wavelengths (Vaswani et al. 2017, section 3.5); ``width`` is even."""
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000) / width))
    angle = torch.arange(length, device=device)[:, None] * rate
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)
