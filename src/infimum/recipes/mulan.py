"""Recipe: diffusion with learned, multivariate, data-dependent noise beside its ablations and plain diffusion."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from infimum.data import Dataset
from infimum.diffusion import (
    DiffusionConfig,
    GaussianDiffusion,
    Mulan,
    MulanConfig,
    sample,
    schedule_report,
)
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, iwae
from infimum.recipes.base import Metrics, load_data
from infimum.recipes.diffusion_base import DiffusionRecipe, flow_estimates, interval
from infimum.recipes.iwae import paired
from infimum.training import Run

__all__ = ["MulanRecipe"]

Name = Literal["vdm", "longer", "latent", "multivariate", "mulan", "monotone"]
MODELS: tuple[Name, ...] = get_args(Name)
CHANGES: dict[str, dict[str, Any]] = {
    "latent": {"multivariate": False},
    "multivariate": {"latent": "none"},
    "mulan": {},
    "monotone": {"schedule": "monotone"},
}
"""What each model changes in MuLAN's configuration."""
PARTS = ("bits", "diffusion", "reconstruction", "divergence")


@dataclass(frozen=True)
class MulanRecipe(DiffusionRecipe):
    """MuLAN (arXiv 2312.13236); a latent with one curve for all; curves without a latent; a monotone network; and VDM."""

    seeds: int = 5
    """trainings of each, from --seed on (paper: 1)"""
    high: float = 8.0
    """log-SNR at time 0 (paper: 13.3 for 8 bits)"""
    models: tuple[Name, ...] = MODELS
    """which to train: vdm; longer: vdm with more steps;
    latent: one curve for all dimensions, made of the latent; multivariate: a curve a dimension and no
    latent; mulan: both; monotone: both, by a monotone network"""
    size: int = 16
    """m, numbers of the latent (paper: 50)"""
    active: int = 4
    """k, how many of them are 1 (paper: 15)"""
    noise: Literal["gumbel", "sog", "sog-official", "none"] = "gumbel"
    """of the latent's logits (paper: sog)"""
    divergence: Literal["subset", "ordered", "deterministic", "categorical"] = "subset"
    """of the latent; categorical is the published one, and no bound"""
    schedule_width: int = 64
    """hidden units of the schedule (paper: as many as dimensions)"""
    network: Literal["mlp", "unet", "adm", "dit"] = "mlp"
    """the denoiser (paper: unet)"""
    encoder: Literal["mlp", "conv"] = "mlp"
    """what infers the latent (paper: conv)"""
    encoder_width: int = 64
    """of the encoder (paper: that of the denoiser)"""
    longer: float = 1.6
    """times --steps that `longer` has; by default what takes as long as mulan here"""
    flow_items: int = 40
    """test images whose likelihood under the probability flow is computed; 0: none"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {
            "data": "mnist5k", "steps": 300_000, "high": 13.3, "network": "unet", "encoder": "conv", "width": 128, "blocks": 8,
            "encoder_width": 128, "size": 50, "active": 15, "schedule_width": 512, "lr": 2e-4, "ema": 0.9999, "dropout": 0.1,
            "models": ("vdm", "mulan"), "seeds": 1,
        },
        "paper": {
            "steps": 10_000_000, "high": 13.3, "network": "unet", "encoder": "conv", "width": 128, "blocks": 32,
            "encoder_width": 128, "size": 50, "active": 15, "schedule_width": 3072, "noise": "sog", "divergence": "deterministic",
            "lr": 2e-4, "ema": 0.9999, "dropout": 0.1, "models": ("vdm", "mulan"), "seeds": 1,
        },
    }  # fmt: skip

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        super().check()
        if self.flow_items < 0:
            raise UserError(f"--flow-items is {self.flow_items}, expected at least 0")
        if not 1 <= self.longer < math.inf:
            raise UserError(f"--longer is {self.longer:g}, expected at least 1")
        if not self.models or len(set(self.models)) < len(self.models):
            raise UserError(
                f"--models names each of {', '.join(MODELS)} at most once, and at least one, got {self.models}"
            )
        self._config("mulan", (1,), 2)

    def run(self, run: Run) -> Metrics:
        """Train every model from every seed; measure and write."""
        dataset = load_data(self.data, kind="integer", threshold=None, seed=self.split_seed)
        assert dataset.spec.levels is not None
        metrics: Metrics = {"models": {}}
        first: dict[str, Any] = {}
        for name in self.models:
            for seed in range(run.seed, run.seed + self.seeds):
                torch.manual_seed(seed)
                config = self._config(name, dataset.spec.shape, dataset.spec.levels)
                model = Mulan(config) if isinstance(config, MulanConfig) else GaussianDiffusion(config)
                steps = round(self.longer * self.steps) if name == "longer" else self.steps
                one = self.trained(run, dataset, name, seed, steps, model)
                if one is None:
                    return {"interrupted": True}
                first.setdefault(name, one[0])
                found = one[1] | {"parameters": sum(p.numel() for p in one[0].parameters()), "steps": steps}
                metrics["models"].setdefault(name, []).append(found)
        for base in ("vdm", "longer"):
            if base in self.models:
                plain = metrics["models"][base]
                metrics[f"less {base}"] = {
                    name: {part: paired([m[part] for m in each], [m[part] for m in plain], self.delta) for part in PARTS}
                    for name, each in metrics["models"].items() if name not in ("vdm", base)
                }  # fmt: skip
        if self.flow_items:
            x, keys = dataset.test[: self.flow_items].to(run.device), dataset.test_ids[: self.flow_items].to(run.device)
            metrics["flow"] = {
                name: self._flow(first[name], x, keys, run) for name in ("vdm", "mulan")
                if name in first and not (name == "mulan" and self.noise in ("sog", "sog-official"))
            }  # fmt: skip
        if run.writes:
            self._show(run, dataset, metrics, first)
        return metrics

    def _config(self, name: str, shape: tuple[int, ...], levels: int) -> DiffusionConfig:
        common: dict[str, Any] = {
            "shape": shape, "levels": levels, "low": self.low, "high": self.high, "head": "v", "width": self.width,
            "blocks": self.blocks, "dropout": self.dropout, "network": self.network if len(shape) == 3 else "mlp",
        }  # fmt: skip
        if name in ("vdm", "longer"):
            return DiffusionConfig(**common)
        own: dict[str, Any] = {
            "size": self.size, "active": self.active, "noise": self.noise, "divergence": self.divergence,
            "schedule_width": self.schedule_width, "encoder_network": self.encoder if len(shape) == 3 else "mlp",
            "encoder_width": self.encoder_width,
        }  # fmt: skip
        return MulanConfig(**common | own | CHANGES[name])

    def parts(self, model: GaussianDiffusion, x: Tensor, keys: Tensor, run: Run) -> dict[str, float]:
        """Every part of the bound in bits a dimension, with the divergence of one categorical draw beside that of the latent."""
        unit = math.log(2) * model.config.dims
        with torch.no_grad():
            draws = self.plan().draws(keys, seed=run.seed, salt="parts")
            s = model.encode(x)
            found = {name: float(each.mean()) / unit for name, each in model.parts(x, s, draws).items()}
            found.setdefault("divergence", 0.0)
            if isinstance(model, Mulan) and model.latent.size:
                log_p = s[1].double().log_softmax(-1)
                one = (log_p.exp() * log_p).sum(-1).mean() + math.log(self.size)
                found["published divergence"] = float(one) / unit
        return found

    def _flow(self, model: GaussianDiffusion, x: Tensor, keys: Tensor, run: Run) -> Metrics:
        """Some images by the bound, and by joint importance weights over latent and dequantisation noise under the flow."""
        unit = math.log(2) * model.config.dims
        bound = evaluate(model, x, self.plan(), elbo, keys=keys, seed=run.seed).mean(self.delta)
        flow = flow_estimates(model, x, Plan.iid(8), iwae, keys=keys, seed=run.seed, rows=64).mean(self.delta)
        return {
            "bound": -bound.value / unit, "bound stderr": bound.stderr / unit,
            "flow": -flow.value / unit, "flow stderr": flow.stderr / unit,
            "certified": None if flow.certificate is None else -flow.certificate / unit,
        }  # fmt: skip

    def _show(self, run: Run, dataset: Dataset, metrics: Metrics, models: dict[str, Any]) -> None:
        from infimum.report import figures
        from infimum.report.dots import dots

        print(
            f"\n{len(dataset.test)} test images of {dataset.spec.name}, bits a dimension (negative ELBO), {self.seeds} seeds"
        )
        for name, each in metrics["models"].items():
            mean = {key: sum(m[key] for m in each) / len(each) for key in (*PARTS, "bits_stderr", "steps_per_second")}
            line = (
                f"  {name}: {mean['bits']:.4f} ± {mean['bits_stderr']:.4f} a seed (diffusion {mean['diffusion']:.4f}, "
                f"reconstruction {mean['reconstruction']:.4f}, latent {mean['divergence']:.5f}"
            )
            if "published divergence" in each[0]:
                one = sum(m["published divergence"] for m in each) / len(each)
                line += f"; {mean['bits'] - mean['divergence'] + one:.4f} with the published divergence, {one:.5f}, no bound"
            print(
                f"{line}); {each[0]['parameters']:,} parameters, {each[0]['steps']} steps, {mean['steps_per_second']:.1f} steps/s"
            )
        for base in ("vdm", "longer"):
            for name, each in metrics.get(f"less {base}", {}).items():
                print(f"  {name} less {base}: " + ", ".join(f"{part} {interval(each[part], 4)}" for part in PARTS))
        for name, one in metrics.get("flow", {}).items():
            limit = (
                ""
                if one["certified"] is None
                else f", at most {one['certified']:.4f} with probability {1 - self.delta:g}"
            )
            print(
                f"  {self.flow_items} images, {name}: bound {one['bound']:.4f} ± {one['bound stderr']:.4f}; flow, "
                f"exact determinant, IWAE-8 {one['flow']:.4f} ± {one['flow stderr']:.4f}{limit}"
            )
        values = {name: {part: [m[part] for m in each] for part in PARTS} for name, each in metrics["models"].items()}
        titles = {
            "bits": "bits a dimension",
            "diffusion": "diffusion",
            "reconstruction": "reconstruction",
            "divergence": "latent",
        }
        dots(values, titles, run.figures / "mulan.png")
        if "mulan" not in models or len(dataset.spec.shape) != 3 or dataset.spec.shape[0] not in (1, 3):
            return
        model, x = models["mulan"], dataset.test.to(run.device)
        draws = Plan.iid(4).draws(dataset.test_ids.to(run.device), seed=run.seed, salt="report")
        report = schedule_report(model, x, draws, times=10)
        inside = report["log_snr"][1:-1]
        apart, spread = inside - inside.mean(1, keepdim=True), report["spread"][1:-1]
        print(
            f"log-SNRs of pixels at one time lie up to {float(apart.abs().max()):.2f} from their mean; one pixel's varies "
            f"over latents by {float(spread.max()):.3f} at most (standard deviation)"
        )
        maps = 0.5 + 0.5 * apart / apart.abs().max().clamp_min(1e-6)
        figures.images(maps.unflatten(1, dataset.spec.shape).float(), run.figures / "schedules.png")
        draws = Plan.iid(1).draws(torch.arange(64, device=run.device), seed=run.seed, salt="sample")
        assert dataset.spec.levels is not None
        figures.images(sample(model, draws, steps=100)[0] / (dataset.spec.levels - 1), run.figures / "samples.png")
