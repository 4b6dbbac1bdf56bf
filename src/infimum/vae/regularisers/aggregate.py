"""The mixture of a batch's posteriors, q_b(z) = 1/b sum_i q(z | x_i), against the prior: the density gap and its kin."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from infimum.errors import UserError

__all__ = ["Decomposition", "aggregate_divergence", "batch_decomposition", "density_gap", "log_aggregate"]

LARGEST = 2**26
"""Densities that are held at a time; beyond, they are computed in parts, and again in the backward pass."""


def log_aggregate(
    z: Float[Tensor, "N D"], mean: Float[Tensor, "B D"], log_scale: Float[Tensor, "B D"]
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N D"]]:
    """log q_B(z) of Gaussians in nats, and log q_B(z_d) of every dimension alone; N x B x D densities are held."""
    each = _log_normal((mean, log_scale), z[:, None]) - 0.5 * math.log(2 * math.pi)
    count = math.log(mean.shape[0])
    return each.sum(-1).logsumexp(1) - count, each.logsumexp(1) - count


def density_gap(
    log_posterior: Callable[[Sequence[Tensor], Tensor], Tensor],
    log_prior: Callable[[Tensor], Tensor],
    s: Sequence[Tensor],
    z: Float[Tensor, "M B D"],
    *,
    aggregate: int | None = None,
) -> Float[Tensor, ""]:
    """mean log q_b(z) - log p(z) in nats over draws of the batch, q_b the mixture of ``aggregate`` posteriors (2211.00321).

    Unbiased for KL(q_b to p) given the batch, as every component has the same number of draws; single values may be negative.
    With one posterior a mixture it is the ordinary divergence by Monte Carlo.

    Not a bound: mean_i KL_i = I_b + KL(q_b to p), and the mutual information I_b, up to log |b| (of D marginals: up to
    D log |b|), is left out of the loss.

    Args:
        log_posterior: log q(z | x) in nats from parameters and points, which broadcast: one number a point (eq. 9), or D of them,
            one a dimension, which makes the sum of the marginals' gaps (eq. 11).
        log_prior: of points, in the same form; constants that both have may be left out of both.
        s: parameters of the posteriors, each with leading axis B.
        z: draws of each posterior, with gradients.
        aggregate: posteriors a mixture; None: the batch.

    Raises:
        UserError: a batch that does not divide into mixtures.
    """

    def gap(parts: Sequence[Tensor], points: Tensor) -> Tensor:
        log_q = log_posterior(parts, points[:, :, None])
        return (log_q.logsumexp(2) - math.log(log_q.shape[2]) - log_prior(points)).sum()

    return _mean_over_mixtures(gap, s, z, aggregate)


def aggregate_divergence(
    mean: Float[Tensor, "B D"],
    log_scale: Float[Tensor, "B D"],
    z: Float[Tensor, "M B D"],
    *,
    marginal: bool = False,
    aggregate: int | None = None,
) -> Float[Tensor, ""]:
    """`density_gap` of N(mean, scale^2) from N(0, I): KL(q_b to p), or sum_d KL(q_b^d to p_d) (2211.00321, eq. 11), in nats.

    Args:
        mean: of the posteriors.
        log_scale: log of their standard deviations.
        z: draws of each posterior, with gradients.
        marginal: each dimension alone, which ignores how they depend on each other.
        aggregate: posteriors a mixture; None: the batch.

    Raises:
        UserError: a batch that does not divide into mixtures.
    """
    if marginal:
        return density_gap(_log_normal, _log_standard, (mean, log_scale), z, aggregate=aggregate)
    return density_gap(
        lambda s, points: _log_normal(s, points).sum(-1),
        lambda points: _log_standard(points).sum(-1),
        (mean, log_scale), z, aggregate=aggregate,
    )  # fmt: skip


class Decomposition(NamedTuple):
    """The mean divergence of a batch in three parts, in nats (1802.04942, eq. 2).

    Attributes:
        information: I_b(i; z), at most log |b| but for noise.
        correlation: total correlation, KL from the mixture to the product of its marginals.
        marginal: sum_d KL(q_b^d to p_d).
    """

    information: Float[Tensor, ""]
    correlation: Float[Tensor, ""]
    marginal: Float[Tensor, ""]

    def weighted(self, weights: tuple[float, float, float]) -> Float[Tensor, ""]:
        """alpha I + beta TC + gamma sum_d KL_d: beta-TCVAE is (1, beta, 1), the density gap (0, 1, 1), of marginals (0, 0, 1)."""
        return sum((weight * part for weight, part in zip(weights, self, strict=True)), self.marginal.new_zeros(()))


def batch_decomposition(
    mean: Float[Tensor, "B D"],
    log_scale: Float[Tensor, "B D"],
    z: Float[Tensor, "M B D"],
    *,
    aggregate: int | None = None,
) -> Decomposition:
    """The parts of mean_i KL(q_i to p), of Gaussians, by the exact mixture of the batch; their sum is its Monte Carlo estimate.

    Minibatch-weighted sampling (1802.04942, eq. S3) takes log q(z) for the log-density of this mixture less log N, N the items of
    the data set, and log q(z_d) likewise: constants, so that with one draw an item its gradients are those given here.

    Args:
        mean: of the posteriors.
        log_scale: log of their standard deviations.
        z: draws of each posterior, with gradients.
        aggregate: posteriors a mixture; None: the batch.

    Raises:
        UserError: a batch that does not divide into mixtures.
    """

    def gaps(parts: Sequence[Tensor], points: Tensor) -> Tensor:
        each = _log_normal(parts, points[:, :, None])
        count = math.log(each.shape[2])
        joint = each.sum(-1).logsumexp(2) - count
        single = (each.logsumexp(2) - count).sum(-1)
        return torch.stack((joint - single, single - _log_standard(points).sum(-1))).sum((1, 2))

    correlation, marginal = _mean_over_mixtures(gaps, (mean, log_scale), z, aggregate)
    own = (_log_normal((mean, log_scale), z) - _log_standard(z)).sum(-1).mean()
    return Decomposition(own - correlation - marginal, correlation, marginal)


def _log_normal(s: Sequence[Tensor], z: Tensor) -> Tensor:
    """log N(z; mean, scale^2), a dimension each, but for log sqrt(2 pi)."""
    mean, log_scale = s
    return -0.5 * ((z - mean) * (-log_scale).exp()).square() - log_scale


def _log_standard(z: Tensor) -> Tensor:
    """log N(z; 0, 1), a dimension each, but for log sqrt(2 pi)."""
    return -0.5 * z.square()


def _mean_over_mixtures(
    total: Callable[[Sequence[Tensor], Tensor], Tensor], s: Sequence[Tensor], z: Tensor, aggregate: int | None
) -> Tensor:
    """Mean over all draws of what ``total`` adds up over points (C, P, D) of C mixtures with parameters (C, 1, b, ...)."""
    size = aggregate or z.shape[1]
    if z.shape[1] % size:
        raise UserError(f"a batch of {z.shape[1]} does not divide into parts of {size}: change the batch or aggregate")
    points = z.unflatten(1, (-1, size)).transpose(0, 1).flatten(1, 2)  # (C, M b, D)
    parts = [t.unflatten(0, (-1, size))[:, None] for t in s]
    count = points.shape[0] * points.shape[1]
    rows = max(1, LARGEST // (points.shape[0] * size * z.shape[-1]))
    if rows >= points.shape[1]:
        return total(parts, points) / count
    some = [checkpoint(total, parts, part, use_reentrant=False) for part in points.split(rows, 1)]
    return torch.stack(some).sum(0) / count
