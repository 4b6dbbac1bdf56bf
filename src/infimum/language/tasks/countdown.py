"""Countdown: an expression of given numbers that equals a target (2504.12216)."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from infimum.errors import UserError
from infimum.language.tasks.answers import Compat, boxed, checked, number_of, tagged, text_of
from infimum.language.tasks.arithmetic import evaluate_expression, numbers_in, solutions
from infimum.language.tasks.prompts import formatted
from infimum.language.tasks.published import published_answer, published_right

__all__ = ["countdown", "countdown_correct", "countdown_reward"]

PROMPT = (
    "Using only the numbers {numbers}, write an arithmetic expression that equals exactly {target}. Use each number once, and only "
    "+, -, * and /. Give the expression alone, without an equals sign, {place}."
)
PLACES = {
    False: "between <answer> and </answer>; for example <answer>(1+2)/3</answer>",
    True: r"in \boxed{} between <answer> and </answer>; for example <answer>\boxed{(1+2)/3}</answer>",
}
"""Where the expression goes, in training and in evaluation."""


def countdown(
    n: int, *, numbers: int = 3, largest: int = 100, seed: int = 0, chat: bool = False, evaluation: bool = False
) -> list[dict[str, Any]]:
    """Problems that can be solved, as rows with the columns prompt, numbers and target.

    Args:
        n: rows.
        numbers: given in each; 3.
        largest: of numbers and targets, from 1 on.
        seed: of the problems, at least 0.
        chat, evaluation: form of the prompts, see `formatted`.

    Raises:
        UserError: fewer than one row, another count of numbers, no room for them, or a seed below 0.
    """
    if n < 1 or numbers != 3 or largest < 3:
        raise UserError(
            f"expected at least 1 problem of 3 numbers up to at least 3, got {n} of {numbers} up to {largest}"
        )
    if seed < 0:
        raise UserError(f"seed is {seed}, expected 0 or more")
    g = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    while len(rows) < n:
        given = [int(k) for k in g.integers(1, largest + 1, numbers)]
        target = int(g.integers(1, largest + 1))
        if solutions(given, target):
            body = PROMPT.format(numbers=given, target=target, place=PLACES[evaluation])
            rows.append(
                {"prompt": formatted(body, chat=chat, evaluation=evaluation), "numbers": given, "target": target}
            )
    return rows


def _given(numbers: Any, row: int) -> list[int]:
    """The numbers of a row.

    Raises:
        UserError: they are no list of whole numbers.
    """
    if isinstance(numbers, str) or not hasattr(numbers, "__iter__"):
        raise UserError(f"numbers of row {row} are {numbers!r:.40}, expected a list of whole numbers")
    found = [number_of(k, f"a number of row {row}") for k in numbers]
    if not all(k == int(k) for k in found):
        raise UserError(f"numbers of row {row} are {found}, expected whole numbers")
    return [int(k) for k in found]


def _right(text: str | None, numbers: Sequence[int], target: float) -> tuple[bool, bool]:
    """Whether the numbers are those given, and whether the value is the target."""
    if text is None or numbers_in(text) != Counter(numbers):
        return False, False
    value = evaluate_expression(text)
    return True, value is not None and abs(value - Fraction(target)) < Fraction(1, 100_000)


def countdown_reward(
    prompts: Sequence[Any] | None = None,
    completions: Sequence[Any] = (),
    *,
    numbers: Sequence[Sequence[int]],
    target: Sequence[float],
    compat: Compat = "paper",
    **_: Any,
) -> list[float]:
    """1 for an expression of the given numbers that equals the target; 0.1 for the right numbers with another value; 0 otherwise.

    In TRL's signature. ``compat="d1"``, as in the published code: 0.1 for any content of answer tags; expressions are Python's, so
    that ``**``, ``//`` and decimal points count, and a line may end inside of brackets alone. What a model wrote is read, never
    executed: an expression of more than 256 characters, or with a power of more than 8192 bits, has no value.

    Raises:
        UserError: columns of unlike lengths, numbers or a target that are none, an unknown ``compat``.
    """
    checked(compat, completions, numbers=numbers, target=target)
    rewards = []
    for row, (completion, given, wanted) in enumerate(zip(completions, numbers, target, strict=True)):
        mine, goal, whole = _given(given, row), number_of(wanted, f"target {row}"), text_of(completion)
        if compat == "d1":
            text = published_answer(whole)
            rewards.append(0.0 if text is None else 1.0 if published_right(text, mine, goal) else 0.1)
        else:
            numbers_right, value_right = _right(tagged(whole), mine, goal)
            rewards.append(1.0 if value_right else 0.1 if numbers_right else 0.0)
    return rewards


def countdown_correct(completion: Any, numbers: Sequence[int], target: float) -> bool:
    r"""Whether the answer is right, as evaluations read it: the last \boxed{} or else the answer tags, LaTeX signs allowed, and
    nothing behind an equals sign.

    Raises:
        UserError: numbers or a target that are none.
    """
    given, goal = _given(numbers, 0), number_of(target, "the target")
    whole = text_of(completion)
    text = boxed(whole)
    text = tagged(whole) if text is None else text
    if text is None:
        return False
    for sign, plain in ((r"\div", "/"), (r"\times", "*"), (r"\cdot", "*"), ("×", "*"), ("÷", "/")):
        text = text.replace(sign, plain)
    return _right(text.split("=", 1)[0].strip(), given, goal)[1]
