"""Alignment: every method on 4 x 4 Sudoku over seeds, surrogates beside the exact likelihood, memory by the number of masks."""

import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common import HERE, RESULTS, difference, options, save
from infimum.alignment import (
    BGPO,
    ESPO,
    SPG,
    DiffuGRPO,
    GroupDiffusionPO,
    Objective,
    Reinforce,
    estimator_report,
    memory_report,
    pairs_of,
    score_variances,
)
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, exact_elbo, exact_log_likelihood
from infimum.recipes.sudoku_base import SudokuRecipe, sudoku_prompts
from infimum.recipes.tiny_world import every_sequence, markov_sequences, tiny_world
from infimum.report.learning_curves import curve_panels
from infimum.training import Run

SEEDS = 10
MASKS = (1, 2, 4, 8, 16, 32, 64)
GOAL = 1.05
FIGURE = HERE.parent / "docs" / "figures" / "alignment.png"


@dataclass(frozen=True)
class Everything(SudokuRecipe):
    """All methods from one base model."""

    def methods(self) -> dict[str, Objective]:
        mu: dict[str, Any] = {"num_iterations": self.num_iterations}
        return {
            "ELBO, REINFORCE": Reinforce(**mu),
            "no negatives": SPG(negative="zero", masking="random", **mu),
            "SPG-Mix": SPG(masking="random", **mu),
            "SPG-EUBO": SPG(negative="eubo", masking="random", **mu),
            "GDPO, Gauss-3": GroupDiffusionPO(**mu),
            "BGPO, 4 masks": BGPO(n_t=4, **mu),
            "ratio of ELBOs (VRPO-OL), 4 masks": BGPO(n_t=4, engine="two_pass", **mu),
            "ESPO, a pair": ESPO(**mu),
            "diffu-GRPO": DiffuGRPO(perturb=0.0, **mu),
            "one step, REINFORCE": Reinforce(one_step=True, **mu),
        }


def sudoku(args: Any, folder: Path) -> dict[str, Any]:
    """Held-out puzzles solved, with what it cost."""
    recipe = Everything(seeds=2, steps=3, every=3, base_steps=5, items=32) if args.quick else Everything(seeds=SEEDS)
    run = Run(folder / "sudoku", quiet=True, config={})
    base = recipe.base(run)
    assert base is not None
    test = sudoku_prompts(recipe.items, recipe.blanks, held_out=True, seed=0)
    found: dict[str, Any] = {
        "base": recipe.measure(base, test),
        "rows": {},
        "seeds": recipe.seeds,
        "steps": recipe.steps,
    }
    greedy: dict[str, list[float]] = {}
    curves: dict[str, list[list[tuple[int, float]]]] = {}
    for name, method in recipe.methods().items():
        rows, seconds = [], []
        for seed in range(recipe.seeds):
            start = time.perf_counter()
            one = recipe.policy(run, base, test, name, method, seed)
            assert one is not None
            seconds.append(time.perf_counter() - start)
            rows.append(one)
        greedy[name] = [row["greedy"] for row in rows]
        curves[name] = [row["curve"] for row in rows]
        first = greedy["ELBO, REINFORCE"]
        found["rows"][name] = {
            "greedy": greedy[name], "sampled": statistics.fmean(row["sampled"] for row in rows),
            "gain": difference(greedy[name], [found["base"]["greedy"]] * recipe.seeds),
            "less": None if name == "ELBO, REINFORCE" else difference(greedy[name], first),
            "above": sum(a > b for a, b in zip(greedy[name], first, strict=True)),
            "curve": curve([row["curve"] for row in rows]),
            "seconds": statistics.fmean(seconds), "calls": statistics.fmean(row["calls"] for row in rows),
        }  # fmt: skip
    figure = FIGURE if args.out is None and not args.quick else folder / FIGURE.name
    curve_panels(
        curves, figure, title=f"held-out puzzles solved, greedy, {recipe.seeds} seeds", beside="ELBO, REINFORCE",
        start=found["base"]["greedy"],
    )  # fmt: skip
    return found


def curve(seeds: list[list[tuple[int, float]]]) -> list[list[float]]:
    """Step, mean over seeds, and the ends of its 95% t interval."""
    rows = []
    for points in zip(*seeds, strict=True):
        one = difference([value for _, value in points], [0.0] * len(points))
        rows.append([points[0][0], one["mean"], one["low"], one["high"]])
    return rows


def estimators(args: Any, folder: Path) -> dict[str, Any]:
    """The tiny world: nothing is hidden."""
    steps, repeats = (30, 20) if args.quick else (1500, 4000)
    model = tiny_world(Run(folder / "tiny", quiet=True, config={}), steps=steps)
    assert model is not None
    everything = every_sequence()
    with torch.no_grad():
        log_p, bound = exact_log_likelihood(model, everything).value, exact_elbo(model, everything).value
    p = log_p.exp()
    x = markov_sequences(32, seed=9)
    rows = estimator_report(model, x, calls=4, repeats=repeats, block_length=3)
    chosen, rejected = {"tokens": markov_sequences(128, seed=10)}, {"tokens": torch.randint(0, 3, (128, 6))}
    other = MaskedDiffusion(model.config)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.manual_seed(0)
        for weight in other.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    spendings = ((8, 1, True), (4, 1, True), (2, 2, True), (1, 4, True), (1, 1, True), (1, 1, False))
    scores = score_variances(
        other.eval(), model, pairs_of(chosen, rejected), spendings=spendings, repeats=4 if args.quick else 200
    )
    return {
        "sum": float(p.sum()), "log p": float((p * log_p).sum()), "gap": float((p * (log_p - bound)).sum()),
        "rows": {name: vars(row) for name, row in rows.items()}, "calls": 4, "sequences": len(x),
        "scores": [vars(row) for row in scores],
    }  # fmt: skip


def memory(args: Any, folder: Path) -> dict[str, Any]:
    """Bytes that autograd keeps at most over as many masks for every number of them, and seconds of a gradient."""
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(1024, width=64, blocks=3)).eval()
    x, ks = torch.randint(0, 1024, (2, 64)), MASKS[:3] if args.quick else MASKS
    found: dict[str, Any] = {"goal": GOAL, "ks": list(ks), "rows": {}, "seconds": {}}
    for engine in ("bgpo", "two_pass", "graph"):
        methods = {str(k): BGPO(n_t=k, engine=engine) for k in ks}
        found["rows"][engine] = memory_report(model, x, methods, rows=2, masks=4 * max(ks))
        found["seconds"][engine] = {}
        for name, method in methods.items():
            start = time.perf_counter()
            for _ in range(3):
                memory_report(model, x, {name: method}, rows=2)
            found["seconds"][engine][name] = (time.perf_counter() - start) / 3
    return found


def main() -> None:
    """Measure and write."""
    args = options(__doc__ or "", only={"nargs": "*", "default": ["memory", "estimators", "sudoku"],
                                        "help": "parts to measure; the others stay as they were"})  # fmt: skip
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    before = (args.out or RESULTS) / "alignment.json"
    parts = json.loads(before.read_text()) if len(args.only) < 3 and before.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in {"memory": memory, "estimators": estimators, "sudoku": sudoku}.items():
            if name in args.only:
                parts[name] = measure(args, Path(folder))
    save("alignment", args, parts)


if __name__ == "__main__":
    main()
