"""``infimum sample`` of a language model: a prompt, and what the model writes behind it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from infimum.cli.language import rows_of
from infimum.cli.models import check_device
from infimum.cli.texts import pad_of, prompt_of
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.training.files import write_text

__all__ = ["write_texts"]

LENGTH = 64
"""Tokens of an answer, if none are told."""


def write_texts(model: Any, options: Any) -> int:
    """Print the decoding configuration and the texts, up to their ends; or write them as JSON lines.

    Numbers of a language model's answers change with the way of decoding as much as with the model: no text comes without it.

    Raises:
        UserError: flags of other models, a file of another kind, or a text that is too long for the model.
    """
    from infimum.discrete import completions, fill

    for name in ("condition", "sampler"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name} is for other models, and this is a language model: leave it out")
    if options.out is not None and Path(options.out).suffix != ".jsonl":
        raise UserError(
            f"--out {options.out}: texts of a language model are written as .jsonl, or printed without --out"
        )
    device, n = "cpu" if options.device is None else options.device, 1 if options.n is None else options.n
    check_device(device)
    length = LENGTH if options.length is None else options.length
    if length < 1:
        raise UserError(f"--length is how many tokens to write, at least 1, got {length}")
    _check_blocks(options, length)
    prompt = prompt_of(model.tokenizer, options.prompt or "", chat=options.chat)
    if model.longest is not None and len(prompt) + length > model.longest:
        raise UserError(
            f"a prompt of {len(prompt)} tokens and --length {length} exceed the model's {model.longest}: lower one"
        )
    model.to(device)
    x = completions([prompt] * n, length, pad_id=pad_of(model), fill=model.config.mask)
    rule: dict[str, Any] = {
        "order": options.order or "confidence",
        "steps": options.steps,
        "block_length": options.block_length,
        "temperature": options.temperature or 0.0,
        "guidance": options.guidance or 0.0,
        "cache": options.cache or "none",
    }
    if options.order == "threshold":
        rule["threshold"] = 0.9 if options.threshold is None else options.threshold
    draws = Plan.iid(1).draws(torch.arange(n, device=device), seed=options.seed, salt="sample")
    batch = {name: part.to(device) for name, part in x.items()}
    found = fill(model, batch, draws, rows=rows_of(len(prompt) + length, 256), **rule)
    decoding = {
        **rule, "steps": found.steps, "block_length": rule["block_length"] or length, "length": length, "seed": options.seed,
        "chat": options.chat,
    }  # fmt: skip
    texts = [_decoded(model.tokenizer, row) for row in found.tokens[0, :, len(prompt) :].tolist()]
    print("decoding: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in decoding.items()))
    if options.out is None:
        for i, text in enumerate(texts, 1):
            print(text if n == 1 else f"--- {i} of {n}\n{text}")
        return 0
    rows = [{"prompt": options.prompt or "", "completion": text, "decoding": decoding} for text in texts]
    write_text(Path(options.out), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{n} texts written to {options.out}")
    return 0


def _check_blocks(options: Any, length: int) -> None:
    """Refuse numbers of tokens, steps and the like that no way of decoding has, before the model reads anything."""
    block, steps, threshold = options.block_length, options.steps, options.threshold
    if block is not None and block < 1:
        raise UserError(f"--block-length is how many tokens a block has, at least 1, got {block}: use 1 to {length}")
    blocks = -(-length // min(block or length, length))
    if steps is not None and steps < 1:
        raise UserError(
            f"--steps is how many steps all {blocks} blocks take together, got {steps}: use {blocks} to {length}"
        )
    if threshold is not None and options.order != "threshold":
        raise UserError("--threshold is for --order threshold: give both, or leave it out")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(
            f"--threshold is a probability above which a token is written, from 0 to 1, got {threshold}: use 0.9"
        )
    if steps is not None and options.order == "threshold":
        raise UserError("--steps is for other orders, and --order threshold takes as many as it needs: leave it out")


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text up to the first end."""
    from infimum.language.tokens import decoded

    end = tokenizer.eos_token_id
    stop = ids.index(end) if end in ids else len(ids)
    return decoded(tokenizer, ids[:stop])
