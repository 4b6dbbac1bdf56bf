"""What the code published with 2504.12216 (d1) does where its rewards differ from the paper: `compat="d1"`.

Restated to be linear in the text, and to execute nothing.
"""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["published_answer", "published_box", "published_equal", "published_right", "published_value"]

LONGEST, BITS = 256, 8192
"""Characters of an expression, and bits of a whole number on the way, that are still read."""

LONGEST_NUMBER = 4300
"""Digits beyond which Python refuses to read a number by default."""

_ALLOWED = re.compile(r"[\d+\-*/().\s]+")
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


def published_answer(text: str) -> str | None:
    """The last of the pairs of answer tags that do not overlap, counted from the left; None without one."""
    found, at = None, 0
    while (start := text.find("<answer>", at)) >= 0 and (end := text.find("</answer>", start)) >= 0:
        found, at = (start + len("<answer>"), end), end + len("</answer>")
    return None if found is None else text[slice(*found)].strip()


def published_value(text: str) -> int | float | complex | None:
    """The value that Python gives to an expression of + - * / // ** and brackets: floats where it has floats; None if it has none.

    Beyond 256 characters, or numbers of 8192 bits on the way, None, where the published code reads on, and 9**9**9 never ends.
    """
    if len(text) > LONGEST or _ALLOWED.fullmatch(text) is None:
        return None
    try:
        value = _value(ast.parse(text.lstrip(" \t"), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return None
    return value


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _value(node.operand)
        return -inner if isinstance(node.op, ast.USub) else +inner
    if not isinstance(node, ast.BinOp):
        raise TypeError
    left, right = _value(node.left), _value(node.right)
    whole = isinstance(left, int) and isinstance(right, int)
    if whole and isinstance(node.op, ast.Pow) and abs(left) > 1 and left.bit_length() * right > BITS:
        raise OverflowError
    found = _BINARY[type(node.op)](left, right)
    if isinstance(found, int) and found.bit_length() > BITS:
        raise OverflowError
    return found


def published_right(text: str, numbers: Sequence[int], target: float) -> bool:
    """Whether an expression has the digits of the given numbers, and the target as its value."""
    if len(text) > LONGEST or sorted(map(int, re.findall(r"\d+", text))) != sorted(numbers):
        return False
    value = published_value(text)
    try:
        return value is not None and abs(value - target) < 1e-5
    except OverflowError:
        return False


def published_box(text: str) -> str:
    r"""The last \boxed{...}, or what follows the last "\boxed "; an \fbox with its command; the whole text without a box."""
    if r"\boxed " in text:
        return text.rpartition(r"\boxed ")[2].partition("$")[0]
    start = text.rfind(r"\boxed")
    start = text.rfind(r"\fbox") if start < 0 else start
    depth = 0
    for match in re.compile(r"[{}]").finditer(text, max(start, 0)) if start >= 0 else ():
        depth += 1 if match[0] == "{" else -1
        if match[0] == "}" and depth == 0:
            box = text[start : match.end()]
            return box[len(r"\boxed{") : -1] if box.startswith(r"\boxed{") else box
    return text


def published_equal(a: str, b: str) -> bool:
    """MATH's is_equiv as the published code has it: where its rules fail on a text, the texts themselves are compared."""
    try:
        return _stripped(a) == _stripped(b)
    except (IndexError, ValueError):
        return a == b


def _stripped(text: str) -> str:
    r"""MATH's strip_string. Only ``\text{ `` with a space is a unit, and a percent sign needs its backslash.

    Raises:
        IndexError, ValueError: where the published code raises.
    """
    for old, new in (
        ("\n", ""), (r"\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), (r"\left", ""), (r"\right", ""),
        (r"^{\circ}", ""), (r"^\circ", ""), (r"\$", ""),
    ):  # fmt: skip
        text = text.replace(old, new)
    if text.count(r"\text{ ") > 1:
        raise ValueError("units twice")
    text = text.partition(r"\text{ ")[0].replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = "0" + text if text[0] == "." else text
    if text.count("=") == 1 and text.index("=") <= 2:
        text = text.partition("=")[2]
    head, *roots = text.split(r"\sqrt")
    text = head + "".join(rf"\sqrt{part}" if part[0] == "{" else rf"\sqrt{{{part[0]}}}{part[1:]}" for part in roots)
    text = _fractions(text.replace(" ", ""))
    text = r"\frac{1}{2}" if text == "0.5" else text
    if text.count("/") != 1:
        return text
    over, _, under = text.partition("/")
    if len(text) > LONGEST_NUMBER:
        raise ValueError("no whole numbers")
    a, b = int(over), int(under)
    return rf"\frac{{{a}}}{{{b}}}" if text == f"{a}/{b}" else text


def _fractions(text: str) -> str:
    head, *parts = text.split(r"\frac")
    found = [head]
    for part in parts:
        if part[0] == "{":
            found.append(rf"\frac{part}")
        elif len(part) < 2:
            return text
        else:
            under = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            found.append(rf"\frac{{{part[0]}}}{under}")
    return "".join(found)
