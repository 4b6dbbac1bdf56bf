"""4 x 4 Sudoku: all 288 grids, puzzles with one solution, rewards by cell (2504.12216, 2510.09541)."""

import functools
from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from infimum.errors import UserError
from infimum.language.tasks.answers import Compat, checked, tagged, text_of
from infimum.language.tasks.published import published_answer

if TYPE_CHECKING:
    import torch

__all__ = [
    "cell_accuracy",
    "completions_of",
    "grids",
    "inpainting",
    "is_grid",
    "puzzles",
    "sudoku_reward",
    "valid_grids",
]

PROMPT = (
    "Solve this 4x4 Sudoku: every row, every column and every 2x2 box holds the digits 1 to 4 once. The puzzle is written row by "
    "row in 16 digits, where 0 is a blank cell: {puzzle}. Give the 16 digits of the solution between <answer> and </answer>."
)

SHOTS = {
    "3014002020004130": "3214142323414132",
    "0000100420013142": "4213132424313142",
    "2001403002001420": "2341413232141423",
}
"""The worked examples of 2510.09541, puzzle to solution."""


@functools.lru_cache(maxsize=1)
def grids() -> tuple[str, ...]:
    """The 288 valid grids, each as 16 digits row by row, in ascending order."""
    rows = ["".join(p) for p in permutations("1234")]
    pairs = [a + b for a in rows for b in rows if not set(a[:2]) & set(b[:2])]
    return tuple(sorted(top + low for top in pairs for low in pairs if is_grid(top + low)))


def is_grid(grid: str) -> bool:
    """Whether 16 digits are a valid grid."""
    if len(grid) != 16 or set(grid) - set("1234"):
        return False
    rows = [grid[4 * r : 4 * r + 4] for r in range(4)]
    columns = [grid[c::4] for c in range(4)]
    boxes = [grid[k : k + 2] + grid[k + 4 : k + 6] for k in (0, 2, 8, 10)]
    return all(len(set(part)) == 4 for part in (*rows, *columns, *boxes))


def completions_of(puzzle: str) -> list[str]:
    """Every grid that agrees with a puzzle's givens; a good puzzle has one.

    Raises:
        UserError: no 16 digits from 0 to 4.
    """
    if len(puzzle) != 16 or set(puzzle) - set("01234"):
        raise UserError(f"a puzzle is 16 digits from 0 (blank) to 4, got {puzzle!r}")
    return [grid for grid in grids() if all(p in ("0", g) for p, g in zip(puzzle, grid, strict=True))]


@functools.lru_cache(maxsize=1)
def _division() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """200 grids for training, the worked examples among them, and the other 88."""
    order = [grids()[i] for i in np.random.default_rng(42).permutation(len(grids()))]
    shown = set(SHOTS.values())
    strays = [i for i in range(200, 288) if order[i] in shown]
    places = [i for i in range(199, -1, -1) if order[i] not in shown]
    for stray, place in zip(strays, places, strict=False):
        order[stray], order[place] = order[place], order[stray]
    return tuple(order[:200]), tuple(order[200:])


def _prompt(puzzle: str, shots: int) -> str:
    examples = [f"{PROMPT.format(puzzle=p)}\n<answer>\n{s}\n</answer>\n\n" for p, s in list(SHOTS.items())[:shots]]
    return "".join(examples) + PROMPT.format(puzzle=puzzle)


def puzzles(
    n: int,
    *,
    blanks: tuple[int, int] = (7, 12),
    held_out: bool = False,
    unique: bool = True,
    shots: int = 0,
    seed: int = 0,
    chat: bool = False,
) -> list[dict[str, Any]]:
    """Rows with the columns prompt, puzzle and solution. 200 of the grids are for training, the other 88 are held out.

    Args:
        n: rows.
        blanks: fewest and most blank cells; (10, 10) is 10 in each.
        held_out: of the 88 grids that training never sees.
        unique: puzzles with one solution alone.
        shots: worked examples in the prompt, 0 or 3; with them, none of the three is a row. Their solutions are always for
            training.
        seed: of the puzzles, at least 0; the division of the grids is always the same.
        chat: prompts are lists of one message, for a chat template; otherwise texts.

    Raises:
        UserError: no rows, blanks outside of 1 to 12 (puzzles with fewer than 4 givens are never unique), another number of shots,
            or a seed below 0.
    """
    low, high = blanks
    if n < 1 or not 1 <= low <= high <= (12 if unique else 16):
        raise UserError(
            f"expected at least 1 puzzle with 1 to {12 if unique else 16} blanks, got {n} with {low} to {high}"
        )
    if shots not in (0, len(SHOTS)):
        raise UserError(f"shots is {shots}, expected 0 or {len(SHOTS)}: the worked examples come together")
    if seed < 0:
        raise UserError(f"seed is {seed}, expected 0 or more")
    mine = _division()[held_out]
    g = np.random.default_rng((seed, int(held_out)))
    rows: list[dict[str, Any]] = []
    while len(rows) < n:
        solution = mine[int(g.integers(len(mine)))]
        hidden = set(g.permutation(16)[: int(g.integers(low, high + 1))].tolist())
        puzzle = "".join("0" if i in hidden else digit for i, digit in enumerate(solution))
        if (shots and puzzle in SHOTS) or (unique and len(completions_of(puzzle)) != 1):
            continue
        text = _prompt(puzzle, shots)
        prompt = [{"role": "user", "content": text}] if chat else text
        rows.append({"prompt": prompt, "puzzle": puzzle, "solution": solution})
    return rows


def inpainting(rows: Sequence[dict[str, Any]]) -> "dict[str, torch.Tensor]":
    """Puzzles as canvases: ``tokens`` (N, 16) int64, the solution's digits less 1, and ``target`` (N, 16), True at the blanks.

    Raises:
        UserError: no rows, or one whose puzzle and solution are not 16 digits that agree.
    """
    import torch

    if not rows:
        raise UserError("there are no puzzles: pass at least one row")
    for row in rows:
        puzzle, solution = row.get("puzzle", ""), row.get("solution", "")
        if (
            not is_grid(solution)
            or len(puzzle) != 16
            or any(p not in ("0", s) for p, s in zip(puzzle, solution, strict=True))
        ):
            raise UserError(
                f"puzzle {puzzle!r} does not agree with a valid solution {solution!r}: expected 16 digits each"
            )
    digits = torch.tensor([[int(c) for c in row["solution"]] for row in rows])
    return {"tokens": digits - 1, "target": torch.tensor([[c == "0" for c in row["puzzle"]] for row in rows])}


def valid_grids(tokens: "torch.Tensor") -> "torch.Tensor":
    """Which canvases (N, 16) of whole numbers are valid grids: each row, column and box holds each of 0 to 3 once.

    Raises:
        UserError: another shape, or numbers that are not whole.
    """
    import torch

    if tokens.ndim != 2 or tokens.shape[1] != 16 or tokens.is_floating_point():
        raise UserError(f"expected whole numbers of shape (N, 16), got {tokens.dtype} of shape {tuple(tokens.shape)}")
    inside = ((tokens >= 0) & (tokens <= 3)).all(1)
    bits = 1 << tokens.long().clamp(0, 3)
    cells = bits.view(-1, 4, 4)
    boxes = bits.view(-1, 2, 2, 2, 2).sum((2, 4)).flatten(1)  # four powers of two add up to 15 only if they differ
    return inside & (torch.cat([cells.sum(1), cells.sum(2), boxes], 1) == 15).all(1)


def _checked(puzzle: Sequence[Any], solution: Sequence[Any]) -> None:
    """Refuse what is no puzzle and no solution, before anything is counted."""
    for name, column, digits in (("puzzle", puzzle, "01234"), ("solution", solution, "1234")):
        for row, cells in enumerate(column):
            if not isinstance(cells, str) or len(cells) != 16 or set(cells) - set(digits):
                raise UserError(
                    f"{name} {row} is {cells!r:.40}, expected a text of 16 digits from {digits[0]} to 4: read the column as text, "
                    "for a number loses the zeros at its beginning"
                )


def _cells(completion: Any, puzzle: str, solution: str, compat: Compat = "paper") -> tuple[int, int]:
    """Blank cells that are right, and all of them. Digits of the last answer, filled up with 0 or cut to 16."""
    text = text_of(completion)
    if compat == "d1":
        digits = "".join(c for c in published_answer(text) or "" if c.isdigit())
    else:
        digits = "".join(c for c in tagged(text) or "" if c in "0123456789")
    digits = digits[:16].ljust(16, "0")
    blank = [i for i, digit in enumerate(puzzle) if digit == "0"]
    return sum(digits[i] == solution[i] for i in blank), len(blank)


def sudoku_reward(
    prompts: Sequence[Any] | None = None,
    completions: Sequence[Any] = (),
    *,
    puzzle: Sequence[str],
    solution: Sequence[str],
    compat: Compat = "paper",
    **_: Any,
) -> list[float]:
    """Share of the blank cells that are filled as in the solution. In TRL's signature.

    ``compat="d1"``: digits of any script take up a cell, tags are paired from the left, and one without a blank cell is worth 0.

    Raises:
        UserError: columns of unlike lengths, no puzzle or solution, no blank cell, or an unknown ``compat``.
    """
    checked(compat, completions, puzzle=puzzle, solution=solution)
    _checked(puzzle, solution)
    rewards = []
    for row in zip(completions, puzzle, solution, strict=True):
        right, blanks = _cells(*row, compat)
        if not blanks and compat == "paper":
            raise UserError(f"puzzle {row[1]!r} has no blank cell: it cannot be rewarded")
        rewards.append(right / max(blanks, 1))
    return rewards


def cell_accuracy(completions: Sequence[Any], puzzle: Sequence[str], solution: Sequence[str]) -> float:
    """Right blank cells of all rows over all blank cells: the published figure, which is not the share of solved puzzles.

    Raises:
        UserError: columns of unlike lengths, what is no puzzle or solution, no rows, or no blank cell.
    """
    checked("paper", completions, puzzle=puzzle, solution=solution)
    _checked(puzzle, solution)
    counts = [_cells(*row) for row in zip(completions, puzzle, solution, strict=True)]
    blanks = sum(n for _, n in counts)
    if not blanks:
        raise UserError(f"there is no blank cell in {len(counts)} puzzles: accuracy needs at least one")
    return sum(right for right, _ in counts) / blanks
