"""Regularisers in the place of an ELBO's divergence, in nats a sentence. With none of them the loss is a bound."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from infimum.errors import UserError
from infimum.vae.text.families import Family, GaussianFamily

__all__ = ["chunks_of", "density_gap", "free_bits", "free_bits_batch", "mean_discrepancy"]

LARGEST = 2**26
"""Densities that are held at a time; beyond, they are computed in parts, and again in the backward pass."""


def chunks_of(t: Float[Tensor, "*m B D"], size: int, axis: int) -> Tensor:
    """The batch axis as (chunks, ``size``).

    Raises:
        UserError: it does not divide.
    """
    if t.shape[axis] % size:
        raise UserError(
            f"a batch of {t.shape[axis]} does not divide into parts of {size}: change the batch or aggregate"
        )
    return t.unflatten(axis, (-1, size))


def density_gap(
    family: Family, s: Any, z: Float[Tensor, "M B D"], *, aggregate: int | None = None, marginal: bool = True
) -> Float[Tensor, ""]:
    """mean log q_b(z) - log p(z) over draws of the batch, q_b the mixture of ``aggregate`` posteriors (2211.00321).

    Gaussian, eq. 11: for every dimension alone, sum_d KL(q_b^d to p_d), or jointly, KL(q_b to p). vMF, eq. 9: jointly. Unbiased
    given the batch, as every component has the same number of draws; single values may be negative.

    Not a bound: mean_i KL_i = I_b + KL(q_b to p), and the mutual information I_b, up to log |b| (marginally up to D log |b|), is
    left out of the loss. With one posterior a mixture it is the ordinary divergence by Monte Carlo.

    Raises:
        UserError: a batch that does not divide into mixtures, or a marginal form on the sphere.
    """
    size = aggregate or z.shape[1]
    points = chunks_of(z, size, 1).transpose(0, 1).flatten(1, 2)  # (C, M b, D)
    parts = [chunks_of(t, size, 0)[:, None] for t in s]  # (C, 1, b, ...)
    marginal = marginal and isinstance(family, GaussianFamily)

    def gap(some: Float[Tensor, "C P D"]) -> Float[Tensor, ""]:
        if marginal:
            mean, log_scale = parts
            each = -0.5 * ((some[:, :, None] - mean) * (-log_scale).exp()).square() - log_scale
            log_q = each.logsumexp(2) - math.log(size)  # (C, P, D); the constants of q and p cancel
            return (log_q + 0.5 * some.square()).sum()
        return (family.log_prob(parts, some[:, :, None]).logsumexp(-1) - math.log(size) - family.log_prior(some)).sum()

    count = points.shape[0] * points.shape[1]
    rows = max(1, LARGEST // (points.shape[0] * size * z.shape[-1]))
    if rows >= points.shape[1]:
        return gap(points) / count
    return torch.stack([_again(gap, some) for some in points.split(rows, 1)]).sum() / count


def _again(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The function of x, computed once more in the backward pass instead of kept."""
    answer: Tensor = checkpoint(function, x, use_reentrant=False)
    return answer


def free_bits(divergence: Float[Tensor, "B D"], target: float) -> Float[Tensor, ""]:
    """The divergence of each item where it is above target / D nats in a dimension, and 0 elsewhere (official code)."""
    return torch.where(divergence > target / divergence.shape[-1], divergence, 0.0).sum(-1).mean()


def free_bits_batch(divergence: Float[Tensor, "B D"], target: float) -> Float[Tensor, ""]:
    """sum_d max(target / D, mean over the batch of KL_d) (Kingma et al. 2016, 1606.04934, eq. 15)."""
    return divergence.mean(0).clamp_min(target / divergence.shape[-1]).sum()


def mean_discrepancy(z: Float[Tensor, "N D"], prior: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """WAE-MMD: squared mean discrepancy of two samples, unbiased, kernel C / (C + |x - y|^2), C = 2 D (1711.01558). No nats.

    Raises:
        UserError: fewer than two points.
    """
    n, d = z.shape
    if n < 2:
        raise UserError("a mean discrepancy compares samples, and the batch has one item: use a batch of at least 8")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        gap = (x[:, None] - y).square().sum(-1)
        return 2 * d / (2 * d + gap)

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    return within(z) + within(prior) - 2 * kernel(z, prior).mean()
