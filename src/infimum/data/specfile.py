"""``data.json``: strict, versioned JSON of a `DataSpec`, written atomically."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, get_args

from infimum.errors import UserError

from .registry import Kind
from .spec import DataSpec, Split
from .steps import STEPS, Step

__all__ = ["FORMAT", "decode", "encode", "write"]

FORMAT = 1


def encode(spec: DataSpec) -> str:
    """A spec as JSON text; floats keep all their digits."""
    fields = {field: value for field, value in asdict(spec).items() if field not in ("steps", "split")}
    steps = [{"step": step.name, **asdict(step)} for step in spec.steps]
    record = {"format": FORMAT, **fields, "steps": steps, "split": asdict(spec.split)}
    return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def decode(text: str) -> DataSpec:
    """The spec that ``encode`` wrote.

    Raises:
        UserError: not JSON, another format version, or a field that is missing, unknown or of a wrong type.
    """
    try:
        record = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"the data spec is not JSON ({error}): restore data.json from the run that wrote it") from None
    record = _fields(record, "the data spec", {"format", *_SPEC, "steps", "split"})
    if record["format"] != FORMAT or isinstance(record["format"], bool):
        raise UserError(
            f"the data spec has format {record['format']!r}, expected {FORMAT}: use the infimum version that wrote it"
        )
    values = {name: _read(record[name], name, check) for name, check in _SPEC.items()}
    steps = _read(record["steps"], "steps", _list_of(lambda item: item))
    split = _fields(record["split"], "split", set(_SPLIT))
    return DataSpec(
        **values,
        steps=tuple(_step(step) for step in steps),
        split=Split(**{name: _read(split[name], f"split.{name}", check) for name, check in _SPLIT.items()}),
    )


def write(path: Path, text: str) -> None:
    """Write a text file so that a reader sees all of it or none.

    Raises:
        UserError: the folder is missing or not writable.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}): create the folder or choose another") from None


def _refuse_constant(name: str) -> NoReturn:
    raise UserError(
        f"the data spec holds {name}, expected finite numbers: restore data.json from the run that wrote it"
    )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"the data spec holds the field {twice[0]!r} twice: remove one")
    return dict(pairs)


def _fields(record: Any, where: str, expected: set[str]) -> dict[str, Any]:
    """The record if it is an object with exactly these fields."""
    if not isinstance(record, dict):
        raise UserError(f"{where} is {_short(record)}, expected an object with named fields")
    for wrong, word in ((set(record) - expected, "an unknown"), (expected - set(record), "no")):
        if wrong:
            raise UserError(f"{where} has {word} field {min(wrong)!r}, expected {', '.join(sorted(expected))}")
    return record


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


Check = Callable[[Any], Any]


def _read(value: Any, name: str, check: Check) -> Any:
    """The value as ``check`` makes it; a ``TypeError`` from it carries what was expected."""
    try:
        return check(value)
    except TypeError as error:
        raise UserError(f"the data spec's {name} is {_short(value)}, expected {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _kind(value: Any) -> str:
    if value not in get_args(Kind):
        raise TypeError(" or ".join(get_args(Kind)))
    return str(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a whole number")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("a finite number")
    return float(value)


def _list_of(check: Check) -> Check:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError("a list")
        try:
            return tuple(check(item) for item in value)
        except TypeError as error:
            raise TypeError(f"a list, each item of it {error}") from None

    return read


def _optional(check: Check) -> Check:
    def read(value: Any) -> Any:
        try:
            return None if value is None else check(value)
        except TypeError as error:
            raise TypeError(f"{error} or null") from None

    return read


_SPEC: dict[str, Check] = {
    "name": _text,
    "kind": _kind,
    "shape": _list_of(_whole),
    "levels": _optional(_whole),
    "columns": _optional(_list_of(_text)),
    "source": _optional(_text),
    "id_column": _optional(_text),
    "label_column": _optional(_text),
    "fingerprint": _optional(_text),
}
_SPLIT: dict[str, Check] = {"seed": _whole, "train": _number, "valid": _number, "test": _number}
_STEPS: dict[str, dict[str, Check]] = {
    "threshold": {"value": _number, "levels": _optional(_whole)},
    "standardise": {"mean": _list_of(_number), "std": _list_of(_number)},
}


def _step(record: Any) -> Step:
    if not isinstance(record, dict) or record.get("step") not in list(STEPS):
        raise UserError(f"a step of the data spec is {_short(record)}, expected a step named {' or '.join(STEPS)}")
    name = record["step"]
    checks = _STEPS[name]
    _fields(record, f"the step {name!r}", {"step", *checks})
    return STEPS[name](
        **{field: _read(record[field], f"step {name}.{field}", check) for field, check in checks.items()}
    )
