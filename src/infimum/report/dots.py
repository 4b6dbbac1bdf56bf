"""Figure of several measurements of several models: a panel a measurement, a row a model, a dot a seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from infimum.report.figures import BLUE, GREY, plt, save

__all__ = ["dots"]


def dots(values: Mapping[str, Mapping[str, Sequence[float]]], titles: Mapping[str, str], path: Path) -> Path:
    """Every seed's value as a dot, their mean as a bar.

    Args:
        values: by model, then by measurement: one number a seed.
        titles: of the panels, by measurement.
        path: PNG.
    """
    models = list(values)
    figure, axes = plt.subplots(
        1, len(titles), figsize=(1.9 * len(titles) + 1.2, 0.34 * len(models) + 0.9), sharey=True, squeeze=False
    )
    rows = np.arange(len(models))[::-1]
    for axis, (key, title) in zip(axes[0], titles.items(), strict=True):
        for row, model in zip(rows, models, strict=True):
            each = np.asarray(values[model][key], dtype=float)
            axis.plot(each, np.full(len(each), row), "o", color=GREY, ms=3.5, mew=0)
            axis.plot([each.mean()], [row], "|", color=BLUE, ms=13, mew=2)
        axis.set_title(title, loc="left", fontsize=9)
        axis.set_yticks(rows, models)
        axis.set_ylim(-0.7, len(models) - 0.3)
        axis.tick_params(labelsize=8)
        axis.locator_params(axis="x", nbins=4)
        axis.grid(axis="y", lw=0.4, alpha=0.4)
    return save(figure, path)
