"""Tasks for language models: problems, prompts, rewards in TRL's signature, and verifiers that execute nothing."""

from infimum.language.tasks.answers import boxed, tagged, text_of
from infimum.language.tasks.arithmetic import evaluate_expression, numbers_in, solutions
from infimum.language.tasks.countdown import countdown, countdown_correct, countdown_reward
from infimum.language.tasks.gsm8k import (
    correctness_reward,
    gsm8k,
    gsm8k_correct,
    gsm8k_reward,
    integer_reward,
    soft_format_reward,
    strict_format_reward,
    tag_count_reward,
)
from infimum.language.tasks.mathematics import (
    mathematics,
    mathematics_correct,
    mathematics_correctness_reward,
    mathematics_format_reward,
    mathematics_reward,
    same_answer,
)
from infimum.language.tasks.prompts import EVALUATION_PROMPT, REASONING_PROMPT, problems
from infimum.language.tasks.sudoku import (
    cell_accuracy,
    completions_of,
    grids,
    inpainting,
    is_grid,
    puzzles,
    sudoku_reward,
    valid_grids,
)

__all__ = [
    "EVALUATION_PROMPT",
    "REASONING_PROMPT",
    "boxed",
    "cell_accuracy",
    "completions_of",
    "correctness_reward",
    "countdown",
    "countdown_correct",
    "countdown_reward",
    "evaluate_expression",
    "grids",
    "gsm8k",
    "gsm8k_correct",
    "gsm8k_reward",
    "inpainting",
    "integer_reward",
    "is_grid",
    "mathematics",
    "mathematics_correct",
    "mathematics_correctness_reward",
    "mathematics_format_reward",
    "mathematics_reward",
    "numbers_in",
    "problems",
    "puzzles",
    "same_answer",
    "soft_format_reward",
    "solutions",
    "strict_format_reward",
    "sudoku_reward",
    "tag_count_reward",
    "tagged",
    "text_of",
    "valid_grids",
]
