"""What the tasks with questions share: the system prompt, and problems from files or named data sets (2504.12216)."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infimum.errors import UserError, require

__all__ = ["EVALUATION_PROMPT", "REASONING_PROMPT", "formatted", "problems"]

REASONING_PROMPT = "Reply in this format:\n<reasoning>\nyour steps\n</reasoning>\n<answer>\nyour answer\n</answer>\n\n"
"""Stands before the question in the user message, with a blank line between."""

EVALUATION_PROMPT = REASONING_PROMPT.replace("your answer", r"\boxed{your answer}")
"""In its place in evaluations."""

_ENDINGS = (".jsonl", ".json", ".parquet")


def formatted(body: str, *, chat: bool, evaluation: bool) -> str | list[dict[str, str]]:
    r"""A prompt that asks for reasoning and an answer.

    Args:
        body: the question.
        chat: a list of messages, which a tokenizer's chat template turns into what an Instruct model expects; otherwise a text, for
            models that have none.
        evaluation: the answer is asked for in \boxed{} inside of its tags; and with ``chat``, the assistant's message is begun with
            ``<reasoning>``, as published evaluations do (2504.12216).
    """
    text = (EVALUATION_PROMPT if evaluation else REASONING_PROMPT) + body
    if not chat:
        return text
    begun = [{"role": "assistant", "content": "<reasoning>"}] if evaluation else []
    return [{"role": "user", "content": text}, *begun]


def problems(source: str | Path, *, split: str = "train", config: str | None = None) -> list[dict[str, Any]]:
    """The rows of a .jsonl, .json or .parquet file, or of a data set that ``datasets.load_dataset`` knows by name.

    Args:
        source: path or name.
        split: of a named data set; a file is one split.
        config: of a named data set.

    Raises:
        UserError: no such file or data set, a damaged or empty one, or the package ``datasets`` is needed and not installed.
    """
    path = Path(source)
    ending = path.suffix.lower()
    if os.path.isfile(path):
        if ending not in _ENDINGS:
            raise UserError(f"{source}: the name ends in {ending!r}, expected .jsonl, .json or .parquet: convert it")
        rows = _parquet(path) if ending == ".parquet" else _json(path, lines=ending == ".jsonl")
    elif ending in _ENDINGS:
        raise UserError(f"{source}: there is no such file: check the path")
    else:
        rows = _named(str(source), split, config)
    if not rows:
        raise UserError(f"{source}: there are no rows in it: pass a file with at least one problem")
    return rows


def texts(source: str | Path, rows: Sequence[dict[str, Any]], column: str) -> list[str]:
    """A column of text.

    Raises:
        UserError: it is missing, or a row holds something else.
    """
    for number, row in enumerate(rows, 1):
        if column not in row:
            raise UserError(f"{source}: row {number} has the columns {sorted(row)}, expected {column!r} among them")
        if not isinstance(row[column], str) or not row[column].strip():
            raise UserError(f"{source}: row {number} has {row[column]!r:.40} in column {column!r}, expected text")
    return [row[column] for row in rows]


def _json(path: Path, *, lines: bool) -> list[dict[str, Any]]:
    number = 1
    try:
        with open(path, encoding="utf-8-sig") as file:
            if lines:
                rows = []
                for number, line in enumerate(file, 1):  # noqa: B007
                    if line.strip():
                        rows.append(json.loads(line))
            else:
                content = file.read()
                rows = json.loads(content) if content.strip() else []
    except (ValueError, RecursionError) as error:
        where = f"line {number} of {path}" if lines else str(path)
        raise UserError(f"{where} is not JSON ({' '.join(str(error).split())}): mend the file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the file") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{path} does not hold one object a row: write a list of objects, or one object a line in .jsonl"
        )
    return rows


def _parquet(path: Path) -> list[dict[str, Any]]:
    datasets = require("datasets", "lm")
    try:
        with tempfile.TemporaryDirectory() as cache:
            rows: list[dict[str, Any]] = datasets.Dataset.from_parquet(
                str(path), cache_dir=cache, keep_in_memory=True
            ).to_list()
    except Exception as error:
        raise UserError(f"{path} cannot be read as Parquet ({_said(error)}): write it again") from None
    return rows


def _named(name: str, split: str, config: str | None) -> list[dict[str, Any]]:
    datasets = require("datasets", "lm")
    try:
        return list(datasets.load_dataset(name, config, split=split))
    except Exception as error:
        raise UserError(
            f"the split {split!r} of {name!r} cannot be loaded by name ({_said(error)}): pass a .jsonl, .json or .parquet file"
        ) from None


def _said(error: Exception) -> str:
    """The start of what another library said, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160].rstrip(" .:")
