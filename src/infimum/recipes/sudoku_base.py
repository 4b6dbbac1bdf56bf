"""What the recipes of alignment share: 4 x 4 Sudoku as inpainting, a base model, and policies trained from it, over seeds."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from infimum.alignment import Objective, PolicyLearner, Rollouts, Sampling
from infimum.data.spec import DataSpec
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, SequenceLearner, fill
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.language import ScaleRewards
from infimum.language.lora import add_lora
from infimum.language.tasks import inpainting, puzzles, valid_grids
from infimum.recipes.base import Metrics, Recipe
from infimum.recipes.diffusion_base import interval
from infimum.recipes.iwae import paired
from infimum.training import Run, train
from infimum.training.files import read_json

GPU: dict[str, Any] = {
    "seeds": 3, "steps": 1000, "network": "transformer", "width": 1024, "blocks": 16, "heads": 16, "lora": 128, "base_steps": 1500,
    "base_lr": 2e-4, "lr": 3e-5, "batch": 64,
}  # fmt: skip
"""LoRA on a transformer of LLaDA's shape, 200 million parameters."""

PAPER = GPU | {"lr": 3e-6, "lora": 128}
"""The papers' optimizer and adapters on that transformer: LLaDA-8B itself is no recipe."""

GRIDS: dict[str, Any] = json.loads(DataSpec("sudoku", "integer", (16,), 4).to_json())
"""What a checkpoint says of its data: 16 cells of 4 digits, 0 to 3."""

__all__ = ["GPU", "GRIDS", "PAPER", "SudokuRecipe", "puzzle_config", "solved", "sudoku_base", "sudoku_prompts"]


def sudoku_prompts(n: int, blanks: int, *, held_out: bool, seed: int) -> dict[str, Tensor]:
    """Puzzles as canvases: "tokens" (n, 16) with the solution, "target" at the blanks. They need not be unique."""
    return inpainting(puzzles(n, blanks=(blanks, blanks), held_out=held_out, unique=False, seed=seed))


def sudoku_base(
    run: Run, config: MaskedDiffusionConfig | None = None, *, steps: int, lr: float = 2e-3, batch: int = 128
) -> MaskedDiffusion | None:
    """A mask predictor trained on the 200 grids for training; None: interrupted. By default two hidden layers of 256."""
    torch.manual_seed(run.seed)
    model = MaskedDiffusion(config or puzzle_config("mlp", 256, 2, 4)).to(run.device)
    rows = puzzles(4000, blanks=(16, 16), unique=False, seed=run.seed)
    grids = torch.unique(inpainting(rows)["tokens"], dim=0).to(run.device)
    learner = SequenceLearner(model, grids, batch=batch, lr=lr, clip=None, seed=run.seed)
    result = train(learner, steps=steps, run=run, every=max(1, steps), data=GRIDS)
    return None if result.interrupted else model.eval()


def puzzle_config(network: Literal["mlp", "transformer"], width: int, blocks: int, heads: int) -> MaskedDiffusionConfig:
    """A mask predictor of 16 cells with 4 digits."""
    return MaskedDiffusionConfig(
        4, length=16, characters="1234", network=network, width=width, blocks=blocks, heads=heads
    )


@torch.no_grad()
def solved(
    model: MaskedDiffusion, prompts: Mapping[str, Tensor], sampling: Sampling, *, seed: int = 0
) -> Bool[Tensor, "N"]:
    """Which puzzles end as a valid grid, whatever their own solution."""
    device = next(model.parameters()).device
    draws = Plan.iid(1).draws(torch.arange(len(prompts["tokens"]), device=device), seed=seed, salt="eval")
    x = {name: each.to(device) for name, each in prompts.items()}
    return valid_grids(fill(model, x, draws, **sampling.options()).tokens[0])


def reward(rollouts: Rollouts) -> Tensor:
    """1 for a valid grid."""
    return valid_grids(rollouts.tokens).double()


@dataclass(frozen=True)
class SudokuRecipe(Recipe):
    """Flags of every recipe that trains policies on 4 x 4 Sudoku."""

    seeds: int = 3
    """trainings of each method, from --seed on, all from one base model"""
    steps: int = 500
    """batches of completions (paper, Sudoku: 2,500)"""
    network: Literal["mlp", "transformer"] = "mlp"
    """of the base model: fully connected, or LLaDA's transformer"""
    width: int = 256
    """of its hidden layers, or of the transformer (LLaDA-8B: 4,096)"""
    blocks: int = 2
    """hidden layers, or blocks of the transformer (LLaDA-8B: 32)"""
    heads: int = 4
    """of the transformer's attention (LLaDA-8B: 32)"""
    lora: int = 0
    """rank of low-rank adapters, which alone are trained then; 0: all weights (paper: 128)"""
    base_steps: int = 120
    """optimizer steps of the base model"""
    base_lr: float = 2e-3
    """learning rate of the base model"""
    batch: int = 16
    """puzzles a step"""
    num_generations: int = 6
    """completions of each (paper: 6)"""
    num_iterations: int = 4
    """updates for each batch of completions (paper: 4 to 12)"""
    lr: float = 1e-4
    """learning rate of AdamW (paper: 3e-6, LoRA)"""
    clip: float = 0.2
    """largest gradient norm (paper: 0.2)"""
    temperature: float = 1.0
    """of the completions (paper, Sudoku: 0.3)"""
    cells: int = 2
    """cells written a network call (paper: 2 tokens)"""
    blanks: int = 10
    """blank cells of a puzzle, of 16"""
    items: int = 512
    """held-out puzzles, of solutions that training never sees"""
    every: int = 50
    """steps between evaluations"""
    delta: float = 0.05
    """probability that an interval fails"""

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        super().check()
        for name in ("seeds", "base_steps", "items", "cells", "num_iterations", "width", "blocks", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected at least 1")
        if not 1 <= self.blanks <= 16 or self.blanks % self.cells:
            raise UserError(f"--blanks is {self.blanks}, expected 1 to 16, and a multiple of --cells {self.cells}")
        if self.num_generations < 2:
            raise UserError(f"--num-generations is {self.num_generations}, expected at least 2")
        if self.temperature <= 0:
            raise UserError(f"--temperature is {self.temperature}, expected a positive number")
        if self.lora < 0:
            raise UserError(f"--lora is {self.lora}, expected a rank, or 0 for none")
        if self.network == "transformer" and self.width % (2 * self.heads):
            raise UserError(f"--width {self.width} does not divide into {self.heads} heads of even size")
        self.methods()

    def methods(self) -> dict[str, Objective]:
        """What is trained, by name."""
        raise NotImplementedError

    @property
    def scaling(self) -> ScaleRewards:
        """How advantages are scaled."""
        return "none"

    def sampling(self, temperature: float) -> Sampling:
        """The most confident cells first."""
        return Sampling(steps=self.blanks // self.cells, temperature=temperature, rows=4096)

    def run(self, run: Run) -> Metrics:
        """Train the base, then every method from every seed."""
        base = self.base(run)
        if base is None:
            return {"interrupted": True}
        test = sudoku_prompts(self.items, self.blanks, held_out=True, seed=0)
        metrics: Metrics = {"base": self.measure(base, test), "methods": {}}
        for name, method in self.methods().items():
            for seed in range(run.seed, run.seed + self.seeds):
                one = self.policy(run, base, test, name, method, seed)
                if one is None:
                    return {"interrupted": True}
                metrics["methods"].setdefault(name, []).append(one)
        metrics |= self.more(run, base, test)
        if run.writes:
            self.show(run, metrics)
        return metrics

    def more(self, run: Run, base: MaskedDiffusion, test: dict[str, Tensor]) -> Metrics:
        """What else a recipe measures."""
        return {}

    def base(self, run: Run) -> MaskedDiffusion | None:
        """The model that all policies start from."""
        child = child_of(run, "base", run.seed)
        config = puzzle_config(self.network, self.width, self.blocks, self.heads)
        model = sudoku_base(child, config, steps=self.base_steps, lr=self.base_lr)
        if model is not None:
            child.finish({})
        return model

    def policy(
        self, run: Run, base: MaskedDiffusion, test: dict[str, Tensor], name: str, method: Objective, seed: int
    ) -> Metrics | None:
        """One training; its last measures, its curve, and what it cost."""
        child = child_of(run, f"{slug(name)}-{seed}", seed)
        if run.resume and (child.path / "result.json").exists():
            told: Metrics = read_json(child.path / "result.json")
            return told | {"curve": [tuple(point) for point in told["curve"]]}
        model = copy.deepcopy(base)
        if self.lora:
            add_lora(model.network, r=self.lora, alpha=max(1, self.lora // 2), dropout=0.0, seed=seed)
        learner = PolicyLearner(
            model, sudoku_prompts(4000, self.blanks, held_out=False, seed=seed), reward, method, batch=self.batch,
            num_generations=self.num_generations, sampling=self.sampling(self.temperature), scale_rewards=self.scaling,
            lr=self.lr, decay=0.0, clip=self.clip, rows=4096, seed=seed,
        )  # fmt: skip
        result = train(
            learner, steps=self.steps, run=child, every=self.steps, validate_every=self.every, data=GRIDS,
            validate=lambda: float(solved(model, test, self.sampling(0.0)).double().mean()),
        )  # fmt: skip
        if result.interrupted:
            return None
        metrics = self.measure(model.eval(), test) | {
            "curve": curve(child.path / "metrics.jsonl"), "steps_per_second": result.rate,
            "calls": sum(row["calls"] for row in rows_of(child.path / "metrics.jsonl")),
        }  # fmt: skip
        child.finish(metrics)
        return metrics

    def measure(self, model: MaskedDiffusion, test: dict[str, Tensor]) -> Metrics:
        """Shares of held-out puzzles that end as a valid grid."""
        return {
            "greedy": float(solved(model, test, self.sampling(0.0)).double().mean()),
            "sampled": float(solved(model, test, self.sampling(1.0)).double().mean()),
        }

    def show(self, run: Run, metrics: Metrics) -> None:
        """What the command prints, and the figure."""
        base = metrics["base"]
        print(
            f"\nheld-out puzzles that end as a valid grid, {self.blanks} blanks, {self.cells} cells a call, {self.items} puzzles, "
            f"{self.seeds} seeds"
        )
        print(f"  base: greedy {base['greedy']:.3f}, sampled {base['sampled']:.3f}")
        names = list(metrics["methods"])
        for name in names:
            each = metrics["methods"][name]
            mean = {k: sum(m[k] for m in each) / len(each) for k in ("greedy", "sampled", "steps_per_second", "calls")}
            gain = paired([m["greedy"] for m in each], [base["greedy"]] * len(each), self.delta)
            print(
                f"  {name}: greedy {mean['greedy']:.3f}, sampled {mean['sampled']:.3f}; over the base {interval(gain)}; "
                f"{mean['calls'] / 1000:.0f}k canvases, {mean['steps_per_second']:.1f} steps/s"
            )
        for name in names[1:]:
            first, other = ([m["greedy"] for m in metrics["methods"][n]] for n in (names[0], name))
            print(f"  {name} less {names[0]}: {interval(paired(other, first, self.delta))}")
        from infimum.report.learning_curves import learning_curves

        learning_curves(
            {name: [m["curve"] for m in each] for name, each in metrics["methods"].items()}, run.figures / "learning-curves.png",
            start=base["greedy"], title="held-out puzzles solved, greedy", delta=self.delta,
        )  # fmt: skip


def child_of(run: Run, name: str, seed: int) -> Run:
    """A run inside of a run."""
    return Run(
        run.path / name, seed=seed, device=str(run.device), precision=run.precision, resume=run.resume, quiet=run.quiet,
        config=run.config,
    )  # fmt: skip


def curve(metrics: Path) -> list[tuple[int, float]]:
    """Step and validation of every evaluation."""
    return [(row["step"], row["validation"]) for row in rows_of(metrics) if "validation" in row]


def rows_of(metrics: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``."""
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def slug(name: str) -> str:
    """A folder's name."""
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-").replace("--", "-")
