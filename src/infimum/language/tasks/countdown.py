"""Countdown: an expression of given numbers that equals a target (2504.12216)."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from infimum.errors import UserError
from infimum.language.tasks.answers import boxed, tagged, text_of
from infimum.language.tasks.arithmetic import evaluate_expression, numbers_in, solutions

__all__ = ["countdown", "countdown_correct", "countdown_reward"]

PROMPT = (
    "Using only the numbers {numbers}, write an arithmetic expression that equals exactly {target}. Use each number once, and only "
    "+, -, * and /. Give the expression alone, without an equals sign, between <answer> and </answer>; for example "
    "<answer>(1+2)/3</answer>."
)


def countdown(n: int, *, numbers: int = 3, largest: int = 100, seed: int = 0) -> list[dict[str, Any]]:
    """Problems that can be solved, as rows with the columns prompt, numbers and target.

    Args:
        n: rows.
        numbers: given in each; 3.
        largest: of numbers and targets, from 1 on.
        seed: of the problems.

    Raises:
        UserError: fewer than one row, another count of numbers, or no room for them.
    """
    if n < 1 or numbers != 3 or largest < 3:
        raise UserError(
            f"expected at least 1 problem of 3 numbers up to at least 3, got {n} of {numbers} up to {largest}"
        )
    g = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    while len(rows) < n:
        given = [int(k) for k in g.integers(1, largest + 1, numbers)]
        target = int(g.integers(1, largest + 1))
        if solutions(given, target):
            prompt = PROMPT.format(numbers=given, target=target)
            rows.append({"prompt": prompt, "numbers": given, "target": target})
    return rows


def _right(text: str | None, numbers: Sequence[int], target: float) -> tuple[bool, bool]:
    """Whether the numbers are those given, and whether the value is the target."""
    if text is None or numbers_in(text) != Counter(int(k) for k in numbers):
        return False, False
    value = evaluate_expression(text)
    return True, value is not None and abs(value - Fraction(target)) < Fraction(1, 100_000)


def countdown_reward(
    prompts: Sequence[Any] | None = None,
    completions: Sequence[Any] = (),
    *,
    numbers: Sequence[Sequence[int]],
    target: Sequence[float],
    compat: Literal["paper", "d1"] = "paper",
    **_: Any,
) -> list[float]:
    """1 for an expression of the given numbers that equals the target; 0.1 for the right numbers with another value; 0 otherwise.

    In TRL's signature. ``compat="d1"``: 0.1 for any content of answer tags, as the published code gives it. What a model wrote is
    read, never executed.

    Raises:
        UserError: columns of unlike lengths.
    """
    if not len(completions) == len(numbers) == len(target):
        raise UserError(
            f"got {len(completions)} completions, {len(numbers)} numbers and {len(target)} targets: one each a row"
        )
    rewards = []
    for completion, given, wanted in zip(completions, numbers, target, strict=True):
        text = tagged(text_of(completion))
        numbers_right, value_right = _right(text, given, wanted)
        partial = text is not None if compat == "d1" else numbers_right
        rewards.append(1.0 if value_right else 0.1 if partial else 0.0)
    return rewards


def countdown_correct(completion: Any, numbers: Sequence[int], target: float) -> bool:
    r"""Whether the answer is right, as evaluations read it: the last \boxed{} or else the answer tags, LaTeX signs allowed, and
    nothing behind an equals sign."""
    whole = text_of(completion)
    text = boxed(whole)
    text = tagged(whole) if text is None else text
    if text is None:
        return False
    for sign, plain in ((r"\div", "/"), (r"\times", "*"), (r"\cdot", "*"), ("×", "*"), ("÷", "/")):
        text = text.replace(sign, plain)
    return _right(text.split("=")[0].strip(), numbers, target)[1]
