"""Recipe: sandwiched policy gradient on 4 x 4 Sudoku, with and without its upper surrogate for bad completions."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from infimum.alignment import SPG, Objective, exact_table, sandwich
from infimum.alignment.table import LONGEST
from infimum.discrete import MaskedDiffusion, canvas_of, exact_log_likelihood
from infimum.recipes.base import Metrics
from infimum.recipes.sudoku_base import GPU, PAPER, SudokuRecipe
from infimum.training import Run

__all__ = ["SpgRecipe"]

Negative = Literal["zero", "elbo", "mix", "eubo"]
NAMES: dict[Negative, str] = {"zero": "no negatives", "elbo": "ELBO", "mix": "SPG-Mix", "eubo": "SPG-EUBO"}


@dataclass(frozen=True)
class SpgRecipe(SudokuRecipe):
    """Sandwiched policy gradient (arXiv 2510.09541) on 4 x 4 Sudoku: what stands for log pi of completions with negative
    advantage.
    """

    negatives: tuple[Negative, ...] = ("elbo", "mix", "eubo", "zero")
    """what is lowered where the advantage is negative; the first one is compared with"""
    eubo_beta: float = 1.5
    """Renyi order of the upper surrogate (paper: 1.5, Sudoku 1.0)"""
    mix_weight: float = 0.5
    """of the surrogate in the mixture (paper: 0.5)"""
    num_masks: int = 2
    """masks a completion and update (paper: 2)"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": GPU,
        "paper": PAPER | {"steps": 2500, "temperature": 0.3, "eubo_beta": 1.0},
    }

    def methods(self) -> dict[str, Objective]:
        """By what is lowered."""
        return {
            NAMES[each]: SPG(
                negative=each, eubo_beta=self.eubo_beta, mix_weight=self.mix_weight, num_masks=self.num_masks, masking="random",
                num_iterations=self.num_iterations,
            )
            for each in self.negatives
        }  # fmt: skip

    def more(self, run: Run, base: MaskedDiffusion, test: dict[str, Tensor]) -> Metrics:
        """Both sides of the base model on held-out puzzles, beside the exact log-likelihood: all masks of 10 tokens. None of more
        than 12, whose masks are too many.
        """
        if self.blanks > LONGEST:
            return {}
        x = {name: each[:32].to(run.device) for name, each in test.items()}
        s = canvas_of(x, base.config.vocabulary, base.config.mask)
        with torch.no_grad():
            exact = exact_log_likelihood(base, x).value
            table = exact_table(base, s)
            rows: Metrics = {}
            for beta in (1.0, 1.5, 2.0, float(self.blanks)):
                both = sandwich(table, beta)
                rows[f"{beta:g}"] = {
                    "above": float((both.eubo - exact).mean()),
                    "violations": float((both.eubo < exact).double().mean()),
                    "certified": both.certified,
                }
        below = float((exact - sandwich(table, 1.0).elbo).mean())
        return {"sandwich": {"exact": float(exact.mean()), "ELBO below": below, "EUBO": rows}}

    def show(self, run: Run, metrics: Metrics) -> None:
        """The methods, and the bounds."""
        super().show(run, metrics)
        if "sandwich" not in metrics:
            print(f"no sums over all masks of {self.blanks} blanks: they are carried out up to {LONGEST}")
            return
        both = metrics["sandwich"]
        print(
            f"base model, 32 held-out puzzles: log p {both['exact']:.3f} nats (exact), ELBO {both['ELBO below']:.3f} below; upper "
            "surrogate above by "
            + ", ".join(
                f"{row['above']:.3f} (order {beta}{', certified' if row['certified'] else ''}, below log p in "
                f"{row['violations']:.0%})"
                for beta, row in both["EUBO"].items()
            )
        )
