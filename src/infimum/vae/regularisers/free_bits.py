"""Free bits: divergence that costs nothing, so that latents are not given up early. Neither form makes a bound."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["free_bits", "free_bits_batch"]


def free_bits(divergence: Float[Tensor, "B D"], target: float) -> Float[Tensor, ""]:
    """The divergence of each item where it is above target / D nats in a dimension, and 0 elsewhere (code of 2211.00321)."""
    return torch.where(divergence > target / divergence.shape[-1], divergence, 0.0).sum(-1).mean()


def free_bits_batch(divergence: Float[Tensor, "B D"], target: float) -> Float[Tensor, ""]:
    """sum_d max(target / D, mean over the batch of KL_d) in nats (Kingma et al. 2016, 1606.04934, eq. 15)."""
    return divergence.mean(0).clamp_min(target / divergence.shape[-1]).sum()
