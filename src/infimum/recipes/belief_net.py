"""Recipe: a sigmoid belief net whose evidence is known exactly, beside what draws say of it."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from infimum.errors import UserError
from infimum.evidence import Bracket, Plan, double_reductions, elbo, evaluate, iw_eubo, iwae
from infimum.recipes.base import Metrics, Recipe, evaluate_run, fit, load_data, mean_json, table
from infimum.training import Run, load_model
from infimum.vae import BeliefNet, BeliefNetConfig, Objective, VAELearner
from infimum.vae.belief import ENUMERABLE

__all__ = ["BeliefNetRecipe"]


@dataclass(frozen=True)
class BeliefNetRecipe(Recipe):
    """Binary sigmoid belief net (arXiv 1402.0030) by VIMCO, RLOO, DisARM, RWS or TVO; exact evidence by enumeration."""

    data: str = "digits"
    """embedded data set, or a file or folder of binary items"""
    threshold: float | None = None
    """values from here on count as 1"""
    latent: int = 12
    """binary latent units; 2^latent states are summed"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the encoder's layers"""
    rule: str = "vimco"
    """gradient rule: vimco, rloo, disarm, rws, tvo"""
    k: int = 8
    """draws an item in training"""
    steps: int = 3000
    """optimizer steps"""
    batch: int = 64
    """items a step"""
    lr: float = 3e-3
    """learning rate of Adam"""
    every: int = 500
    """steps between checkpoints and validations"""
    eval_k: int = 5000
    """draws an item in the evaluation"""
    delta: float = 0.05
    """probability that the certificate fails"""
    split_seed: int = 0
    """seed of the split into train, valid and test"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {"data": "mnist5k", "latent": 16, "hidden": (200, 200), "steps": 20_000, "batch": 256},
        "paper": {"data": "mnist5k", "latent": 16, "hidden": (200, 200), "steps": 100_000, "batch": 20},
    }

    def check(self) -> None:
        """Refuse what cannot be trained or enumerated, before anything is written."""
        super().check()
        if self.latent > ENUMERABLE:
            raise UserError(f"--latent {self.latent} has 2^{self.latent} states: at most {ENUMERABLE} are enumerated")
        Objective(rule=self.rule, k=self.k)

    def run(self, run: Run) -> Metrics:
        """Train, evaluate by draws, and enumerate."""
        from infimum.report import figures

        dataset = load_data(self.data, kind="binary", threshold=self.threshold, seed=self.split_seed)
        shape = tuple(dataset.spec.shape)
        model = BeliefNet(BeliefNetConfig(shape=shape, latent=self.latent, hidden=self.hidden)).to(run.device)
        objective = Objective(rule=self.rule, k=self.k)
        learner = VAELearner(
            model, dataset.train.to(run.device), objective, batch=self.batch, lr=self.lr, seed=run.seed
        )
        result = fit(learner, dataset, run, steps=self.steps, every=self.every)
        if result is None:
            return {"interrupted": True}
        model = load_model(result.best or result.checkpoint)[0].to(run.device)
        estimates, means = evaluate_run(model, dataset.test, dataset.test_ids, run, k=self.eval_k, delta=self.delta)
        with torch.no_grad(), double_reductions():
            weights = model.table(dataset.test.to(run.device))
            exact, exact_elbo = iwae(weights), elbo(weights)
        keys = dataset.test_ids.to(run.device)
        posterior = model.posterior_sample(
            dataset.test.to(run.device), Plan.iid(1).draws(keys, seed=run.seed, salt="posterior")
        )
        upper = evaluate(
            model, dataset.test.to(run.device), Plan(levels=self.eval_k), iw_eubo, keys=keys, seed=run.seed + 1,
            latents=posterior,
        )  # fmt: skip
        gap = estimates["iwae"] - exact
        z = (estimates["iwae"].mean().value - exact.mean().value) / estimates["iwae"].mean().stderr
        metrics: Metrics = {
            "evidence": means,
            "upper": mean_json(upper.mean(self.delta)),
            "exact": mean_json(exact.mean()),
            "exact_elbo": mean_json(exact_elbo.mean()),
            "z": None if math.isnan(z) else z,
            "largest_item_error": float(gap.value.abs().max()),
            "seconds": result.seconds,
            "steps_per_second": result.rate,
        }
        if run.writes:
            figures.curves(run.path / "metrics.jsonl", run.figures / "curves.png")
            pair = (estimates["elbo"].mean(self.delta), estimates["iwae"].mean(self.delta))
            figures.bracket({"belief net": pair}, run.figures / "evidence.png", {"belief net": exact.mean().value},
                            {"belief net": upper.mean(self.delta)})  # fmt: skip
            print(table({"belief net": pair[1]}, {"belief net": exact.mean().value}))
            print(Bracket(estimates["iwae"], upper).mean(self.delta))
            print(f"the estimate is {z:+.2f} standard errors from the exact evidence")
        return metrics
