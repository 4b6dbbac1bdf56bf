"""The main job: the held-out evidence of a model, item by item, with its error."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence._tree import leaves, map_tree
from infimum.evidence.bounds import iwae
from infimum.evidence.estimate import Estimate
from infimum.evidence.model import LatentModel, PathModel, double_reductions, need_eval
from infimum.evidence.plan import Plan
from infimum.evidence.weights import path_terms, weigh

__all__ = ["evaluate"]

Bound = Callable[[Any], Estimate]


def _batches(x: Any, size: int) -> Iterator[tuple[slice, Any]]:
    n = next(leaves(x)).shape[0]
    if n == 0:
        raise UserError("there are no items to evaluate: the data set is empty")
    for i in range(0, n, size):
        part = slice(i, min(i + size, n))
        yield part, map_tree(lambda t, part=part: t[part], x)


def evaluate(
    model: LatentModel | PathModel,
    x: Any,
    plan: Plan | None = None,
    bound: Any = iwae,
    *,
    keys: Int[Tensor, "N"] | None = None,
    seed: int = 0,
    batch: int = 64,
    rows: int = 2**11,
    progress: Callable[[int], None] | None = None,
    latents: Any = None,
) -> Any:
    """Bounds of every item's evidence, without gradients, events summed in float64.

    An item's draws depend on (seed, its key, draw) alone, so batch, order and ``rows`` change nothing. Memory: one table of
    K x ``batch`` and one chunk of ``rows`` pairs through the network, whatever K and N are.

    Args:
        model: in eval mode, a `LatentModel` (importance weights) or a `PathModel` (then ``bound`` is `elbo`).
        x: N items: a tensor or a nested tuple / dict of tensors.
        plan: of the draws; ``Plan.iid(5000)`` by default.
        bound: a bound, or several: they share the table.
        keys: item ids, int64 (N,); row numbers by default.
        seed: of the draws.
        batch: items a table.
        rows: (draw, item) pairs at a time.
        latents: exact posterior draws of the items, (K, N, *event) or one a replicate, for upper bounds; see `weigh`.
        progress: called with the number of items done.

    Returns:
        One `Estimate` of N items, or a list of them for several bounds.

    Raises:
        UserError: a model in train mode, no items, a wrong number of keys, NaN. Duplicate keys cost the certificate, see `Mean`.
    """
    plan = Plan.iid(5000) if plan is None else plan
    if plan.spread > 1:
        raise UserError(f"evaluation needs independent items: plan.spread must be 1, got {plan.spread}")
    need_eval(model)
    first = next(leaves(x))
    if keys is None:
        keys = torch.arange(first.shape[0], device=first.device)
    if keys.shape != (first.shape[0],):
        raise UserError(f"expected one key for each of {first.shape[0]} items, got {tuple(keys.shape)}")
    bounds = list(bound) if isinstance(bound, Sequence) else [bound]
    fill = path_terms if isinstance(model, PathModel) and not hasattr(model, "log_joint") else weigh
    parts: list[list[Estimate]] = []
    done = 0
    with torch.no_grad(), double_reductions():
        for index, items in _batches(x, batch):
            draws = plan.draws(keys[index], seed=seed, salt="eval", device=first.device)
            known = {} if latents is None else {"latents": map_tree(lambda t, at=index: t[:, at], latents)}
            table = fill(model, items, draws, rows=rows, **known)  # type: ignore[arg-type]
            parts.append([each(table) for each in bounds])
            done += keys[index].shape[0]
            if progress is not None:
                progress(done)
    ceiling = getattr(model, "ceiling", None)
    answers = [dataclasses.replace(Estimate.cat(column), ceiling=ceiling) for column in zip(*parts, strict=True)]
    return answers if isinstance(bound, Sequence) else answers[0]
