"""Recipe: what sub-sampling modalities costs, against exact evidence: linear-Gaussian worlds of 2 to 4 modalities over seeds."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from infimum.errors import UserError
from infimum.recipes.base import Metrics, Recipe
from infimum.testing.oracles.multimodal import LinearGaussianModalities
from infimum.training import Run, cosine, load_model, train
from infimum.vae.multimodal import (
    Modality,
    MultimodalLearner,
    MultimodalObjective,
    MultimodalVAE,
    linear_moments,
    mmvae,
    mopoe,
    mvae,
)

__all__ = ["MultimodalGap"]

MEMBERS = {"mvae": mvae, "mopoe": mopoe, "mmvae": mmvae}
Member = Literal["mvae", "mopoe", "mmvae"]


@dataclass(frozen=True)
class MultimodalGap(Recipe):
    """KL from a linear-Gaussian world to trained MVAE, MoPoE and MMVAE, in closed form (arXiv 2110.04121, section 4)."""

    modalities: tuple[int, ...] = (2, 3, 4)
    """numbers of modalities, six columns each: two shared factors and two of its own"""
    models: tuple[Member, ...] = ("mvae", "mopoe", "mmvae")
    """members of the family"""
    seeds: int = 5
    """worlds and trainings of each, from --seed on"""
    steps: int = 2500
    """optimizer steps"""
    batch: int = 128
    """items a step, never seen before"""
    lr: float = 1e-2
    """learning rate of Adam, falling to 0 along a cosine"""
    delta: float = 0.05
    """probability that an interval over seeds fails"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {"modalities": (2, 3, 4, 5, 6), "steps": 10_000},
        "paper": {"modalities": (2, 3, 4, 5), "seeds": 10, "steps": 10_000},
    }

    def check(self) -> None:
        """Refuse what cannot be built, before anything is written."""
        super().check()
        if not self.modalities or not all(1 <= m <= 12 for m in self.modalities):
            raise UserError(f"--modalities is {self.modalities}, expected numbers from 1 to 12")
        if self.seeds < 1:
            raise UserError(f"--seeds is {self.seeds}, expected a whole number of at least 1")
        if not self.models or len(set(self.models)) < len(self.models):
            raise UserError("--models names one or more, each of them once")

    def run(self, run: Run) -> Metrics:
        """Train every model in every world; the divergence is exact."""
        metrics: Metrics = {}
        for m in self.modalities:
            for member in self.models:
                if not run.quiet and run.writes:
                    print(f"training {member} of {m} modalities from {self.seeds} seeds", flush=True)
                values = []
                for seed in range(run.seed, run.seed + self.seeds):
                    value = self._one(run, member, m, seed)
                    if value is None:
                        return {"interrupted": True}
                    values.append(value)
                metrics[f"{member}-{m}m"] = {"divergence": summary(values, self.delta)}
        if run.writes:
            print(
                f"\nKL from the world to the model in nats, mean over {self.seeds} seeds, {1 - self.delta:.0%} t interval"
            )
            for m in self.modalities:
                each = "; ".join(f"{name} {_text(metrics[f'{name}-{m}m']['divergence'])}" for name in self.models)
                print(f"  {m} modalities: {each}")
            self._draw(run, metrics)
        return metrics

    def _draw(self, run: Run, metrics: Metrics) -> None:
        """A panel for each number of modalities, a dot for each world."""
        from infimum.report.dots import dots

        titles = {f"{m}m": f"{m} modalities" for m in self.modalities}
        dots(
            {name: {key: metrics[f"{name}-{key}"]["divergence"]["values"] for key in titles} for name in self.models},
            titles,
            run.figures / "divergences.png",
        )

    def _one(self, run: Run, member: Member, m: int, seed: int) -> float | None:
        """KL from world ``seed`` to the model trained in it, in nats; None if it was interrupted."""
        child = Run(
            run.path / f"{member}-{m}m-{seed}", seed=seed, device=str(run.device), precision=run.precision, resume=run.resume,
            quiet=run.quiet, config=run.config,
        )  # fmt: skip
        world = LinearGaussianModalities.world(m, seed)
        _, items = world.simulate(self.steps * self.batch, seed)
        x = {name: part.float().to(run.device) for name, part in items.items()}
        parts = {name: Modality((part.shape[1],), "gaussian", hidden=()) for name, part in x.items()}
        model = MultimodalVAE(MEMBERS[member](parts, latent=world.latent_dim)).to(run.device)
        learner = MultimodalLearner(model, x, MultimodalObjective(), batch=self.batch, lr=self.lr, seed=seed)
        result = train(learner, steps=self.steps, run=child, every=self.steps, schedule=cosine(self.steps))
        if result.interrupted:
            return None
        with torch.no_grad():
            value = world.divergence_to(*linear_moments(load_model(result.checkpoint)[0]))
        child.finish({"divergence": value, "seconds": result.seconds, "steps_per_second": result.rate})
        return value


def summary(values: list[float], delta: float) -> dict[str, Any]:
    """Mean over seeds and its t interval; no interval for one seed."""
    from scipy import stats

    each = torch.tensor(values, dtype=torch.float64)
    n, mean = len(values), float(each.mean())
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "values": values}
    half = float(stats.t.ppf(1 - delta / 2, n - 1)) * float(each.std()) / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": values}


def _text(one: dict[str, Any]) -> str:
    interval = "" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]"
    return f"{one['mean']:.2f}{interval}"
