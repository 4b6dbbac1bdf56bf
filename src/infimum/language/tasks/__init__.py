"""Tasks for language models: problems, prompts, rewards in TRL's signature, and verifiers that execute nothing."""

from infimum.language.tasks.answers import boxed, tagged, text_of
from infimum.language.tasks.arithmetic import evaluate_expression, numbers_in, solutions
from infimum.language.tasks.countdown import countdown, countdown_correct, countdown_reward
from infimum.language.tasks.sudoku import cell_accuracy, completions_of, grids, is_grid, puzzles, sudoku_reward

__all__ = [
    "boxed",
    "cell_accuracy",
    "completions_of",
    "countdown",
    "countdown_correct",
    "countdown_reward",
    "evaluate_expression",
    "grids",
    "is_grid",
    "numbers_in",
    "puzzles",
    "solutions",
    "sudoku_reward",
    "tagged",
    "text_of",
]
