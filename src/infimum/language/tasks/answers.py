"""Finding the answer in a completion, and what all rewards ask of their columns."""

import math
import re
from array import array
from collections.abc import Iterator, Sequence, Sized
from typing import Any, Literal, get_args

from infimum.errors import UserError

__all__ = ["Compat", "boxed", "boxes", "checked", "golds", "number_of", "tagged", "text_of"]

Compat = Literal["paper", "d1"]
"""Rewards as 2504.12216 describes them, or as the code published with it gives them, slips included."""

_BRACES = re.compile(r"\\boxed\{|[{}]")


def text_of(completion: Any) -> str:
    """The text of a completion: a string, or a list of messages as TRL passes them, of which the last one counts.

    Of a message in parts, those of text are joined; what is no text is empty.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, Sequence) or not completion or not isinstance(completion[-1], dict):
        return ""
    content = completion[-1].get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def tagged(text: str) -> str | None:
    """What stands between the last ``<answer>`` that is closed and the first ``</answer>`` behind it; None without one."""
    start = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if start < 0:
        return None
    start += len("<answer>")
    return text[start : text.find("</answer>", start)].strip()


def boxed(text: str, command: str = r"\boxed{") -> str | None:
    r"""What stands in the last \boxed{...}, with the braces inside; None without one, or without its end."""
    start = text.rfind(command)
    if start < 0:
        return None
    at = start + len(command)
    depth = 1
    for match in re.compile(r"[{}]").finditer(text, at):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[at : match.start()].strip()
    return None


def boxes(text: str) -> Iterator[str]:
    r"""What stands in each \boxed{...} that is closed and in no other such one, from left to right. In linear time."""
    if r"\boxed{" not in text:
        return
    opened = array("q")  # where what is open begins; below 0: no box
    ends: dict[int, int] = {}
    for match in _BRACES.finditer(text):
        if match[0] != "}":
            opened.append(-1 if match[0] == "{" else match.end())
        elif opened and (start := opened.pop()) >= 0:
            ends[start] = match.start()
    last = 0
    for start in sorted(ends):
        if start >= last:
            last = ends[start]
            yield text[start:last].strip()


def checked(compat: Any, completions: Any, **columns: Any) -> None:
    """Refuse an unknown ``compat``, and columns that are none or of unlike lengths.

    Raises:
        UserError: so.
    """
    if not isinstance(compat, str) or compat not in get_args(Compat):
        raise UserError(f"compat is {compat!r:.40}: choose {' or '.join(get_args(Compat))}")
    every = {"completions": completions, **columns}
    for name, column in every.items():
        if isinstance(column, str | bytes) or not isinstance(column, Sized):
            raise UserError(f"{name} is {column!r:.40}, expected a list with a value for each completion")
    counts = {name: len(column) for name, column in every.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"got {' and '.join(f'{n} {name}' for name, n in counts.items())}: one each a row")


def golds(gold: Sequence[Any]) -> list[str]:
    """Gold answers as text; whole numbers are written out.

    Raises:
        UserError: one is neither.
    """
    for row, value in enumerate(gold):
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise UserError(f"gold answer {row} is {value!r:.40}, expected text or a whole number: convert the column")
    return [str(value) for value in gold]


def number_of(value: Any, what: str) -> int | float:
    """A finite number of any type: Python's, numpy's, a tensor without dimensions.

    Raises:
        UserError: it is none; ``what`` names it.
    """
    value = value.item() if getattr(value, "ndim", 1) == 0 else value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (isinstance(value, float) and math.isfinite(value)):
        raise UserError(f"{what} is {value!r:.40}, expected a finite number")
    return value
