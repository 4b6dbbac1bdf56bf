"""Tokens of texts and conversations, and back: one place that asks a tokenizer, whose failures are one sentence each."""

from collections.abc import Mapping, Sequence
from typing import Any

from infimum.errors import UserError

__all__ = ["decoded", "encoded", "short", "templated"]


def encoded(tokenizer: Any, text: str, where: str = "the text") -> list[int]:
    """Tokens of a text as it stands: no beginning, no end.

    Args:
        tokenizer: any of transformers.
        text: of any length, which may be empty.
        where: it comes from, for the error.

    Raises:
        UserError: half a surrogate pair, which no UTF-8 text holds, or a text that the tokenizer has no tokens for.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} holds {text[error.start]!r}, half of a character, at place {error.start}: give UTF-8 text"
        ) from None
    try:
        return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    except Exception as error:  # the library's tokenizers raise plain exceptions
        raise UserError(
            f"{where} cannot be cut into tokens ({short(error)}): give the tokenizer an unknown token, or leave the text out"
        ) from None


def templated(tokenizer: Any, messages: Sequence[Mapping[str, str]], where: str = "the prompt") -> list[int]:
    """Tokens of a conversation in the tokenizer's chat template, up to where the assistant begins to speak.

    Where the last message is the assistant's already, it is continued, as TRL does.

    Raises:
        UserError: no template, one that is broken or refuses the messages, or see `encoded`.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{where} is to be put into the tokenizer's chat template, and it has none: give plain text")
    begun = messages[-1].get("role") == "assistant"
    try:
        said = tokenizer.apply_chat_template(
            [dict(m) for m in messages], add_generation_prompt=not begun, continue_final_message=begun, tokenize=False
        )
    except Exception as error:  # templates are programs of the folder, run in jinja's sandbox
        raise UserError(
            f"{where} cannot be put into the tokenizer's chat template ({short(error)}): mend the template, or give plain text"
        ) from None
    return encoded(tokenizer, str(said), where)


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of tokens, without special ones.

    Raises:
        UserError: tokens that the tokenizer does not have.
    """
    try:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))
    except Exception as error:  # the library's tokenizers raise plain exceptions
        raise UserError(
            f"tokens such as {max(ids, default=0)} cannot be made text ({short(error)}): give the model's own tokenizer"
        ) from None


def short(error: BaseException) -> str:
    """One line of an exception."""
    return " ".join(str(error).split())[:200] or type(error).__name__
