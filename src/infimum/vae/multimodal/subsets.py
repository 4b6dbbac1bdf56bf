"""Subsets of modalities: which are components of the posterior, with which weights, and random ones."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Draws

__all__ = [
    "ENUMERABLE",
    "log_subset_weights",
    "name_members",
    "observed_log_weights",
    "random_members",
    "subset_members",
]

ENUMERABLE = 12
"""Most modalities whose 2^M - 1 subsets are listed."""


def name_members(names: tuple[str, ...], subset: Iterable[str]) -> list[bool]:
    """Which of the modalities a subset of names holds.

    Raises:
        UserError: unknown names, or none.
    """
    chosen = set(subset)
    if unknown := sorted(chosen - set(names)):
        raise UserError(f"{unknown[0]!r} is no modality: the model has {', '.join(names)}")
    if not chosen:
        raise UserError(f"a subset needs at least one modality of {', '.join(names)}, got none")
    return [name in chosen for name in names]


def subset_members(names: tuple[str, ...], subsets: str | tuple[tuple[str, ...], ...]) -> Bool[Tensor, "S M"]:
    """The subsets that are components of q(z | x), one a row.

    Of "sample", whose subsets are too many to list, the single modalities and all of them together: the mixture of these is the
    proposal of importance weights.

    Raises:
        UserError: too many subsets, an unknown word or name, an empty or repeated subset.
    """
    m = len(names)
    every, single = torch.ones(1, m, dtype=torch.bool), torch.eye(m, dtype=torch.bool)
    if subsets == "full":
        return every
    if subsets == "single":
        return single
    if subsets == "sample":
        return torch.cat((single, every)) if m > 1 else every
    if subsets == "all":
        if m > ENUMERABLE:
            raise UserError(f"{m} modalities have 2^{m} - 1 subsets: use subsets='sample', 'single' or 'full'")
        codes = torch.arange(1, 2**m)
        return (codes[:, None] >> torch.arange(m) & 1).bool()
    if isinstance(subsets, str) or not subsets:
        raise UserError(f"subsets is 'full', 'single', 'all', 'sample' or tuples of names, got {subsets!r}")
    rows = [name_members(names, subset) for subset in subsets]
    if len({tuple(row) for row in rows}) < len(rows):
        raise UserError("a subset is given twice: give it once, and its weight in weights=")
    return torch.tensor(rows)


def log_subset_weights(count: int, weights: tuple[float, ...] | None) -> Float[Tensor, "S"]:
    """log w_A, normalised.

    Raises:
        UserError: another number of weights than of subsets, or one that is not positive.
    """
    if weights is None:
        return torch.full((count,), -math.log(count))
    if len(weights) != count:
        raise UserError(f"expected one weight for each of {count} subsets, got {len(weights)}")
    if not all(0 < w < math.inf for w in weights):
        raise UserError(f"the weights of subsets must be positive, got {list(weights)}")
    return torch.tensor(weights, dtype=torch.float64).log().log_softmax(0).float()


def observed_log_weights(
    log_weights: Float[Tensor, "S"], members: Bool[Tensor, "S M"], observed: Bool[Tensor, "B M"]
) -> Float[Tensor, "B S"]:
    """log w_A of each item, over the subsets that it observes in full, renormalised.

    An item that observes no subset in full takes those that it observes in part: what is missing has no say in a product.

    Raises:
        UserError: an item observes nothing of any subset.
    """
    absent = (~observed).to(log_weights.dtype)
    whole = absent @ members.to(log_weights.dtype).T == 0
    part = observed.to(log_weights.dtype) @ members.to(log_weights.dtype).T > 0
    if not bool(part.any(1).all()):
        index = (~part.any(1)).nonzero().flatten().tolist()
        raise UserError(f"items {str(index[:10])[1:-1]} have no modality of any of the model's subsets: leave them out")
    open_ = torch.where(whole.any(1, keepdim=True), whole, part)
    return torch.where(open_, log_weights, -math.inf).log_softmax(-1)


def random_members(
    draws: Draws, observed: Bool[Tensor, "B M"], smallest: int = 1, largest: int | None = None
) -> Bool[Tensor, "K B M"]:
    """For every draw a subset of what the item observes, uniform among those of the allowed sizes. Stream: "subset".

    The size follows the lead, so that a stratified lead spreads the draws over sizes. Items that observe fewer than ``smallest``
    modalities get all that they observe.
    """
    n = observed.sum(-1).double()[:, None]
    top = n if largest is None else n.clamp(max=largest)
    size = torch.arange(1, observed.shape[1] + 1, device=observed.device, dtype=torch.float64)
    ways = torch.lgamma(n + 1) - torch.lgamma(size + 1) - torch.lgamma((n - size).clamp_min(0) + 1)
    allowed = (size >= torch.minimum(top, torch.full_like(n, smallest))) & (size <= top)
    chosen = draws.choose(torch.where(allowed, ways, -math.inf)) + 1
    return draws.subset("subset", chosen, observed.shape[1], observed)
