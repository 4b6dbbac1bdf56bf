"""Recipe: MVAE, MMVAE, MoPoE and unimodal VAEs on digits over photographs: likelihood, coherence and quality side by side."""

import statistics
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from infimum.data import Dataset
from infimum.data.polydigits import BACKGROUNDS, polydigits
from infimum.errors import UserError
from infimum.evidence import Plan, evaluate, iwae, save_estimate
from infimum.nets import Activation
from infimum.recipes.base import Metrics, Recipe, mean_json, spec_json
from infimum.recipes.multimodal_table import PANELS, beside, judgement_json, panel, table
from infimum.training import Run, load_model, train
from infimum.vae.multimodal import (
    Modality,
    MultimodalConfig,
    MultimodalLearner,
    MultimodalObjective,
    MultimodalVAE,
    PictureClassifier,
    frechet_distance,
    judge,
    mmvae,
    mopoe,
    mvae,
    train_classifiers,
)

__all__ = ["MultimodalVae"]

Member = Literal["mvae", "mmvae", "mopoe"]
MEMBERS = {"mvae": mvae, "mmvae": mmvae, "mopoe": mopoe}
REFERENCE = {
    "hidden": (32, 64, 128), "width": 512, "activation": "relu", "epochs": 300, "batch": 256, "lr": 5e-4,
    "eval_k": 1000, "eval_items": 397, "samples": 10_000,
}  # fmt: skip
"""Networks and training of the MoPoE code for PolyMNIST."""


@dataclass(frozen=True)
class MultimodalVae(Recipe):
    """The trade-off of multimodal VAEs (arXiv 2110.04121) on mini-PolyMNIST, or its translated variant."""

    modalities: tuple[int, ...] = (2, 3, 5)
    """numbers of modalities, one set of models each (paper: 5)"""
    models: tuple[Member, ...] = ("mvae", "mmvae", "mopoe")
    """members of the family; unimodal VAEs stand beside them"""
    translated: bool = False
    """digits of 10x10 at random places (paper: Translated-PolyMNIST)"""
    latent: int = 32
    """latent dimensions (paper: 512)"""
    hidden: tuple[int, ...] = (16, 32, 64)
    """channels of the convolutions (reference code: 32 64 128)"""
    width: int = 256
    """of the linear layer (reference code: 512)"""
    activation: Activation = "tanh"
    """between layers (reference code: relu, with which nets as small as these learn nothing for hundreds of steps)"""
    scale: float = 0.75
    """of the Laplace likelihood"""
    beta: float = 1.0
    """weight of the divergence; other than 1 the loss is not a bound (reference code: 2.5)"""
    draws: Literal["iid", "stratified"] = "iid"
    """subsets in training: one at random for each item and draw, or every one for every item"""
    epochs: int = 40
    """passes through the training tuples (paper: 300 to 500)"""
    copies: int = 1
    """pairings of each training digit, with crops and places of their own"""
    batch: int = 64
    """items a step (reference code: 256)"""
    lr: float = 2e-3
    """learning rate of Adam (reference code: 5e-4)"""
    eval_k: int = 200
    """draws an item of the evidence"""
    eval_items: int = 100
    """test tuples whose joint evidence is estimated"""
    samples: int = 1000
    """tuples drawn from the prior for coherence and quality (paper: 10,000)"""
    judge_steps: int = 1200
    """optimizer steps of each classifier"""
    judge_least: float = 0.9
    """accuracy on real test data that a classifier needs to be a judge"""
    delta: float = 0.05
    """probability that a certificate fails"""
    split_seed: int = 0
    """seed of the data: division, pairings, crops"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {**REFERENCE, "latent": 64, "copies": 10, "draws": "stratified"},
        "paper": {**REFERENCE, "latent": 512, "modalities": (5,), "beta": 2.5},
    }

    def check(self) -> None:
        """Refuse what cannot be built, before anything is written."""
        super().check()
        if not self.modalities or not all(2 <= m <= len(BACKGROUNDS) for m in self.modalities):
            raise UserError(f"--modalities is {self.modalities}, expected numbers from 2 to {len(BACKGROUNDS)}")
        if (
            len(set(self.modalities)) < len(self.modalities)
            or len(set(self.models)) < len(self.models)
            or not self.models
        ):
            raise UserError("--modalities and --models name one or more, each of them once")
        for name in ("epochs", "eval_items", "samples", "judge_steps", "width"):
            if getattr(self, name) < 2:
                raise UserError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}, expected a whole number of at least 2"
                )
        if self.copies < 1:
            raise UserError(f"--copies is {self.copies}, expected a whole number of at least 1")
        if not 0 <= self.judge_least <= 1:
            raise UserError(f"--judge-least is {self.judge_least}, expected an accuracy from 0 to 1")
        self.objective()
        self._modality()

    def objective(self) -> MultimodalObjective:
        """What is optimised."""
        return MultimodalObjective(beta=self.beta, draws=self.draws)

    def _modality(self) -> Modality:
        return Modality(
            (3, 16, 16),
            "laplace",
            scale=self.scale,
            network="conv",
            hidden=self.hidden,
            width=self.width,
            activation=self.activation,
        )

    def run(self, run: Run) -> Metrics:
        """Train the judges, then every model; generate, judge, and estimate the joint evidence."""
        most = max(self.modalities)
        data = polydigits(most, translated=self.translated, copies=self.copies, seed=self.split_seed)
        metrics: Metrics = {}
        judges, metrics["judges"] = self._judges(run, most)
        metrics["floor"] = _floor(judges, data)
        rows: dict[str, Metrics] = {}
        singles: list[Metrics] = []
        for m in range(most):  # a VAE for each modality alone
            found = self._one(
                run, f"unimodal-{m}", MultimodalConfig({f"m{m}": self._modality()}, self.latent), data, judges
            )
            if found is None:
                return {"interrupted": True}
            singles.append(found)
        for m in self.modalities:
            rows[f"unimodal-{m}m"] = beside(singles[:m], self.delta)
            for member in self.models:
                config = MEMBERS[member]({f"m{i}": self._modality() for i in range(m)}, latent=self.latent)
                found = self._one(run, f"{member}-{m}m", config, data, judges)
                if found is None:
                    return {"interrupted": True}
                rows[f"{member}-{m}m"] = found
        metrics |= rows
        if run.writes:
            self._show(run, rows, metrics, data)
        return metrics

    def _show(self, run: Run, rows: dict[str, Metrics], metrics: Metrics, data: Dataset) -> None:
        """The table, what must be said beside it, and the figure."""
        from infimum.report.dots import dots

        print(f"\n{data.spec.name}, {len(data.test)} test tuples; evidence in nats an item and modality")
        print(table(rows))
        errors = [e for row in rows.values() for e in row.get("coherence_stderr", ())]
        if errors:
            print(f"standard errors of coherences: at most {max(errors):.3f}")
        floor = statistics.fmean(metrics["floor"].values())
        print(f"Frechet distance of two halves of the real test data: {floor:.1f}")
        accuracy = metrics["judges"].values()
        print(f"accuracy of the judges on real test data: {min(accuracy):.3f} to {max(accuracy):.3f}")
        if warning := self.objective().warning:
            print(f"note: {warning}")
        dots(
            {name: {key: [panel(row, key)] for key in PANELS} for name, row in rows.items()},
            PANELS,
            run.figures / "models.png",
        )

    def _judges(self, run: Run, most: int) -> tuple[dict[str, PictureClassifier], dict[str, float]]:
        if not run.quiet and run.writes:
            print(f"training {most} classifiers of real data for {self.judge_steps} steps", flush=True)
        real = polydigits(most, translated=self.translated, copies=10, seed=self.split_seed)
        assert real.train_labels is not None and real.test_labels is not None
        judges, accuracy = train_classifiers(
            _named(real.train.to(run.device)), real.train_labels.to(run.device), _named(real.test.to(run.device)),
            real.test_labels.to(run.device), steps=self.judge_steps, seed=run.seed, least=self.judge_least,
        )  # fmt: skip
        return judges, {name: one.value for name, one in accuracy.items()}

    def _one(
        self, run: Run, name: str, config: MultimodalConfig, data: Dataset, judges: dict[str, PictureClassifier]
    ) -> Metrics | None:
        """Train, evaluate and judge one model; None if it was interrupted."""
        child = run.child(name)
        columns = [int(n[1:]) for n in config.names]
        x = {n: data.train[:, c].to(run.device) for n, c in zip(config.names, columns, strict=True)}
        test = {n: data.test[:, c].to(run.device) for n, c in zip(config.names, columns, strict=True)}
        model = MultimodalVAE(config).to(run.device)
        steps = self.epochs * (len(data.train) // self.batch)
        if not run.quiet and run.writes:
            print(f"training {name} for {steps} steps on {len(data.train)} tuples", flush=True)
        learner = MultimodalLearner(model, x, self.objective(), batch=self.batch, lr=self.lr, seed=run.seed)
        spec = spec_json(data) | {"shape": [len(columns), *data.spec.shape[1:]]}
        result = train(learner, steps=steps, run=child, every=max(1, steps // 4), data=spec)
        if result.interrupted:
            return None
        model = load_model(result.checkpoint)[0].to(run.device)
        few = {n: part[: self.eval_items] for n, part in test.items()}
        keys = data.test_ids[: self.eval_items].to(run.device)
        evidence = evaluate(model, few, Plan.iid(self.eval_k), iwae, keys=keys, seed=run.seed)
        found: Metrics = {"evidence": {"joint": mean_json(evidence.mean(self.delta))}, "modalities": len(columns),
                          "seconds": result.seconds, "steps_per_second": result.rate}  # fmt: skip
        assert data.train_labels is not None and data.test_labels is not None
        labels = data.train_labels.to(run.device), data.test_labels.to(run.device)
        verdict = judge(model, test, labels[1], judges, train=(x, labels[0]), samples=self.samples, seed=run.seed)
        found |= judgement_json(verdict)
        if run.writes:
            from infimum.report import figures

            sheet = torch.stack([part[:16] for part in verdict.samples.values()], 1).flatten(0, 1).clamp(0, 1)
            figures.images(sheet, child.figures / "samples.png", columns=4 * len(columns))
            save_estimate(evidence, child.path / "evidence.json")
            _write_test(child, test)
        child.finish(found)
        return found | {"estimate": evidence} if len(columns) == 1 else found


def _floor(judges: dict[str, PictureClassifier], data: Dataset) -> dict[str, float]:
    """Frechet distance between two halves of the test data: what finite samples alone give."""
    found = {}
    for name, part in _named(data.test).items():
        with torch.no_grad():
            features = judges[name].features(part.to(next(judges[name].parameters()).device))
        half = len(features) // 2
        found[name] = frechet_distance(features[:half], features[half:])
    return found


def _named(x: Tensor) -> dict[str, Tensor]:
    return {f"m{i}": part for i, part in enumerate(x.unbind(1))}


def _write_test(run: Run, test: dict[str, Tensor]) -> None:
    """The test tuples as (N, M, C, H, W), for ``infimum evidence RUN --data RUN/test.npy``."""
    temporary = run.path / ".test.npy.tmp"
    with temporary.open("wb") as file:
        np.save(file, torch.stack(list(test.values()), 1).cpu().numpy(), allow_pickle=False)
    temporary.replace(run.path / "test.npy")
