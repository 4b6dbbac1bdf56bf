"""Verifiers and rewards against brute force, golden texts and hostile ones (00-masked-diffusion, 3.11, 6.13)."""

import random
import time
from fractions import Fraction

import pytest

from infimum.errors import UserError
from infimum.language.tasks import (
    boxed,
    cell_accuracy,
    completions_of,
    countdown,
    countdown_correct,
    countdown_reward,
    evaluate_expression,
    grids,
    is_grid,
    numbers_in,
    puzzles,
    solutions,
    sudoku_reward,
    tagged,
    text_of,
)

HOSTILE = (
    "__import__('os').system('touch /tmp/hacked')", "9**9**9**9", "(" * 5000, ")" * 200, "1" * 100_000, "1+" * 50_000 + "1", "1/0",
    "1//2", "0x10", "1e400", "1_000", "\u0661+\u0662", "１+２", "lambda: 0", "[].append(1)", "()", "", " ", "+", "1 2", "(1",
    "1)", "* 3", "3 *", "1=1",
    "\x00", "a" * 10**6, "-" * 255, "5!", "2^10",
)  # fmt: skip


def random_expression(g, depth):
    """Text and value, by recursion over its tree."""
    if depth == 0 or g.random() < 0.2:
        n = g.randrange(100)
        return str(n), Fraction(n), 9
    if g.random() < 0.1:
        text, value, rank = random_expression(g, depth - 1)
        return f"-({text})" if rank < 3 else f"-{text}", None if value is None else -value, 3
    left, a, rank_a = random_expression(g, depth - 1)
    right, b, rank_b = random_expression(g, depth - 1)
    sign = g.choice("+-*/")
    rank = 1 if sign in "+-" else 2
    left = f"({left})" if rank_a < rank or g.random() < 0.2 else left
    right = f"( {right} )" if rank_b <= rank or g.random() < 0.2 else right
    if a is None or b is None or (sign == "/" and b == 0):
        value = None
    else:
        value = {"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b
    return f"{left} {sign}{right}", value, rank


def test_values_are_those_of_the_tree():
    g = random.Random(0)
    seen = 0
    for _ in range(3000):
        text, value, _ = random_expression(g, 4)
        if len(text) <= 256:
            assert evaluate_expression(text) == value, text
            seen += value is not None
    assert seen > 1500
    for text, value in (
        ("8-3-2", 3),
        ("16/4/2", 2),
        ("2+3*4", 14),
        ("-2*3", -6),
        ("2*-3", -6),
        ("--3", 3),
        ("+4", 4),
        ("-(1-3)", 2),
    ):
        assert evaluate_expression(text) == value


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_has_no_value_and_costs_no_time(text):
    start = time.perf_counter()
    assert evaluate_expression(text) is None
    for whole in (text, f"<answer>{text}</answer>", rf"\boxed{{{text}}}", f"<answer>{text}"):
        assert countdown_reward(completions=[whole], numbers=[[1, 2, 3]], target=[6]) == [0.0]
        assert not countdown_correct(whole, [1, 2, 3], 6)
        assert sudoku_reward(completions=[whole], puzzle=["0" * 16], solution=[grids()[0]])[0] <= 0.5
    assert time.perf_counter() - start < 1


def test_large_values_stay_bounded():
    text = "*".join(["999999999999"] * 19)
    assert (
        evaluate_expression(text) == Fraction(999999999999) ** 19
        and evaluate_expression(text + "*999999999999") is None
    )


def test_what_counts_in_countdown():
    """Golden answers of both readings; the published code rewards any tag."""
    rows = {
        "<answer>(3+4)*5</answer>": (1.0, 1.0), "thinking <answer>1</answer> no <answer> 5*(4+3) </answer>": (1.0, 1.0),
        "<answer>3+4+5</answer>": (0.1, 0.1), "<answer>30+5</answer>": (0.0, 0.1), "<answer>35</answer>": (0.0, 0.1),
        "<answer>(3+4)*5=35</answer>": (0.0, 0.1), "(3+4)*5": (0.0, 0.0), "<answer>3*4*5*1</answer>": (0.0, 0.1),
        "<answer></answer>": (0.0, 0.1),
    }  # fmt: skip
    for compat, column in (("paper", 0), ("d1", 1)):
        found = countdown_reward(
            completions=list(rows), numbers=[[3, 4, 5]] * len(rows), target=[35] * len(rows), compat=compat
        )
        assert found == [value[column] for value in rows.values()]
    for text in (r"\boxed{(3+4)\times 5}", r"so \boxed{5\cdot(3+4) = 35}", "<answer>(3+4)*5 = 35</answer>"):
        assert countdown_correct(text, [3, 4, 5], 35)
    assert not countdown_correct(r"\boxed{35}", [3, 4, 5], 35) and not countdown_correct("none", [3, 4, 5], 35)
    assert countdown_correct(r"\boxed{7-\boxed{}", [7], 7) is False
    with pytest.raises(UserError, match="one each a row"):
        countdown_reward(completions=["x"], numbers=[], target=[1])


def test_problems_can_be_solved_and_the_verifier_agrees_with_the_solver():
    rows = countdown(30, seed=1)
    assert rows == countdown(30, seed=1) != countdown(30, seed=2)
    for row in rows:
        for answer in solutions(row["numbers"], row["target"]):
            assert countdown_reward(
                completions=[f"<answer>{answer}</answer>"], numbers=[row["numbers"]], target=[row["target"]]
            ) == [1.0]
        assert str(row["target"]) in row["prompt"] and all(str(n) in row["prompt"] for n in row["numbers"])
    assert (
        solutions([30, 100, 93], 23) and solutions([83, 18, 75], 10) and solutions([76, 41, 59], 24)
    )  # published items
    assert not solutions([1, 1, 1], 9)
    with pytest.raises(UserError, match="at least 1 problem"):
        countdown(0)


def test_there_are_288_grids_and_the_published_puzzles_have_one_solution():
    assert len(grids()) == len(set(grids())) == 288 and all(is_grid(grid) for grid in grids())
    for puzzle, solution in (
        ("3014002020004130", "3214142323414132"),
        ("0000100420013142", "4213132424313142"),
        ("2001403002001420", "2341413232141423"),
    ):
        assert completions_of(puzzle) == [solution]
    assert len(completions_of("0" * 16)) == 288
    for wrong in ("1234123412341234", "1234341221434322", "123", "1234341221434325"):
        assert not is_grid(wrong)
    with pytest.raises(UserError, match="16 digits"):
        completions_of("5" * 16)


def test_puzzles_are_unique_and_held_out_solutions_are():
    rows, others = puzzles(60, seed=3), puzzles(60, held_out=True, seed=3)
    for row in rows + others:
        assert completions_of(row["puzzle"]) == [row["solution"]] and 7 <= row["puzzle"].count("0") <= 12
    assert not {row["solution"] for row in rows} & {row["solution"] for row in others}
    assert rows == puzzles(60, seed=3) != puzzles(60, seed=4)
    with pytest.raises(UserError, match="blanks"):
        puzzles(1, blanks=(0, 3))


def test_cells_are_what_is_rewarded():
    puzzle, solution = "3014002020004130", "3214142323414132"
    texts = [solution, solution[:8], "4" * 16, "", "<reason>", solution + "9999"]
    wrapped = [f"<answer>{text}</answer>" for text in texts]
    wrapped[4] = solution  # no tags
    blank = [i for i, c in enumerate(puzzle) if c == "0"]
    half = sum(i < 8 for i in blank) / len(blank)
    four = sum(solution[i] == "4" for i in blank) / len(blank)
    columns = {"puzzle": [puzzle] * 6, "solution": [solution] * 6}
    assert sudoku_reward(completions=wrapped, **columns) == pytest.approx([1.0, half, four, 0.0, 0.0, 1.0])
    assert cell_accuracy(wrapped, [puzzle] * 6, [solution] * 6) == pytest.approx((2 + half + four) / 6)
    talk = [[{"role": "assistant", "content": f"<answer>{solution}</answer>"}]]
    assert sudoku_reward(
        prompts=["x"], completions=talk, puzzle=[puzzle], solution=[solution], completion_ids=[[1]]
    ) == [1.0]
    with pytest.raises(UserError, match="no blank cell"):
        sudoku_reward(completions=["x"], puzzle=[solution], solution=[solution])


def test_answers_are_found():
    assert (
        tagged("a <answer> b </answer> c <answer>d</answer>") == "d"
        and tagged("<answer>x") is None
        and tagged("x</answer>") is None
    )
    assert (
        boxed(r"\boxed{1} and \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
        and boxed(r"\boxed{1") is None
        and boxed("x") is None
    )
    assert (
        text_of([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]) == "b"
        and text_of(None) == ""
    )
    assert numbers_in("3+(4*3)") == {3: 2, 4: 1} and numbers_in("three") is None
