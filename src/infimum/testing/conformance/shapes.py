"""Shapes, dtypes and finiteness of what a latent model returns."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from infimum.evidence._tree import leaves, map_tree
from infimum.evidence.plan import Plan
from infimum.evidence.weights import check_rows, log_weights_of
from infimum.testing.conformance.case import FEW, ITEMS, Case
from infimum.testing.conformance.report import Failed, Skipped

__all__ = ["encode", "finite", "latents", "log_joint", "log_proposal", "precision", "sums_are_precise"]

SHAPE = (FEW, ITEMS)
PRECISE = "sum events with infimum.evidence.event_sum, in float32 at least"
COARSE = 1e-4  # relative error that float32 does not make and sums in half precision do


def encode(case: Case) -> str:
    """Tensors with the items first."""
    s = case.model.encode(case.x)
    try:
        parts = list(leaves(s))
    except TypeError as error:
        raise Failed(f"encode(x): {error}; return the parameters of a distribution, not the distribution") from None
    for part in parts:
        if part.ndim == 0 or part.shape[0] != ITEMS:
            raise Failed(
                f"encode(x) returned a tensor of shape {tuple(part.shape)} for {ITEMS} items: "
                "every tensor needs the items as its first axis (expand what does not depend on x)"
            )
    return f"{len(parts)} tensor{'s' * (len(parts) != 1)} of {ITEMS} items"


def draw_few(case: Case) -> tuple[Any, Any]:
    """(s, z) of the structural checks."""
    s = case.model.encode(case.x)
    return s, case.model.sample(s, case.draws(Plan.iid(FEW)))


def latents(case: Case) -> str:
    """(K, B, *event)."""
    _, z = draw_few(case)
    for part in leaves(z):
        if tuple(part.shape[:2]) != SHAPE:
            raise Failed(
                f"sample(s, draws) returned a tensor of shape {tuple(part.shape)} for K={FEW} draws of B={ITEMS} items: "
                f"expected {(*SHAPE, '*event')}, draws first, items second"
            )
    return "(K, B, *event) with events " + ", ".join(str(tuple(part.shape[2:])) for part in leaves(z))


def _rows(values: Any, what: str) -> str:
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = str(values.dtype) if isinstance(values, Tensor) else type(values).__name__
        raise Failed(f"{what} returned {kind}: expected floating-point nats of shape (K, B)")
    check_rows(values, SHAPE, what)
    return "(K, B) = (7, 5)"


def log_proposal(case: Case) -> str:
    """(K, B), event axes summed."""
    s, z = draw_few(case)
    return _rows(case.model.log_proposal(s, z), "log_proposal(s, z)")


def log_joint(case: Case) -> str:
    """(K, B), event axes summed."""
    _, z = draw_few(case)
    return _rows(case.model.log_joint(case.x, z), "log_joint(x, z)")


def finite(case: Case) -> str:
    """No NaN, no +inf; -inf only where the joint has no mass."""
    s, z = draw_few(case)
    log_w, _, _ = log_weights_of(case.model, case.x, s, z, SHAPE)
    dead = int((log_w == -torch.inf).sum())
    return f"no NaN, no +inf; {dead} of {log_w.numel()} draws have no mass (-inf)"


def sums_are_precise(values: Tensor, reference: Tensor | None, what: str) -> None:
    """Fail where values are half precision, or as coarse as if they had been."""
    if values.dtype not in (torch.float32, torch.float64):
        raise Failed(f"{what} is {values.dtype}: expected float32 or float64; {PRECISE}")
    seen = values[torch.isfinite(values)]
    for dtype in (torch.bfloat16, torch.float16):
        if seen.numel() and torch.equal(seen.to(dtype).to(seen.dtype), seen) and bool((seen != seen.round()).any()):
            raise Failed(f"every {what} is a multiple of a {dtype} step, so it was summed in {dtype}: {PRECISE}")
    if reference is not None:
        both = torch.isfinite(values) & torch.isfinite(reference)
        error = torch.where(both, (values.double() - reference).abs() / (1 + reference.abs()), 0.0)
        if float(error.max()) > COARSE:
            raise Failed(f"{what} is off by {float(error.max()):.1e} of its float64 value: {PRECISE}")


class HalfSums(TorchDispatchMode):
    """Notes sums to one number a (draw, item) pair whose result is in half precision."""

    def __init__(self, pairs: int) -> None:
        super().__init__()
        self.pairs, self.seen = pairs, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at its result."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("sum", "mean", "logsumexp") and isinstance(out, Tensor) and out.numel() == self.pairs:
            self.seen = str(out.dtype) if out.dtype in (torch.float16, torch.bfloat16) else self.seen
        return out


def watch_half_sums(case: Case, call: Callable[[], Any], what: str) -> None:
    """Fail where a call sums events in half precision, be it by itself or because autocast made a network return it."""
    for autocast in (False, True):
        with HalfSums(FEW * ITEMS) as watch, torch.autocast(case.device.type, torch.bfloat16, enabled=autocast):
            try:
                call()
            except (RuntimeError, TypeError, ValueError):
                if not autocast:
                    raise
        if watch.seen:
            where = " under autocast" if autocast else ""
            raise Failed(f"{what} sums events in {watch.seen}{where}: {PRECISE}")


def in_double(model: Any, *trees: Any) -> tuple[Any, ...] | None:
    """A copy of the model and its inputs in float64; None where it cannot be copied."""
    try:
        twin = copy.deepcopy(model).double()
    except (RuntimeError, TypeError, ValueError):  # weights that are results of other tensors cannot be copied
        return None
    return twin, *(map_tree(lambda t: t.double() if t.is_floating_point() else t, tree) for tree in trees)


def precision(case: Case) -> str:
    """At least float32, with sums of events as good as that: against the same numbers in float64."""
    s, z = draw_few(case)
    joint, proposal = case.model.log_joint(case.x, z), case.model.log_proposal(s, z)
    watch_half_sums(case, lambda: case.model.log_joint(case.x, z), "log_joint(x, z)")
    watch_half_sums(case, lambda: case.model.log_proposal(s, z), "log_proposal(s, z)")
    references: tuple[Tensor | None, Tensor | None] = (None, None)
    double = in_double(case.model, case.x, s, z)
    if double is not None:
        twin, x64, s64, z64 = double
        try:
            references = twin.log_joint(x64, z64), twin.log_proposal(s64, z64)
        except (RuntimeError, TypeError, ValueError):
            references = (None, None)  # a model that fixes its dtype: only the grid of values is looked at
    sums_are_precise(joint, references[0], "log_joint(x, z)")
    sums_are_precise(proposal, references[1], "log_proposal(s, z)")
    if references[0] is None:
        return f"{joint.dtype}; not compared with float64, in which the model does not run"
    return f"{joint.dtype}, within {COARSE:g} of float64"


def skip_in_eval(case: Case) -> None:
    """The check is about train mode."""
    if not any(part.training for part in case.model.modules()):
        raise Skipped("the model is in eval mode: pass it in train mode to check what training sees")
