"""What a run directory holds, read for a page: nothing here trusts the files, and what is missing is said."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from infimum.errors import UserError
from infimum.evidence import Estimate, Mean, load_estimate
from infimum.evidence.estimate import Side, Tail
from infimum.training.files import read_json

__all__ = ["Evidence", "Metrics", "RunRecord", "read_run"]

Metrics = dict[str, list[tuple[int, float]]]
"""Finite values of each metric: (step, value), in the order of the steps."""


@dataclass(frozen=True)
class Evidence:
    """One bound or estimate of a model's evidence, as ``result.json`` tells it.

    Attributes:
        simulated: on items drawn from the model itself, not on held-out ones.
    """

    model: str
    mean: Mean
    simulated: bool = False


@dataclass(frozen=True)
class RunRecord:
    """A run directory as it was found.

    Attributes:
        name: of its folder.
        config: what ``infimum run`` was given, without seed, device and precision, which are in `settings`.
        result: ``result.json``; empty where the run has not ended.
        evidence: every mean in `result`, in its order.
        metrics: of the training.
        items: the held-out evidence item by item, where there is ``evidence.json``.
        data: ``data.json`` of the checkpoint.
        children: runs inside this one (a recipe that trains two models).
        missing: sentences about what is not there or cannot be shown.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    evidence: tuple[Evidence, ...]
    metrics: Metrics
    items: Estimate | None
    data: Mapping[str, Any]
    children: "tuple[RunRecord, ...]" = ()
    missing: tuple[str, ...] = field(default=())

    @property
    def finished(self) -> bool:
        return bool(self.result)

    @property
    def model(self) -> str:
        """What its one model is called: its recipe, or the folder of a run inside another, which repeats the whole's recipe."""
        return _model(self.config, self.result, self.name)

    def models(self) -> "list[tuple[str, RunRecord]]":
        """Names and records of what was trained: the run itself, or the runs inside it."""
        return [(child.name, child) for child in self.children] or [(self.model, self)]


def read_run(path: str | Path, *, nested: bool = True) -> RunRecord:
    """Read a run directory.

    Raises:
        UserError: it is no run directory, or one of its JSON files is damaged.
    """
    path = Path(path)
    head = _head(path)
    config = dict(head["config"])
    missing = []
    result = read_json(path / "result.json") if (path / "result.json").exists() else {}
    children = tuple(read_run(child, nested=False) for child in _children(path)) if nested else ()
    if not result:
        missing.append(
            "There is no result.json: the run was interrupted or is still going on, so it has no evidence yet."
        )
    metrics, damaged = _metrics(path / "metrics.jsonl")
    if not metrics and not children:
        missing.append("There is no metrics.jsonl with numbers in it: no step of the training was logged.")
    if damaged:
        missing.append(f"{damaged} of the lines of metrics.jsonl could not be read and were left out.")
    items = load_estimate(path / "evidence.json") if (path / "evidence.json").exists() else None
    if items is None and result and not children:
        missing.append("There is no evidence.json: nothing is known item by item.")
    name = path.resolve().name or "run"
    evidence = tuple(_evidence(result, _model(config, result, name)))
    if not result:  # what its models had reached
        evidence = tuple(Evidence(child.name, e.mean) for child in children for e in child.evidence)
    return RunRecord(
        path=path,
        name=name,
        config=config,
        settings={name: value for name, value in head.items() if name != "config"},
        result=result,
        evidence=evidence,
        metrics=metrics,
        items=items,
        data=_data(path),
        children=children,
        missing=tuple(missing),
    )


def _model(config: Mapping[str, Any], result: Mapping[str, Any], name: str) -> str:
    inside_another = bool(result) and "recipe" not in result
    return name if inside_another else str(config.get("recipe", name))


def _head(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        what = "a file" if path.exists() else "not there"
        raise UserError(f"{path} is {what}: give the folder of a run, which holds config.json")
    if not (path / "config.json").exists():
        raise UserError(f"{path} holds no config.json, so it is no run: give a folder that infimum run has written")
    head = read_json(path / "config.json")
    if "format" in head or not isinstance(head.get("config"), dict):
        raise UserError(f"{path} is a checkpoint or another folder, not a run: give the folder above it")
    return head


def _children(path: Path) -> list[Path]:
    """Runs inside the run, in the order in which they were begun."""
    found = []
    for file in path.glob("*/config.json"):
        head = read_json(file)
        if "format" not in head and isinstance(head.get("config"), dict):
            found.append(file)
    return [file.parent for file in sorted(found, key=lambda file: (file.stat().st_mtime_ns, file.parent.name))]


def _metrics(path: Path) -> tuple[Metrics, int]:
    """The finite numbers of each metric, and how many lines could not be read."""
    metrics: Metrics = {}
    damaged = 0
    if not path.exists():
        return metrics, damaged
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                step = row.pop("step")
                numbers = {name: float(x) for name, x in row.items() if _is_number(x)}
            except (ValueError, AttributeError, KeyError, RecursionError, OverflowError):
                damaged += 1
                continue
            if not isinstance(step, int) or abs(step) > 2**53:
                damaged += 1
                continue
            for name, value in numbers.items():
                if math.isfinite(value):
                    metrics.setdefault(name, []).append((step, value))
    return metrics, damaged


def _data(path: Path) -> Mapping[str, Any]:
    """The preprocessing that the best or the last checkpoint names."""
    for name in ("best", "checkpoint"):
        if (path / name / "data.json").exists():
            return read_json(path / name / "data.json")
    return {}


def _evidence(result: Mapping[str, Any], model: str) -> Iterator[Evidence]:
    """Every mean in a result; a model is named by the keys above it."""
    for where, content in _objects(result):
        if (mean := _mean(content)) is not None:
            names = [name for name in where[:-1] if name != "evidence"]
            yield Evidence(" / ".join(names) or model, mean, any("simulated" in name for name in names))


def _objects(value: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if isinstance(value, Mapping) and len(where) < 8:
        yield where, value
        for name, part in value.items():
            yield from _objects(part, (*where, str(name)))


def _mean(content: Mapping[str, Any]) -> Mean | None:
    """The `Mean` that an object is, or None."""
    words, numbers = ("name", "target", "unit", "obstacle"), ("stderr", "population_stderr", "certificate")
    fits = (
        all(isinstance(content.get(name), str) for name in words)
        and content.get("side") in get_args(Side)
        and _is_number(content.get("value"))
        and all(name in content and (content[name] is None or _is_number(content[name])) for name in numbers)
        and _is_number(content.get("delta"))
        and 0 < content["delta"] < 1
        and type(content.get("items")) is int
    )
    if not fits:
        return None
    stderr, population, certificate = (None if content[name] is None else float(content[name]) for name in numbers)
    return Mean(
        value=float(content["value"]), stderr=math.nan if stderr is None else stderr,
        population_stderr=math.nan if population is None else population, certificate=certificate,
        delta=float(content["delta"]), items=content["items"], side=content["side"], tail=_tail(content.get("tail")),
        name=content["name"], target=content["target"], unit=content["unit"], obstacle=content["obstacle"],
    )  # fmt: skip


def _tail(content: Any) -> Tail | None:
    names = ("median", "largest", "unreliable", "limit")
    if not isinstance(content, Mapping) or not all(_is_number(content.get(name)) for name in names):
        return None
    return Tail(*(float(content[name]) for name in names))


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) < 1e300
