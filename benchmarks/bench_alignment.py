"""Alignment: every method on 4 x 4 Sudoku over seeds, surrogates beside the exact likelihood, memory by the number of masks."""

import copy
import json
import os
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import HERE, RESULTS, difference, options, save
from infimum.alignment import (
    BGPO,
    ESPO,
    SPG,
    VRPO,
    DiffuGRPO,
    GroupDiffusionPO,
    Objective,
    Reinforce,
    Surrogate,
    elbo_of,
    estimator_report,
    memory_report,
    objective_backward,
    pairs_of,
    preference_backward,
    score_variances,
    table_of,
)
from infimum.alignment.preference import canvases
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
    other = moved(model)
    spendings = ((8, 1, True), (4, 1, True), (2, 2, True), (1, 4, True), (1, 1, True), (1, 1, False))
    scores = score_variances(
        other, model, pairs_of(chosen, rejected), spendings=spendings, repeats=4 if args.quick else 200
    )
    return {
        "sum": float(p.sum()), "log p": float((p * log_p).sum()), "gap": float((p * (log_p - bound)).sum()),
        "rows": {name: vars(row) for name, row in rows.items()}, "calls": 4, "sequences": len(x),
        "scores": [vars(row) for row in scores],
    }  # fmt: skip


def rules(args: Any, folder: Path) -> dict[str, Any]:
    """Quadrature over levels by the number of levels, on sequences of 6 letters; and all surrogates on completions of 14 cells."""
    steps, repeats = (30, 20) if args.quick else (1500, 4000)
    model = tiny_world(Run(folder / "rules", quiet=True, config={}), steps=steps)
    assert model is not None
    choose = {}
    for n in range(1, 6):
        methods = {
            "Gauss, Bernoulli": GroupDiffusionPO(points=n, mask="bernoulli"),
            "Gauss, counts": GroupDiffusionPO(points=n),
            "Gauss, official counts": GroupDiffusionPO(points=n, mask="count_official"),
            "random counts": GroupDiffusionPO(rule="mc", points=n),
        }
        choose |= {f"{name}|{n}": Surrogate(one.plan, one.masks, elbo_of, "none") for name, one in methods.items()}
    rows = estimator_report(model, markov_sequences(32, seed=9), repeats=repeats, choose=choose)
    found: dict[str, Any] = {"levels": {}}
    for name, row in rows.items():
        rule, n = name.split("|")
        found["levels"].setdefault(rule, {})[n] = {"bias": row.elbo_bias, "stderr": row.bias_stderr, "mse": row.mse}
    recipe = Everything(seeds=1, base_steps=5 if args.quick else 120)
    base = recipe.base(Run(folder / "cells", quiet=True, config={}))
    assert base is not None
    blanks = 6 if args.quick else 14
    x = {
        name: each[: 2 if args.quick else 16]
        for name, each in sudoku_prompts(16, blanks, held_out=True, seed=0).items()
    }
    long = estimator_report(base, x, calls=4, repeats=20 if args.quick else 1000, block_length=4)
    return found | {
        "cells": blanks,
        "puzzles": len(x["tokens"]),
        "rows": {name: vars(row) for name, row in long.items()},
    }


def slopes(args: Any, folder: Path) -> dict[str, Any]:
    """Gradients on the tiny world: variance by the number of masks, the bound's beside the ratio's off-policy, VRPO's."""
    steps, repeats = (30, 4) if args.quick else (1500, 200)
    model = tiny_world(Run(folder / "slopes", quiet=True, config={}), steps=steps)
    assert model is not None
    s = model.encode(markov_sequences(64, seed=11))
    advantages = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)

    def slope(policy: MaskedDiffusion, method: BGPO, seed: int, old: Any = None) -> Tensor:
        draws = method.plan.draws(torch.arange(64), seed=seed)
        policy.zero_grad()
        before = None if old is None else table_of(old, s, draws, method, 4096)
        objective_backward(policy, s, draws, method, advantages, unit=64.0, rows=4096, old=before)
        return flat(policy)

    variance = {
        str(k): float(
            torch.stack([slope(model, BGPO(n_t=k, lead="random"), seed) for seed in range(repeats)]).var(0).sum()
        )
        for k in (1, 2, 4, 8, 16)
    }
    drift = []
    policy = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, weight_decay=0.0)
    for update in range(9):
        bound, exact = (
            torch.stack([slope(policy, BGPO(n_t=16, engine=e, ratio_norm="none"), seed, model) for seed in range(8)])
            for e in ("bgpo", "graph")
        )
        method = BGPO(n_t=16, ratio_norm="none")
        draws = method.plan.draws(torch.arange(64), seed=0)
        with torch.no_grad():
            d = table_of(policy, s, draws, method, 4096).terms - table_of(model, s, draws, method, 4096).terms
        drift.append({
            "update": update, "cosine": [float(x) for x in torch.cosine_similarity(bound, exact)],
            "d": float(d.abs().mean()), "variance of d": float(d.var(0).mean()),
        })  # fmt: skip
        slope(policy, BGPO(n_t=16, engine="graph", ratio_norm="none"), 100 + update, model)
        optimizer.step()
    return {"variance": variance, "repeats": repeats, "drift": drift, "vrpo": _preference_slopes(model, args.quick)}


def _preference_slopes(model: MaskedDiffusion, quick: bool) -> list[dict[str, Any]]:
    """Variance of the gradient of VRPO's loss of 16 pairs, by the way that calls are spent."""
    other = moved(model)
    pairs = pairs_of({"tokens": markov_sequences(16, seed=10)}, {"tokens": torch.randint(0, 3, (16, 6))})
    rows = []
    for n_t, n_y, shared in ((8, 1, True), (4, 1, True), (2, 2, True), (1, 4, True), (1, 1, True), (4, 1, False)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method = VRPO(n_t=n_t, n_y=n_y, share_noise=shared, sft_weight=0.0)
        found = []
        for seed in range(3 if quick else 400):
            draws = method.plan.draws(torch.arange(16), seed=seed)
            other.zero_grad()
            preference_backward(other, model, canvases(other, pairs), draws, method, unit=16.0, rows=4096)
            found.append(flat(other))
        rows.append({"n_t": n_t, "n_y": n_y, "shared": shared, "variance": float(torch.stack(found).var(0).sum())})
    return rows


def flat(model: MaskedDiffusion) -> Tensor:
    """The gradient as one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


def moved(model: MaskedDiffusion) -> MaskedDiffusion:
    """A copy whose weights are 0.02 away."""
    other = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return other.eval()


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


PARTS = {"memory": memory, "estimators": estimators, "rules": rules, "slopes": slopes, "sudoku": sudoku}


def main() -> None:
    """Measure and write."""
    args = options(__doc__ or "", only={"nargs": "*", "default": [*PARTS],
                                        "help": "parts to measure; the others stay as they were"})  # fmt: skip
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    before = (args.out or RESULTS) / "alignment.json"
    parts = json.loads(before.read_text()) if len(args.only) < len(PARTS) and before.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in PARTS.items():
            if name in args.only:
                parts[name] = measure(args, Path(folder))
    save("alignment", args, parts)


if __name__ == "__main__":
    main()
