r"""MATH: competition problems with an answer in \boxed{} (2103.03874), rewarded as in 2504.12216."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infimum.errors import UserError
from infimum.language.tasks.answers import Compat, boxed, checked, golds, tagged, text_of
from infimum.language.tasks.prompts import formatted, problems, texts
from infimum.language.tasks.published import published_box, published_equal

__all__ = [
    "mathematics",
    "mathematics_correct",
    "mathematics_correctness_reward",
    "mathematics_format_reward",
    "mathematics_reward",
    "same_answer",
]

PROMPT = "You are an expert in mathematics. Solve the problem step by step, and put the final answer in \\boxed{{}}.\n\n{problem}"

LONGEST = 1024
"""Characters of an answer that is still normalised; a longer one equals itself alone."""

_UNIT = (
    r"(?:[mck]?m|in|ft|yd|mi|[mk]?g|lb|oz|s|sec|min|hr?|m[lL]|mph|inch|foot|feet|yard|mile|(?:centi|milli|kilo)?(?:met(?:er|re)|gram)"
    r"|pound|ounce|ton|second|minute|hour|day|week|month|year|degree|radian|cent|dollar|percent|unit|lit(?:er|re)|gallon|quart|pint)"
    r"(?:e?s)?\.?"
)
_UNITS = rf"(?:(?:square|cubic|sq\.?|cu\.?)\s+)?{_UNIT}(?:\s*(?:/|per)\s*{_UNIT})?"
"""What is taken for a unit where no space stands before it; with a space, every text is (2103.03874)."""

_RULES = [
    (re.compile(pattern, re.ASCII), by)
    for pattern, by in (
        (r"\\\\(?=[a-zA-Z])", r"\\"),  # a command that was escaped twice
        (r"(?<!\\)\\[!,;: ]", ""),  # thin spaces
        (r"\\(?:left|right)(?![a-zA-Z])", ""),
        (r"\\[td]frac", r"\\frac"),
        (rf"(?<=[^\s])\s*\\(?:text|mbox)\{{(?:\s[^{{}}]*|{_UNITS}\s*)\}}(?:\^(?:\d|\{{\d\}}))?\s*\Z", ""),
        (r"\s", ""),
        (r"\^\{\\circ\}|\^\\circ(?![a-zA-Z])|\u00b0", ""),
        (r"\\?[%$]", ""),
        (r"(?<![\d.])\.(?=\d)", "0."),
        (r"\A[^=]{1,2}=([^=]+)\Z", r"\1"),  # x = 5
    )
]
_OPERATOR = re.compile(r"\\(?:frac|sqrt)(?![a-zA-Z])")
_ONE = re.compile(r"\\[a-zA-Z]+|[^{}\\]")
_RATIO = re.compile(r"(-?(?:0|[1-9]\d*))/(-?(?:0|[1-9]\d*))", re.ASCII)


def mathematics(
    source: str | Path,
    *,
    split: str = "train",
    config: str | None = None,
    chat: bool = False,
    evaluation: bool = False,
) -> list[dict[str, Any]]:
    """Problems as rows with the columns prompt, problem and gold: the boxed answer of the solution, or else the column answer.

    Args:
        source: a .jsonl, .json or .parquet file with the columns problem and solution or answer, or a name of a data set.
        split: of a named data set; a file is one split.
        config: of a named data set.
        chat, evaluation: form of the prompts, see `formatted`.

    Raises:
        UserError: the source cannot be read, or lacks a column or an answer.
    """
    rows = problems(source, split=split, config=config)
    found = []
    for number, (row, problem) in enumerate(zip(rows, texts(source, rows, "problem"), strict=True), 1):
        gold = _last_box(str(row.get("solution") or "")) or str(row.get("answer") or "").strip()
        if not gold:
            raise UserError(
                f"{source}: row {number} has neither a \\boxed{{}} in column 'solution' nor a column 'answer'"
            )
        prompt = formatted(PROMPT.format(problem=problem), chat=chat, evaluation=evaluation)
        found.append({"prompt": prompt, "problem": problem, "gold": gold})
    return found


def _last_box(text: str) -> str | None:
    r"""The last boxed answer, where solutions may also write ``\boxed 5``, or ``\fbox{5}`` in place of every \boxed."""
    at = text.rfind(r"\boxed ")
    if at > text.rfind(r"\boxed{"):
        return text[at + len(r"\boxed ") :].partition("$")[0].strip().rstrip(".") or None
    return boxed(text) if r"\boxed" in text else boxed(text, r"\fbox{")


def _plain(text: str) -> str:
    """An answer in the form in which answers are compared: MATH's rules of equivalence."""
    text = text.strip()
    if len(text) > LONGEST:
        return text
    for pattern, by in _RULES:
        text = pattern.sub(by, text)
    for at in [match.end() for match in _OPERATOR.finditer(text)][::-1]:
        text = _braced(text, at, 2 if text.startswith(r"\frac", at - 5) else 1)
    if text == "0.5":
        return r"\frac{1}{2}"
    ratio = _RATIO.fullmatch(text)
    return rf"\frac{{{ratio[1]}}}{{{ratio[2]}}}" if ratio else text


def _braced(text: str, at: int, arguments: int) -> str:
    r"""Put braces around the arguments that begin at a place: \frac12 is \frac{1}{2}."""
    for _ in range(arguments):
        if text.startswith("{", at):
            depth = 0
            for match in re.compile(r"[{}]").finditer(text, at):
                depth += 1 if match[0] == "{" else -1
                if depth == 0:
                    break
            else:
                return text
            at = match.end()
        else:
            one = _ONE.match(text, at)
            if one is None or one[0] == "[":
                return text
            text = f"{text[:at]}{{{one[0]}}}{text[one.end() :]}"
            at = one.end() + 2
    return text


def same_answer(a: str | None, b: str | None) -> bool:
    r"""Whether two answers are the same text by MATH's rules; None is no answer.

    Spaces, \left, \right, percent, dollars and degrees go, and units: a \text{} at the end that begins with a space, or is the name
    of one. \tfrac and \dfrac are \frac; \frac12, \sqrt3, a/b, .5 and "x = 5" are written out. Nothing is computed: 2/4 is not 1/2.
    """
    return a is not None and b is not None and _plain(a) == _plain(b)


def mathematics_correctness_reward(
    prompts: Sequence[Any] | None = None,
    completions: Sequence[Any] = (),
    *,
    gold: Sequence[str | int],
    compat: Compat = "paper",
    **_: Any,
) -> list[float]:
    r"""2 where the boxed answer is the gold one.

    ``compat="d1"``: a completion without a box is compared as a whole, and by the published rules of equivalence: \text{} is a unit
    only where it begins with a space, % and $ only go with a backslash, and texts on which the rules fail are compared as they are.

    Raises:
        UserError: columns of unlike lengths, a gold answer that is no text, an unknown ``compat``.
    """
    checked(compat, completions, gold=gold)
    rewards = []
    for completion, wanted in zip(completions, golds(gold), strict=True):
        text, d1 = text_of(completion), compat == "d1"
        right = published_equal(published_box(text), wanted) if d1 else same_answer(_last_box(text), wanted)
        rewards.append(2.0 if right else 0.0)
    return rewards


def mathematics_format_reward(
    prompts: Sequence[Any] | None = None, completions: Sequence[Any] = (), *, compat: Compat = "paper", **_: Any
) -> list[float]:
    r"""1 for answer tags with a box inside, 0.75 for tags alone, 0.5 for a box alone, 0.25 otherwise.

    ``compat="d1"``: an open tag is enough, and the box is looked for as a backspace followed by "oxed" (the escape of a Python
    string), so that 1 and 0.5 are not given.

    Raises:
        UserError: an unknown ``compat``.
    """
    checked(compat, completions)
    rewards = []
    for completion in completions:
        text = text_of(completion)
        if compat == "d1":
            inner = text.split("<answer>", 2)[1].partition("</answer>")[0] if "<answer>" in text else None
            box = "\boxed" in (text if inner is None else inner)
        else:
            inner = tagged(text)
            box = boxed(text if inner is None else inner) is not None
        rewards.append(0.25 + 0.5 * (inner is not None) + 0.25 * box)
    return rewards


def mathematics_reward(
    prompts: Sequence[Any] | None = None,
    completions: Sequence[Any] = (),
    *,
    gold: Sequence[str | int],
    compat: Compat = "paper",
    **_: Any,
) -> list[float]:
    """Correctness and format together, at most 3. In TRL's signature; what a model wrote is read, never executed.

    Raises:
        UserError: columns of unlike lengths, a gold answer that is no text, an unknown ``compat``.
    """
    checked(compat, completions, gold=gold)
    gold = golds(gold)
    right = mathematics_correctness_reward(completions=completions, gold=gold, compat=compat)
    form = mathematics_format_reward(completions=completions, compat=compat)
    return [a + b for a, b in zip(right, form, strict=True)]


def mathematics_correct(completion: Any, gold: str | int) -> bool:
    """Whether the last boxed answer is the gold one, as evaluations read it.

    Raises:
        UserError: a gold answer that is no text.
    """
    return same_answer(_last_box(text_of(completion)), golds([gold])[0])
