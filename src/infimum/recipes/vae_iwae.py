"""Recipe: train a VAE and an IWAE on the same data, and say which has the higher held-out evidence."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from infimum.evidence import Estimate, compare
from infimum.recipes.base import Metrics, Recipe, evaluate_run, fit, load_data, table
from infimum.recipes.vae import Vae
from infimum.training import Run, load_model
from infimum.vae import VAE, VAEConfig, VAELearner

__all__ = ["VaeIwae"]


@dataclass(frozen=True)
class VaeIwae(Recipe):
    """VAE against IWAE (arXiv 1509.00519): the same network, data and steps, another bound."""

    data: str = "digits"
    """embedded data set, or a file or folder of binary items"""
    threshold: float | None = None
    """values from here on count as 1"""
    k: int = 50
    """draws an item of the IWAE in training (paper: 5 and 50)"""
    latent: int = 8
    """latent dimensions (paper: 50)"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the layers (paper: 200 200)"""
    steps: int = 3000
    """optimizer steps of each model (paper: 3,280 epochs)"""
    batch: int = 64
    """items a step (paper: 20)"""
    lr: float = 1e-3
    """learning rate of Adam"""
    every: int = 500
    """steps between checkpoints and validations"""
    eval_k: int = 5000
    """draws an item in the evaluation (paper: 5,000)"""
    delta: float = 0.05
    """probability that a certificate fails"""
    split_seed: int = 0
    """seed of the split into train, valid and test"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {"data": "mnist5k", "hidden": (200, 200), "latent": 50, "steps": 20_000},
        "paper": {"data": "mnist5k", "hidden": (200, 200), "latent": 50, "batch": 20, "steps": 3280 * 175},
    }

    def run(self, run: Run) -> Metrics:
        """Train both, evaluate both on the same items with draws of their own, compare."""
        from infimum.report import figures

        dataset = load_data(self.data, kind="binary", threshold=self.threshold, seed=self.split_seed)
        metrics: Metrics = {}
        estimates: dict[str, dict[str, Estimate]] = {}
        for name, rule, k in (("vae", "stl", 1), (f"iwae-{self.k}", "dreg", self.k)):
            if run.writes:
                print(f"training {name} for {self.steps} steps on {len(dataset.train)} items", flush=True)
            child = run.child(name)
            shape = tuple(dataset.spec.shape)
            model = VAE(VAEConfig(shape=shape, latent=self.latent, hidden=self.hidden)).to(run.device)
            objective = dataclasses.replace(Vae(), rule=rule, k=k).objective()
            learner = VAELearner(
                model, dataset.train.to(run.device), objective, batch=self.batch, lr=self.lr, seed=run.seed
            )
            result = fit(learner, dataset, child, steps=self.steps, every=self.every)
            if result is None:
                return {"interrupted": True}
            chosen = result.best if result.best is not None else result.checkpoint
            model = load_model(chosen)[0].to(run.device)
            estimates[name], means = evaluate_run(
                model, dataset.test, dataset.test_ids, child, k=self.eval_k, delta=self.delta, label=name
            )
            metrics[name] = {"evidence": means, "seconds": result.seconds, "steps_per_second": result.rate}
            child.finish(metrics[name])
        (first, vae), (second, iwae) = estimates.items()
        verdict = compare(iwae["iwae"], vae["iwae"], delta=self.delta)
        metrics["verdict"] = {"of": second, "against": first, **dataclasses.asdict(verdict)}
        if run.writes:
            means_of = {name: (e["elbo"].mean(self.delta), e["iwae"].mean(self.delta)) for name, e in estimates.items()}
            figures.bracket(means_of, run.figures / "evidence.png")
            figures.curves(run.path / first / "metrics.jsonl", run.figures / f"{first}-curves.png")
            figures.curves(run.path / second / "metrics.jsonl", run.figures / f"{second}-curves.png")
            print(f"\nheld-out log-evidence of {len(dataset.test)} items in nats an item, {dataset.spec.name}")
            print(table({name: pair[1] for name, pair in means_of.items()}))
            print(f"\n{second} against {first}: {verdict}")
        return metrics
