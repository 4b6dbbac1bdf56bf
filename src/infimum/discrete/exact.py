"""Short sequences exactly: the likelihood over all orders by dynamic programming, and the ELBO over all masks."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.discrete.canvas import Canvas
from infimum.discrete.masked import MaskedDiffusion
from infimum.errors import UserError
from infimum.evidence import Estimate, closed_form

__all__ = ["exact_elbo", "exact_log_likelihood"]

LONGEST = 14
"""Tokens of a block: 2^14 canvases an item."""


def exact_log_likelihood(model: MaskedDiffusion, x: Any, *, rows: int = 1024) -> Estimate:
    """log p(x) in nats, over all orders: f(S) = 1/|S| sum over i in S of p(x_i | x with S masked) f(S without i).

    Every set of tokens of a block is one network call: 2^L a sequence of one block. Outside of `torch.no_grad` graphs are kept.

    Args:
        model: in eval mode.
        x: see `MaskedDiffusion`.
        rows: canvases at a time.

    Raises:
        UserError: more than 14 tokens in a block, or NaN.
    """
    return _over_masks(model, x, rows, _dynamic_programme, "exact", "exact, all orders")


def exact_elbo(model: MaskedDiffusion, x: Any, *, rows: int = 1024) -> Estimate:
    """The ELBO in nats, over all masks: sum over l of 1/l times the mean over sets of l tokens of their log-probabilities."""
    return _over_masks(model, x, rows, _subset_sum, "lower", "ELBO, all masks")


def _over_masks(model: MaskedDiffusion, x: Any, rows: int, reduce: Any, side: Any, name: str) -> Estimate:
    if rows < 1:
        raise UserError(f"rows is {rows}, expected at least 1")
    s = model.encode(x)
    length = model.config.block_length or int(s.lengths.max())
    if (longest := min(length, int(s.lengths.max()))) > LONGEST:
        raise UserError(
            f"an exact sum over the masks of {longest} tokens needs 2^{longest} network calls an item, expected at most {LONGEST} "
            "tokens: use the ELBO, or RandomOrders for importance weights"
        )
    values = [_item(model, s, b, length, rows, reduce) for b in range(len(s.lengths))]
    return closed_form(torch.stack(values), side, name=name, target=model.target)


def _item(model: MaskedDiffusion, s: Canvas, b: int, length: int, rows: int, reduce: Any) -> Tensor:
    tokens, rank, target = s.tokens[b], s.rank[b], s.target[b]
    total = torch.zeros((), dtype=torch.float64, device=tokens.device)
    for first in range(0, int(s.lengths[b]), length):
        places = ((rank >= first) & (rank < first + length) & target).nonzero()[:, 0]
        later = (rank >= first + length) & target
        total = total + reduce(_table(model, s, b, places, later, rows))
    return total


def _table(
    model: MaskedDiffusion, s: Canvas, b: int, places: Tensor, later: Tensor, rows: int
) -> Float[Tensor, "sets n"]:
    """log p(x_i | the set is masked) for every set of places, by the bits of its number; -inf where i is not in the set."""
    n = len(places)
    bits = (torch.arange(2**n, device=places.device)[:, None] >> torch.arange(n, device=places.device)) & 1
    found = []
    for some in bits[1:].bool().split(rows):
        masked = later.repeat(len(some), 1)
        masked[:, places] = some
        z = torch.where(masked, model.config.mask, s.tokens[b])
        scored = masked & ~later
        each = model.log_probs(z, s.present[b].expand_as(z), scored, s.tokens[b].expand_as(z)[scored]).double()
        if bool(each.isnan().any()):
            raise UserError(f"log p of item {b} is NaN under some masks: check the network's weights and its precision")
        found.append(each.new_full(some.shape, -math.inf).masked_scatter(some, each))
    return torch.cat([found[0].new_full((1, n), -math.inf), *found])


def _dynamic_programme(table: Float[Tensor, "sets n"]) -> Float[Tensor, ""]:
    n = table.shape[1]
    number = torch.arange(2**n, device=table.device)
    bit = 1 << torch.arange(n, device=table.device)
    size = ((number[:, None] & bit) > 0).sum(1)
    values = [table.new_zeros(1)]  # log f of the sets of l tokens, from the empty one on
    place = torch.zeros_like(number)
    for count in range(1, n + 1):
        mine = number[size == count]
        before = mine[:, None] ^ bit  # without i, where i is in the set
        inside = (mine[:, None] & bit) > 0
        earlier = values[-1][place[torch.where(inside, before, 0)]]
        values.append((table[mine] + torch.where(inside, earlier, 0.0)).logsumexp(1) - math.log(count))
        place = torch.zeros_like(number)
        place[mine] = torch.arange(len(mine), device=table.device)
    return values[-1][0]


def _subset_sum(table: Float[Tensor, "sets n"]) -> Float[Tensor, ""]:
    n = table.shape[1]
    number = torch.arange(2**n, device=table.device)
    inside = ((number[:, None] >> torch.arange(n, device=table.device)) & 1).bool()
    scores = torch.where(inside, table, 0.0).sum(1)[1:]
    size = inside.sum(1)[1:]
    weight = torch.tensor([1 / (count * math.comb(n, count)) for count in range(1, n + 1)], dtype=torch.float64)
    return (weight.to(table.device)[size - 1] * scores).sum()
