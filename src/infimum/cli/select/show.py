"""The table that is printed, and the same as JSON."""

from typing import Any

import numpy as np

__all__ = ["content", "shown"]

_UNITS = {
    "bic": "-BIC / 2, nats", "aic": "-AIC / 2, nats", "minka": "Minka's Laplace evidence, nats",
    "parallel": "parallel analysis, eigenvalue above its limit", "cv": "5-fold log-likelihood, nats a row",
    "cells": "hidden cells, nats a cell", "sklearn bound": "lower_bound_ of BayesianGaussianMixture, constants missing",
}  # fmt: skip


def content(
    table: Any, family: str, settings: dict[str, Any], estimator: Any, others: dict[str, Any], warnings: list[str]
) -> dict[str, Any]:  # fmt: skip
    """Everything about a choice as JSON: what is not a number is null."""
    from infimum import __version__

    grid = estimator.criterion_
    usable = np.where(grid["converged"], grid["criterion"], -np.inf)
    counts, chosen = grid["n_components"], estimator.n_components_
    rest = np.where(counts == chosen, -np.inf, usable)
    second = int(np.argmax(rest)) if len(counts) > 1 and np.isfinite(rest).any() else None
    at = int(np.flatnonzero(counts == chosen)[0])
    return {
        "infimum": __version__,
        "family": family,
        "rows": len(table.values),
        "columns": list(table.columns),
        "missing_cells": int(np.isnan(table.values).sum()),
        "preprocessing": table.preprocessing,
        "settings": settings,
        "target": estimator.estimate_.target,
        "unit": "nats of the data set",
        "n_components": int(chosen),
        "runner_up": None if second is None else int(counts[second]),
        "distance": None if second is None else float(grid["criterion"][at] - grid["criterion"][second]),
        "criterion": {name: _plain(value) for name, value in grid.items()},
        "comparators": {
            name: {"what": _UNITS[name], "n_components": choice, "scores": _plain(score)}
            for name, (score, choice) in others.items()
        },
        "warnings": warnings,
    }  # fmt: skip


def _plain(values: np.ndarray) -> list[Any]:
    return [None if isinstance(v, float) and not np.isfinite(v) else v for v in values.tolist()]


def shown(found: dict[str, Any]) -> str:
    """The criterion by model, the choice and the runner-up, and what other criteria choose."""
    from rich.cells import cell_len

    grid, others = found["criterion"], found["comparators"]
    weights = grid["posterior"]
    head = ["components", "ELBO", "penalty", "criterion", "posterior", *others]
    lines = [head]
    for i, count in enumerate(grid["n_components"]):
        mark = " <" if count == found["n_components"] else "" if grid["converged"][i] else " (not settled)"
        row = [f"{count}{mark}", *(_number(grid[name][i]) for name in ("elbo", "penalty", "criterion"))]
        row += [f"{weights[i]:.3f}", *(_number(each["scores"][i]) for each in others.values())]
        lines.append(row)
    if others:
        lines.append(["choice", "", "", str(found["n_components"]), "", *(_choice(each) for each in others.values())])
    widths = [max(cell_len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(map(len, text))
    body = [text[0], rule, *text[1:-1], rule, text[-1]] if others else [text[0], rule, *text[1:]]
    missing = f", {found['missing_cells']} cells missing" if found["missing_cells"] else ""
    scaled = ", standardised" if found["preprocessing"]["standardize"] else ""
    out = [
        f"{found['preprocessing']['source']}: {found['rows']} rows, {len(found['columns'])} columns{missing}{scaled}"
    ]
    out += [f"{found['target']}, nats", "", *body, "", _verdict(found)]
    out += [f"note: {text}" for text in found["warnings"]]
    return "\n".join(out)


def _choice(other: dict[str, Any]) -> str:
    return "-" if other["n_components"] is None else str(other["n_components"])


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 1e9:
        return f"{value:.6g}"
    return f"{value:.2f}" if abs(value) >= 10 or value == 0 else f"{value:.3f}"


def _verdict(found: dict[str, Any]) -> str:
    noun = {"ppca": "principal component", "mixture": "cluster", "multinomial": "cluster"}[found["family"]]
    text = f"chosen: {found['n_components']} {noun}{'s' * (found['n_components'] != 1)}"
    if found["runner_up"] is None:
        return f"{text} (nothing else could be compared)"
    return f"{text}; runner-up {found['runner_up']}, {found['distance']:.2f} nats below"
