"""Shapes, precision and gradients of a path model."""

import torch
from torch import Tensor

from infimum.evidence import path_terms, two_pass_backward
from infimum.evidence.plan import Plan
from infimum.evidence.tables import PathTerms
from infimum.evidence.weights import check_rows
from infimum.testing.conformance.case import FEW, ITEMS, Case
from infimum.testing.conformance.gradients import collected, need_parameters, own_gradients, reached
from infimum.testing.conformance.report import Failed, Skipped
from infimum.testing.conformance.shapes import in_double, sums_are_precise, watch_half_sums

__all__ = ["constant", "finite_gradients", "precision", "terms", "two_passes"]


def constant(case: Case) -> str:
    """(B,), finite."""
    value = case.model.constant(case.x, case.model.encode(case.x))
    if not isinstance(value, Tensor) or tuple(value.shape) != (ITEMS,) or not value.is_floating_point():
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise Failed(f"constant(x, s) returned {shape} for {ITEMS} items: expected floating-point nats of shape (B,)")
    if not bool(torch.isfinite(value).all()):
        raise Failed("constant(x, s) is NaN or infinite: expected finite nats")
    return "(B,), finite"


def terms(case: Case) -> str:
    """(K, B), finite."""
    s = case.model.encode(case.x)
    value = case.model.terms(case.x, s, case.draws(Plan.iid(FEW)))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
        raise Failed(f"terms(x, s, draws) returned {kind}: expected floating-point nats of shape (K, B)")
    PathTerms(check_rows(value, (FEW, ITEMS), "terms(x, s, draws)"), value.new_zeros(ITEMS))
    return "(K, B) = (7, 5), no NaN, no +inf"


def precision(case: Case) -> str:
    """At least float32, with sums of events as good as that."""
    s, draws = case.model.encode(case.x), case.draws(Plan.iid(FEW))
    value = case.model.terms(case.x, s, draws)
    watch_half_sums(case, lambda: case.model.terms(case.x, s, draws), "terms(x, s, draws)")
    reference = None
    double = in_double(case.model, case.x, s)
    if double is not None:
        twin, x64, s64 = double
        try:
            reference = twin.terms(x64, s64, draws)
        except (RuntimeError, TypeError, ValueError):
            reference = None  # a model that fixes its dtype: only the grid of values is looked at
    sums_are_precise(value, reference, "terms(x, s, draws)")
    sums_are_precise(case.model.constant(case.x, s), None, "constant(x, s)")
    return str(value.dtype)


def finite_gradients(case: Case) -> str:
    """Autograd through the terms gives finite numbers."""
    with own_gradients(case.model) as parameters:
        need_parameters(parameters)
        table = path_terms(case.model, case.x, case.draws(Plan.iid(FEW)))
        value = table.value.mean() + table.constant.mean()
        if not value.requires_grad:
            raise Failed(
                "the terms carry no gradient although the model has parameters: a detach() or no_grad too many"
            )
        value.backward()
        return reached(case.model, parameters)


def two_passes(case: Case) -> str:
    """two_pass_backward in chunks gives the gradient of one graph."""
    model, x = case.model, case.x
    with own_gradients(model) as parameters:
        need_parameters(parameters)
        draws = case.draws(Plan.iid(FEW))

        def run(rows: int) -> Tensor:
            return collected(
                parameters,
                lambda: two_pass_backward(
                    lambda part: model.terms(x, model.encode(x), part),
                    draws,
                    lambda t: t.double().mean(0).sigmoid().sum(),
                    rows=rows,
                ),
            )

        if not model.terms(x, model.encode(x), draws).requires_grad:
            raise Skipped("the terms have no parameters; those of the model are in its constant")
        one, two = run(2**14), run(2 * ITEMS)
        error = float((one - two).abs().max() / (1e-12 + one.abs().max()))
        if not error < 1e-3:
            raise Failed(f"gradients in one chunk and in several differ by {error:.1e} of the largest entry")
        return "one chunk agrees with several"
