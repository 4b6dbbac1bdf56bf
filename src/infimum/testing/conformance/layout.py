"""Draws first, items second, and nobody looks at a neighbour."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from infimum.evidence import path_terms, weigh
from infimum.evidence._tree import leaves, map_tree
from infimum.evidence.plan import Plan
from infimum.testing.conformance.case import FEW, ITEMS, Case, differs, differs_tree, pick
from infimum.testing.conformance.report import Failed, Skipped
from infimum.testing.conformance.shapes import draw_few

__all__ = ["chunks", "items_apart", "layout", "path_chunks", "path_items_apart"]

PAIRS = ((1, 0), (3, 1), (4, 2))  # items in another order, with others beside them
PROBES = ((1, 0), (2, 3), (4, 1))  # (draw, item) pairs that no reshape from (B, K) to (K, B) leaves in place
FEW_PLACES = 2  # a wrong layout moves an entry; a network that mixes items changes a row, a column or all of them


def _change_one(z: Any, k: int, b: int) -> Any | None:
    """The latents with one (draw, item) entry replaced by that item's next differing draw; None if all are equal."""
    for other in range(FEW):
        if any(bool((part[other, b] != part[k, b]).any()) for part in leaves(z)):

            def put(part: Tensor, other: int = other) -> Tensor:
                part = part.clone()
                part[k, b] = part[other, b]
                return part

            return map_tree(put, z)
    return None


def _places(table: Callable[[Any], Tensor], z: Any) -> tuple[bool, bool]:
    """(misplaced, mixed): what changes in a table when one latent does."""
    base, misplaced, mixed = table(z), False, False
    for k, b in PROBES:
        changed_z = _change_one(z, k, b)
        if changed_z is None:
            continue
        changed = differs(table(changed_z), base)
        changed[k, b] = False
        count = int(changed.sum())
        misplaced |= 0 < count <= FEW_PLACES
        mixed |= count > FEW_PLACES
    return misplaced, mixed


def _moved_latents(case: Case) -> bool:
    """Whether sample puts the latents of one (draw, item) pair in the place of another's."""
    same = pick(case.model.encode(case.x), torch.zeros(ITEMS, dtype=torch.int64, device=case.device))
    draws = case.draws(Plan.iid(FEW))
    z = case.model.sample(same, draws)
    k, b = PROBES[0]
    one = torch.tensor([b], device=case.device)
    alone = case.model.sample(pick(same, one), draws[k : k + 1].take(one))
    if not differs_tree(pick(pick(z, one, 1), one * 0 + k), alone):
        return False
    return any(
        not differs_tree(map_tree(lambda part, i=i, j=j: part[i : i + 1, j : j + 1], z), alone)
        for i in range(FEW)
        for j in range(ITEMS)
    )


REMEDY = "flatten with z.flatten(0, 1) and restore with .unflatten(0, (K, B)), never with .view(B, K)"


def layout(case: Case) -> str:
    """Entry (k, b) of every table is that of draw k of item b."""
    s, z = draw_few(case)
    tables: dict[str, Callable[[Any], Tensor]] = {
        "log_joint(x, z)": lambda z: case.model.log_joint(case.x, z),
        "log_proposal(s, z)": lambda z: case.model.log_proposal(s, z),
    }
    if _moved_latents(case):
        raise Failed(f"sample(s, draws) puts draws in the place of other items': draws first, items second; {REMEDY}")
    for what, table in tables.items():
        if _places(table, z)[0]:
            raise Failed(f"{what} puts the value of one (draw, item) pair in the place of another's: {REMEDY}")
    return "one latent changes one entry of each table, in its own place"


MIXED = "the numbers of an item depend on the other items of the batch (batch norm, a mean over axis 0, a wrong axis)"


def items_apart(case: Case) -> str:
    """An item's numbers do not depend on the batch that it is in."""
    model, x = case.model, case.x
    s, z = draw_few(case)
    draws = case.draws(Plan.iid(FEW))
    for pair in PAIRS:
        index = torch.tensor(pair, device=case.device)
        if differs_tree(model.encode(pick(x, index)), pick(s, index)):
            raise Failed(f"encode: {MIXED}: use layer norm, or eval mode")
    try:
        layout(case)
    except Failed:
        raise Skipped("not told apart from the failure of 'layout'") from None
    for pair in PAIRS:
        index = torch.tensor(pair, device=case.device)
        ours, theirs = pick(z, index, 1), pick(s, index)
        if differs_tree(model.sample(theirs, draws.take(index)), ours):
            raise Failed(f"sample: {MIXED}")
        if differs_tree(model.log_proposal(theirs, ours), model.log_proposal(s, z)[:, index]):
            raise Failed(f"log_proposal: {MIXED}")
        if differs_tree(model.log_joint(pick(x, index), ours), model.log_joint(x, z)[:, index]):
            raise Failed(f"log_joint: {MIXED}: use layer norm, or eval mode")
    return "permuting and dropping the other items changes nothing"


def _ranges(k: int) -> list[slice]:
    return [slice(0, 1), slice(1, k - 1), slice(k - 1, k)]


def chunks(case: Case) -> str:
    """Working through the draws in chunks changes nothing."""
    s = case.model.encode(case.x)
    for plan in (Plan.iid(FEW), case.plan):
        draws = case.draws(plan)
        whole = case.model.sample(s, draws)
        for part in _ranges(plan.k):
            if part.stop <= part.start:
                continue
            if differs_tree(case.model.sample(s, draws[part]), map_tree(lambda t, part=part: t[part], whole)):
                raise Failed(
                    f"sample(s, draws[{part.start}:{part.stop}]) is not that part of sample(s, draws): make numbers only by "
                    "draws.normal, draws.uniform, draws.choose or draws.lead, which know where a chunk begins"
                )
    draws = case.draws(Plan.iid(FEW))
    if differs_tree(weigh(case.model, case.x, draws, rows=2).log_w, weigh(case.model, case.x, draws, rows=2**14).log_w):
        raise Failed(
            "weigh with rows=2 and with rows=16384 differ: some number depends on how many draws are worked on"
        )
    return "chunks of draws and of items give the same numbers"


def path_items_apart(case: Case) -> str:
    """An item's numbers do not depend on the batch that it is in."""
    model, x, draws = case.model, case.x, case.draws(Plan.iid(FEW))
    s = model.encode(x)
    constant, terms = model.constant(x, s), model.terms(x, s, draws)
    for pair in PAIRS:
        index = torch.tensor(pair, device=case.device)
        part, theirs = pick(x, index), pick(s, index)
        if differs_tree(model.encode(part), theirs):
            raise Failed(f"encode: {MIXED}: use layer norm, or eval mode")
        if differs_tree(model.constant(part, theirs), constant[index]):
            raise Failed(f"constant: {MIXED}")
        if differs_tree(model.terms(part, theirs, draws.take(index)), terms[:, index]):
            raise Failed(f"terms: {MIXED}, or the table is laid out wrongly: {REMEDY}")
    return "permuting and dropping the other items changes nothing"


def path_chunks(case: Case) -> str:
    """Working through the draws in chunks changes nothing."""
    for plan in (Plan.iid(FEW), case.plan):
        draws = case.draws(plan)
        s = case.model.encode(case.x)
        whole = case.model.terms(case.x, s, draws)
        for part in _ranges(plan.k):
            if part.stop > part.start and differs_tree(case.model.terms(case.x, s, draws[part]), whole[part]):
                raise Failed(f"terms(x, s, draws[{part.start}:{part.stop}]) is not that part of terms(x, s, draws)")
    draws = case.draws(Plan.iid(FEW))
    if differs_tree(
        path_terms(case.model, case.x, draws, rows=2).value, path_terms(case.model, case.x, draws, rows=2**14).value
    ):
        raise Failed(
            "path_terms with rows=2 and rows=16384 differ: some number depends on how many draws are worked on"
        )
    return "chunks of draws and of items give the same numbers"
