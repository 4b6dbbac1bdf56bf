"""The information-theoretic price of sub-sampling modalities, for discrete data small enough to enumerate.

Daunhawer et al. (2022, 2110.04121, section 4). What is provable is F1 below: the sub-sampled bound of any model lies at least
Delta under 0. That log p exceeds it by Delta does not follow: decoders that model private variation as noise reach the evidence.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError

__all__ = ["best_encoder_gap", "conditional_entropy", "entropy", "information_bound", "subsampling_ceiling"]

Subset = tuple[int, ...]


def entropy(p: Float[Tensor, "*shape"]) -> float:
    """-sum p log p in nats."""
    return float(-torch.special.xlogy(p, p).sum())


def conditional_entropy(p: Float[Tensor, "*shape"], of: Sequence[int], given: Sequence[int]) -> float:
    """H(X_of | X_given) in nats of a joint table with one axis a variable."""
    axes = set(range(p.ndim))

    def marginal(kept: set[int]) -> Tensor:
        return p.sum(tuple(axes - kept)) if axes - kept else p

    return entropy(marginal(set(of) | set(given))) - entropy(marginal(set(given)))


def _table(p: Tensor) -> Tensor:
    if not p.is_floating_point() or bool((p < 0).any()) or abs(float(p.double().sum()) - 1) > 1e-6:
        raise UserError(
            "the information bound is for discrete data, p a table of probabilities with one axis a modality: for continuous data "
            "the conditional differential entropy can be negative, use subset_gaps or the linear-Gaussian gap"
        )
    return p.double()


def information_bound(
    p: Float[Tensor, "*modalities"], subsets: Sequence[Subset], weights: Sequence[float] | None = None
) -> float:
    """Delta(X, S) = sum_A w_A H(X_A' | X_A) in nats: what no encoder of x_A can tell of the rest (2110.04121, eq. 6).

    Args:
        p: joint probabilities, one axis a modality.
        subsets: the axes of each A.
        weights: w_A; equal if not given.

    Raises:
        UserError: not a table of probabilities: continuous data have no such bound.
    """
    p, each = _table(p), 1 / len(subsets)
    rest = [tuple(set(range(p.ndim)) - set(a)) for a in subsets]
    return sum(
        w * conditional_entropy(p, other, a)
        for a, other, w in zip(subsets, rest, weights or [each] * len(subsets), strict=True)
    )


def subsampling_ceiling(
    p: Float[Tensor, "*modalities"],
    subsets: Sequence[Subset],
    encoders: Sequence[Float[Tensor, "... Z"]],
    weights: Sequence[float] | None = None,
    beta: float = 1.0,
) -> float:
    """-sum_A w_A { H(X_A | Z_A) + H(X_A' | X_A) + beta I(X_A; Z_A) } in nats, at least E[L_S] for any decoders and prior (21, F1).

    Args:
        p: joint probabilities, one axis a modality.
        subsets: the axes of each A, increasing.
        encoders: q(z | x_A): axes of A, then the states of z.
        weights: w_A; equal if not given.
        beta: weight of the divergence.
    """
    p, total = _table(p), 0.0
    for i, (a, q) in enumerate(zip(subsets, encoders, strict=True)):
        rest = tuple(set(range(p.ndim)) - set(a))
        p_a = p.sum(rest) if rest else p
        pair = p_a[..., None] * q.double()  # p(x_A, z)
        axes = tuple(range(p_a.ndim))
        told = conditional_entropy(pair, axes, (p_a.ndim,))
        information = entropy(p_a) - told
        private = conditional_entropy(p, rest, a) if rest else 0.0
        w = 1 / len(subsets) if weights is None else weights[i]
        total -= w * (told + private + beta * information)
    return total


def best_encoder_gap(
    p: Float[Tensor, "*modalities"], subset: Subset, log_posterior: Float[Tensor, "*modalities Z"]
) -> tuple[float, Float[Tensor, "*given Z"]]:
    """G_A = -E log sum_z exp E[log p(z|X) | X_A], the least E[log p(X) - L_A], and the encoder of x_A that attains it (21, F3).

    The encoder is the normalised geometric mean of the full posteriors. Where these have no z in common every encoder costs
    infinitely much, and the one returned is uniform.

    Args:
        p: joint probabilities of the data, one axis a modality.
        subset: the axes of A, increasing.
        log_posterior: log p(z | x) of the model; -inf where z is impossible.
    """
    p = _table(p)
    rest = tuple(set(range(p.ndim)) - set(subset))
    p_a = p.sum(rest, keepdim=True) if rest else p
    weight = torch.where(p_a > 0, p / torch.where(p_a > 0, p_a, 1.0), 0.0)[..., None]
    mean = torch.where(weight > 0, weight * log_posterior, 0.0)
    mean = mean.sum(rest) if rest else mean
    level = mean.logsumexp(-1)
    flat = p_a.sum(rest) if rest else p_a
    apart = level.isneginf()[..., None]
    best = (mean - level[..., None]).exp()
    return -float(torch.where(flat > 0, flat * level, 0.0).sum()), torch.where(apart, 1 / mean.shape[-1], best)
