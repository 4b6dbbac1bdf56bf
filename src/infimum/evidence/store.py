"""Estimates on disk: one JSON file, so that two models evaluated at different times can be compared item by item."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.estimate import Estimate, Side, Unbiased, Unit

__all__ = ["load_estimate", "save_estimate"]

FORMAT = 1
_WORDS = ("side", "certified", "unbiased_for", "name", "target", "calls", "obstacle", "draws", "unit")


def _numbers(values: Tensor) -> list[float | str | None]:
    return [None if math.isnan(v) else str(v) if math.isinf(v) else v for v in values.detach().double().tolist()]


def _tensor(values: Any, where: str) -> Tensor:
    if not isinstance(values, list):
        raise UserError(f"{where} is no list of numbers: the file was not written by infimum")
    try:
        return torch.tensor([math.nan if v is None else float(v) for v in values], dtype=torch.float64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where} holds an entry that is no number: the file was not written by infimum") from None


def _is_finite(number: Any) -> bool:
    return type(number) in (int, float) and abs(number) <= sys.float_info.max


def save_estimate(estimate: Estimate, path: str | Path) -> None:
    """Write an estimate, item by item, atomically."""
    path = Path(path)
    content = {
        "format": FORMAT,
        **{name: getattr(estimate, name) for name in _WORDS},
        "ceiling": estimate.ceiling,
        "copies": None if math.isinf(estimate.copies) else estimate.copies,
        "keys": None if estimate.keys is None else estimate.keys.tolist(),
        "value": _numbers(estimate.value),
        "stderr": _numbers(estimate.stderr),
        "diagnostics": {name: _numbers(values.reshape(-1)) for name, values in estimate.diagnostics.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, allow_nan=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_estimate(path: str | Path) -> Estimate:
    """Read an estimate that `save_estimate` wrote.

    Raises:
        UserError: no such file, or one that is not an estimate; the message names the field.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give an estimate written by infimum") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON: give an estimate written by infimum") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not an estimate of format {FORMAT}: write it again with infimum evidence")
    missing = [
        name for name in (*_WORDS, "ceiling", "copies", "keys", "value", "stderr", "diagnostics") if name not in content
    ]
    if missing:
        raise UserError(f"{path} lacks the field {missing[0]!r}: write it again with infimum evidence")
    if content["side"] not in get_args(Side) or content["unbiased_for"] not in (*get_args(Unbiased), None):
        raise UserError(f"{path}: side {content['side']!r} or unbiased_for {content['unbiased_for']!r} is unknown")
    words = {name: content[name] for name in _WORDS}
    if not all(isinstance(words[name], str) for name in ("name", "target", "obstacle", "unit")):
        raise UserError(f"{path}: name, target, obstacle and unit must be strings")
    if not isinstance(words["certified"], bool) or not all(isinstance(words[name], int) for name in ("calls", "draws")):
        raise UserError(f"{path}: certified must be true or false, calls and draws whole numbers")
    value, stderr = (_tensor(content[name], f"{path}: {name}") for name in ("value", "stderr"))
    diagnostics = content["diagnostics"]
    if not isinstance(diagnostics, dict) or value.shape != stderr.shape:
        raise UserError(
            f"{path}: value and stderr must have one entry for each item, and diagnostics must be an object"
        )
    keys = content["keys"]
    if keys is not None and not (
        isinstance(keys, list) and all(type(k) is int and -(2**63) <= k < 2**63 for k in keys)
    ):
        raise UserError(f"{path}: keys must be a list of 64-bit whole numbers")
    if keys is not None and len(keys) != value.numel():
        raise UserError(f"{path}: there are {len(keys)} keys for {value.numel()} items")
    copies, ceiling = content["copies"], content["ceiling"]
    if not all(number is None or _is_finite(number) for number in (copies, ceiling)) or not (
        copies is None or copies > 0
    ):
        raise UserError(f"{path}: ceiling must be a number or null, copies a positive number or null")
    extra = {name: _tensor(values, f"{path}: diagnostics {name}") for name, values in diagnostics.items()}
    scale = extra.pop("unit_per_nat", None)
    wrong = [name for name, values in extra.items() if values.shape != value.shape]
    if wrong:
        raise UserError(f"{path}: diagnostics {wrong[0]!r} must have one entry for each of {value.numel()} items")
    if content["unit"] not in get_args(Unit) or (content["unit"] == "nats") != (scale is None):
        raise UserError(f"{path}: unit {content['unit']!r} is unknown, or lacks its number of units a nat")
    if scale is not None:
        if scale.numel() != 1 or not 0 < float(scale) < math.inf:
            raise UserError(f"{path}: unit_per_nat must be one positive number")
        extra["unit_per_nat"] = scale.reshape(())
    return Estimate(
        value,
        stderr,
        keys=None if keys is None else torch.tensor(keys, dtype=torch.int64),
        ceiling=ceiling,
        copies=math.inf if copies is None else float(copies),
        diagnostics=extra,
        **words,
    )
