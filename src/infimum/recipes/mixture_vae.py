"""Recipe: a VAE whose batch as a whole is to match the prior, beside the ordinary VAE; and a discriminator for texture."""

import math
import statistics
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.data import Dataset, load
from infimum.errors import UserError
from infimum.evidence import Plan, active_units, iwae
from infimum.evidence.evaluate import evaluate
from infimum.nets import PatchDiscriminator
from infimum.recipes.base import Metrics, Recipe, load_data, mean_json, spec_json
from infimum.recipes.iwae import paired
from infimum.training import Run, train
from infimum.vae import VAE, ConvolutionalVAE, ConvolutionalVAEConfig, VAEConfig, defensive
from infimum.vae.adversarial import Adversary, MixtureObjective, MixtureVAELearner
from infimum.vae.editing import interpolate
from infimum.vae.quality import frechet_distance, sharpness

__all__ = ["MixtureVae"]

OBJECTIVES = {
    "kl": MixtureObjective("kl"),
    "means": MixtureObjective("means", 0.1),
    "no-penalty": MixtureObjective("means", 0.0),
    "total": MixtureObjective("total", 0.1),
    "joint": MixtureObjective("joint", 0.1),
}
"""The ordinary VAE; the paper's, and without its penalty; with the mixture's own variance; with the mixture itself."""

SHOWN = {
    "mae": "MAE", "variance": "mean s^2", "spread": "Var(mean)", "active": "active", "aggregate": "aggregate",
    "frechet": "Frechet", "sharpness": "sharpness", "evidence": "evidence",
}  # fmt: skip


DRAWN = {
    "mae": "mean absolute error", "variance": "mean posterior variance", "aggregate": "aggregate variance",
    "frechet": "Frechet distance", "evidence": "evidence, nats",
}  # fmt: skip


@dataclass(frozen=True)
class MixtureVae(Recipe):
    """How to train your VAE (arXiv 2309.13160): mixture divergence, variance penalty and PatchGAN beside the ordinary VAE."""

    data: str = "digits"
    """embedded images, or a folder of images (paper: CelebA-HQ at 256 x 256)"""
    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    """what is trained: kl (ordinary VAE), means (paper), no-penalty (paper without variance penalty), total (variance of
    the mixture instead of the means), joint (divergence of the mixture itself, by Monte Carlo)"""
    seeds: int = 5
    """trainings of each, from --seed on"""
    network: Literal["mlp", "resnet"] = "mlp"
    """encoder and decoder (paper: resnet)"""
    hidden: tuple[int, ...] = (256, 128)
    """widths of the layers of mlp"""
    width: int = 128
    """channels of resnet (paper: 128)"""
    stages: int = 6
    """halvings of resnet (paper: 6)"""
    latent: int = 16
    """latent dimensions (paper: 512)"""
    r: float = 64.0
    """weight of the mean absolute error over pixels in [-1, 1] (paper: 5000); the Laplace scale is pixels / r"""
    epochs: int = 120
    """passes through the training images (paper: 300 to 400)"""
    batch: int = 64
    """images a step (paper: 10)"""
    lr: float = 1e-3
    """learning rate of Adam, beta1 .5 (paper: 1e-4)"""
    flip: bool = False
    """mirror every other image (paper: yes)"""
    normalisation: Literal["train", "frozen"] = "train"
    """batch statistics of resnet in training; frozen: what the original code does"""
    input_norm: bool = True
    """brightness and contrast of each image taken out before resnet, as published: neither can be reconstructed"""
    adversary: float = 0.0
    """weight of the PatchGAN losses (paper: 100); 0: none"""
    adversary_start: int = 0
    """steps before the generator sees the discriminator"""
    critic: Literal["frozen", "train"] = "frozen"
    """batch statistics of the discriminator; frozen: what the original code does, and what sharpens"""
    texture: int = 1000
    """steps of models of faces and of photographs with the discriminator and without, from the first three seeds; 0: none"""
    eval_k: int = 1000
    """draws an image in the evaluation"""
    delta: float = 0.05
    """probability that a certificate or an interval fails"""
    split_seed: int = 0
    """seed of the split into train, valid and test"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {
            "network": "resnet", "latent": 512, "r": 5000.0, "epochs": 100, "batch": 32, "lr": 1e-4, "flip": True,
            "adversary": 100.0, "objectives": ("means",), "seeds": 1, "texture": 0, "eval_k": 100,
        },
        "paper": {
            "network": "resnet", "latent": 512, "r": 5000.0, "epochs": 400, "batch": 10, "lr": 1e-4, "flip": True,
            "adversary": 100.0, "normalisation": "frozen", "objectives": ("kl", "means"), "seeds": 1, "texture": 0, "eval_k": 100,
        },
    }  # fmt: skip

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        super().check()
        wrong = [name for name in self.objectives if name not in OBJECTIVES]
        if wrong or not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UserError(
                f"--objectives is {' '.join(self.objectives)}, expected some of {' '.join(OBJECTIVES)}, each once"
            )
        for name in ("seeds", "epochs", "width", "stages"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}, expected a whole number of at least 1")
        if self.texture < 0 or not 0 < self.r < math.inf:
            raise UserError(f"--texture must not be negative and --r must be positive, got {self.texture} and {self.r}")
        if self.batch < 4 and self.objectives != ("kl",):
            raise UserError(f"--batch is {self.batch}, expected at least 4: the means of a batch need a variance")
        Adversary(self.adversary, self.adversary_start)

    def run(self, run: Run) -> Metrics:
        """Train every objective from every seed, measure all on the same images, compare; then the faces."""
        dataset = load_data(self.data, kind="integer", threshold=None, seed=self.split_seed)
        found: dict[str, list[Metrics]] = {name: [] for name in self.objectives}
        steps = self.epochs * max(1, len(dataset.train) // self.batch)
        for name in self.objectives:
            for seed in range(run.seed, run.seed + self.seeds):
                one = self._train(run, dataset, f"{name}-{seed}", OBJECTIVES[name], seed, self._setting(), steps)
                if one is None:
                    return {"interrupted": True}
                found[name].append(one)
        metrics: Metrics = {name: _summaries(each) for name, each in found.items()}
        if self.seeds > 1 and "kl" in found:
            ratios = {name: [math.log(one["mae"] / kl["mae"]) for one, kl in zip(each, found["kl"], strict=True)]
                      for name, each in found.items() if name != "kl"}  # fmt: skip
            metrics["mae ratio to kl"] = {name: _ratio(each, self.delta) for name, each in ratios.items()}
        if self.texture:
            texture = self._texture(run)
            if texture is None:
                return {"interrupted": True}
            metrics["texture"] = texture
        if run.writes:
            from infimum.report.dots import dots

            self._show(dataset, metrics)
            measured = {name: {key: metrics[name][key]["values"] for key in DRAWN} for name in self.objectives}
            dots(measured, DRAWN, run.figures / "objectives.png")
        return metrics

    def _setting(self) -> "_Setting":
        return _Setting(
            self.network, self.width, self.stages, self.r, self.batch, self.flip, self.input_norm, self.adversary,
            (128, 128, 128, 64, 64, 1), (2, 2, 2, 1, 1, 1),
        )  # fmt: skip

    def _model(self, dataset: Dataset, setting: "_Setting") -> VAE:
        spec = dataset.spec
        if len(spec.shape) != 3:
            raise UserError(f"--data {spec.name} holds no images (items of shape {spec.shape}): use a folder of images")
        common: dict[str, Any] = {
            "shape": tuple(spec.shape), "likelihood": "laplace", "levels": spec.levels,
            "scale": math.prod(spec.shape) / setting.r, "latent": self.latent, "hidden": self.hidden, "activation": "relu",
        }  # fmt: skip
        if setting.network == "mlp":
            return VAE(VAEConfig(**common))
        return ConvolutionalVAE(
            ConvolutionalVAEConfig(
                **common, width=setting.width, stages=setting.stages, normalisation=self.normalisation,
                input_norm=setting.input_norm,
            )
        )  # fmt: skip

    def _train(
        self,
        run: Run,
        dataset: Dataset,
        name: str,
        objective: MixtureObjective,
        seed: int,
        setting: "_Setting",
        steps: int,
    ) -> Metrics | None:
        """One model and what is measured of it; None if it was interrupted."""
        child = Run(
            run.path / name, seed=seed, device=str(run.device), precision=run.precision, resume=run.resume, quiet=run.quiet,
            config=run.config,
        )  # fmt: skip
        torch.manual_seed(seed)
        model = self._model(dataset, setting).to(run.device)
        critic = None
        if setting.weight:
            critic = PatchDiscriminator(
                dataset.spec.shape[0], filters=setting.filters, strides=setting.strides, normalisation=self.critic
            )
        learner = MixtureVAELearner(
            model, dataset.train.to(run.device), objective, discriminator=critic, batch=setting.batch, lr=self.lr, seed=seed,
            flip=setting.flip, adversary=Adversary(setting.weight, self.adversary_start),
        )  # fmt: skip
        result = train(learner, steps=steps, run=child, every=max(1, steps // 4), data=spec_json(dataset))
        if result.interrupted:
            return None
        metrics = self._measure(model.eval(), dataset, run, objective)
        metrics |= {"steps": result.step, "seconds": result.seconds, "steps_per_second": result.rate}
        self._pictures(model, dataset, child)
        child.finish(metrics)
        return metrics

    def _measure(self, model: VAE, dataset: Dataset, run: Run, objective: MixtureObjective) -> Metrics:
        """Reconstruction, moments of the aggregate, samples, sharpness, certified evidence: on test images."""
        count = min(MEASURED, len(dataset.test))
        some = torch.arange(count) * len(dataset.test) // count
        x, keys = dataset.test[some].to(run.device), dataset.test_ids[some].to(run.device)
        scaled, shape = model.likelihood.scaled, model.config.shape
        with torch.no_grad():
            s = model.encode(x)
            z = model.sample(s, Plan.iid(1).draws(keys, seed=run.seed, salt="mae"))
            out = model.decode(z)[0]
            prior = Plan.iid(1).draws(torch.arange(2000, device=run.device), seed=run.seed, salt="frechet")
            made = model.decode(prior.normal("prior", model.config.latent).float())[0]
            target = scaled(x.flatten(1))
            axes = _principal_axes(scaled(dataset.train.to(run.device).flatten(1)), 16)
            spread = s[0].var(0, correction=0)
            aggregate = spread + (2 * s[1]).exp().mean(0)
            estimate = evaluate(defensive(model), x, Plan.iid(self.eval_k), iwae, keys=keys, seed=run.seed)
        mean = estimate.mean(self.delta)
        return {
            "mae": float((target - out).abs().mean()),
            "variance": float((2 * s[1]).exp().mean()),
            "spread": float(spread.mean()),
            "active": int(active_units(s[0]).sum()),
            "aggregate": float(aggregate.mean()),
            "aggregate_largest": float(aggregate.max()),
            "frechet": frechet_distance(made @ axes, target @ axes),
            "sharpness": float(sharpness(out.unflatten(1, shape)).mean()),
            "sharpness_of_data": float(sharpness(target.unflatten(1, shape)).mean()),
            "evidence": mean.value,
            "estimate": mean_json(mean),
            "objective": "ELBO" if objective.is_bound else "not a bound",
        }

    def _texture(self, run: Run) -> Metrics | None:
        """Faces and photographs, with the discriminator and without: is it sharper at about the same error?"""
        metrics: Metrics = {}
        for data, setting in TEXTURES.items():
            dataset = load(data, kind="integer", seed=self.split_seed, patch=16 if data == "photographs" else None)
            found: dict[str, list[Metrics]] = {"without": [], "with": []}
            for name, each in found.items():
                for seed in range(run.seed, run.seed + min(self.seeds, TEXTURE_SEEDS)):
                    chosen = replace(setting, weight=setting.weight if name == "with" else 0.0)
                    one = self._train(
                        run, dataset, f"{data}-{name}-{seed}", OBJECTIVES["means"], seed, chosen, self.texture
                    )
                    if one is None:
                        return None
                    each.append(one)
            shown = ("mae", "sharpness")
            metrics[data] = {name: {key: [one[key] for one in each] for key in shown} for name, each in found.items()}
            metrics[data]["of the images"] = found["with"][0]["sharpness_of_data"]
            if len(found["with"]) > 1:
                pairs = list(zip(found["with"], found["without"], strict=True))
                metrics[data]["ratio"] = {
                    key: _ratio([math.log(one[key] / other[key]) for one, other in pairs], self.delta) for key in shown
                }
        return metrics

    def _pictures(self, model: VAE, dataset: Dataset, run: Run) -> None:
        from infimum.report import figures

        if not run.writes or len(dataset.spec.shape) != 3:
            return
        model.eval()
        draws = Plan.iid(1).draws(torch.arange(64, device=run.device), seed=run.seed, salt="sample")
        with torch.no_grad():
            z = draws.normal("prior", model.config.latent).float()
            samples = model.likelihood.mean(model.decode(z)[0]).unflatten(1, model.config.shape)
            x = dataset.test[:16].to(run.device)
            again = model.reconstruct(x)
            between = interpolate(model, x[:8], x[8:16], steps=8).transpose(0, 1).flatten(0, 1)
        figures.curves(run.path / "metrics.jsonl", run.figures / "curves.png")
        figures.images(samples, run.figures / "samples.png")
        figures.pairs(dataset.test[:16], again, run.figures / "reconstructions.png")
        figures.images(between, run.figures / "interpolations.png")

    def _show(self, dataset: Dataset, metrics: Metrics) -> None:
        count = min(MEASURED, len(dataset.test))
        print(f"\n{count} test images of {dataset.spec.name}; mean over {self.seeds} seeds ± standard deviation")
        print(f"{'objective':12s}" + "".join(f"{title:>18s}" for title in SHOWN.values()))
        for name in self.objectives:
            cells = [metrics[name][key] for key in SHOWN]
            print(f"{name:12s}" + "".join(f"{_pm(cell):>18s}" for cell in cells))
        for name, one in metrics.get("mae ratio to kl", {}).items():
            print(f"  MAE of {name} / kl: {_interval(one, self.delta)}")
        print(
            "  evidence: importance-weighted lower bound in nats an image, of grey levels; no objective but kl is a bound"
        )
        for data, texture in metrics.get("texture", {}).items():
            for name in ("without", "with"):
                mae, sharp = (statistics.fmean(texture[name][key]) for key in ("mae", "sharpness"))
                print(f"  {data} {name} discriminator: MAE {mae:.4f}, sharpness {sharp:.4f} "
                      f"(of the images: {texture['of the images']:.4f}), {len(texture[name]['mae'])} seeds")  # fmt: skip
            for key, one in texture.get("ratio", {}).items():
                print(f"  {data}, {key} with / without: {_interval(one, self.delta)}")


@dataclass(frozen=True)
class _Setting:
    """Of one model: network, weights of the error and of the adversary, layers of the discriminator."""

    network: Literal["mlp", "resnet"]
    width: int
    stages: int
    r: float
    batch: int
    flip: bool
    input_norm: bool
    weight: float
    filters: tuple[int, ...]
    strides: tuple[int, ...]


TEXTURES = {
    "faces": _Setting("resnet", 16, 3, 2000.0, 16, True, False, 20.0, (32, 32, 32, 1), (2, 2, 1, 1)),
    "photographs": _Setting("resnet", 16, 2, 3200.0, 16, True, False, 64.0, (32, 32, 32, 1), (2, 2, 1, 1)),
}
"""Models with the discriminator and without, at half the paper's ratio of adversary and absolute error, and at that ratio."""

TEXTURE_SEEDS, MEASURED = 3, 400
"""Seeds of each at most; images that are measured at most."""


def _principal_axes(x: Float[Tensor, "N D"], count: int) -> Float[Tensor, "D count"]:
    return torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:count].T


def _summaries(each: list[Metrics]) -> Metrics:
    """Mean and standard deviation over seeds of every number."""
    numbers = {key: torch.tensor([float(one[key]) for one in each], dtype=torch.float64) for key in SHOWN}
    certificates = [one["estimate"]["certificate"] for one in each]
    return {key: {"mean": float(v.mean()), "sd": float(v.std()) if len(v) > 1 else None, "values": v.tolist()}
            for key, v in numbers.items()} | {"certificates": certificates}  # fmt: skip


def _ratio(logs: list[float], delta: float) -> Metrics:
    """Geometric mean of a ratio with its t interval."""
    one = paired(logs, [0.0] * len(logs), delta)
    return {"ratio": math.exp(one["difference"]), "low": math.exp(one["low"]), "high": math.exp(one["high"])}


def _interval(one: Metrics, delta: float) -> str:
    return f"{one['ratio']:.3f}, {1 - delta:.0%} interval [{one['low']:.3f}, {one['high']:.3f}]"


def _pm(cell: Metrics) -> str:
    return f"{cell['mean']:.3f}" + ("" if cell["sd"] is None else f" ± {cell['sd']:.3f}")
