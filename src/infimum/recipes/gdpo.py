"""Recipe: likelihoods by quadrature in policy optimisation, on 4 x 4 Sudoku, and what quadrature is worth."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from infimum.alignment import DiffuGRPO, GroupDiffusionPO, Objective, Reinforce, estimator_report
from infimum.discrete import MaskedDiffusion
from infimum.discrete.exact import LONGEST
from infimum.recipes.base import Metrics
from infimum.recipes.sudoku_base import GPU, PAPER, SudokuRecipe
from infimum.training import Run

__all__ = ["GdpoRecipe"]

Name = Literal["gauss", "mc", "elbo", "mean-field"]


@dataclass(frozen=True)
class GdpoRecipe(SudokuRecipe):
    """Group diffusion policy optimisation (arXiv 2510.08554) on 4 x 4 Sudoku, beside random times, REINFORCE and diffu-GRPO."""

    compared: tuple[Name, ...] = ("gauss", "mc", "elbo", "mean-field")
    """quadrature, random times in its place, REINFORCE with the ELBO, one network call; the first one is compared with"""
    points: int = 3
    """levels of masks, a network call each (paper: 3)"""
    epsilon: float = 0.5
    """clip of the ratio (port: 0.5)"""
    ratio_norm: Literal["length", "max_length", "none"] = "length"
    """what log-ratios are divided by (port: length; formula of the paper: none)"""
    mask: Literal["bernoulli", "count_corrected", "count_official"] = "count_corrected"
    """masks at a level (published code: count_official)"""
    repeats: int = 400
    """evaluations of each surrogate on the base model, for up to 14 blanks; 0: leave the table out"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": GPU,
        "paper": PAPER | {"steps": 3500, "num_iterations": 12, "temperature": 0.9, "lr": 3e-7},
    }

    def methods(self) -> dict[str, Objective]:
        """By how the likelihood is estimated."""
        options: dict[str, Any] = {
            "points": self.points, "epsilon": self.epsilon, "ratio_norm": self.ratio_norm, "num_iterations": self.num_iterations,
        }  # fmt: skip
        makers: dict[str, tuple[str, Any]] = {
            "gauss": (f"GDPO, Gauss-{self.points}", lambda: GroupDiffusionPO(mask=self.mask, **options)),
            "mc": (
                f"{self.points} random times",
                lambda: GroupDiffusionPO(rule="mc", mask="count_corrected", **options),
            ),
            "elbo": ("ELBO, REINFORCE", lambda: Reinforce(num_masks=self.points, num_iterations=self.num_iterations)),
            "mean-field": ("diffu-GRPO", lambda: DiffuGRPO(perturb=0.0, num_iterations=self.num_iterations)),
        }
        return {makers[name][0]: makers[name][1]() for name in self.compared}

    def more(self, run: Run, base: MaskedDiffusion, test: dict[str, Tensor]) -> Metrics:
        """Surrogates of the base model beside its exact likelihood."""
        if not self.repeats or self.blanks > LONGEST:
            return {}
        x = {name: each[:16].to(run.device) for name, each in test.items()}
        rows = estimator_report(base, x, calls=4, repeats=self.repeats, seed=run.seed)
        return {"estimators": {name: vars(row) for name, row in rows.items()}}

    def show(self, run: Run, metrics: Metrics) -> None:
        """The methods, and the table."""
        super().show(run, metrics)
        if "estimators" in metrics:
            print(
                f"base model, 16 held-out puzzles of {self.blanks} blanks, 4 network calls; nats (mean field: 1 call)"
            )
            for name, row in metrics["estimators"].items():
                print(
                    f"  {name}: less log p {row['bias']:+.3f}, less ELBO {row['elbo_bias']:+.3f} ± {row['bias_stderr']:.3f}, "
                    f"variance "
                    f"{row['variance']:.3f}, mean square error about the ELBO {row['mse']:.3f}"
                )
