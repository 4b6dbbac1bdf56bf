"""Figures of learning curves over seeds: the mean of each method, with its interval; in one panel, or one beside the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infimum.report.figures import BLUE, GREY, plt, save

__all__ = ["curve_panels", "learning_curves"]

Curves = Mapping[str, Sequence[Sequence[tuple[int, float]]]]


def learning_curves(
    curves: Curves,
    path: Path,
    *,
    title: str,
    start: float | None = None,
    delta: float = 0.05,
) -> Path:
    """Mean over seeds at every step, and its t interval as a band.

    Args:
        curves: by method, one curve a seed: (step, value), the same steps in all.
        path: PNG.
        title: of the figure.
        start: value at step 0, of all.
        delta: probability that an interval fails; one seed has none.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    for name, seeds in curves.items():
        _band(axis, seeds, start, delta, label=f"{name} {_last(seeds):.3f}")
    axis.set_title(title, loc="left", fontsize=9)
    _finish(axis)
    axis.legend(fontsize=8, frameon=False)
    return save(figure, path)


def curve_panels(
    curves: Curves,
    path: Path,
    *,
    title: str,
    beside: str,
    start: float | None = None,
    delta: float = 0.05,
    columns: int = 3,
) -> Path:
    """A panel for each method, with the mean of one of them in grey: more methods than one panel can show.

    Args:
        curves: see `learning_curves`.
        path: PNG.
        title: of the figure.
        beside: the method that stands in every panel.
        start: value at step 0, of all.
        delta: probability that an interval fails.
        columns: panels side by side.
    """
    names = [name for name in curves if name != beside]
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.7 * columns, 1.9 * rows), sharex=True, sharey=True, squeeze=False
    )
    for axis, name in zip(axes.flat, names, strict=False):
        _band(axis, curves[beside], start, delta, color=GREY)
        _band(axis, curves[name], start, delta, color=BLUE)
        axis.set_title(f"{name}: {_last(curves[name]):.3f}", loc="left", fontsize=8)
        _finish(axis)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.suptitle(f"{title}; in grey {beside}: {_last(curves[beside]):.3f}", fontsize=9, x=0.01, ha="left")
    return save(figure, path)


def _last(seeds: Sequence[Sequence[tuple[int, float]]]) -> float:
    return sum(one[-1][1] for one in seeds) / len(seeds)


def _band(
    axis: Any, seeds: Sequence[Sequence[tuple[int, float]]], start: float | None, delta: float, **style: Any
) -> None:
    """The mean over seeds and its t interval; one seed has none."""
    from scipy import stats

    steps = [0] * (start is not None) + [step for step, _ in seeds[0]]
    values = np.array([[start] * (start is not None) + [value for _, value in one] for one in seeds], dtype=float)
    mean = values.mean(0)
    (line,) = axis.plot(steps, mean, lw=1.6, **style)
    if len(values) > 1:
        half = stats.t.ppf(1 - delta / 2, len(values) - 1) * values.std(0, ddof=1) / len(values) ** 0.5
        axis.fill_between(steps, mean - half, mean + half, color=line.get_color(), alpha=0.18, lw=0)


def _finish(axis: Any) -> None:
    axis.set_xlabel("step", fontsize=8)
    axis.label_outer()
    axis.tick_params(labelsize=8)
    axis.grid(lw=0.4, alpha=0.4)
