"""Configurations: frozen dataclasses to JSON and back, checked field by field."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from infimum.errors import UserError

__all__ = ["from_json", "to_json"]

T = TypeVar("T")


def to_json(value: object, where: str = "config") -> Any:
    """Plain JSON values of a configuration: dataclasses and mappings become objects, tuples become lists.

    Raises:
        UserError: a value is not a number, string, truth value, None, or made of these; or is not finite.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_json(part, f"{where}.{name}") for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise UserError(f"{where} is {value!r}, which a JSON file cannot hold: use finite numbers, strings and tuples")


def from_json(cls: type[T], data: object, where: str = "config") -> T:
    """Build the dataclass `cls` from JSON values.  Nested dataclasses, tuples, dicts, Literals and unions are followed.

    Raises:
        UserError: an unknown or missing field, or a value of another type; named by its path.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{where} is {data!r}, and an object with the fields of {cls.__name__} was expected")
    known = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]
    if unknown := [name for name in data if name not in known]:
        raise UserError(f"{where}.{unknown[0]} is not a field of {cls.__name__}: it has {', '.join(known)}")
    for name, f in known.items():
        if name not in data and f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{where}.{name} is missing: {cls.__name__} cannot be built without it")
    hints = get_type_hints(cls)
    values = {name: _value(hints[name], part, f"{where}.{name}") for name, part in data.items()}
    try:
        return cls(**values)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} is refused by {cls.__name__}: {error}") from None


def _value(hint: Any, data: object, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return data
    if is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, data, where)
    if origin in (Union, UnionType):
        return _union(args, data, where)
    if origin is Literal:
        if any(data == choice and type(data) is type(choice) for choice in args):
            return data
        raise UserError(f"{where} is {data!r}, and one of {', '.join(map(repr, args))} was expected")
    if origin in (tuple, list) and isinstance(data, list):
        inner = args[:1] * len(data) if origin is list or args[1:] == (...,) else args
        if len(inner) != len(data):
            raise UserError(f"{where} has {len(data)} entries, and {len(inner)} were expected")
        return origin(_value(h, part, f"{where}[{i}]") for i, (h, part) in enumerate(zip(inner, data, strict=True)))
    if (origin or hint) in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        if isinstance(data, Mapping):
            return {name: _value(args[1] if args else Any, part, f"{where}.{name}") for name, part in data.items()}
    elif hint is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    elif hint is Path and isinstance(data, str):
        return Path(data)
    elif hint in (int, str, bool, NoneType, None) and type(data) is (NoneType if hint is None else hint):
        return data
    raise UserError(f"{where} is {data!r}, and {_words(hint)} was expected")


def _union(choices: tuple[Any, ...], data: object, where: str) -> Any:
    for choice in choices:
        try:
            return _value(choice, data, where)
        except UserError:
            continue
    raise UserError(f"{where} is {data!r}, and {' or '.join(_words(choice) for choice in choices)} was expected")


def _words(hint: Any) -> str:
    if hint in (None, NoneType):
        return "null"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
