"""Recipe: a variational auto-encoder and its held-out evidence."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from infimum.data import Dataset
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.evidence._tree import map_tree
from infimum.recipes.base import Metrics, Recipe, evaluate_run, fit, items_for, likelihood_for, load_data, table
from infimum.training import Run, burda, constant, cosine, load_model
from infimum.training.schedules import Schedule
from infimum.vae import VAE, ConditionalVAE, ConditionalVAEConfig, Objective, VAEConfig, VAELearner

__all__ = ["Vae"]


def schedule_of(name: str, steps: int, epoch: int) -> Schedule:
    """A learning-rate schedule by name."""
    return {"constant": constant, "cosine": lambda: cosine(steps), "burda": lambda: burda(epoch)}[name]()


@dataclass(frozen=True)
class Vae(Recipe):
    """A variational auto-encoder (arXiv 1312.6114) trained by any bound, with its held-out evidence."""

    data: str = "digits"
    """embedded data set, or a file (.npy, .npz, .csv, .parquet) or folder of images"""
    kind: Literal["binary", "integer", "real"] | None = None
    """what the values are; the data set's own kind if not given"""
    threshold: float | None = None
    """values from here on count as 1 (binary data)"""
    id: str | None = None
    """column of your file with the ids of the items (default: row numbers)"""
    labels: str | None = None
    """column of your file with labels, which are not modelled"""
    conditional: bool = False
    """model p(x | label): a conditional VAE of the data's classes"""
    likelihood: Literal["auto", "bernoulli", "categorical", "discretised-logistic", "gaussian"] = "auto"
    """p(x|z); auto: what fits the kind of the data"""
    posterior: Literal["diagonal", "full", "mixture", "flow"] = "diagonal"
    """family of q(z|x)"""
    latent: int = 8
    """latent dimensions (Burda et al.: 50)"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the layers (Burda et al.: 200 200)"""
    components: int = 4
    """components of a mixture posterior"""
    transforms: int = 2
    """transforms of a flow posterior"""
    rule: str = "stl"
    """gradient rule: analytic, elbo, stl, rloo, iwae, dreg, stl_iwae, vimco, rws, rws_dreg, renyi, tvo"""
    k: int = 1
    """draws an item in training (Burda et al.: 1, 5, 50)"""
    noise: Literal["random", "antithetic", "sobol"] = "random"
    """how the draws of an item relate"""
    alpha: float = 0.5
    """order of rule renyi"""
    beta: float = 1.0
    """weight of the divergence; other than 1 the loss is not a bound"""
    free_bits: float = 0.0
    """nats a dimension without cost; above 0 the loss is not a bound"""
    steps: int = 3000
    """optimizer steps (Burda et al.: 3,280 epochs)"""
    batch: int = 64
    """items a step (Burda et al.: 20)"""
    accumulate: int = 1
    """batches whose gradients make one step"""
    lr: float = 1e-3
    """learning rate of Adam"""
    schedule: Literal["constant", "cosine", "burda"] = "constant"
    """factor on the learning rate over the steps"""
    ema: float = 0.0
    """decay of the averaged weights; 0: none"""
    clip: float | None = None
    """largest gradient norm"""
    patience: int | None = None
    """stop after so many validations without improvement"""
    every: int = 500
    """steps between checkpoints and validations"""
    eval_k: int = 5000
    """draws an item in the evaluation (Burda et al.: 5,000)"""
    delta: float = 0.05
    """probability that the certificate fails"""
    split_seed: int = 0
    """seed of the split into train, valid and test"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {"data": "mnist5k", "hidden": (200, 200), "latent": 50, "steps": 20_000, "batch": 256},
        "paper": {
            "data": "mnist5k", "hidden": (200, 200), "latent": 50, "batch": 20, "schedule": "burda",
            "steps": 3280 * 175, "every": 5000,
        },
    }  # fmt: skip

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        super().check()
        objective = self.objective()
        if self.posterior != "diagonal" and (self.rule == "analytic" or not objective.is_bound):
            raise UserError(
                f"--posterior {self.posterior} has no closed-form divergence: --rule analytic, --beta and --free-bits "
                "need --posterior diagonal"
            )

    def objective(self) -> Objective:
        """What is optimised."""
        return Objective(
            rule=self.rule, k=self.k, noise=self.noise, alpha=self.alpha, beta=self.beta, free_bits=self.free_bits
        )

    def _condition(self, dataset: Dataset) -> tuple[int, Tensor | None]:
        """Number of classes and training labels of a conditional model."""
        if not self.conditional:
            return 0, None
        labels = [dataset.train_labels, dataset.valid_labels, dataset.test_labels]
        known = [part for part in labels if part is not None and part.numel()]
        if not known or any(part.is_floating_point() for part in known):
            raise UserError(
                f"--conditional needs class labels, and {dataset.spec.name} has "
                f"{'numbers' if known else 'none'}: choose labelled data, or name the column with --labels"
            )
        return len(dataset.classes or ()) or 1 + max(int(part.max()) for part in known), known[0]

    def run(self, run: Run) -> Metrics:
        """Train and evaluate on the test items."""
        from infimum.report import figures

        objective = self.objective()
        dataset = load_data(
            self.data, kind=self.kind, threshold=self.threshold, seed=self.split_seed, id=self.id, labels=self.labels
        )
        spec = dataset.spec
        classes, labels = self._condition(dataset)
        common: dict[str, Any] = {
            "shape": tuple(spec.shape),
            "likelihood": likelihood_for(dataset, self.likelihood),
            "levels": spec.levels,
            "latent": self.latent,
            "hidden": self.hidden,
            "posterior": self.posterior,
            "components": self.components,
            "transforms": self.transforms,
        }
        model: VAE | ConditionalVAE = VAE(VAEConfig(**common))
        if self.conditional:
            model = ConditionalVAE(ConditionalVAEConfig(**common, classes=classes))
        model.to(run.device)
        learner = VAELearner(
            model,
            dataset.train.to(run.device),
            objective,
            batch=self.batch,
            lr=self.lr,
            clip=self.clip,
            seed=run.seed,
            condition=None if labels is None else labels.to(run.device),
        )
        epoch = max(1, len(dataset.train) // self.batch)
        result = fit(
            learner, dataset, run, steps=self.steps, every=self.every, patience=self.patience, ema=self.ema,
            accumulate=self.accumulate,
            schedule=schedule_of(self.schedule, self.steps, epoch),
        )  # fmt: skip
        if result is None:
            return {"interrupted": True}
        chosen = result.best if result.best is not None else result.checkpoint
        model = load_model(chosen)[0].to(run.device)
        test = items_for(model, dataset.test, dataset.test_labels)
        estimates, means = evaluate_run(model, test, dataset.test_ids, run, k=self.eval_k, delta=self.delta)
        metrics: Metrics = {
            "evidence": means, "steps": result.step, "seconds": result.seconds, "steps_per_second": result.rate,
            "objective": self.rule if objective.is_bound else f"{self.rule} (not a bound)", "checkpoint": chosen.name,
            "log_scale": spec.log_scale(),
        }  # fmt: skip
        if run.writes:
            figures.curves(run.path / "metrics.jsonl", run.figures / "curves.png")
            figures.bracket({self.rule: (estimates["elbo"].mean(self.delta), estimates["iwae"].mean(self.delta))},
                            run.figures / "evidence.png")  # fmt: skip
            if len(spec.shape) == 3:
                draws = Plan.iid(1).draws(torch.arange(64, device=run.device), seed=run.seed, salt="sample")
                turn = torch.arange(64, device=run.device) % max(classes, 1)
                with torch.no_grad():
                    drawn = model.generate(draws, turn) if isinstance(model, ConditionalVAE) else model.generate(draws)
                    first = map_tree(lambda t: t[:16].to(run.device), test)
                    again = model.reconstruct(first)
                figures.images(drawn[0], run.figures / "samples.png")
                figures.pairs(dataset.test[:16], again, run.figures / "reconstructions.png")
            print(table({"vae": estimates["iwae"].mean(self.delta)}))
            if objective.warning:
                print(f"note: {objective.warning}")
        return metrics
