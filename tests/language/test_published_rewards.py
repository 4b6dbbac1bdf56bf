"""`compat="d1"` against what the published code uses: regular expressions, Python's own values, MATH's rules (3.11, 4.7)."""

import inspect
import math
import random
import re
import time
import warnings

import pytest

from infimum.errors import UserError
from infimum.language.tasks import (
    boxed,
    cell_accuracy,
    correctness_reward,
    countdown,
    countdown_correct,
    countdown_reward,
    grids,
    gsm8k_correct,
    gsm8k_reward,
    integer_reward,
    mathematics_correct,
    mathematics_correctness_reward,
    mathematics_format_reward,
    mathematics_reward,
    puzzles,
    same_answer,
    soft_format_reward,
    strict_format_reward,
    sudoku_reward,
    tag_count_reward,
    tagged,
    text_of,
)
from infimum.language.tasks.answers import boxes
from infimum.language.tasks.published import (
    published_answer,
    published_box,
    published_equal,
    published_value,
)


def bare(function):
    """As users call it: without the checks of annotations that tests add."""
    return inspect.unwrap(function)


def test_tags_against_their_patterns():
    """The published pairs are those of a pattern; the paper's begin with the last tag that is closed."""
    g = random.Random(0)
    unlike = 0
    for _ in range(20_000):
        text = "".join(g.choices(["<answer>", "</answer>", "a", "\n", "b", "<ans", "</answer"], k=g.randrange(9)))
        found = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
        assert published_answer(text) == (found[-1].strip() if found else None), text
        mine = re.findall(r"<answer>((?:(?!<answer>).)*?)</answer>", text, re.DOTALL)
        assert tagged(text) == (mine[-1].strip() if mine else None), text
        unlike += published_answer(text) != tagged(text)
    assert unlike > 300
    closed_twice = "<answer>(3+4)*5</answer> ok</answer>"
    columns = {"numbers": [[3, 4, 5]], "target": [35]}
    assert countdown_reward(completions=[closed_twice], **columns) == [1.0]
    assert tagged("</answer><answer>a") is None and tagged("<answer></answer>") == ""


def test_values_are_pythons():
    """Every expression that the published pattern lets through, of small numbers, against Python itself."""
    g = random.Random(1)
    pieces = [*"0123", "12", "3.", ".5", "+", "-", "*", "/", "//", "**", "(", ")", " ", "\n", "(\n1", "07"]
    found = powers = lines = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(60_000):
            text = "".join(g.choices(pieces, k=g.randrange(1, 9)))
            if text.count("**") > 1 or re.search(r"\*\*\D*\d{3}", text):
                continue  # large on the way
            try:
                wanted = eval(text, {"__builtins__": None}, {})
            except Exception:
                wanted = None
            value = published_value(text)
            if not isinstance(wanted, int | float | complex):  # brackets around nothing
                assert value is None, text
                continue
            assert value == wanted and type(value) is type(wanted), text
            found, powers, lines = found + 1, powers + ("**" in text), lines + ("\n" in text.strip())
    assert found > 4000 and powers > 50 and lines > 20
    for text in (
        "9**9**9",
        "9**9**9**9",
        "(9**99)**99",
        "__import__('os')",
        "1" * 300,
        "(" * 250,
        "-" * 256,
        "1/0",
        "2(3)",
        "1e9",
    ):
        start = time.process_time()
        assert published_value(text) is None
        assert time.process_time() - start < 0.1
    assert published_value("1**99999") == 1 and published_value("2**-1") == 0.5


@pytest.mark.parametrize(
    ("answer", "paper", "d1"),
    [
        ("3+4\n*5", 0.1, 0.1), ("(3+4)*5", 1.0, 1.0), ("(3+4)\n*5", 1.0, 0.1), ("(3+\n4)*5", 1.0, 1.0), ("5*(3+4)//1", 0.0, 0.1),
        ("(5//1)", 0.0, 0.1), ("03*4+5", 0.1, 0.1), ("(03+4)*5", 1.0, 0.1), ("(3.+4)*5", 0.0, 1.0), ("(3+4)*5=35", 0.0, 0.1),
        ("<answer>(3+4)*5", 1.0, 0.1), ("-(-3-4)*5", 1.0, 1.0),
    ],
)  # fmt: skip
def test_expressions_of_countdown(answer, paper, d1):
    for compat, wanted in (("paper", paper), ("d1", d1)):
        row = {"completions": [f"<answer>{answer}</answer>"], "numbers": [[3, 4, 5]], "target": [35], "compat": compat}
        assert countdown_reward(**row) == [wanted], compat


def test_powers_count_as_published():
    for text, numbers, target in (("2**3**2", [2, 3, 2], 512), ("7//2+1", [7, 2, 1], 4), ("(7//2)**2", [2, 7, 2], 9)):
        row = {"completions": [f"<answer>{text}</answer>"], "numbers": [numbers], "target": [target]}
        assert countdown_reward(**row) == [0.1] and countdown_reward(**row, compat="d1") == [1.0]


@pytest.mark.parametrize(
    ("a", "b", "paper", "d1"),
    [
        (r"11\text{A}", r"11\text{B}", False, False), (r"2\text{nd}", r"2\text{rd}", False, False),
        (r"2\text{nd}", "2", False, False),
        (r"5\text{ cm}", "5", True, True), (r"5\text{cm}", "5", True, False), (r"5\text{cm}^2", "5", True, False),
        (r"5\text{ cm}^2", "5", True, True), (r"5\mbox{ cm}", "5", True, False), (r"12\text{ square inches}", "12", True, True),
        (r"12\text{square inches}", "12", True, False), (r"30\text{km/h}", "30", True, False),
        (r"3\text{ a}+\text{ b}", "3", False, False),
        ("50%", "50", True, False), (r"50\%", "50", True, True), ("$12$", "12", True, False), (r"\$12", "12", True, True),
        (r"\frac12", r"\frac{1}{2}", True, True), (r"\frac{1}2", r"\frac{1}{2}", True, False), (r"\sqrt3", r"\sqrt{3}", True, True),
        (r"\frac 1 2", r"\frac{1}{2}", True, True), (r"\frac1{72}", r"\frac{1}{72}", True, True), ("1/2", r"\frac12", True, True),
        ("a/b", "a /b", True, False), ("a/b", "a/b", True, True), (".5", r"\frac{1}{2}", True, True), ("-.5", "-0.5", True, False),
        ("x = 5", "5", True, True), ("xy=5", "5", True, True), ("xyz=5", "5", False, False), ("x=5=y", "5", False, False),
        (r"\left(1\right)", "(1)", True, True), (r"90^\circ", "90", True, True), (r"90^{\circ}", "90", True, True),
        (r"1\!000", "1000", True, True), (r"\sqrt", r"\sqrt", True, True), (r"\frac", r"\frac ", True, False), ("", "", True, True),
        (r"\frac{.5}{1}", r"\frac{0.5}{1}", True, True), ("1 2", "12", True, True), ("1\n2", "12", True, True),
        ("2/4", "1/2", False, False),
        (r"{\frac}3", r"{\frac}3 ", True, True),
    ],
)  # fmt: skip
def test_answers_are_equal_by_either_rules(a, b, paper, d1):
    assert same_answer(a, b) is same_answer(b, a) is paper
    assert published_equal(a, b) is published_equal(b, a) is d1
    found = mathematics_correctness_reward(completions=[rf"\boxed{{{a}}}"], gold=[b], compat="d1")
    assert found == [2.0 * d1] or a.count("{") != a.count("}")


def test_boxes():
    for text, last, first, published in (
        (r"\boxed{1} \boxed{2}", "2", ["1", "2"], "2"), (r"\boxed{\boxed{1}} \boxed{", None, [r"\boxed{1}"], None),
        (r"\boxed{a \boxed{1}", "1", ["1"], "1"), (r"{ \boxed{1} } } \boxed{2}", "2", ["1", "2"], "2"), ("1", None, [], "1"),
        (r"\boxed 3$ \boxed{4}", "4", ["4"], "3"), (r"\boxed{4} \boxed 3", "4", ["4"], "3"), (r"\fbox{5}.", None, [], r"\fbox{5}"),
    ):  # fmt: skip
        assert boxed(text) == last and list(boxes(text)) == first
        assert published_box(text) == (text if published is None else published)


def test_evaluation_reads_the_first_box_with_a_number():
    assert gsm8k_correct(r"\boxed{42} check: \boxed{?}", "42") and gsm8k_correct(
        r"\boxed{?} so \boxed{42} \boxed{43}", 42
    )
    assert gsm8k_correct(r"\boxed{100000000000000000000}", 1e20) and gsm8k_correct(
        r"\boxed{100000000000000000000}", 10**20
    )
    assert gsm8k_correct(r"\boxed{} <answer>7</answer>", "7") and not gsm8k_correct(
        r"\boxed{1} <answer>7</answer>", "7"
    )
    assert gsm8k_correct(
        [{"role": "assistant", "content": [{"type": "text", "text": r"\boxed{4"}, {"text": "2}"}]}], "42"
    )
    assert text_of([{"role": "assistant", "content": None}]) == ""
    for gold in (None, math.nan, "", 10**400):
        with pytest.raises(UserError, match="gold answer"):
            bare(gsm8k_correct)("1", gold)
    assert mathematics_correct(r"\fbox{5}", "5") and mathematics_correct(r"\fbox{4} \boxed{5}", 5)


def test_an_unknown_compat_and_wrong_columns_are_refused():
    gold, grid = {"gold": ["1"]}, {"puzzle": ["0" * 16], "solution": [grids()[0]]}
    for reward, columns in (
        (correctness_reward, gold), (integer_reward, {}), (strict_format_reward, {}), (soft_format_reward, {}),
        (tag_count_reward, {}),
        (gsm8k_reward, gold), (mathematics_correctness_reward, gold), (mathematics_format_reward, {}), (mathematics_reward, gold),
        (countdown_reward, {"numbers": [[1]], "target": [1]}), (sudoku_reward, grid),
    ):  # fmt: skip
        for compat in ("D1", "official", None, ["d1"]):
            with pytest.raises(UserError, match="choose paper or d1"):
                bare(reward)(completions=["x"], **columns, compat=compat)
        with pytest.raises(UserError, match="expected a list"):
            bare(reward)(completions="x", **columns)
        for name in columns:
            with pytest.raises(UserError, match=f"{name} is None, expected a list"):
                bare(reward)(completions=["x"], **columns | {name: None})
            with pytest.raises(UserError, match="one each a row"):
                reward(completions=["x"], **columns | {name: columns[name] * 2})
    for reward in (correctness_reward, gsm8k_reward, mathematics_reward):
        assert reward(completions=[r"<answer>\boxed{7}</answer>"], gold=[7]) == reward(
            completions=[r"<answer>\boxed{7}</answer>"], gold=["7"]
        )
        for value in (None, 1.5, ["1"], True):
            with pytest.raises(UserError, match=r"gold answer 0 is .*expected text or a whole number"):
                bare(reward)(completions=["x"], gold=[value])
    for target in (None, math.nan, math.inf, "35"):
        with pytest.raises(UserError, match=r"target.* expected a finite number"):
            bare(countdown_reward)(completions=["x"], numbers=[[1]], target=[target])
        with pytest.raises(UserError, match=r"target.* expected a finite number"):
            bare(countdown_correct)("x", [1], target)
    for numbers, words in (
        ([1.5], "whole numbers"),
        (None, "expected a list of whole"),
        ([None], "finite number"),
        ("12", "list"),
    ):
        with pytest.raises(UserError, match=words):
            bare(countdown_reward)(completions=["x"], numbers=[numbers], target=[1])


def test_sudoku_as_published_and_its_refusals():
    puzzle, solution = "3014002020004130", "3214142323414132"
    row = {"puzzle": [puzzle], "solution": [solution]}
    arabic = "\u0663" + solution[1:]
    shifted = f"<answer>\u00b2{solution}</answer>"  # a superscript is a digit to Python
    assert sudoku_reward(completions=[f"<answer>{arabic}</answer>"], **row, compat="d1") == [
        1.0
    ]  # the first cell was given
    assert (
        sudoku_reward(completions=[shifted], **row) == [1.0] > sudoku_reward(completions=[shifted], **row, compat="d1")
    )
    nested = f"<answer>1<answer>{solution}</answer>"
    assert sudoku_reward(completions=[nested], **row) == [1.0] > sudoku_reward(completions=[nested], **row, compat="d1")
    full = {"puzzle": [solution], "solution": [solution]}
    assert sudoku_reward(completions=["x"], **full, compat="d1") == [0.0]
    for call in (sudoku_reward, cell_accuracy):
        for wrong, words in (
            ({"solution": ["3214"]}, "solution 0 is '3214', expected a text of 16"), ({"puzzle": ["0" * 81]}, "puzzle 0 is"),
            ({"puzzle": [3014002020004130]}, "read the column as text"), ({"solution": [int(solution)]}, "read the column as text"),
            ({"solution": ["0" * 16]}, "from 1 to 4"), ({"puzzle": [puzzle] * 2}, "one each a row"),
        ):  # fmt: skip
            with pytest.raises(UserError, match=words):
                bare(call)(completions=["x"], **row | wrong)
    for columns in (full | {"completions": ["x"]}, {"completions": [], "puzzle": [], "solution": []}):
        with pytest.raises(UserError, match="no blank cell"):
            cell_accuracy(**columns)
    for build in (puzzles, countdown):
        with pytest.raises(UserError, match="seed is -1"):
            build(1, seed=-1)
