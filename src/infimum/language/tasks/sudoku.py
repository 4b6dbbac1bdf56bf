"""4 x 4 Sudoku: all 288 grids, puzzles with one solution, rewards by cell (2504.12216, 2510.09541)."""

import functools
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np

from infimum.errors import UserError
from infimum.language.tasks.answers import tagged, text_of

__all__ = ["cell_accuracy", "completions_of", "grids", "is_grid", "puzzles", "sudoku_reward"]

PROMPT = (
    "Solve this 4x4 Sudoku: every row, every column and every 2x2 box holds the digits 1 to 4 once. The puzzle is written row by "
    "row in 16 digits, where 0 is a blank cell: {puzzle}. Give the 16 digits of the solution between <answer> and </answer>."
)


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


def puzzles(
    n: int, *, blanks: tuple[int, int] = (7, 12), held_out: bool = False, unique: bool = True, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows with the columns prompt, puzzle and solution. 200 of the grids are for training, the other 88 are held out.

    Args:
        n: rows.
        blanks: fewest and most blank cells.
        held_out: of the 88 grids that training never sees.
        unique: puzzles with one solution alone.
        seed: of the puzzles; the division of the grids is always the same.

    Raises:
        UserError: no rows, or blanks outside of 1 to 12 (puzzles with fewer than 4 givens are never unique).
    """
    low, high = blanks
    if n < 1 or not 1 <= low <= high <= (12 if unique else 16):
        raise UserError(
            f"expected at least 1 puzzle with 1 to {12 if unique else 16} blanks, got {n} with {low} to {high}"
        )
    order = np.random.default_rng(42).permutation(len(grids()))
    mine = order[200:] if held_out else order[:200]
    g = np.random.default_rng((seed, int(held_out)))
    rows: list[dict[str, Any]] = []
    while len(rows) < n:
        solution = grids()[int(g.choice(mine))]
        hidden = set(g.permutation(16)[: int(g.integers(low, high + 1))].tolist())
        puzzle = "".join("0" if i in hidden else digit for i, digit in enumerate(solution))
        if not unique or len(completions_of(puzzle)) == 1:
            rows.append({"prompt": PROMPT.format(puzzle=puzzle), "puzzle": puzzle, "solution": solution})
    return rows


def _cells(completion: Any, puzzle: str, solution: str) -> tuple[int, int]:
    """Blank cells that are right, and all of them. Digits of the last answer, filled up with 0 or cut to 16."""
    digits = "".join(c for c in tagged(text_of(completion)) or "" if c in "0123456789")
    digits = digits[:16].ljust(16, "0")
    blank = [i for i, digit in enumerate(puzzle) if digit == "0"]
    return sum(digits[i] == solution[i] for i in blank), len(blank)


def sudoku_reward(
    prompts: Sequence[Any] | None = None,
    completions: Sequence[Any] = (),
    *,
    puzzle: Sequence[str],
    solution: Sequence[str],
    **_: Any,
) -> list[float]:
    """Share of the blank cells that are filled as in the solution. In TRL's signature.

    Raises:
        UserError: columns of unlike lengths, or a puzzle without a blank cell.
    """
    if not len(completions) == len(puzzle) == len(solution):
        raise UserError(
            f"got {len(completions)} completions, {len(puzzle)} puzzles and {len(solution)} solutions: one each a row"
        )
    rewards = []
    for row in zip(completions, puzzle, solution, strict=True):
        right, blanks = _cells(*row)
        if not blanks:
            raise UserError(f"puzzle {row[1]!r} has no blank cell: it cannot be rewarded")
        rewards.append(right / blanks)
    return rewards


def cell_accuracy(completions: Sequence[Any], puzzle: Sequence[str], solution: Sequence[str]) -> float:
    """Right blank cells of all rows over all blank cells: the published figure, which is not the share of solved puzzles."""
    counts = [_cells(*row) for row in zip(completions, puzzle, solution, strict=True)]
    return sum(right for right, _ in counts) / sum(blanks for _, blanks in counts)
