"""GSM8K, MATH and the forms of Sudoku: golden rewards in both readings, equal answers, hostile texts, files (3.11, 4, 6.13, 9)."""

import functools
import json
import random
import re
import sys
import time

import pytest
import torch

from infimum.errors import UserError
from infimum.language.tasks import (
    EVALUATION_PROMPT,
    REASONING_PROMPT,
    completions_of,
    correctness_reward,
    countdown,
    countdown_correct,
    countdown_reward,
    grids,
    gsm8k,
    gsm8k_correct,
    gsm8k_reward,
    inpainting,
    integer_reward,
    is_grid,
    mathematics,
    mathematics_correct,
    mathematics_correctness_reward,
    mathematics_format_reward,
    mathematics_reward,
    problems,
    puzzles,
    same_answer,
    soft_format_reward,
    strict_format_reward,
    sudoku_reward,
    tag_count_reward,
    valid_grids,
)
from infimum.language.tasks.sudoku import SHOTS

LINE = "<reasoning>\none line\n</reasoning>\n<answer>\n{}\n</answer>\n"
LINES = "<reasoning>\ntwo\nlines\n</reasoning>\n<answer>\n{}\n</answer>\n"


@pytest.mark.parametrize(
    ("text", "gold", "paper", "d1"),
    [  # correctness, integer, strict, soft, tags
        (LINES.format("42"), "42", (2, 0.5, 0.5, 0.5, 0.5), (2, 0.5, 0, 0, 0.5)),  # published: no DOTALL
        (LINE.format("42"), "42", (2, 0.5, 0.5, 0.5, 0.5), (2, 0.5, 0.5, 0, 0.5)),
        (LINE.format("1000"), "1,000", (2, 0.5, 0.5, 0.5, 0.5), (0, 0.5, 0.5, 0, 0.5)),  # published: commas stay
        (LINE.format("1,000"), "1000", (2, 0.5, 0.5, 0.5, 0.5), (0, 0, 0.5, 0, 0.5)),
        (LINE.format("43"), "42", (0, 0.5, 0.5, 0.5, 0.5), (0, 0.5, 0.5, 0, 0.5)),
        (LINE.format("4\u0662"), "42", (0, 0, 0.5, 0.5, 0.5), (0, 0.5, 0.5, 0, 0.5)),
        (LINE.format("$42"), "42", (0, 0, 0.5, 0.5, 0.5), (0, 0, 0.5, 0, 0.5)),
        (LINE.format("42") + "x" * 10, "42", (2, 0.5, 0, 0.5, 0.49), (2, 0.5, 0, 0, 0.48)),
        (LINE.format("42")[:-1], "42", (2, 0.5, 0, 0.5, 0.5), (2, 0.5, 0, 0, 0.5 - 0.055 + 0.001)),
        ("<reasoning>a</reasoning><answer>42</answer>", "42", (2, 0.5, 0, 0.5, 0), (2, 0.5, 0, 0.5, 0)),
        ("<answer>1</answer> <answer>42</answer>", "42", (2, 0.5, 0, 0, 0), (2, 0.5, 0, 0, 0)),
        (
            "<reasoning></reasoning><answer> </reasoning>\n<answer>4</answer>",
            "4",
            (2, 0.5, 0, 0.5, 0),
            (2, 0.5, 0, 0.5, 0),
        ),
        ("42", "42", (0, 0, 0, 0, 0), (2, 0.5, 0, 0, 0)),
        ("<answer>42", "42", (0, 0, 0, 0, 0), (2, 0.5, 0, 0, 0)),
        ("", "42", (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
    ],
)
def test_the_five_rewards_of_gsm8k(text, gold, paper, d1):
    for compat, wanted in (("paper", paper), ("d1", d1)):
        for completion in (text, [{"role": "assistant", "content": text}]):
            row = {
                "prompts": ["?"],
                "completions": [completion],
                "gold": [gold],
                "compat": compat,
                "completion_ids": [[1]],
            }
            parts = (correctness_reward, integer_reward, strict_format_reward, soft_format_reward, tag_count_reward)
            assert [part(**row)[0] for part in parts] == pytest.approx(wanted), compat
            assert gsm8k_reward(**row) == pytest.approx([sum(wanted)])


def test_the_formats_are_those_of_the_published_patterns():
    """Every text of up to eight pieces that was drawn, against the patterns themselves."""
    pieces = [
        "<reasoning>",
        "</reasoning>",
        "<answer>",
        "</answer>",
        "\n",
        "\n",
        " ",
        "a",
        "\n</reasoning>\n<answer>\n",
    ]
    strict = r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$"
    soft = r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>"
    g = random.Random(0)
    shapes = (LINE.format("1"), LINES.format("1"), "<reasoning>a</reasoning> <answer>1</answer>", "")
    hits = [0, 0, 0, 0]
    for _ in range(40_000):
        text = g.choice(["<reasoning>", "<reasoning>\n", "", g.choice(shapes)])
        text += "".join(g.choices(pieces, k=g.randrange(9))) + g.choice(["", "\n</answer>\n", "\n</answer>\n\n"])
        for k, (part, pattern, compat, flags) in enumerate(
            (
                (strict_format_reward, strict, "paper", re.DOTALL), (strict_format_reward, strict, "d1", 0),
                (soft_format_reward, soft, "paper", re.DOTALL), (soft_format_reward, soft, "d1", 0),
            )
        ):  # fmt: skip
            found = re.match(pattern, text, flags) is not None
            assert part(completions=[text], compat=compat) == [0.5 * found], (text, compat)
            hits[k] += found
    assert min(hits) > 100


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        (r"\boxed{42}", "42", True), (r"<answer>\boxed{42}</answer>", "42.0", True), (r"\boxed{\$1,000}", "1000", True),
        (r"\boxed{1000}", "1,000", True), (r"\boxed{1} then \boxed{2}", "2", False), (r"\boxed{2} then \boxed{1}", "2", True),
        (r"\boxed{3 apples of 5}", "3", True), (r"\boxed{3 of 5}", "5", False), ("<answer>3 of 5</answer>", "5", True),
        ("<answer>3 of 5</answer>", "3", False), (r"\boxed{1} <answer>2</answer>", "1", True),
        (r"\boxed{none} <answer>7</answer>", "7", True), ("42", "42", False),
        (r"\boxed{-4.50}", "-4.5", True), (r"\boxed{.5}", "0.5", True), (r"\boxed{4}", "-4", False), (r"\boxed{1, 2}", "1", True),
        (r"\boxed{12,34}", "12", True), (r"\boxed{1,234,567.5}", "1234567.5", True), (r"\boxed{" + "1" * 65 + " 5}", "5", True),
        (r"\boxed{\u0664}", "4", False), ("", "42", False), (r"\boxed{1e3}", "1000", False), (r"\boxed{42", "42", False),
    ],
)  # fmt: skip
def test_evaluation_of_gsm8k(text, gold, right):
    assert gsm8k_correct(text, gold) is right
    assert gsm8k_correct([{"role": "assistant", "content": text}], float(gold.replace(",", ""))) is right


def test_columns_and_gold_answers_must_fit():
    for reward in (correctness_reward, gsm8k_reward, mathematics_correctness_reward, mathematics_reward):
        with pytest.raises(UserError, match="2 completions and 1 gold"):
            reward(completions=["a", "b"], gold=["1"])
    with pytest.raises(UserError, match="no number"):
        gsm8k_correct("1", "many")


EQUAL = [
    ("5", "5"), (" 5 ", "5"), ("1 + 2", "1+2"), (r"\frac12", r"\frac{1}{2}"), (r"\tfrac12", r"\dfrac{1}{2}"),
    (r"\frac1{72}", r"\frac{1}{72}"), (r"\frac{1}2", r"\frac{1}{2}"), (r"\frac{\sqrt3}2", r"\frac{\sqrt{3}}{2}"),
    (r"\frac 1 2", r"\frac{1}{2}"), ("1/2", r"\frac{1}{2}"), ("-3/4", r"\frac{-3}{4}"), (r"\sqrt3", r"\sqrt{3}"),
    (r"2\sqrt 3 + 1", r"2\sqrt{3}+1"), (r"\frac\pi2", r"\frac{\pi}{2}"), (r"\left( 1, 2 \right)", "(1,2)"),
    (r"\left[0,\infty\right)", r"[0,\infty)"), (r"5\text{ cm}", "5"), (r"5\text{ cm}^2", "5"), (r"12 \text{ inches}^{2}", "12"),
    (r"6\mbox{ cm}", "6"), (r"50\%", "50"), ("50%", "50"), (r"\$12", "12"), ("$12$", "12"), (r"90^\circ", "90"),
    (r"90^{\circ}", "90"), ("90°", "90"), (".5", "0.5"), ("0.5", r"\frac{1}{2}"), ("(.25, 1)", "(0.25,1)"), ("-.7", "-0.7"),
    ("x = 5", "5"), (r"k=\frac12", r"\frac{1}{2}"), (r"10,\!000", "10,000"), (r"\\frac{1}{2}", r"\frac{1}{2}"), ("1\n2", "12"),
]  # fmt: skip
UNEQUAL = [
    ("5", "6"), ("", "5"), (r"\frac12", r"\frac{2}{1}"), ("2/4", "1/2"), ("1/2", "2"), (r"\sqrt3", "3"), (r"\sqrt{33}", r"\sqrt33"),
    ("f(x) = 5", "5"), ("x=1=1", "1"), (r"\text{Monday}", ""), (r"\text{Monday}", r"\text{Tuesday}"), ("(1,2)", "(2,1)"),
    (r"2\text{ or }3", "2"), (r"a \leftarrow b", "aarrowb"), ("x", "X"), ("5.5", "55"), ("-5", "5"), ("01/2", r"\frac{01}{2}"),
    (r"\begin{pmatrix}1\\ 2\end{pmatrix}", r"\begin{pmatrix}12\end{pmatrix}"), ("\u0665", "5"), ("5" * 1025 + " ", "5" * 1026),
    (None, "5"), (None, None),
]  # fmt: skip


def test_answers_are_equal_by_the_rules_and_not_otherwise():
    for a, b in EQUAL:
        assert same_answer(a, b) and same_answer(b, a), (a, b)
    for a, b in UNEQUAL:
        assert not same_answer(a, b) and not same_answer(b, a), (a, b)
    assert len(EQUAL) + len(UNEQUAL) >= 30


@pytest.mark.parametrize(
    ("text", "paper", "d1"),
    [  # correctness, format; the gold answer is 1/2
        (r"<answer>\boxed{\frac12}</answer>", (2, 1), (2, 0.75)),  # published: a backspace is looked for
        (r"<answer>\boxed{3}</answer>", (0, 1), (0, 0.75)),
        (r"\boxed{1/2} <answer>1/2</answer>", (2, 0.75), (2, 0.75)),
        ("<answer>1/2</answer>", (0, 0.75), (0, 0.75)),
        (r"so \boxed{\dfrac{1}{2}}.", (2, 0.5), (2, 0.25)),
        (r"<answer>\boxed{0.5}", (2, 0.5), (2, 0.75)),
        (r"\boxed{0.5", (0, 0.25), (0, 0.25)),
        ("0.5", (0, 0.25), (2, 0.25)),
        ("<answer>\x08oxed</answer>", (0, 0.75), (0, 1)),
        ("", (0, 0.25), (0, 0.25)),
    ],
)
def test_the_two_rewards_of_mathematics(text, paper, d1):
    for compat, wanted in (("paper", paper), ("d1", d1)):
        for completion in (text, [{"role": "assistant", "content": text}]):
            row = {"prompts": ["?"], "completions": [completion], "gold": [r"\frac{1}{2}"], "compat": compat, "step": 1}
            assert (mathematics_correctness_reward(**row)[0], mathematics_format_reward(**row)[0]) == wanted, compat
            assert mathematics_reward(**row) == [sum(wanted)]
    assert mathematics_correct(text, "1/2") is (paper[0] == 2)


MILLION = 10**6
HOSTILE = {
    "power": "9**9**9", "import": "__import__('os').system('touch /tmp/hacked')", "nul": "\x00" * MILLION,
    "unicode": "\u0665" * MILLION, "brackets": "(" * MILLION, "answers": "<answer>" * 125_000, "ends": "</answer>" * 110_000,
    "boxes": "\\boxed{" * 140_000, "braces": "{" * MILLION, "closed": "}" * MILLION, "digits": "9" * 5 * MILLION,
    "grouped": "1," * 500_000, "thousands": "1" + ",111" * 250_000 + "1", "points": "." * MILLION, "signs": "-" * MILLION,
    "lines": "\n" * MILLION, "spaces": " " * MILLION, "fractions": "\\frac" * 200_000, "nested": "\\frac{" * 160_000,
    "short": "\\frac{" * 170, "units": "\\text{" * 160_000, "equals": "=" * MILLION, "backslashes": "\\" * MILLION,
    "joints": "<reasoning>" + "</reasoning><answer>" * 50_000, "spread": "<reasoning>" + "</reasoning> " * 70_000,
    "gap": "<reasoning></reasoning>" + " " * MILLION, "middles": "<reasoning>\n" + "\n</reasoning>\n<answer>\n" * 45_000,
    "tails": "<reasoning>\n" + "\n</answer>\n" * 90_000, "surrogate": "\ud800", "pairs": "<answer></answer>" * 60_000,
    "closed boxes": "\\boxed{}" * 120_000, "slashes": "/" * MILLION,
    "nested boxes": "\\boxed{" * 100_000 + "}" * 100_000, "roots": "\\sqrt" * 200_000, "fboxes": "\\fbox{" * 160_000,
    "spaced": "\\boxed " * 140_000, "ratio": "1" * 500_000 + "/" + "1" * 500_000, "stars": "9**" * 80 + "9",
    "decimals": "0." + "3" * MILLION,
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_earn_no_more_than_form_and_cost_no_time(text):
    for whole in (text, f"<answer>{text}</answer>", rf"\boxed{{{text}}}", LINE.format(text)):
        for compat in ("paper", "d1"):
            for check in (
                lambda w, c: gsm8k_reward(completions=[w], gold=["42"], compat=c)[0] <= 2,
                lambda w, c: mathematics_reward(completions=[w], gold=["42"], compat=c)[0] <= 1,
                lambda w, c: countdown_reward(completions=[w], numbers=[[4, 2]], target=[42], compat=c)[0] <= 0.1,
                lambda w, c: (
                    sudoku_reward(completions=[w], puzzle=["0" * 16], solution=[grids()[0]], compat=c)[0] <= 0.5
                ),
            ):
                start = time.process_time()
                assert check(whole, compat)
                assert time.process_time() - start < 1
        for check in (
            lambda w: gsm8k_correct(w, "42"),
            lambda w: mathematics_correct(w, "42"),
            lambda w: same_answer(w, "42"),
            lambda w: countdown_correct(w, [4, 2], 42),
            lambda w: sudoku_reward(completions=[w], puzzle=["0" * 16], solution=[grids()[0]])[0] > 0.5,
        ):
            start = time.process_time()
            assert not check(whole)
            assert time.process_time() - start < 1


SCHOOL = [
    {"question": "1 + 1?", "answer": "It is 2.\n#### 2"},
    {"question": "\u00e9\u2028?", "answer": "a #### b #### 1,000 "},
]
CONTEST = [
    {"problem": "Half?", "solution": r"So $\boxed{\frac{1}{2}}$.", "answer": "other"},
    {"problem": "{Two}?", "solution": r"So $\boxed 2$.", "answer": ""},
    {"problem": "Three?", "solution": "", "answer": "3"},
    {"problem": "Four?", "solution": r"So $\fbox{4}$.", "answer": "other"},
]


def written(rows, ending, folder):
    path = folder / f"rows{ending}"
    if ending == ".parquet":
        pytest.importorskip("datasets").Dataset.from_list(rows).to_parquet(str(path))
    elif ending == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\ufeff" + "\n\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
def test_problems_from_files(ending, tmp_path):
    rows = gsm8k(written(SCHOOL, ending, tmp_path))
    assert [row["gold"] for row in rows] == ["2", "1,000"] and [row["question"] for row in rows] == [
        "1 + 1?",
        "\u00e9\u2028?",
    ]
    assert all(row["prompt"] == REASONING_PROMPT + row["question"] for row in rows)
    assert re.search(r"<reasoning>\n.*\n</reasoning>\n<answer>\n.*\n</answer>\n\n\Z", REASONING_PROMPT)
    rows = mathematics(str(written(CONTEST, ending, tmp_path)))
    assert [row["gold"] for row in rows] == [r"\frac{1}{2}", "2", "3", "4"]
    for row in rows:
        assert row["prompt"].startswith(REASONING_PROMPT) and row["prompt"].endswith("\n\n" + row["problem"])
        assert r"\boxed{}" in row["prompt"]
    assert list(tmp_path.iterdir()) == [tmp_path / f"rows{ending}"]


def test_prompts_for_chat_and_for_evaluation(tmp_path):
    """Messages hold the text of plain prompts; evaluation asks for a box in the tags and begins the assistant's message."""
    builders = {
        "gsm8k": functools.partial(gsm8k, written(SCHOOL, ".jsonl", tmp_path)),
        "countdown": functools.partial(countdown, 2, seed=1, largest=9),
        "mathematics": functools.partial(mathematics, written(CONTEST, ".json", tmp_path)),
    }
    for name, build in builders.items():
        plain, chat = build(), build(chat=True)
        test, both = build(evaluation=True), build(chat=True, evaluation=True)
        for a, b, c, d in zip(plain, chat, test, both, strict=True):
            assert a["prompt"].startswith(REASONING_PROMPT), name
            assert b == a | {"prompt": [{"role": "user", "content": a["prompt"]}]}
            assert c["prompt"].startswith(EVALUATION_PROMPT) and c | {"prompt": a["prompt"]} == a
            begun = {"role": "assistant", "content": "<reasoning>"}
            assert d == c | {"prompt": [{"role": "user", "content": c["prompt"]}, begun]}
        assert "{place}" not in plain[0]["prompt"] and "{}" not in plain[0]["prompt"].replace(r"\boxed{}", "")
    assert re.search(r"<answer>\n\\boxed\{.*\}\n</answer>\n\n\Z", EVALUATION_PROMPT)
    assert r"<answer>\boxed{(1+2)/3}</answer>" in countdown(1, evaluation=True)[0]["prompt"]
    assert r"\boxed" not in countdown(1)[0]["prompt"]
    text, messages = puzzles(1)[0], puzzles(1, chat=True)[0]
    assert messages == text | {"prompt": [{"role": "user", "content": text["prompt"]}]}


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
def test_wrong_files_are_said_in_one_sentence(ending, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        gsm8k(tmp_path / f"absent{ending}")
    for load, wrong, column in (
        (gsm8k, {"answer": "#### 1"}, "question"), (gsm8k, {"question": "?"}, "answer"), (mathematics, {"answer": "1"}, "problem"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"row 1 .*expected '{column}'"):
            load(written([wrong], ending, tmp_path))
    with pytest.raises(UserError, match="row 2 has nothing behind '####'"):
        gsm8k(written([SCHOOL[0], {"question": "?", "answer": "7"}], ending, tmp_path))
    with pytest.raises(UserError, match="row 1 has neither"):
        mathematics(written([{"problem": "?", "solution": "no box"}], ending, tmp_path))
    with pytest.raises(UserError, match="row 1 has 3 in column 'question', expected text"):
        gsm8k(written([{"question": 3, "answer": "#### 1"}], ending, tmp_path))
    path = tmp_path / f"rows{ending}"
    for content in (b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"3", b'["a"]'):
        path.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(str(path))) as caught:
            gsm8k(path)
        assert "\n" not in str(caught.value)
    other = tmp_path / "rows.txt"
    other.write_text("x")
    with pytest.raises(UserError, match=r"expected \.jsonl, \.json or \.parquet"):
        gsm8k(other)


def test_a_name_that_cannot_be_loaded_asks_for_a_file(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, config, *, split):
        asked.append((name, config, split))
        if name == "gone":
            raise ConnectionError("no route\nto host")
        return datasets.Dataset.from_list(SCHOOL)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [row["gold"] for row in gsm8k("openai/gsm8k", split="test")] == ["2", "1,000"]
    assert asked == [("openai/gsm8k", "main", "test")]
    with pytest.raises(UserError, match=r"'gone'.*no route to host.*pass a \.jsonl") as caught:
        mathematics("gone")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'infimum\[lm\]'"):
        problems("openai/gsm8k")


def test_worked_examples_stand_in_the_prompt_and_are_no_rows():
    few = [row for held_out in (False, True) for row in puzzles(150, held_out=held_out, shots=3, seed=1)]
    for row in few:
        text = row["prompt"]
        for puzzle, solution in SHOTS.items():
            assert text.index(puzzle) < text.index(solution) < text.rindex(row["puzzle"])
        assert text.count("<answer>\n") == 3 and row["puzzle"] not in SHOTS
    assert [row["puzzle"] for row in puzzles(40, seed=1)] == [row["puzzle"] for row in few[:40]]
    assert all(completions_of(puzzle) == [solution] for puzzle, solution in SHOTS.items())
    with pytest.raises(UserError, match="0 or 3"):
        puzzles(1, shots=2)


def test_worked_examples_are_left_out(monkeypatch):
    first, second = (row["puzzle"] for row in puzzles(2, seed=9))
    monkeypatch.setattr("infimum.language.tasks.sudoku.SHOTS", {first: "a", "b": "c", "d": "e"})
    assert puzzles(1, seed=9)[0]["puzzle"] == first and puzzles(1, shots=3, seed=9)[0]["puzzle"] == second


def test_solutions_of_worked_examples_are_for_training():
    rows = [puzzles(4000, blanks=(16, 16), unique=False, held_out=held_out) for held_out in (False, True)]
    training, held_out = ({row["solution"] for row in part} for part in rows)
    assert len(training) == 200 and len(held_out) == 88 and not training & held_out
    assert set(SHOTS.values()) <= training


def test_puzzles_as_canvases():
    rows = puzzles(50, blanks=(10, 10), unique=False, seed=2)
    assert {row["puzzle"].count("0") for row in rows} == {10}
    assert any(len(completions_of(row["puzzle"])) > 1 for row in rows)
    x = inpainting(rows)
    assert x["tokens"].shape == x["target"].shape == (50, 16)
    assert x["tokens"].dtype == torch.int64 and x["target"].dtype == torch.bool
    for row, tokens, target in zip(rows, x["tokens"].tolist(), x["target"].tolist(), strict=True):
        assert "".join(str(t + 1) for t in tokens) == row["solution"]
        assert "".join("0" if t else c for t, c in zip(target, row["solution"], strict=True)) == row["puzzle"]
    assert valid_grids(x["tokens"]).all()
    for wrong in (
        [],
        [{}],
        [{"puzzle": "1" * 16, "solution": grids()[0]}],
        [{"puzzle": "0" * 15, "solution": grids()[0]}],
    ):
        with pytest.raises(UserError):
            inpainting(wrong)


def test_valid_canvases_are_the_288_grids():
    every = torch.tensor([[int(c) - 1 for c in grid] for grid in grids()])
    assert (
        valid_grids(every).all() and valid_grids(every.to(torch.uint8)).all() and valid_grids(every[:0]).shape == (0,)
    )
    g = torch.Generator().manual_seed(0)
    spoilt = every.repeat(40, 1)
    spoilt[torch.arange(len(spoilt)), torch.randint(16, (len(spoilt),), generator=g)] = torch.randint(
        4, (len(spoilt),), generator=g
    )
    rows = torch.stack([torch.randperm(4, generator=g) for _ in range(4 * 20_000)]).view(-1, 16)
    latin = torch.tensor([[(r + c) % 4 for r in range(4) for c in range(4)]])  # rows and columns, but not boxes
    bands = torch.tensor([[0, 1, 2, 3, 2, 3, 0, 1, 0, 1, 2, 3, 2, 3, 0, 1]])  # rows and boxes, but not columns
    some = torch.cat(
        [spoilt, rows, latin, bands, bands.view(4, 4).T.reshape(1, 16), torch.randint(4, (2000, 16), generator=g)]
    )
    wanted = [is_grid("".join(str(t + 1) for t in row)) for row in some.tolist()]
    assert valid_grids(some).tolist() == wanted and 0 < sum(wanted) < len(wanted)
    assert not valid_grids(
        torch.cat([every + 1, every - 1, every + 4, every * 100, every + 4 * (every == 3), every - (every == 0).long()])
    ).any()
    for wrong in (every.double(), every[0], every[:, :15]):
        with pytest.raises(UserError, match=r"shape \(N, 16\)"):
            valid_grids(wrong)
