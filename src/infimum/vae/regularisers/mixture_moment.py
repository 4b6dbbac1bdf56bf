"""The divergence of a batch's mixture of posteriors by its moments ("How to train your VAE", 2309.13160).

None of this is a bound: mean_i KL(q_i to p) = I(i; z) + KL(q_B to p), and I is dropped; the moments make the mixture a Gaussian.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError

__all__ = ["Moment", "mixture_moments", "moment_divergence", "moment_floor", "variance_penalty"]

Moment = Literal["means", "total"]


def mixture_moments(
    mean: Float[Tensor, "B D"], log_scale: Float[Tensor, "B D"], moment: Moment
) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
    """Mean and variance of each dimension over the batch: population variance of the means, or that plus the mean variance.

    "means" is the original; "total" is the variance of the mixture itself.

    Raises:
        UserError: a batch of one, whose means have no variance.
    """
    if mean.shape[0] < 2:
        raise UserError(
            f"population variance of the means needs several items, got {mean.shape[0]}: use a batch of at least 4"
        )
    variance = mean.var(0, correction=0)
    return mean.mean(0), variance + (2 * log_scale).exp().mean(0) if moment == "total" else variance


def moment_divergence(
    mean: Float[Tensor, "B D"], log_scale: Float[Tensor, "B D"], moment: Moment = "means"
) -> Float[Tensor, ""]:
    """KL(N(m, diag v) to N(0, I)) in nats, m and v of `mixture_moments`: -1/2 sum_d (1 + log v_d - m_d^2 - v_d).

    Raises:
        UserError: as `mixture_moments`; a dimension whose variance over the batch is 0, which has no logarithm.
    """
    m, v = mixture_moments(mean, log_scale, moment)
    if bool((v.detach() == 0).any()):
        d = int((v.detach() == 0).nonzero()[0])
        raise UserError(
            f"dimension {d} has the same mean for all {mean.shape[0]} items of the batch, so log of its variance is -inf: "
            "use moment 'total', or a larger batch"
        )
    return -0.5 * (1 + v.log() - m.square() - v).sum()


def moment_floor(batch: int, latent: int = 1) -> float:
    """What `moment_divergence` of "means" is on average where all is right, means being N(0, I): it can not be expected below.

    latent / 2 (log(B/2) - psi((B-1)/2)) nats: .1103 a dimension for batches of 10, .0159 for 64.
    """
    if batch < 2:
        raise UserError(f"the floor is of batches of at least 2 items, got {batch}")
    half = torch.tensor((batch - 1) / 2, dtype=torch.float64)
    return latent * 0.5 * (math.log(batch / 2) - float(torch.digamma(half)))


def variance_penalty(log_scale: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """mean_i sum_d (exp l - 1 - l), l = log variance: 0 at unit variance, so that variances do not collapse.

    With the paper's weight of 0.1 it is 0.2 times the variance part of the ordinary divergence.
    """
    log_variance = 2 * log_scale
    return (log_variance.expm1() - log_variance).sum(-1).mean()
