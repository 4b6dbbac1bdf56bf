"""The user's texts as canvases of a language model, and what is said of them a token."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from infimum.cli.models import Items
from infimum.errors import UserError
from infimum.evidence import Estimate

__all__ = ["canvas_items", "pad_of", "per_token", "prompt_of"]


def canvas_items(model: Any, data: str, *, chat: bool = False) -> Items:
    """All items of a file: a text a line (.txt), or JSON lines with "prompt" and "completion", or with "text" (.jsonl).

    Texts and completions are modelled token by token, as they stand: no end is added. Prompts are given, and so is the token with
    which the tokenizer begins every text, if it has one. Prompts and completions are cut into tokens apart from one another.

    Args:
        model: see `open_language`.
        data: name of the file.
        chat: put prompts into the tokenizer's chat template.

    Raises:
        UserError: a file or a line that cannot be read, an empty text, or one that is too long for the model.
    """
    from infimum.discrete import completions
    from infimum.language.tokens import encoded

    pairs = _pairs(Path(data))
    prompts: list[list[int]] = []
    answers: list[list[int]] = []
    for i, (given, text) in enumerate(pairs):
        if chat and given is None:
            raise UserError(
                f"{data}: item {i} has no prompt for --chat to put into the chat template: leave --chat out"
            )
        prompt = prompt_of(model.tokenizer, given or "", chat=chat, where=f"{data}: the prompt of item {i}")
        answer = encoded(model.tokenizer, text, f"{data}: the text of item {i}")
        if not answer:
            raise UserError(f"{data}: item {i} has no tokens to be modelled: leave it out")
        if model.longest is not None and len(prompt) + len(answer) > model.longest:
            raise UserError(
                f"{data}: item {i} has {len(prompt) + len(answer)} tokens and the model takes {model.longest}: shorten it"
            )
        prompts.append(prompt)
        answers.append(answer)
    x = completions(prompts, answers, pad_id=pad_of(model))
    title = f"{data} ({len(pairs)} items, {sum(map(len, answers))} tokens)"
    return Items(x, torch.arange(len(pairs)), title)


def prompt_of(tokenizer: Any, text: str, *, chat: bool = False, where: str = "--prompt") -> list[int]:
    """Tokens of a prompt: behind the token that begins every text, or in the tokenizer's chat template.

    Args:
        tokenizer: of the model.
        text: of the prompt.
        chat: use the template.
        where: the text comes from, for errors.

    Raises:
        UserError: a tokenizer without a chat template or with a broken one, or a text that it has no tokens for.
    """
    from infimum.language.tokens import encoded, templated

    if chat:
        if not tokenizer.chat_template:
            raise UserError("--chat puts the prompt into the tokenizer's chat template, and it has none: leave it out")
        return templated(tokenizer, [{"role": "user", "content": text}], where)
    start = [i for i in _empty(tokenizer)[:1] if i == tokenizer.bos_token_id]
    return start + encoded(tokenizer, text, where)


def _empty(tokenizer: Any) -> list[int]:
    """What the tokenizer puts around a text."""
    try:
        return list(tokenizer("").input_ids)
    except Exception:  # it cannot read an empty text, and so begins none
        return []


def pad_of(model: Any) -> int:
    """What stands where nothing is: no network sees it, but all look its vector up."""
    tokenizer, config = model.tokenizer, model.config
    known = [i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None and 0 <= i < config.size]
    return next((i for i in known if i != config.mask), 0)


def per_token(found: Estimate, x: Any) -> str:
    """Mean nats a token, and the perplexity, with Monte Carlo standard errors; sides are those of expectations."""
    mean, tokens = found.mean(), int(x["target"].sum())
    value, error = (number * mean.items / tokens for number in (mean.value, mean.stderr))
    bound, above = {"lower": ("at least ", "at most ")}.get(mean.side, ("", ""))
    power = math.exp(min(-value, 700.0))
    return f"{tokens} tokens: {bound}{value:.4f} ± {error:.2g} nats a token, perplexity {above}{power:.4g} ± {power * error:.2g}"


def _pairs(file: Path) -> list[tuple[str | None, str]]:
    """Prompt, or None, and text of every item."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{file}: cannot be read ({reason}), expected .jsonl, or .txt with a text a line") from None
    kept = [(i, line.rstrip("\r")) for i, line in enumerate(lines, 1) if line.strip()]
    if not kept:
        raise UserError(f"{file} holds no texts: give one a line")
    if file.suffix.lower() == ".jsonl":
        return [_pair(line, f"{file}, line {i}") for i, line in kept]
    if file.suffix.lower() == ".txt":
        return [(None, line) for _, line in kept]
    raise UserError(
        f"{file}: the name ends in {file.suffix!r}, expected .jsonl, or .txt with a text a line: convert it"
    )


def _pair(line: str, where: str) -> tuple[str | None, str]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        item = None
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected a JSON object with prompt and completion, or with text")
    names = ("prompt", "completion") if "completion" in item else ("text",)
    for name in names:
        if not isinstance(item.get(name), str):
            raise UserError(
                f"{where}: {name} is {json.dumps(item.get(name))[:60]}, expected text: give prompt and completion, or text"
            )
    return (item["prompt"], item["completion"]) if len(names) == 2 else (None, item["text"])
