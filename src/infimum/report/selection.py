"""Figures of a choice among models: the criterion by number of components, and how often criteria find the truth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infimum.report.figures import BLUE, GREY, ORANGE, plt, save

__all__ = ["criterion", "hits"]


def criterion(found: Mapping[str, Any], path: Path) -> Path:
    """Nats below the best, by number of components; the bound without its penalty, and other criteria in nats beside it.

    Args:
        found: what ``infimum select --json`` writes.
        path: PNG.
    """
    grid = found["criterion"]
    counts = grid["n_components"]
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    sides = [("criterion: ELBO less penalty", grid["criterion"], BLUE, "o-"), ("ELBO", grid["elbo"], ORANGE, "--")]
    sides += [(name.upper(), found["comparators"][name]["scores"], GREY, style)
              for name, style in (("bic", ":"), ("minka", "-.")) if name in found["comparators"]]  # fmt: skip
    depth = 0.0
    for name, scores, colour, style in sides:
        values = np.array([np.nan if v is None else v for v in scores], dtype=float)
        if np.isnan(values).all():
            continue
        below = values - np.nanmax(values)
        axis.plot(counts, below, style, color=colour, label=name, ms=4, lw=1.4)
        depth = min(
            depth,
            float(below[min(max(counts.index(found["n_components"]) - 2, 0), len(below) - 1)]),
            float(np.nanmin(below[-1:])),
        )
    unsettled = [c for c, good in zip(counts, grid["converged"], strict=True) if not good]
    if unsettled:
        axis.plot(unsettled, np.zeros(len(unsettled)), "x", color="black", label="not settled")
    axis.axvline(found["n_components"], color=BLUE, lw=0.8, alpha=0.5)
    if depth < 0:
        axis.set_ylim(1.15 * depth, -0.05 * depth)
    axis.set_xlabel("number of components")
    axis.set_ylabel("nats below the best")
    axis.set_title(
        f"{Path(found['preprocessing']['source']).name}: {found['n_components']} chosen", loc="left", fontsize=10
    )
    axis.legend(frameon=False, fontsize=8)
    return save(figure, path)


def hits(rates: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> Path:
    """Share of data sets in which each criterion finds the truth, with binomial standard errors; a panel a world."""
    rules = list(next(iter(rates.values())))
    figure, axes = plt.subplots(
        1, len(rates), figsize=(2.6 * len(rates) + 1.4, 0.24 * len(rules) + 1), sharey=True, squeeze=False
    )
    at = np.arange(len(rules))[::-1]
    for axis, (world, row) in zip(axes[0], rates.items(), strict=True):
        ours = [rule.startswith(("a=", "default")) for rule in rules]
        colours = [
            (ORANGE if "orbit" in rule else BLUE) if mine else GREY for rule, mine in zip(rules, ours, strict=True)
        ]
        axis.barh(at, [row[rule]["hits"] for rule in rules], color=colours, height=0.7)
        axis.errorbar([row[rule]["hits"] for rule in rules], at, xerr=[row[rule]["stderr"] for rule in rules], fmt="none",
                      ecolor="black", elinewidth=0.8)  # fmt: skip
        axis.set_title(world, fontsize=10)
        axis.set_xlim(0, 1.05)
        axis.set_yticks(at, rules, fontsize=8)
    figure.supxlabel("share of data sets in which the true number is chosen", fontsize=9)
    figure.tight_layout()
    return save(figure, path)
