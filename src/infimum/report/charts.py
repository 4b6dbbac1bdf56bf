"""Line charts as plain geometry: percentages and path strings, which the template draws as SVG of any width."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infimum.report.words import number, ticks

__all__ = ["Chart", "Curve", "Line", "chart", "quantiles", "windows"]

Scale = Callable[[float], float]
"""From a value to its share of the width (from the left) or of the height (from the top)."""

WINDOWS = 60
"""Points of a smoothed curve, at most."""


@dataclass(frozen=True)
class Curve:
    """A curve in the units of the data.

    Attributes:
        points: (x, y), ascending in x.
        errors: one standard error a point, drawn as a band (a line) or a bar (dots) of two; None: not known.
        dots: draw each point.
        colour: index of the palette; curves of one model share it.
        dash: index of the line's pattern.
    """

    name: str
    points: Sequence[tuple[float, float]]
    errors: Sequence[float] | None = None
    dots: bool = False
    colour: int = 0
    dash: int = 0


@dataclass(frozen=True)
class Line:
    """A curve as it is drawn: paths in a square of 1000 x 1000, dots and bars in percent."""

    name: str
    style: str
    path: str
    band: str
    dots: tuple[tuple[str, str], ...]
    bars: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Chart:
    """A chart as the template draws it; positions of ticks and rules are percentages."""

    title: str
    caption: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[str, str], ...]
    y_ticks: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    rules: tuple[tuple[str, str], ...]
    legend: bool
    summary: str


def windows(points: Sequence[tuple[int, float]]) -> tuple[list[tuple[float, float]], list[float] | None]:
    """Means over windows of successive steps, and their standard errors.

    The error comes from differences of neighbours, sum (y[i+1] - y[i])^2 / (2 (n - 1)) (von Neumann et al. 1941), so
    that a trend inside a window does not count as noise.
    """
    total = len(points)
    width = max(-(-total // WINDOWS), min(8, total // 8))
    if width < 2:
        return [(float(step), value) for step, value in points], None
    means, errors = [], []
    for start in range(0, total, width):
        part = points[start : start + width]
        if len(part) < 2:
            continue
        y = [value for _, value in part]
        noise = math.fsum((b - a) ** 2 for a, b in itertools.pairwise(y)) / (2 * (len(y) - 1))
        means.append((math.fsum(step for step, _ in part) / len(part), math.fsum(y) / len(y)))
        errors.append(math.sqrt(noise / len(y)))
    return means, errors


def quantiles(values: Sequence[float], most: int = 200) -> list[tuple[float, float]]:
    """The quantile function: (percent of the items that are at most this large, value)."""
    ordered = sorted(v for v in values if math.isfinite(v))
    n = len(ordered)
    index = range(n) if n <= most else [round(i * (n - 1) / (most - 1)) for i in range(most)]
    return [(100 * (i + 0.5) / n, ordered[i]) for i in index]


def _range(curves: Sequence[Curve], rules: Sequence[tuple[float, str]], settled: bool) -> tuple[float, float, bool]:
    """Lower and upper end of the values, and whether the first tenth of the steps was left out of them."""
    last = max(x for curve in curves for x, _ in curve.points)
    late = [y for curve in curves for x, y in curve.points if x > last / 10]
    every = [y for curve in curves for _, y in curve.points]
    chosen = late if settled and late else every
    low, high = min(chosen + [y for y, _ in rules]), max(chosen + [y for y, _ in rules])
    cut = bool(chosen is late and (min(every) < low or max(every) > high))
    pad = 0.06 * (high - low) or max(abs(high) * 1e-3, 1e-6)
    return low - pad, high + pad, cut


def chart(
    title: str,
    curves: Sequence[Curve],
    *,
    caption: str,
    x_label: str,
    y_label: str,
    rules: Sequence[tuple[float, str]] = (),
    settled: bool = False,
    legend: bool = True,
) -> Chart | None:
    """Lay out curves; None where there is no point to draw.

    Args:
        rules: horizontal lines (value, label).
        legend: name the curves.
        settled: choose the range by what follows the first tenth of the steps, and say so if something is cut off.
    """
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    low, high, cut = _range(curves, rules, settled)
    left, right = min(c.points[0][0] for c in curves), max(c.points[-1][0] for c in curves)
    width, height = (right - left) or 1.0, high - low

    def across(x: float) -> float:
        return (x - left) / width if right > left else 0.5

    def down(y: float) -> float:
        return max(-1.0, min(2.0, (high - y) / height))

    x_ticks = ticks(left, right) if right > left else [(left, number(left, 0))]
    return Chart(
        title=title,
        caption=caption + (" The first steps lie outside of the picture." if cut else ""),
        x_label=x_label,
        y_label=y_label,
        x_ticks=tuple((_percent(across(x)), label) for x, label in x_ticks),
        y_ticks=tuple((_percent(down(y)), label) for y, label in ticks(low, high)),
        lines=tuple(_line(curve, across, down) for curve in curves),
        rules=tuple((_percent(down(y)), label) for y, label in rules),
        legend=legend,
        summary="; ".join(
            f"{c.name}: from {number(c.points[0][1], 3)} to {number(c.points[-1][1], 3)}" for c in curves
        ),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _line(curve: Curve, across: Scale, down: Scale) -> Line:
    def path(points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{1000 * across(x):.1f} {1000 * down(y):.1f}" for x, y in points)

    errors = curve.errors or []
    upper = [(x, y + 2 * e) for (x, y), e in zip(curve.points, errors, strict=False)]
    lower = [(x, y - 2 * e) for (x, y), e in zip(curve.points, errors, strict=False)]
    inside = [(x, y) for x, y in curve.points if 0 <= down(y) <= 1]
    return Line(
        name=curve.name,
        style=f"c{curve.colour % 6} d{curve.dash % 4}",
        path=path(curve.points) if len(curve.points) > 1 else "",
        band=path([*upper, *reversed(lower)]) + "Z" if upper and not curve.dots else "",
        dots=tuple((_percent(across(x)), _percent(down(y))) for x, y in inside)
        if curve.dots or len(curve.points) == 1
        else (),
        bars=tuple(
            (_percent(across(x)), _percent(max(0.0, down(top))), _percent(min(1.0, down(bottom))))
            for (x, top), (_, bottom) in zip(upper, lower, strict=True)
            if down(top) < 1 and down(bottom) > 0
        )
        if curve.dots
        else (),
    )
