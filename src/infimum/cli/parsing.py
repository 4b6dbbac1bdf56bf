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
    """What tyro says inside its box, above the rule that separates the help."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    body = re.split(r"^[│\s]*─{5,}[│\s]*$", text, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip("│╭╮╰╯ ") for line in body.splitlines() if not re.match(r"^[╭╰]", line)]
    return " ".join(" ".join(lines).split()).rstrip(".:") or "the flags cannot be read"
