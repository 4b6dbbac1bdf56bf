"""GSM8K: school problems with a whole number as the answer (2110.14168), rewarded as in 2504.12216."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from infimum.errors import UserError
from infimum.language.tasks.answers import Compat, boxes, checked, golds, number_of, tagged, text_of
from infimum.language.tasks.prompts import formatted, problems, texts

__all__ = [
    "correctness_reward",
    "gsm8k",
    "gsm8k_correct",
    "gsm8k_reward",
    "integer_reward",
    "soft_format_reward",
    "strict_format_reward",
    "tag_count_reward",
]

LONGEST = 64
"""Characters of a number that is still read."""

_HEAD, _MIDDLE, _TAIL = "<reasoning>\n", "\n</reasoning>\n<answer>\n", "\n</answer>\n"
_ONE_LINE = re.compile(r"<reasoning>\n[^\n]*\n</reasoning>\n<answer>\n[^\n]*\n</answer>\n\n?\Z")
_JOINT = re.compile(r"</reasoning>\s*<answer>")
_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", re.ASCII)
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)


def gsm8k(
    source: str | Path,
    *,
    split: str = "train",
    config: str | None = "main",
    chat: bool = False,
    evaluation: bool = False,
) -> list[dict[str, Any]]:
    """Problems as rows with the columns prompt, question and gold: the text behind the last ``####`` of the answer.

    Args:
        source: a .jsonl, .json or .parquet file with the columns question and answer, or a name such as "openai/gsm8k".
        split: of a named data set; a file is one split.
        config: of a named data set.
        chat, evaluation: form of the prompts, see `formatted`.

    Raises:
        UserError: the source cannot be read, or lacks a column or an answer.
    """
    rows = problems(source, split=split, config=config)
    found = []
    for number, (question, answer) in enumerate(
        zip(texts(source, rows, "question"), texts(source, rows, "answer"), strict=True), 1
    ):
        gold = answer.rpartition("####")[2].strip() if "####" in answer else ""
        if not gold:
            raise UserError(
                f"{source}: the answer of row {number} has nothing behind '####', expected its result there"
            )
        prompt = formatted(question, chat=chat, evaluation=evaluation)
        found.append({"prompt": prompt, "question": question, "gold": gold})
    return found


def _answer(completion: Any, compat: Compat) -> str | None:
    """What counts as the answer. The published code reads text without tags as a whole, and an open tag to the end."""
    text = text_of(completion)
    if compat == "d1":
        return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    found = tagged(text)
    return None if found is None else found.replace(",", "")


def correctness_reward(
    prompts: Sequence[Any] | None = None,
    completions: Sequence[Any] = (),
    *,
    gold: Sequence[str | int],
    compat: Compat = "paper",
    **_: Any,
) -> list[float]:
    """2 where the answer is the gold text. ``compat="d1"``: commas count, so that "1000" is not "1,000".

    Raises:
        UserError: columns of unlike lengths, a gold answer that is no text, an unknown ``compat``.
    """
    checked(compat, completions, gold=gold)
    wanted = [g.strip() if compat == "d1" else g.strip().replace(",", "") for g in golds(gold)]
    return [2.0 if _answer(c, compat) == g else 0.0 for c, g in zip(completions, wanted, strict=True)]


def integer_reward(
    prompts: Sequence[Any] | None = None, completions: Sequence[Any] = (), *, compat: Compat = "paper", **_: Any
) -> list[float]:
    """0.5 where the answer is digits alone. ``compat="d1"``: digits of any script, and no commas."""
    checked(compat, completions)
    answers = [_answer(c, compat) or "" for c in completions]
    return [0.5 if a.isdigit() and (compat == "d1" or a.isascii()) else 0.0 for a in answers]


def strict_format_reward(
    prompts: Sequence[Any] | None = None, completions: Sequence[Any] = (), *, compat: Compat = "paper", **_: Any
) -> list[float]:
    """0.5 where the completion is both pairs of tags, each tag on a line of its own, with a newline at the end.

    ``compat="d1"``: reasoning and answer of one line alone, as a pattern without DOTALL matches them.
    """
    checked(compat, completions)
    return [0.5 if _strict(text_of(c), compat) else 0.0 for c in completions]


def _strict(text: str, compat: Compat) -> bool:
    if compat == "d1":
        return _ONE_LINE.match(text) is not None
    middle = text.find(_MIDDLE, len(_HEAD))
    if not text.startswith(_HEAD) or middle < 0:
        return False
    return any(text.endswith(end) and len(text) - len(end) >= middle + len(_MIDDLE) for end in (_TAIL, _TAIL + "\n"))


def soft_format_reward(
    prompts: Sequence[Any] | None = None, completions: Sequence[Any] = (), *, compat: Compat = "paper", **_: Any
) -> list[float]:
    """0.5 where the completion begins with both pairs of tags, whatever stands around and inside of them.

    ``compat="d1"``: nothing between a pair of tags may hold a newline, as a pattern without DOTALL matches it.
    """
    checked(compat, completions)
    return [0.5 if _soft(text_of(c), compat) else 0.0 for c in completions]


def _soft(text: str, compat: Compat) -> bool:
    if not text.startswith("<reasoning>"):
        return False
    begin = len("<reasoning>")
    first = _JOINT.search(text, begin)
    if first is None:
        return False
    if compat == "paper":
        return text.find("</answer>", first.end()) >= 0
    line = _line_end(
        text, begin
    )  # the earliest joint leaves most room on its line; only the last can cross the line's end
    last = _JOINT.match(text, max(text.rfind("</reasoning>", begin, line), begin))
    return any(
        joint is not None
        and joint.start() < line
        and text.find("</answer>", joint.end(), _line_end(text, joint.end())) >= 0
        for joint in (first, last)
    )


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def tag_count_reward(
    prompts: Sequence[Any] | None = None, completions: Sequence[Any] = (), *, compat: Compat = "paper", **_: Any
) -> list[float]:
    """0.125 for each of the four tags that stands once with its newlines, less 0.001 a character behind the closing tag.

    One newline at the end is free. ``compat="d1"``: what is behind the tag is taken off twice, and the whole text where no newline
    follows the tag.
    """
    checked(compat, completions)
    return [_count(text_of(c), compat) for c in completions]


def _count(text: str, compat: Compat) -> float:
    opened, closed = text.count("\n<answer>\n") == 1, text.count("\n</answer>") == 1
    tags = (text.count("<reasoning>\n") == 1) + (text.count("\n</reasoning>\n") == 1) + opened + closed
    behind = 0
    if compat == "paper":
        behind = len(text.partition("\n</answer>")[2].removeprefix("\n")) if closed else 0
    else:
        behind += len(text.split("\n</answer>\n")[-1]) if opened else 0
        behind += len(text.partition("\n</answer>")[2]) - 1 if closed else 0
    return 0.125 * tags - 0.001 * behind


def gsm8k_reward(
    prompts: Sequence[Any] | None = None,
    completions: Sequence[Any] = (),
    *,
    gold: Sequence[str | int],
    compat: Compat = "paper",
    **_: Any,
) -> list[float]:
    """The sum of the five rewards of this file, at most 4. In TRL's signature.

    ``compat="d1"``: as the published code gives them, with its slips. What a model wrote is read, never executed.

    Raises:
        UserError: columns of unlike lengths, a gold answer that is no text, an unknown ``compat``.
    """
    checked(compat, completions, gold=gold)
    gold = golds(gold)
    parts = [correctness_reward(completions=completions, gold=gold, compat=compat)]
    for part in (integer_reward, strict_format_reward, soft_format_reward, tag_count_reward):
        parts.append(part(completions=completions, compat=compat))
    return [sum(row) for row in zip(*parts, strict=True)]


def _numbers(text: str) -> Iterator[float]:
    """The numbers of a text from left to right; commas between thousands, no powers of ten, at most 64 characters."""
    for match in _NUMBER.finditer(text):
        whole = _THOUSANDS.fullmatch(match[0]) is not None
        for part in [match[0].replace(",", "")] if whole else match[0].split(","):
            if part and len(part) <= LONGEST:
                yield float(part)


def gsm8k_correct(completion: Any, gold: str | float) -> bool:
    r"""Whether the answer is right, as evaluations read it, as floating-point numbers.

    The first number of the first \boxed{} that holds one, else the last number in the answer tags.

    Raises:
        UserError: no number in the gold answer.
    """
    text = text_of(completion)
    if isinstance(gold, str):
        wanted = next(_numbers(gold), None)
        if wanted is None:
            raise UserError(f"the gold answer {gold!r:.40} holds no number: pass the text behind '####'")
    else:
        try:
            wanted = float(number_of(gold, "the gold answer"))
        except OverflowError:
            raise UserError("the gold answer is beyond all floating-point numbers, expected a finite one") from None
    found = next(_numbers("\n".join(boxes(text))), None)
    if found is None:
        for found in _numbers(tagged(text) or ""):  # noqa: B007
            pass
    return found == wanted
