"""Finding the answer in a completion."""

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["boxed", "tagged", "text_of"]


def text_of(completion: Any) -> str:
    """The text of a completion: a string, or a list of messages as TRL passes them, of which the last one counts."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and completion and isinstance(completion[-1], dict):
        return str(completion[-1].get("content", ""))
    return ""


def tagged(text: str) -> str | None:
    """What stands in the last pair of answer tags; None without one."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end if end >= 0 else None)
    if start < 0 or end < 0:
        return None
    return text[start + len("<answer>") : end].strip()


def boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}, with the braces inside; None without one, or without its end."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    at = start + len(r"\boxed{")
    depth = 1
    for match in re.finditer(r"[{}]", text[at:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[at : at + match.start()].strip()
    return None
