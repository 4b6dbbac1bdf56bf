"""How far the weights behind an estimate can be trusted: Pareto k and effective sample size over items, and the worst items."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infimum.evidence import Estimate, pareto_threshold
from infimum.report.charts import Chart, Curve, chart, quantiles
from infimum.report.words import clip, count, number, share

__all__ = ["Worst", "weight_charts", "worst_items"]

SHOWN, FEW = 8, 3
"""Worst items of a model on the page, and up to how many models have their own."""
SHARE = "share of the items, % (ordered)"
TAILS = (
    "Items in the order of their Pareto k. Items above the dashed limit have weights whose tail is too heavy for the number "
    "of draws."
)


@dataclass(frozen=True)
class Worst:
    """The items of largest Pareto k, as a table."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _list(estimate: Estimate, name: str) -> list[float]:
    values = estimate.diagnostics.get(name)
    return [] if values is None else values.tolist()


def weight_charts(estimates: Mapping[str, Estimate]) -> list[Chart]:
    """Quantile functions of Pareto k and of the effective sample size, models overlaid."""
    tails, sizes, limits, notes = [], [], {}, []
    for i, (model, estimate) in enumerate(estimates.items()):
        k, ess = _list(estimate, "pareto_k"), _list(estimate, "ess")
        # Weights that are all equal have no tail: k is minus infinity, and the best there is.
        points = quantiles(k)
        tails.append(Curve(clip(model), points, colour=i, dash=i))
        if (unknown := sum(not math.isfinite(v) for v in k)) and points:
            notes.append(f"{clip(model)}: {count(unknown)} items have no Pareto k (equal or tied weights).")
        if points and math.isfinite(limit := pareto_threshold(estimate.draws)):
            limits[round(limit, 3)] = f"limit {limit:.2f} at K = {count(estimate.draws)}"
        if estimate.draws > 0:
            sizes.append(Curve(clip(model), quantiles([100 * v / estimate.draws for v in ess]), colour=i, dash=i))
    charts = [
        chart(
            "Pareto k", tails, x_label=SHARE, y_label="Pareto k (no unit)", rules=list(limits.items()),
            caption=" ".join([TAILS, *notes]),
        ),
        chart(
            "Effective sample size", sizes, x_label=SHARE, y_label="ESS, % of the draws",
            caption="Items in the order of their effective sample size, as a share of the draws spent on each.",
        ),
    ]  # fmt: skip
    return [c for c in charts if c is not None]


def worst_items(estimates: Mapping[str, Estimate]) -> Worst | None:
    """The items whose weights deserve the least trust, by id: of each model, or of all where there are many."""
    rows = [row for model, estimate in estimates.items() for row in _worst(model, estimate)]
    if len(estimates) > FEW:
        rows = sorted(rows, key=lambda row: -row[0])[: 2 * SHOWN]
    if not rows:
        return None
    head = ("model", "item", "estimate", "± Monte Carlo", "Pareto k", "ESS, % of draws", "largest weight")
    return Worst(head, tuple(cells for _, cells in rows))


def _worst(model: str, estimate: Estimate) -> list[tuple[float, tuple[str, ...]]]:
    """Pareto k and the row of each of a model's worst items."""
    k, ess, largest = (_list(estimate, name) for name in ("pareto_k", "ess", "max_weight"))
    order = sorted((i for i in range(len(k)) if not math.isnan(k[i])), key=lambda i: -k[i])[:SHOWN]
    ids: Sequence[int] = list(range(len(k))) if estimate.keys is None else estimate.keys.tolist()
    value, stderr = estimate.value.tolist(), estimate.stderr.tolist()
    return [
        (
            k[i],
            (
                clip(model), str(ids[i]), f"{number(value[i])} {clip(estimate.unit)}", number(stderr[i]), number(k[i], 2),
                number(100 * ess[i] / estimate.draws, 1) if ess and estimate.draws > 0 else "—",
                share(largest[i]) if largest else "—",
            ),
        )
        for i in order
    ]  # fmt: skip
