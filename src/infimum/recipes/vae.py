"""Recipe: a variational auto-encoder and its held-out evidence."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.recipes.base import Metrics, Recipe, evaluate_run, fit, likelihood_for, load_data, table
from infimum.training import Run, burda, constant, cosine, load_model
from infimum.training.schedules import Schedule
from infimum.vae import VAE, Objective, VAEConfig, VAELearner

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

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        super().__post_init__()
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

    def run(self, run: Run) -> Metrics:
        """Train and evaluate on the test items."""
        from infimum.report import figures

        objective = self.objective()
        dataset = load_data(self.data, kind=self.kind, threshold=self.threshold, seed=self.split_seed)
        spec = dataset.spec
        config = VAEConfig(
            shape=tuple(spec.shape),
            likelihood=likelihood_for(dataset, self.likelihood),  # type: ignore[arg-type]
            levels=spec.levels,
            latent=self.latent,
            hidden=self.hidden,
            posterior=self.posterior,
            components=self.components,
            transforms=self.transforms,
        )
        model = VAE(config).to(run.device)
        learner = VAELearner(
            model, dataset.train.to(run.device), objective, batch=self.batch, lr=self.lr, clip=self.clip, seed=run.seed
        )
        epoch = max(1, len(dataset.train) // self.batch)
        result = fit(
            learner, dataset, run, steps=self.steps, every=self.every, patience=self.patience, ema=self.ema,
            schedule=schedule_of(self.schedule, self.steps, epoch),
        )  # fmt: skip
        if result is None:
            return {"interrupted": True}
        chosen = result.best if result.best is not None else result.checkpoint
        model = load_model(chosen)[0].to(run.device)
        estimates, means = evaluate_run(model, dataset.test, dataset.test_ids, run, k=self.eval_k, delta=self.delta)
        metrics: Metrics = {
            "evidence": means, "steps": result.step, "seconds": result.seconds, "steps_per_second": result.rate,
            "objective": self.rule if objective.is_bound else f"{self.rule} (not a bound)", "checkpoint": chosen.name,
            "log_scale": spec.log_scale(),
        }  # fmt: skip
        if run.writes:
            figures.curves(run.path / "metrics.jsonl", run.figures / "curves.png")
            figures.bracket({self.rule: (estimates["elbo"].mean(self.delta), estimates["iwae"].mean(self.delta))},
                            run.figures / "evidence.png")  # fmt: skip
            if len(config.shape) == 3:
                draws = Plan.iid(1).draws(dataset.test_ids[:64].to(run.device), seed=run.seed, salt="sample")
                figures.images(model.likelihood.mean(model.decode(draws.normal("prior", config.latent)))[0].detach()
                               .unflatten(-1, config.shape), run.figures / "samples.png")  # fmt: skip
                figures.pairs(dataset.test[:16], model.reconstruct(dataset.test[:16].to(run.device)).detach(),
                              run.figures / "reconstructions.png")  # fmt: skip
            print(table({"vae": estimates["iwae"].mean(self.delta)}))
            if objective.warning:
                print(f"note: {objective.warning}")
        return metrics
