"""The mixture of a batch's diagonal Gaussian posteriors, q_B(z) = 1/B sum_i N(z; m_i, diag s_i^2), and its divergence."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["aggregate_divergence", "log_aggregate"]


def log_aggregate(
    z: Float[Tensor, "N D"], mean: Float[Tensor, "B D"], log_scale: Float[Tensor, "B D"]
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N D"]]:
    """log q_B(z) in nats, and log q_B(z_d) of every dimension alone; N x B x D densities are held."""
    each = -0.5 * ((z[:, None] - mean) * (-log_scale).exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)
    count = math.log(mean.shape[0])
    return each.sum(-1).logsumexp(1) - count, each.logsumexp(1) - count


def aggregate_divergence(
    mean: Float[Tensor, "B D"], log_scale: Float[Tensor, "B D"], z: Float[Tensor, "K B D"], *, marginal: bool = False
) -> Float[Tensor, ""]:
    """KL(q_B to N(0, I)) in nats, or the sum over dimensions of the marginals' divergences, by Monte Carlo.

    Unbiased given the batch, as every component has the same number of draws; single values may be negative.

    Args:
        mean: of the posteriors.
        log_scale: log of their standard deviations.
        z: draws of each posterior, with gradients.
        marginal: each dimension alone, which ignores how they depend on each other.
    """
    flat = z.flatten(0, 1)
    joint, single = log_aggregate(flat, mean, log_scale)
    prior = -0.5 * (flat.square() + math.log(2 * math.pi))
    return torch.mean((single - prior).sum(-1) if marginal else joint - prior.sum(-1))
