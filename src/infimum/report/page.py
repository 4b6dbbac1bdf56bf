"""The page: one self-contained HTML file of a run, or of several runs side by side."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infimum.errors import UserError
from infimum.report import diagnostics, sections, words
from infimum.report.forest import forest
from infimum.report.pictures import pictures
from infimum.report.reading import RunRecord, read_run
from infimum.report.terms import explain
from infimum.report.training_curves import learning_charts
from infimum.report.verdicts import differences, flatten, pairings, ranking

__all__ = ["render", "write_report"]

TEMPLATES = Path(__file__).parent / "templates"


def write_report(runs: Sequence[str | Path], out: str | Path | None = None, *, delta: float = 0.05) -> Path:
    """Write the page of one run, or of several side by side, atomically.

    Args:
        runs: run directories.
        out: the file; of one run by default ``report.html`` in its directory, of several in the current one.
        delta: probability that any of the page's comparisons of runs is wrong.

    Raises:
        UserError: no runs, a folder that is no run, a damaged file.
    """
    if not runs:
        raise UserError("a report needs a run directory: give one or several")
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise UserError("the same run directory is given twice: name each run once")
    records = [read_run(run) for run in runs]
    target = Path(out) if out is not None else (records[0].path if len(records) == 1 else Path()) / "report.html"
    page = render(records, delta=delta)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8", errors="replace")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def render(records: Sequence[RunRecord], *, delta: float = 0.05) -> str:
    """The page's HTML: no script, no other file, nothing from a network."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(_context(records, delta))


def _context(records: Sequence[RunRecord], delta: float) -> dict[str, Any]:
    names = sections.model_names(records)
    evidence = sections.named_evidence(records)
    estimates = {name: model.items for name, model, _ in names if model.items is not None}
    units = {e.mean.unit for e in evidence}
    shown = [(words.clip(r.name), *pictures(r)) for r in records]
    weights = diagnostics.weight_charts(estimates)
    columns, cost = sections.cost_table(records)
    differ, same = differences([{**r.config, **r.settings} for r in records])
    return {
        "style": (TEMPLATES / "style.css").read_text(encoding="utf-8"),
        "title": _title(records),
        "subtitle": _subtitle(records),
        "single": len(records) == 1,
        "missing": [(words.clip(r.name), words.clip(text)) for r, text in _missing(records, shown)],
        "findings": sections.answer(evidence),
        "verdict": _verdict(records[0]) if len(records) == 1 else None,
        "pairings": pairings(estimates, delta) if len(records) > 1 else [],
        "certainty": words.percent(1 - delta),
        "forests": forest(evidence),
        "rows": sections.evidence_rows(evidence),
        "items": sections.common_items(evidence),
        "notes": _notes(records),
        "curves": learning_charts([(name, m.metrics) for name, m, _ in names], f"{units.pop()} an item" if len(units) == 1 else ""),
        "weights": weights,
        "worst": diagnostics.worst_items(estimates),
        "ranking": ranking(records[0].result) if len(records) == 1 else [],
        "pictures": [(name, found) for name, found, _ in shown if found],
        "runs": [words.clip(r.name) for r in records],
        "differ": differ,
        "same": same,
        "data": [(words.clip(r.name), _data_rows(data)) for r in records if (data := _data(r))],
        "environments": [(words.clip(r.name), rows) for r in records if (rows := sections.environment_rows(r))],
        "cost_columns": columns,
        "cost": cost,
        "commands": [(words.clip(r.name), text) for r in records if (text := sections.command(r))],
        "terms": explain([e.mean for e in evidence], weights=bool(weights)),
    }  # fmt: skip


def _title(records: Sequence[RunRecord]) -> str:
    if len(records) > 1:
        return f"{len(records)} runs side by side"
    data = _data(records[0]).get("name") or records[0].config.get("data")
    return words.clip(f"{records[0].model} on {data}" if data else records[0].model)


def _subtitle(records: Sequence[RunRecord]) -> str:
    if len(records) > 1:
        return ", ".join(words.clip(r.name) for r in records)
    state = "finished" if records[0].finished else "not finished"
    return f"Run {words.clip(records[0].name)}, {state}"


def _data(record: RunRecord) -> dict[str, Any]:
    for candidate in (record, *record.children):
        if candidate.data:
            return dict(candidate.data)
    return {}


def _data_rows(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    flat = flatten(data)
    return [(words.clip(name), words.setting(v)) for name, v in flat.items() if v is not None and name != "format"]


def _missing(records: Sequence[RunRecord], shown: Sequence[tuple[str, Any, list[str]]]) -> list[tuple[RunRecord, str]]:
    found = []
    for record, (_, _, pictures_missing) in zip(records, shown, strict=True):
        found += [(record, text) for text in (*record.missing, *pictures_missing)]
        found += [(record, f"{child.name}: {text}") for child in record.children for text in child.missing]
    return found


def _verdict(record: RunRecord) -> dict[str, str] | None:
    """The comparison that a recipe made."""
    found = record.result.get("verdict")
    if not isinstance(found, dict) or not all(
        isinstance(found.get(n), str) for n in ("of", "against", "answer", "reason")
    ):
        return None
    certain = " (certified)" if found.get("certified") is True else ""
    return {
        "of": words.clip(found["of"]), "against": words.clip(found["against"]),
        "answer": words.clip(found["answer"]) + certain, "reason": words.minus(words.clip(found["reason"])),
    }  # fmt: skip


def _notes(records: Sequence[RunRecord]) -> list[str]:
    """What must be known to read the evidence."""
    notes = []
    for record in records:
        who = f"{words.clip(record.name)}: " if len(records) > 1 else ""
        scale = record.result.get("log_scale")
        if isinstance(scale, float) and scale != 0:
            notes.append(
                f"{who}The density is that of the standardised data; in the data's own units it is the value shown plus "
                f"{words.number(scale)} nats an item."
            )
        objective = record.result.get("objective")
        if isinstance(objective, str) and "not a bound" in objective:
            notes.append(
                f"{who}The training objective was {words.clip(objective)}; the evaluation uses the unmodified joint."
            )
        z = record.result.get("z")
        if isinstance(z, float):
            notes.append(
                f"{who}The estimate is {words.number(z, 2)} Monte Carlo standard errors from the exact evidence."
            )
    return notes
