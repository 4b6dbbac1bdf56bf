"""Recipe: preference optimisation with ELBOs of little variance, on pairs of valid and invalid Sudoku grids."""

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from infimum.alignment import VRPO, PreferenceLearner, Sampling, pairs_of, preference_score, score_variances
from infimum.discrete import MaskedDiffusion, fill
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.language.tasks import valid_grids
from infimum.recipes.base import Metrics, Recipe
from infimum.recipes.diffusion_base import interval
from infimum.recipes.iwae import paired
from infimum.recipes.sudoku_base import GRIDS, child_of, slug, solved, sudoku_base, sudoku_prompts
from infimum.training import Run, cosine, train

__all__ = ["VrpoRecipe", "preference_pairs"]

SPENDINGS = ((8, 1, True), (4, 1, True), (2, 2, True), (1, 4, True), (1, 1, True), (4, 1, False), (1, 1, False))
Pairs = dict[str, Tensor]


def preference_pairs(base: MaskedDiffusion, n: int, blanks: int, *, held_out: bool, seed: int) -> Pairs:
    """For each of ``n`` puzzles a valid completion, chosen, and an invalid one that the base model has written, rejected."""
    chosen: list[Tensor] = []
    device = next(base.parameters()).device
    rejected: list[Tensor] = []
    targets: list[Tensor] = []
    for attempt in range(100):
        x = sudoku_prompts(max(64, 2 * n), blanks, held_out=held_out, seed=1000 * seed + attempt)
        x = {name: each.to(device) for name, each in x.items()}
        draws = Plan.iid(1).draws(torch.arange(len(x["tokens"]), device=device), seed=seed, salt=f"pairs/{attempt}")
        written = fill(base, x, draws, rows=4096).tokens[0]
        wrong = ~valid_grids(written)
        chosen.append(x["tokens"][wrong])
        rejected.append(written[wrong])
        targets.append(x["target"][wrong])
        if sum(map(len, chosen)) >= n:
            break
    else:
        raise UserError(f"the base model writes too few invalid grids for {n} pairs: take fewer --base-steps")
    target = torch.cat(targets)[:n]
    return pairs_of(
        {"tokens": torch.cat(chosen)[:n], "target": target}, {"tokens": torch.cat(rejected)[:n], "target": target}
    )


@dataclass(frozen=True)
class VrpoRecipe(Recipe):
    """Variance-reduced preference optimisation (LLaDA 1.5, arXiv 2505.19223): valid Sudoku grids before invalid ones."""

    seeds: int = 3
    """trainings of each way to spend network calls, from --seed on, all from one base model"""
    steps: int = 300
    """batches of pairs (paper: 5,500)"""
    base_steps: int = 120
    """optimizer steps of the base model, which is the reference too"""
    pairs: int = 4000
    """preference pairs for training (paper: 350,000)"""
    batch: int = 64
    """pairs a step (paper: 64)"""
    lr: float = 1e-5
    """learning rate of AdamW, along a cosine (paper: 5e-7)"""
    beta: float = 0.2
    """strength (paper: 0.2)"""
    n_t: int = 8
    """network calls a likelihood (paper: 8)"""
    sft_weight: float = 0.05
    """of the masked diffusion loss of the chosen grid (paper: 0.05)"""
    blanks: int = 10
    """blank cells of a puzzle, of 16"""
    items: int = 512
    """held-out puzzles and pairs, of solutions that training never sees"""
    report_pairs: int = 128
    """pairs of the table of variances (paper: 128)"""
    repeats: int = 64
    """repetitions of each score in it (paper: 8)"""
    delta: float = 0.05
    """probability that an interval fails"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {"seeds": 10, "steps": 5000, "pairs": 40_000},
        "paper": {"steps": 5500, "pairs": 350_000, "lr": 5e-7},
    }

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        super().check()
        for name in ("seeds", "base_steps", "pairs", "n_t", "items", "report_pairs"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected at least 1")
        if not 1 <= self.blanks <= 16:
            raise UserError(f"--blanks is {self.blanks}, expected 1 to 16")
        if self.repeats < 2:
            raise UserError(f"--repeats is {self.repeats}, expected at least 2: a variance needs them")
        VRPO(beta=self.beta, n_t=self.n_t, sft_weight=self.sft_weight)

    def methods(self) -> dict[str, VRPO]:
        """VRPO; a call a likelihood; and that without sharing, which is plain DPO by ELBOs."""
        import warnings

        options: dict[str, Any] = {"beta": self.beta, "sft_weight": self.sft_weight}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {
                f"{self.n_t} masks, shared": VRPO(n_t=self.n_t, **options),
                "1 mask, shared": VRPO(n_t=1, **options),
                "1 mask, not shared": VRPO(n_t=1, share_noise=False, **options),
            }

    def run(self, run: Run) -> Metrics:
        """Train the base, make pairs with it, train every method from every seed, and measure the scores."""
        base = sudoku_base(child_of(run, "base", run.seed), steps=self.base_steps)
        if base is None:
            return {"interrupted": True}
        train_pairs = preference_pairs(base, self.pairs, self.blanks, held_out=False, seed=run.seed)
        test_pairs = preference_pairs(base, self.items, self.blanks, held_out=True, seed=run.seed)
        test = sudoku_prompts(self.items, self.blanks, held_out=True, seed=0)
        metrics: Metrics = {"base": self._measure(base, base, test, test_pairs), "methods": {}}
        first: MaskedDiffusion | None = None
        for name, method in self.methods().items():
            for seed in range(run.seed, run.seed + self.seeds):
                model = copy.deepcopy(base)
                child = child_of(run, f"{slug(name)}-{seed}", seed)
                learner = PreferenceLearner(
                    model, train_pairs, base, method, batch=self.batch, lr=self.lr, rows=4096, seed=seed
                )
                result = train(
                    learner, steps=self.steps, run=child, every=self.steps,
                    schedule=cosine(self.steps, warmup=min(15, self.steps)), data=GRIDS,
                )  # fmt: skip
                if result.interrupted:
                    return {"interrupted": True}
                one = self._measure(model.eval(), base, test, test_pairs) | {
                    "first_loss": _first_loss(child), "steps_per_second": result.rate,
                }  # fmt: skip
                child.finish(one)
                metrics["methods"].setdefault(name, []).append(one)
                first = first or model
        assert first is not None
        some = {name: each[: self.report_pairs] for name, each in test_pairs.items()}
        rows = score_variances(first, base, some, beta=self.beta, spendings=SPENDINGS, repeats=self.repeats)
        metrics["variances"] = [vars(row) for row in rows]
        if run.writes:
            self._show(run, metrics)
        return metrics

    def _measure(self, model: MaskedDiffusion, base: MaskedDiffusion, test: dict[str, Tensor], pairs: Pairs) -> Metrics:
        keys = torch.arange(len(pairs["chosen/tokens"]), device=pairs["chosen/tokens"].device)
        score = preference_score(model, base, pairs, Plan.stratified(16).draws(keys, seed=1, salt="eval"), rows=8192)
        chosen, rejected = (score.share[..., None] * score.policy.double()).sum(0).unbind(-1)
        sampling: dict[str, Any] = {"steps": max(1, self.blanks // 2), "rows": 4096}
        return {
            "accuracy": float((score.margin > 0).double().mean()), "higher": float((chosen > rejected).double().mean()),
            "margin": float(score.margin.mean()),
            "greedy": float(solved(model, test, Sampling(temperature=0.0, **sampling)).double().mean()),
            "sampled": float(solved(model, test, Sampling(temperature=1.0, **sampling)).double().mean()),
        }  # fmt: skip

    def _show(self, run: Run, metrics: Metrics) -> None:
        base = metrics["base"]
        print(
            f"\n{self.items} held-out pairs and puzzles of {self.blanks} blanks, {self.seeds} seeds; ELBO of the valid grid "
            f"above that "
            "of the invalid one, and puzzles solved"
        )
        print(f"  base: {base['higher']:.3f} of pairs; greedy {base['greedy']:.3f}, sampled {base['sampled']:.3f}")
        names = list(metrics["methods"])
        for name in names:
            each = metrics["methods"][name]
            keys = ("higher", "accuracy", "margin", "greedy", "sampled", "first_loss", "steps_per_second")
            mean = {k: sum(m[k] for m in each) / len(each) for k in keys}
            print(
                f"  {name}: {mean['higher']:.3f} of pairs (less the base's: {mean['accuracy']:.3f}, margin "
                f"{mean['margin']:.2f} nats); "
                f"greedy {mean['greedy']:.3f}, sampled {mean['sampled']:.3f}; loss of the first step {mean['first_loss']:.4f}; "
                f"{mean['steps_per_second']:.1f} steps/s"
            )
        for name in names[1:]:
            one, other = ([m["greedy"] for m in metrics["methods"][n]] for n in (name, names[0]))
            print(f"  greedy, {name} less {names[0]}: {interval(paired(one, other, self.delta))}")
        print(
            f"variance of s over {self.repeats} repetitions, mean over {self.report_pairs} pairs, nats squared; and of the loss"
        )
        for row in metrics["variances"]:
            print(
                f"  n_t {row['n_t']}, n_y {row['n_y']}, {'shared' if row['shared'] else 'not shared'}: {row['score']:.4g} ± "
                f"{row['score_stderr']:.2g}; {row['loss']:.3g}"
            )
        from infimum.report.dots import dots

        dots({name: {k: [m[k] for m in each] for k in ("higher", "greedy")} for name, each in metrics["methods"].items()},
             {"higher": "valid above invalid, ELBO", "greedy": "puzzles solved, greedy"}, run.figures / "vrpo.png")  # fmt: skip


def _first_loss(run: Run) -> float:
    import json

    line = (run.path / "metrics.jsonl").read_text().splitlines()[0]
    return float(json.loads(line).get("loss/preference", math.nan))
