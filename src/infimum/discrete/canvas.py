"""Token sequences as what is generated, what is given, and what is padding."""

import dataclasses
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Draws

__all__ = ["Canvas", "canvas_of", "completions", "cropped", "uniforms"]


class Canvas(NamedTuple):
    """A batch of sequences, with everything that does not depend on draws.

    Attributes:
        tokens: (B, L), int64.
        target: positions whose tokens are modelled; the others are given and never masked.
        present: positions that exist; the others are padding.
        rank: number of a target position among those of its row, from the left; 0 elsewhere.
        lengths: number of target positions of each row.
    """

    tokens: Int[Tensor, "B L"]
    target: Bool[Tensor, "B L"]
    present: Bool[Tensor, "B L"]
    rank: Int[Tensor, "B L"]
    lengths: Int[Tensor, "B"]


def canvas_of(x: Any, vocabulary: int, mask_id: int, *, filled: bool = True) -> Canvas:
    """The canvas of a batch.

    Args:
        x: tokens (B, L), all of them modelled; or a dict of "tokens", "target" and, if there is padding, "present".
        vocabulary: tokens are 0 to vocabulary - 1.
        mask_id: the mask, which is no token of data.
        filled: refuse masks at target positions; False: they are what is to be filled in.

    Raises:
        UserError: no integers, tokens out of the vocabulary, masks among the data, a row without a target, or padding as a target.
    """
    parts = dict(x) if isinstance(x, dict) else {"tokens": x}
    tokens = parts.pop("tokens", None)
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or set(parts) - {"target", "present"}:
        raise UserError(
            "expected tokens (B, L), or a dict of tokens, target and present, all (B, L), got "
            + (f"a dict of {', '.join(x)}" if isinstance(x, dict) else f"{getattr(x, 'shape', type(x).__name__)}")
        )
    if tokens.is_floating_point() and not bool((tokens == tokens.round()).all()):
        raise UserError(f"expected whole numbers as tokens, got {float(tokens.flatten()[0])} first")
    tokens = tokens.long()
    if not len(tokens):
        raise UserError("the batch has no items, expected at least 1")
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    present, target = (parts.get(name) for name in ("present", "target"))
    present = everywhere if present is None else torch.as_tensor(present, device=tokens.device).bool()
    target = present if target is None else torch.as_tensor(target, device=tokens.device).bool()
    if target.shape != tokens.shape or present.shape != tokens.shape:
        raise UserError(
            f"target and present have the shape of tokens, {tuple(tokens.shape)}, got {tuple(target.shape)} and "
            f"{tuple(present.shape)}"
        )
    used = torch.where(present if filled else present & ~target, tokens, 0)
    wrong = (used == mask_id) & (present if filled else present & ~target)
    if bool(wrong.any()):
        raise UserError(
            f"the mask, token {mask_id}, stands among the {'data' if filled else 'given tokens'} of item "
            f"{int(wrong.any(1).nonzero()[0])}: only a model's input may hold it"
        )
    if bool(((used < 0) | (used >= vocabulary)).any()):
        worst = int(used.max()) if int(used.max()) >= vocabulary else int(used.min())
        raise UserError(f"token {worst} is not in the vocabulary 0 .. {vocabulary - 1}: check the tokenizer's size")
    if bool((target & ~present).any()):
        raise UserError("a target position is marked as padding: target is part of present")
    # an embedding has no row for numbers such as -100
    tokens = torch.where(present | ((tokens >= 0) & (tokens < vocabulary)), tokens, 0)
    lengths = target.sum(1)
    if not bool((lengths > 0).all()):
        raise UserError(f"item {int((lengths == 0).nonzero()[0])} has no target position: every item needs one token")
    rank = (target.long().cumsum(1) - 1).clamp_min(0) * target
    return Canvas(tokens, target, present, rank, lengths)


def cropped(s: Canvas) -> Canvas:
    """Without the columns at both ends where no row has anything: numbers of draws belong to ranks, and stay the same."""
    columns = s.present.any(0).nonzero()[:, 0]
    first, last = int(columns[0]), int(columns[-1]) + 1
    if last - first == s.tokens.shape[1]:
        return s
    tokens, target, present, rank = (each[:, first:last] for each in s[:4])
    return Canvas(tokens, target, present, rank, s.lengths)


def uniforms(s: Canvas, draws: Draws, name: str) -> Float[Tensor, "K B L"]:
    """A number in (0, 1) for each target position, by its rank: padding and what is given change nothing. In float64: no ties."""
    u = dataclasses.replace(draws, dtype=torch.float64).uniform(name, s.tokens.shape[1])
    return u.gather(-1, s.rank.expand(u.shape))


def completions(
    prompts: list[list[int]], answers: list[list[int]] | int, *, pad_id: int, fill: int | None = None
) -> dict[str, Tensor]:
    """Prompts, padded on the left, with their answers behind them, padded on the right.

    Args:
        prompts: tokens of each, given.
        answers: tokens of each, modelled; or a number of positions to be filled with ``fill``, the mask.
        pad_id: what stands where nothing is.
        fill: the mask, where ``answers`` is a number.

    Returns:
        tokens, target and present, all (B, L).

    Raises:
        UserError: no rows, unlike numbers of rows, an empty answer, or a number without ``fill``.
    """
    if not isinstance(answers, list):
        if isinstance(answers, bool) or not isinstance(answers, int) or answers < 1 or fill is None:
            raise UserError(f"{answers} positions to fill: expected at least 1, and fill, the mask's id")
        answers = [[fill] * answers] * len(prompts)
    if not prompts or len(prompts) != len(answers):
        raise UserError(f"got {len(prompts)} prompts and {len(answers)} answers, expected as many, and at least one")
    if not all(answers):
        raise UserError(f"answer {[bool(a) for a in answers].index(False)} is empty: every item needs one token")
    before, after = max(map(len, prompts)), max(map(len, answers))
    place = torch.arange(before + after)
    first = torch.tensor([before - len(p) for p in prompts])[:, None]
    last = torch.tensor([before + len(a) for a in answers])[:, None]
    present = (place >= first) & (place < last)
    flat = torch.tensor(list(chain.from_iterable(chain.from_iterable(zip(prompts, answers, strict=True)))))
    return {
        "tokens": torch.full(present.shape, pad_id, dtype=torch.long).masked_scatter(present, flat),
        "target": present & (place >= before),
        "present": present,
    }
