"""Recipe: many masks in the memory of one, on 4 x 4 Sudoku: the boundary beside the ratio itself."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from infimum.alignment import BGPO, Objective, memory_report
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig
from infimum.errors import UserError
from infimum.language import ScaleRewards
from infimum.recipes.base import Metrics
from infimum.recipes.sudoku_base import GPU, SudokuRecipe
from infimum.training import Run

__all__ = ["BgpoRecipe"]


@dataclass(frozen=True)
class BgpoRecipe(SudokuRecipe):
    """Boundary-guided policy optimisation (arXiv 2510.11683) on 4 x 4 Sudoku, for several numbers of masks, and its memory."""

    n_t: tuple[int, ...] = (4, 1, 16)
    """masks a completion, one training each (paper: 16, Sudoku 32); the first one is compared with"""
    ratio: bool = True
    """also train by the ratio of ELBOs itself, in two passes, with the first number of masks (the paper's VRPO-OL)"""
    scale_rewards: bool = False
    """divide advantages by their group's standard deviation (paper: yes)"""
    memory_ks: tuple[int, ...] = (1, 4, 16, 64)
    """masks for which memory is measured"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": GPU | {"n_t": (16, 1, 32)},
        "paper": GPU
        | {
            "n_t": (32,),
            "temperature": 0.6,
            "scale_rewards": True,
            "num_generations": 8,
            "num_iterations": 1,
            "lr": 5e-7,
            "lora": 0,
        },
    }

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        if not self.n_t or min((*self.n_t, *self.memory_ks)) < 1:
            raise UserError(f"--n-t is {self.n_t} and --memory-ks {self.memory_ks}, expected positive numbers")
        super().check()

    @property
    def scaling(self) -> ScaleRewards:
        """As the flag says."""
        return "group" if self.scale_rewards else "none"

    def methods(self) -> dict[str, Objective]:
        """By the number of masks."""
        found: dict[str, Objective] = {
            f"BGPO, {n} masks": BGPO(n_t=n, num_iterations=self.num_iterations) for n in self.n_t
        }
        if self.ratio:
            found[f"ratio of ELBOs, {self.n_t[0]} masks"] = BGPO(
                n_t=self.n_t[0], engine="two_pass", num_iterations=self.num_iterations
            )
        return found

    def more(self, run: Run, base: MaskedDiffusion, test: dict[str, Tensor]) -> Metrics:
        """Bytes that autograd keeps for the gradient of two completions of 64 tokens under a transformer of three blocks."""
        torch.manual_seed(run.seed)
        model = MaskedDiffusion(MaskedDiffusionConfig(64, width=64, blocks=3)).eval()
        x = torch.randint(0, 64, (2, 64))
        return {
            "memory": {
                engine: memory_report(
                    model, x, {str(k): BGPO(n_t=k, engine=engine) for k in self.memory_ks}, rows=2, masks=256
                )
                for engine in ("bgpo", "two_pass", "graph")
            }
        }  # fmt: skip

    def show(self, run: Run, metrics: Metrics) -> None:
        """The methods, and the memory."""
        super().show(run, metrics)
        print("MB that autograd keeps, two completions of 64 tokens, three blocks of width 64, by masks a completion")
        for engine, row in metrics["memory"].items():
            print(f"  {engine}: " + ", ".join(f"{k}: {size / 1e6:.2f}" for k, size in row.items()))
