"""Figure of learning curves over seeds: the mean of each method, with its interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from infimum.report.figures import plt, save

__all__ = ["learning_curves"]


def learning_curves(
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
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
    from scipy import stats

    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    for name, seeds in curves.items():
        steps = [0] * (start is not None) + [step for step, _ in seeds[0]]
        values = np.array([[start] * (start is not None) + [value for _, value in one] for one in seeds], dtype=float)
        mean = values.mean(0)
        (line,) = axis.plot(steps, mean, lw=1.6, label=f"{name} {mean[-1]:.3f}")
        if len(values) > 1:
            half = stats.t.ppf(1 - delta / 2, len(values) - 1) * values.std(0, ddof=1) / len(values) ** 0.5
            axis.fill_between(steps, mean - half, mean + half, color=line.get_color(), alpha=0.18, lw=0)
    axis.set_title(title, loc="left", fontsize=9)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(lw=0.4, alpha=0.4)
    axis.legend(fontsize=8, frameon=False)
    return save(figure, path)
