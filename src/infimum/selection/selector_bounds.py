"""Reading the evidence bound of a fitted model, refusing unlike bounds, and deciding between models."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Estimate

__all__ = ["Decision", "ModelBound", "decide", "log_weights", "read_bound", "refuse_unlike"]


@dataclass(frozen=True, eq=False)
class ModelBound:
    """What a fitted model says of the data.

    Attributes:
        name: of the model.
        value: bound of the whole data set, in nats.
        stderr: Monte Carlo standard error; NaN where it is unknown.
        target: what is bounded.
        strict: whether it is a lower bound, or exact.
        items: parts of the data set with a value of their own.
        keys: of these items, where they have any.
        converged: whether the fit had settled.
        log_prior_weight: log of the weight that the model's own choice among smaller models has cost.
        data: digest of the data that the model saw, where a pipeline prepared them.
    """

    name: str
    value: float
    stderr: float
    target: str
    strict: bool
    items: int
    keys: Tensor | None
    converged: bool
    log_prior_weight: float
    data: str = ""


def read_bound(result: Any, name: str, data: Any = None) -> ModelBound:
    """The bound that a fitted model carries: ``estimate_``, ``estimate``, ``elbo_`` or ``elbo``; of a pipeline: its last step's.

    Args:
        result: fitted model, what its ``fit`` returned, or an Estimate.
        name: for messages.
        data: what it was fitted to; needed for pipelines, whose earlier steps may change it.

    Raises:
        UserError: no bound, an upper bound, a bound without its constants, or one that is not finite.
    """
    digest = ""
    if hasattr(result, "steps") and hasattr(result, "named_steps"):
        if len(result.steps) > 1 and data is not None:
            import joblib

            digest = str(joblib.hash(result[:-1].transform(data)))
        result = result[-1]
    names = ("estimate_", "estimate", "elbo_", "elbo")
    values = (result,) if isinstance(result, Estimate) else (getattr(result, attribute, None) for attribute in names)
    found = next((value for value in values if value is not None and not callable(value)), None)
    if found is None:
        what = f"{name} ({type(result).__name__}) has none of {', '.join(names)} after fit"
        if hasattr(result, "lower_bound_"):
            raise UserError(
                f"{what}; its lower_bound_ lacks constants: use from_sklearn to repair it, or a mixture of this package"
            )
        raise UserError(f"{what}: use a model that has an evidence bound")
    if getattr(result, "constants_included", True) is False:
        raise UserError(f"the bound of {name} lacks constants and cannot be compared: include them")
    settled = bool(getattr(result, "converged_", getattr(result, "converged", True)))
    weight = float(getattr(result, "log_prior_weight_", 0.0))
    if isinstance(found, Tensor):
        found = found.detach().cpu().numpy()
    if not isinstance(found, Estimate) and np.size(found) != 1:
        raise UserError(f"the bound of {name} is not a number: give that of the whole data set, or an Estimate")
    if isinstance(found, Estimate):
        if found.side == "upper":
            raise UserError(
                f"{name} has an upper bound of {found.target}: a choice needs lower bounds, or exact values"
            )
        scale = found.nat()
        value = float(found.value.detach().sum()) / scale
        stderr = float(found.stderr.detach().square().sum().sqrt()) / scale
        bound = ModelBound(
            name,
            value,
            stderr,
            found.target,
            found.side != "none",
            len(found.value),
            found.keys,
            settled,
            weight,
            digest,
        )
    else:
        alpha = float(getattr(result, "alpha", 1.0))
        bound = ModelBound(
            name, float(np.asarray(found).item()), 0.0, f"elbo, a={alpha:g}", True, 1, None, settled, weight, digest
        )
    if not math.isfinite(bound.value):
        raise UserError(f"the bound of {name} is {bound.value}: check its data and settings")
    return bound


def refuse_unlike(bounds: Sequence[ModelBound]) -> None:
    """See that all bounds answer the same question.

    Raises:
        UserError: different targets (data, temper), items or preparation of the data; strict bounds and values that are not.
    """
    first = bounds[0]
    for other in bounds[1:]:
        pair = f"{first.name} and {other.name}"
        if other.target != first.target:
            raise UserError(
                f"{pair} bound different targets, {first.target!r} and {other.target!r}: compare models of the same data and alpha"
            )
        if other.data != first.data:
            raise UserError(
                f"{pair} were fitted to differently prepared data, so that their bounds cannot be compared: prepare the data "
                "before the selector, the same for all"
            )
        keys = first.keys is not None and other.keys is not None and not (
            first.keys.shape == other.keys.shape and bool((first.keys == other.keys).all()))  # fmt: skip
        if other.items != first.items or keys:
            raise UserError(
                f"{pair} were evaluated on different items, {first.items} and {other.items}: use the same items"
            )
        if other.strict != first.strict:
            loose = other if first.strict else first
            raise UserError(f"{loose.name} has a value of no side, the other model a bound: compare like with like")


def log_weights(weights: Any, count: int) -> np.ndarray:
    """Logs of model weights; None: uniform.

    Raises:
        UserError: not ``count`` finite numbers, or weights that sum to more than 1.
    """
    if weights is None:
        return np.full(count, -math.log(count))
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise UserError(f"log_prior_weights needs {count} finite numbers, one a model, got {weights!r}")
    total = float(np.exp(values).sum())
    if total > 1 + 1e-9:
        raise UserError(
            f"model weights must sum to at most 1, those of log_prior_weights sum to {total:g}: they are logarithms"
        )
    return values


@dataclass(frozen=True)
class Decision:
    """The choice, and the table behind it: "elbo", "stderr", "log_prior_weight", "criterion", "converged", "posterior", "rank"."""

    best: int
    table: dict[str, np.ndarray]


def decide(bounds: Sequence[ModelBound], weights: np.ndarray) -> Decision:
    """argmax of bound - log(1 / weight) over the models that have settled; ties to the first (1810.11859).

    Warns where the best two differ by less than two of their standard errors.
    """
    refuse_unlike(bounds)
    elbo = np.array([bound.value for bound in bounds])
    stderr = np.array([bound.stderr for bound in bounds])
    total = weights + np.array([bound.log_prior_weight for bound in bounds])
    converged = np.array([bound.converged for bound in bounds])
    criterion = elbo + total
    usable = np.where(converged, criterion, -np.inf) if converged.any() else criterion
    top = usable.max()
    best = int(np.argmax(usable >= top - 1e-10 * abs(top)))  # equal up to rounding: the first
    if not converged.all():
        names = ", ".join(bound.name for bound in bounds if not bound.converged)
        what = "are left out of the choice" if converged.any() else "were kept for want of others"
        warnings.warn(f"fits that have not converged {what}: {names}", UserWarning, stacklevel=3)
    if len(bounds) > 1:
        second = int(np.argsort(-np.where(np.arange(len(bounds)) == best, -np.inf, usable), kind="stable")[0])
        noise = math.hypot(stderr[best], stderr[second])
        gap = usable[best] - usable[second]
        if not math.isnan(noise) and gap < 2 * noise:
            warnings.warn(
                f"{bounds[best].name} leads {bounds[second].name} by {gap:.2f} nats, less than two standard errors "
                f"({2 * noise:.2f}): spend more draws on the bounds", UserWarning, stacklevel=3,
            )  # fmt: skip
    posterior = np.exp(usable - top)
    order = np.argsort(-usable, kind="stable")
    rank = np.empty(len(bounds), dtype=np.int64)
    rank[order] = np.arange(1, len(bounds) + 1)
    return Decision(best, {
        "elbo": elbo, "stderr": stderr, "log_prior_weight": total, "criterion": criterion, "converged": converged,
        "posterior": posterior / posterior.sum(), "rank": rank,
    })  # fmt: skip
