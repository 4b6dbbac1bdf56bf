"""Flags into a dataclass; a mistake in them is one sentence, as all mistakes are."""

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

import tyro

from infimum.errors import UserError

__all__ = ["parse"]


def parse(cls: Any, words: Sequence[str], prog: str, *, description: str | None = None) -> Any:
    """An instance of ``cls`` from the words after the command.

    Raises:
        UserError: tyro's message without its frame.
        SystemExit: after ``--help``.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                cls, args=list(words), prog=prog, description=description, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_sentence(said.getvalue())}: see {prog} --help") from None


def _sentence(box: str) -> str:
    """What tyro says between the title of its box and the rule above the help.

    Where it takes the terminal for one of ASCII only, the title is a line of its own above a rule.
    """
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    parts = re.split(r"^[─-]{5,}$", "\n".join(line for line in lines if not re.match("[╭╰]", line)), flags=re.MULTILINE)
    body = parts[0] if "╭" in box or len(parts) == 1 else parts[1]
    return " ".join(body.split()).rstrip(".:") or "the flags cannot be read"
