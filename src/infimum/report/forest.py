"""The bracket plot: estimates of held-out evidence under one another on one axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from infimum.evidence import Mean
from infimum.report.reading import Evidence
from infimum.report.words import clip, number, ticks

__all__ = ["Forest", "Row", "forest", "with_error"]


HELD_OUT = "Each row is one estimate of a mean over held-out items; rows of one model are about the same items."
SIMULATED = (
    "Each row is one estimate of a mean over items drawn from the model; rows of one name are about the same items."
)
SIDES = (
    "The truth lies to the right of a certified lower limit and to the left of a certified upper one, with the probability "
    "in the table."
)


@dataclass(frozen=True)
class Row:
    """One estimate; positions are percentages of the width, None where there is nothing to draw."""

    model: str
    name: str
    text: str
    kind: str
    value: str
    bar: tuple[str, str] | None
    limit: str | None
    style: str


@dataclass(frozen=True)
class Forest:
    """A bracket plot as the template draws it."""

    title: str
    rows: tuple[Row, ...]
    ticks: tuple[tuple[str, str], ...]
    unit: str
    target: str
    kinds: frozenset[str]
    caption: str
    summary: str


def with_error(mean: Mean) -> str:
    """Value ± one Monte Carlo standard error, where it is known and not zero."""
    value = number(mean.value)
    return value if math.isnan(mean.stderr) or mean.stderr == 0 else f"{value} ± {number(mean.stderr)}"


def _name(mean: Mean) -> str:
    """The bound's name; a bound without Monte Carlo error was summed, not drawn."""
    return f"{clip(mean.name)}, summed" if mean.stderr == 0 and mean.side != "exact" else clip(mean.name)


def _extent(mean: Mean) -> list[float]:
    error = 0.0 if math.isnan(mean.stderr) else 2 * mean.stderr
    ends = [mean.value - error, mean.value + error]
    return ends if mean.certificate is None else [*ends, mean.certificate]


def _layout(title: str, evidence: Sequence[Evidence], colours: Sequence[str]) -> Forest:
    low = min(min(_extent(e.mean)) for e in evidence)
    high = max(max(_extent(e.mean)) for e in evidence)
    pad = 0.05 * (high - low) or max(abs(high) * 1e-3, 1e-6)
    low, high = low - pad, high + pad

    def across(x: float) -> str:
        return f"{100 * (x - low) / (high - low):.2f}%"

    rows = []
    for e in evidence:
        mean = e.mean
        error = 0.0 if math.isnan(mean.stderr) else 2 * mean.stderr
        certificate = None if mean.side == "exact" else mean.certificate
        rows.append(
            Row(
                model=clip(e.model),
                name=_name(mean),
                text=with_error(mean),
                kind=mean.side,
                value=across(mean.value),
                bar=(across(mean.value - error), across(mean.value + error)) if error else None,
                limit=None if certificate is None else across(certificate),
                style=f"c{colours.index(e.model) % 6}",
            )
        )
    kinds = {row.kind for row in rows} | {"bar" for row in rows if row.bar}
    kinds |= {f"certified {row.kind}" for row in rows if row.limit}
    return Forest(
        title=title,
        rows=tuple(rows),
        ticks=tuple((across(x), label) for x, label in ticks(low, high, 6)),
        unit=clip(evidence[0].mean.unit),
        target=clip(evidence[0].mean.target),
        kinds=frozenset(kinds),
        caption=f"{SIMULATED if evidence[0].simulated else HELD_OUT} {SIDES}",
        summary="; ".join(f"{row.model}, {row.name}: {row.text}" for row in rows),
    )


def forest(evidence: Sequence[Evidence]) -> list[Forest]:
    """One plot for each kind of items, target and unit, and one without the ELBO where it squeezes the others together."""
    colours = list(dict.fromkeys(e.model for e in evidence))
    groups: dict[tuple[bool, str, str], list[Evidence]] = {}
    for e in evidence:
        groups.setdefault((e.simulated, e.mean.target, e.mean.unit), []).append(e)
    plots = []
    for (simulated, target, _), group in groups.items():
        what = clip(target)
        title = f"{what[:1].upper()}{what[1:]} of items drawn from the models" if simulated else f"Held-out {what}"
        plots.append(_layout(title, group, colours))
        tight = [e for e in group if not e.mean.name.startswith("ELBO")]
        if 1 < len(tight) < len(group) and 4 * _width(tight) < _width(group):
            plots.append(_layout(f"{title}, without the ELBO", tight, colours))
    return plots


def _width(evidence: Sequence[Evidence]) -> float:
    ends = [x for e in evidence for x in _extent(e.mean)]
    return max(ends) - min(ends)
