"""Filling the tables: a model, a batch and draws in; (K, B) numbers out."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence._tree import leaves, map_tree
from infimum.evidence.draws import Draws
from infimum.evidence.model import LatentModel, PathModel, double_reductions, event_sum, reduction_dtype
from infimum.evidence.sampling import draw
from infimum.evidence.tables import LogWeights, PathTerms, difference, exhaustive, item_list

__all__ = [
    "LatentModel",
    "LogWeights",
    "PathModel",
    "PathTerms",
    "blocks",
    "difference",
    "double_reductions",
    "draw",
    "event_sum",
    "exhaustive",
    "path_terms",
    "weigh",
]


def check_rows(values: Tensor, shape: tuple[int, int], what: str) -> Tensor:
    """A model's answer as (K, B) in at least float32, or one sentence that says what is wrong with its shape."""
    if tuple(values.shape) != shape:
        extra = values.ndim > 2 and tuple(values.shape[:2]) == shape
        turned = tuple(values.shape) == shape[::-1]
        hint = (
            "sum the event axes: wrap the likelihood in Independent"
            if extra
            else "draws come first: do not transpose"
            if turned
            else "one number for each draw and item"
        )
        raise UserError(f"expected {what} of shape (K, B) = {shape}, got {tuple(values.shape)}: {hint}")
    return values.to(torch.promote_types(values.dtype, reduction_dtype()))


def _explain(model: LatentModel, x: Any, s: Any, z: Any, log_joint: Tensor, log_q: Tensor) -> None:
    """Find the part of a log-weight that is NaN or infinite the wrong way, and raise."""
    offer = getattr(model, "parts", None)
    parts: dict[str, Tensor] = dict(offer(x, z)) if offer is not None else {"log p(x, z)": log_joint}
    for name, part in {**parts, "log q(z|x)": log_q}.items():
        for kind, bad in (("NaN", part.isnan()), ("+inf", part == math.inf)):
            if bool(bad.any()):
                raise UserError(f"{name} is {kind} for items {item_list(bad.any(0))}")
    if bool((log_q == -math.inf).any()):
        raise UserError(
            f"log q(z|x) is -inf for items {item_list((log_q == -math.inf).any(0))}: the sampler and log_proposal disagree"
        )


def log_weights_of(
    model: LatentModel, x: Any, s: Any, z: Any, shape: tuple[int, int], z_proposal: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(log_w, log_joint, log_proposal) of given latents, each (K, B), checked.

    ``z_proposal``: the same latents for log_proposal, where the caller has cut its graph at another place.
    """
    log_q = check_rows(model.log_proposal(s, z if z_proposal is None else z_proposal), shape, "log_proposal(s, z)")
    log_joint = check_rows(model.log_joint(x, z), shape, "log_joint(x, z)")
    log_w = log_joint - log_q
    if not bool((log_w.detach() < math.inf).all()) or not bool(torch.isfinite(log_q.detach()).all()):
        with torch.no_grad():
            _explain(model, x, s, z, log_joint, log_q)
    return log_w, log_joint, log_q


def need_whole(draws: Draws) -> None:
    if not draws.whole:
        raise UserError(
            f"draws {draws.start}..{draws.stop} cut a replicate of {draws.plan.block} draws: slice whole replicates, "
            "whose shares make an average"
        )


def own_log_share(draws: Draws) -> Tensor | None:
    """The shares of a set of draws, normalised over the set; None when they are all equal."""
    if not draws.plan.deterministic_lead:
        return None
    return draws.log_share.log_softmax(0)


def blocks(x: Any, draws: Draws, rows: int) -> Iterator[tuple[Any, Draws, slice]]:
    """Batches of at most ``rows`` items."""
    b = draws.shape[1]
    if rows < 1:
        raise UserError(f"rows is the number of (draw, item) pairs at a time, at least 1, got {rows}")
    if (n := next(leaves(x)).shape[0]) != b:
        raise UserError(f"the batch has {n} items and the draws are for {b}: make the draws with one key an item")
    for i in range(0, b, rows):
        part = slice(i, min(i + rows, b))
        if part == slice(0, b):
            yield x, draws, part
        else:
            yield (
                map_tree(lambda t, part=part: t[part], x),
                draws.take(torch.arange(b, device=draws.device)[part]),
                part,
            )


def weigh(model: LatentModel, x: Any, draws: Draws, *, rows: int = 2**14, latents: Any = None) -> LogWeights:
    """Fill the table of importance log-weights log p(x, z) - log q(z | x).

    The encoder runs once a batch; the draws go through the decoder in chunks of at most ``rows`` (draw, item) pairs, so
    memory beyond the table does not grow with K (without gradients; with them the graph of every chunk is kept, and
    `bound_backward` is the way to large K).

    Args:
        model: a `LatentModel`.
        x: batch of B items: a tensor or a nested tuple / dict of tensors.
        draws: K draws for each item.
        rows: (draw, item) pairs at a time.
        latents: exact posterior draws, (K, B, *event) or, under a plan of R replicates with more than one draw each,
            (R, B, *event): then they take the place of every replicate's first draw ("mixed").

    Raises:
        UserError: wrong shapes, NaN or +inf (named by part and item), draws that cut a replicate.
    """
    need_whole(draws)
    if draws.shape[1] == 0:
        raise UserError("the batch is empty: there is no item to weigh")
    with_posterior, mixed = _posterior_rows(latents, draws)
    pieces = []
    for part_x, part, items in blocks(x, draws, rows):
        s = model.encode(part_x)
        lines: list[Sequence[Tensor]] = []
        for chunk in part.chunks(rows):
            at = slice(chunk.start - draws.start, chunk.stop - draws.start)
            if with_posterior:
                z = map_tree(lambda t, at=at, items=items: t[at, items], latents)
            else:
                z = model.sample(s, chunk)
                if mixed:
                    z = _replace_first(z, latents, chunk, draws, items)
            line = log_weights_of(model, part_x, s, z, chunk.shape)
            if torch.is_grad_enabled():
                lines.append(line)
                continue
            # Small tensors kept between large ones that go would tear the heap apart: one table, written in place.
            lines = lines or [[torch.empty(part.shape, dtype=t.dtype, device=t.device) for t in line]]
            for table, row in zip(lines[0], line, strict=True):
                table[at] = row
        pieces.append([torch.cat(column) for column in zip(*lines, strict=True)])
    log_w, log_joint, log_q = (torch.cat(column, dim=1) for column in zip(*pieces, strict=True))
    return LogWeights(
        log_w,
        own_log_share(draws),
        "posterior" if with_posterior else "mixed" if mixed else "proposal",
        unbiased=not draws.biased,
        target=getattr(model, "target", "log p(x)"),
        log_joint=log_joint,
        log_proposal=log_q,
        draws=draws,
        calls=log_w.numel(),
    )


def _posterior_rows(latents: Any, draws: Draws) -> tuple[bool, bool]:
    if latents is None:
        return False, False
    count, items = next(leaves(latents)).shape[:2]
    k, b = draws.shape
    replicates = k // draws.plan.block
    if items != b or count not in (k, replicates):
        raise UserError(
            f"latents must be ({k}, {b}, ...) posterior draws, or ({replicates}, {b}, ...) for one a replicate, "
            f"got ({count}, {items}, ...)"
        )
    return count == k, count != k


def _replace_first(z: Any, latents: Any, chunk: Draws, draws: Draws, items: slice) -> Any:
    """Put the posterior draw of every replicate in the place of its first draw."""
    index = torch.arange(chunk.start, chunk.stop, device=chunk.device)
    first = (index % draws.plan.block == 0).nonzero().flatten()
    if first.numel() == 0:
        return z
    replicate = (index[first] - draws.start) // draws.plan.block

    def put(proposed: Tensor, exact: Tensor) -> Tensor:
        return proposed.index_copy(0, first, exact[replicate][:, items].to(proposed.dtype))

    return map_tree(put, z, latents)


def path_terms(model: PathModel, x: Any, draws: Draws, *, rows: int = 2**14) -> PathTerms:
    """Fill the table of a path model's terms; see `weigh` for the arguments and the memory."""
    need_whole(draws)
    pieces, constants = [], []
    for part_x, part, _ in blocks(x, draws, rows):
        s = model.encode(part_x)
        constant = model.constant(part_x, s)
        constants.append(constant.to(torch.promote_types(constant.dtype, reduction_dtype())))
        lines = [
            check_rows(model.terms(part_x, s, chunk), chunk.shape, "terms(x, s, draws)") for chunk in part.chunks(rows)
        ]
        pieces.append(torch.cat(lines))
    value = torch.cat(pieces, dim=1)
    degree = model.lead_degree(x)
    exact = degree is not None and draws.plan.lead == "gauss" and degree < 2 * draws.plan.levels
    return PathTerms(
        value,
        torch.cat(constants),
        own_log_share(draws),
        biased=draws.biased and not exact,
        target=getattr(model, "target", "log p(x)"),
        surrogate=model.surrogate,
        draws=draws,
        calls=value.numel(),
    )
