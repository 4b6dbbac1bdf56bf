"""Values of arithmetic expressions that a model wrote: exact, in bounded time, and nothing is executed."""

import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import permutations, product

__all__ = ["evaluate_expression", "numbers_in", "solutions"]

LONGEST, DIGITS = 256, 12
"""Characters of an expression, and digits of a number, that are still read."""

_TOKEN = re.compile(r"\s*(\d+|[-+*/()])", re.ASCII)
_OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "~": 3}


def _tokens(text: str) -> list[str] | None:
    if len(text) > LONGEST:
        return None
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(match[1]) > DIGITS:
            return None
        found.append(match[1])
        at = match.end()
    return found


def numbers_in(text: str) -> Counter[int] | None:
    """The whole numbers of an expression with their multiplicity; None if it is no expression of + - * / and brackets."""
    tokens = _tokens(text)
    return None if tokens is None else Counter(int(token) for token in tokens if token.isdigit())


def evaluate_expression(text: str) -> Fraction | None:
    """The value of an expression of whole numbers, + - * /, signs and brackets; None if it has none.

    Exact fractions by operator precedence with two stacks: no recursion, no powers, at most 256 characters and numbers of 12
    digits, so that time and memory are bounded whatever is passed.
    """
    tokens = _tokens(text)
    if not tokens:
        return None
    values: list[Fraction] = []
    waiting: list[str] = []
    operand = True  # whether a number, a sign or an opening bracket comes next
    for sign in tokens:
        if sign.isdigit() or sign == "(":
            if not operand:
                return None
            if sign == "(":
                waiting.append(sign)
            else:
                values.append(Fraction(int(sign)))
                operand = False
        elif sign == ")":
            if operand or not _apply(values, waiting, 0) or not waiting:
                return None
            waiting.pop()
        elif operand:
            if sign not in "+-":
                return None
            if sign == "-":
                waiting.append("~")
        else:
            if not _apply(values, waiting, _RANK[sign]):
                return None
            waiting.append(sign)
            operand = True
    if operand or not _apply(values, waiting, 0) or waiting or len(values) != 1:
        return None
    return values[0]


def _apply(values: list[Fraction], waiting: list[str], rank: int) -> bool:
    """Carry out what waits and binds at least as strongly; False where it divides by zero."""
    while waiting and waiting[-1] != "(" and _RANK[waiting[-1]] >= rank:
        sign, right = waiting.pop(), values.pop()
        if sign == "~":
            values.append(-right)
        elif sign == "/" and right == 0:
            return False
        else:
            values.append(_OPERATIONS[sign](values.pop(), right))
    return True


def solutions(numbers: Sequence[int], target: int) -> list[str]:
    """Every expression of three numbers, each used once, that equals the target, up to brackets that change nothing."""
    found = []
    for a, b, c in sorted(set(permutations(numbers))):
        for p, q in product("+-*/", repeat=2):
            for text in (f"({a}{p}{b}){q}{c}", f"{a}{p}({b}{q}{c})"):
                if evaluate_expression(text) == target:
                    found.append(text)
    return found
