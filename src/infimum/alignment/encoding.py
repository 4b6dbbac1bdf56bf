"""Tokens of texts and messages, and rows of TRL's columns: every mistake in them is named by its row."""

from collections.abc import Mapping, Sequence
from typing import Any

from infimum.errors import UserError
from infimum.language import tokens

__all__ = ["answer_of", "encoded", "rows_of"]


def rows_of(rows: Any, columns: Sequence[str], what: str) -> list[dict[str, Any]]:
    """Rows as dicts, all with the same columns.

    Raises:
        UserError: no rows, one that is no mapping, lacks a column, or has others than the first.
    """
    if not hasattr(rows, "__iter__"):
        raise UserError(f"the {what} are {rows!r:.60}, expected a list of rows, a mapping each")
    if isinstance(rows, Mapping):
        raise UserError(
            f"the {what} are one mapping of {', '.join(map(str, rows))}, expected a list of rows, a mapping each"
        )
    found: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UserError(f"row {i} is {row!r:.60}, expected a mapping with the columns {', '.join(columns)}")
        if lacking := [name for name in columns if name not in row]:
            raise UserError(
                f"row {i} has no column {lacking[0]}: {what} have {', '.join(columns)}, and it has {', '.join(map(str, row))}"
            )
        if found and (other := row.keys() ^ found[0].keys()):
            raise UserError(
                f"only one of rows 0 and {i} has the column {min(map(str, other))}: give every row the same columns"
            )
        found.append(dict(row))
    if not found:
        raise UserError(f"there are no {what}, expected at least 1 row")
    return found


def content_of(message: Any, what: str) -> str:
    """The text of a message; parts of text are joined.

    Raises:
        UserError: it has none, or parts that are no text.
    """
    if not isinstance(message, Mapping) or "content" not in message:
        raise UserError(f"{what} holds {message!r:.60}, expected a list of messages with role and content")
    content = message["content"]
    if isinstance(content, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise UserError(f"{what} has a message whose content is {content!r:.60}, expected text: leave out what is none")
    return content


def messages_of(prompt: Any, what: str) -> list[dict[str, Any]]:
    """Messages with text as their content.

    Raises:
        UserError: none, or a message without a role or a text.
    """
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise UserError(f"{what} is {prompt!r:.60}, expected a text, or a list of messages with role and content")
    if not prompt:
        raise UserError(f"{what} is an empty list of messages, expected at least one")
    found = []
    for each in prompt:
        text = content_of(each, what)
        if not isinstance(each.get("role"), str):
            raise UserError(
                f"{what} has a message of the role {each.get('role')!r:.40}, expected user, assistant or system"
            )
        found.append({**each, "content": text})
    return found


def encoded(tokenizer: Any, prompt: Any, what: str = "a prompt") -> list[int]:
    """Tokens of a prompt: a text as it is, or messages by the tokenizer's chat template.

    The assistant's turn is opened; where the last message is the assistant's already, it is continued, as TRL does: the completion
    goes on behind its text.

    Raises:
        UserError: neither, messages for a tokenizer without a template, or tokenizer or template fail.
    """
    if isinstance(prompt, str):
        return tokens.encoded(tokenizer, prompt, what)
    return tokens.templated(tokenizer, messages_of(prompt, what), what)


def answer_of(tokenizer: Any, row: Mapping[str, Any], name: str, number: int, end: int | None) -> list[int]:
    """Tokens of a completion in a row: a text, or a list of one message of the assistant; ``end`` behind it.

    Raises:
        UserError: something else, or nothing.
    """
    value, what = row[name], f"{name} of row {number}"
    if not isinstance(value, str):
        if not isinstance(value, Sequence) or isinstance(value, bytes) or len(value) != 1:
            count = f"{len(value)} messages" if isinstance(value, Sequence) else f"{value!r:.60}"
            raise UserError(
                f"{what} is {count}, expected a text, or a list of one message of the assistant: earlier ones belong to the prompt"
            )
        text = content_of(value[0], what)
        if value[0].get("role", "assistant") != "assistant":
            raise UserError(f"{what} is a message of the role {value[0]['role']!r:.40}, expected the assistant's")
        value = text
    ids = encoded(tokenizer, value, what) + ([] if end is None else [end])
    if not ids:
        raise UserError(f"row {number} has an empty {name} completion: every one needs a token")
    return ids
