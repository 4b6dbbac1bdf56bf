"""What the recipes of diffusion models share: flags, one training, bits a dimension with their parts."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infimum.data import Dataset
from infimum.diffusion import DiffusionConfig, DiffusionLearner, FlowEvidence, GaussianDiffusion
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, save_estimate
from infimum.recipes.base import Metrics, Recipe, mean_json, spec_json
from infimum.training import Run, cosine, load_model, train

__all__ = ["DiffusionRecipe", "flow_estimates", "interval"]


@dataclass(frozen=True)
class DiffusionRecipe(Recipe):
    """Flags of every recipe that trains diffusion models on integer images."""

    data: str = "digits"
    """embedded data set of integers, or a folder of images"""
    seeds: int = 3
    """trainings of each, from --seed on"""
    steps: int = 3000
    """optimizer steps of each"""
    low: float = -5.0
    """log-SNR at time 1 (paper: -5)"""
    high: float = 7.0
    """log-SNR at time 0 (paper: 13.3 for 8 bits)"""
    width: int = 128
    """of the residual network"""
    blocks: int = 4
    """of the residual network"""
    dropout: float = 0.3
    """in its blocks (paper: 0.1)"""
    batch: int = 128
    """images a step (paper: 128)"""
    lr: float = 4e-3
    """learning rate of AdamW, along a cosine (paper: 2e-4)"""
    clip: float = 1.0
    """largest gradient norm (paper: none)"""
    ema: float = 0.99
    """decay of the averaged weights, which are evaluated (paper: 0.9999)"""
    eval_k: int = 64
    """draws an image, with times stratified, in each of two replicates"""
    delta: float = 0.05
    """probability that an interval fails"""
    split_seed: int = 0
    """seed of the split into train, valid and test"""

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        super().check()
        for name in ("seeds", "width", "blocks", "eval_k"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected at least 1")
        DiffusionConfig((1,), levels=2, low=self.low, high=self.high, dropout=self.dropout)

    def trained(
        self, run: Run, dataset: Dataset, name: str, seed: int, steps: int, model: GaussianDiffusion, **learner: Any
    ) -> tuple[Any, Metrics] | None:
        """Train a model in a folder of its own; with its averaged weights, bits a dimension on the test images.

        Args:
            learner: weighting and times, see `DiffusionLearner`.

        Returns:
            The model and its metrics, or None if the run was interrupted.
        """
        child = Run(
            run.path / f"{name}-{seed}", seed=seed, device=str(run.device), precision=run.precision, resume=run.resume,
            quiet=run.quiet, config=run.config,
        )  # fmt: skip
        made = DiffusionLearner(
            model.to(run.device),
            dataset.train.to(run.device),
            batch=self.batch,
            lr=self.lr,
            clip=self.clip,
            seed=seed,
            **learner,
        )
        result = train(
            made, steps=steps, run=child, every=max(1, steps // 4), schedule=cosine(steps, warmup=min(100, steps // 2)),
            ema={"model": self.ema}, data=spec_json(dataset),
        )  # fmt: skip
        if result.interrupted:
            return None
        best: Any = load_model(result.checkpoint)[0].to(run.device).eval()  # the averaged weights
        x, keys = dataset.test.to(run.device), dataset.test_ids.to(run.device)
        estimate = evaluate(best, x, self.plan(), elbo, keys=keys, seed=run.seed)
        mean, unit = estimate.mean(self.delta), math.log(2) * best.config.dims
        if child.writes:
            save_estimate(estimate, child.path / "evidence.json")
        metrics = {
            "bits": -mean.value / unit,
            "bits_stderr": mean.stderr / unit,
            "bits_population": mean.population_stderr / unit,
            **self.parts(best, x, keys, run),
            **dict(zip(("low", "high"), best.schedule.limits, strict=True)),
            "estimate": mean_json(mean),
            "steps_per_second": result.rate,
        }
        child.finish(metrics)
        return best, metrics

    def plan(self) -> Plan:
        """Of every evaluation."""
        return Plan.stratified(self.eval_k, replicates=2)

    def parts(self, model: GaussianDiffusion, x: Tensor, keys: Tensor, run: Run) -> dict[str, float]:
        """Prior and reconstruction in bits a dimension."""
        unit = math.log(2) * model.config.dims
        with torch.no_grad():
            f = model.encode(x)
            draws = Plan.iid(4).draws(keys, seed=run.seed, salt="parts")
            return {
                "prior": float(model.prior(f).mean()) / unit,
                "reconstruction": float(model.reconstruction(x, f, draws).mean()) / unit,
            }


def flow_estimates(model: GaussianDiffusion, x: Tensor, plan: Plan, bounds: Any, **options: Any) -> Any:
    """Bounds under the probability flow in 25 steps, or in more where these fold space over (networks that were hardly trained).

    Raises:
        UserError: 400 steps fold space over too.
    """
    for steps in (25, 50, 100, 200, 400):
        try:
            return evaluate(FlowEvidence(model, steps=steps).eval(), x, plan, bounds, **options)
        except UserError as error:
            if "folds space" not in str(error) or steps == 400:
                raise
    raise AssertionError


def interval(one: Metrics, digits: int = 3) -> str:
    """A paired difference in words."""
    if one["low"] is None:
        return f"{one['difference']:+.{digits}f}"
    return f"{one['difference']:+.{digits}f} [{one['low']:+.{digits}f}, {one['high']:+.{digits}f}]"
