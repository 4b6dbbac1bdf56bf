"""The parts of a page as plain data: the answer, tables of evidence, cost, settings, and the command."""

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infimum.evidence import Mean
from infimum.report.forest import with_error
from infimum.report.reading import Evidence, RunRecord
from infimum.report.terms import SIDES
from infimum.report.words import clip, count, duration, memory, number, percent, setting, share

__all__ = [
    "Finding",
    "answer",
    "command",
    "common_items",
    "cost_table",
    "environment_rows",
    "evidence_rows",
    "model_names",
    "named_evidence",
]


@dataclass(frozen=True)
class Finding:
    """What is known of one model, in one sentence."""

    model: str
    value: str
    unit: str
    sentence: str


def model_names(records: Sequence[RunRecord]) -> list[tuple[str, RunRecord, RunRecord]]:
    """(name, model's record, run's record) of each model; with several runs the names tell them apart."""
    if len(records) == 1:
        return [(name, model, records[0]) for name, model in records[0].models()]
    names = [record.name for record in records]
    titles = names if len(set(names)) == len(names) else [str(record.path) for record in records]
    found = []
    for title, record in zip(titles, records, strict=True):
        inner = bool(record.children)
        found += [(f"{title} / {name}" if inner else title, model, record) for name, model in record.models()]
    return found


def named_evidence(records: Sequence[RunRecord]) -> list[Evidence]:
    """All evidence, under the names of `model_names`."""
    found = []
    names = model_names(records)
    for record in records:
        here = {m.name if record.children else record.model: name for name, m, whole in names if whole is record}
        alone = len(records) == 1
        for e in record.evidence:
            title = here.get(e.model, e.model if alone else f"{record.name} / {e.model}")
            found.append(dataclasses.replace(e, model=title))
    return found


def _pick(means: Sequence[Mean], side: str) -> Mean | None:
    """The tightest mean of a side."""
    chosen = [m for m in means if m.side == side]
    if not chosen:
        return None
    return min(chosen, key=lambda m: m.value) if side == "upper" else max(chosen, key=lambda m: m.value)


def answer(evidence: Sequence[Evidence]) -> list[Finding]:
    """One finding a model on held-out items: estimate, certificates, exact value."""
    groups: dict[tuple[str, str, str], list[Mean]] = {}
    for e in (e for e in evidence if not e.simulated):
        groups.setdefault((e.model, e.mean.target, e.mean.unit), []).append(e.mean)
    return [_finding(model, target, unit, means) for (model, target, unit), means in groups.items()]


def _finding(model: str, target: str, unit: str, means: Sequence[Mean]) -> Finding:
    lower, upper, exact = (_pick(means, side) for side in ("lower", "upper", "exact"))
    best = lower or exact or upper or means[0]
    where = f"the mean {clip(target)} of {count(best.items)} held-out items at {with_error(best)}"
    parts = [f"{clip(best.name)} ({SIDES[best.side]}) puts {where}"]
    if best.tail is not None and best.tail.unreliable > 0:
        parts.append(
            f"{share(best.tail.unreliable)} of them have Pareto k above {best.tail.limit:.2f}, so that the value may be off by "
            "more than its error says"
        )
    if lower is not None and lower.certificate is not None:
        parts.append(
            f"the mean is at least {number(lower.certificate)}, certified with probability {percent(1 - lower.delta)}"
        )
    elif lower is not None:
        parts.append(f"there is no certificate: {clip(lower.obstacle)}")
    if upper is not None and upper.certificate is not None:
        parts.append(f"at most {number(upper.certificate)}, certified with probability {percent(1 - upper.delta)}")
    if exact is not None and exact is not best:
        parts.append(f"the exact value, by enumeration, is {number(exact.value)}")
    return Finding(clip(model), with_error(best), f"{clip(unit)} an item", "; ".join(parts) + ".")


def common_items(evidence: Sequence[Evidence]) -> str:
    """The number of items behind every estimate, or nothing where it is not one number."""
    numbers = {e.mean.items for e in evidence}
    return count(numbers.pop()) if len(numbers) == 1 else ""


def evidence_rows(evidence: Sequence[Evidence]) -> list[dict[str, str]]:
    """The table behind the bracket plot."""
    rows = []
    for e in evidence:
        m = e.mean
        relation = "≤" if m.side == "upper" else "≥"
        limit = "—" if m.certificate is None else f"{relation} {number(m.certificate)} ({percent(1 - m.delta)})"
        rows.append(
            {
                "model": clip(e.model),
                "name": clip(m.name) + (", simulated items" if e.simulated else ""),
                "side": SIDES[m.side],
                "value": number(m.value),
                "stderr": number(m.stderr),
                "population": number(m.population_stderr),
                "limit": "exact" if m.side == "exact" else limit,
                "k": f"{number(m.tail.median, 2)} ({number(m.tail.largest, 2)})" if m.tail else "—",
                "above": share(m.tail.unreliable) if m.tail else "—",
                "items": count(m.items),
            }
        )
    return rows


LONGEST_COMMAND = 8000
"""Characters."""

COST = ("steps", "training time", "steps a second", "training items a second")


def cost_table(records: Sequence[RunRecord]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names of the columns, and what the training of each model cost; a column of which nothing is known is left out."""
    rows = []
    for name, model, record in model_names(records):
        steps = max((points[-1][0] for points in model.metrics.values()), default=None)
        rate = model.result.get("steps_per_second")
        size = _product(record.config.get("batch"), record.config.get("accumulate", 1))
        seconds = duration(model.result.get("seconds"))
        rows.append((clip(name), [count(steps), seconds, number(rate, 1), number(_product(rate, size), 0)]))
    kept = [i for i in range(len(COST)) if any(cells[i] != "—" for _, cells in rows)]
    return [COST[i] for i in kept], [(name, [cells[i] for i in kept]) for name, cells in rows] if kept else []


def _product(a: Any, b: Any) -> float | int | None:
    return a * b if all(type(x) in (int, float) and math.isfinite(x) for x in (a, b)) else None


def _object(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = value.get(name)
    return part if isinstance(part, Mapping) else {}


def environment_rows(record: RunRecord) -> list[tuple[str, str]]:
    """What a run ran on and cost in all, as it wrote it down."""
    titles = {"python": "Python", "torch": "PyTorch", "threads": "threads of PyTorch"}
    cost = _object(record.result, "cost")
    rows = [
        ("wall time, evaluation included", duration(record.result.get("wall_seconds"))),
        ("peak memory of the process", memory(cost.get("peak_memory_bytes"))),
        ("peak memory of the device", memory(cost.get("peak_device_memory_bytes"))),
    ]
    found = _object(record.result, "environment")
    rows += [(titles.get(name, clip(name)), setting(value)) for name, value in found.items()]
    return [row for row in rows if row[1] != "—"]


def command(record: RunRecord) -> str:
    """The command line that runs it again; empty for a run that no recipe started, or that could not be copied whole."""
    if not isinstance(record.config.get("recipe"), str):
        return ""
    words = ["infimum", "run", record.config["recipe"]]
    for name, value in {**record.config, **record.settings}.items():
        if name == "recipe" or value is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            words += [flag, *map(str, value)] if value else []
        elif isinstance(value, int | float | str):
            words += [flag, str(value)]
    line = shlex.join(words)
    return line if line.isprintable() and len(line) <= LONGEST_COMMAND else ""
