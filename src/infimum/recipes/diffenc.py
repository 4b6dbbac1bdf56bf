"""Recipe: diffusion of a learned encoding beside plain diffusion with the same denoiser: parts of the bound and what they cost."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from infimum.data import Dataset
from infimum.diffusion import (
    DiffEnc,
    DiffEncConfig,
    DiffusionConfig,
    GaussianDiffusion,
    counterterm_report,
    sample,
)
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, iwae
from infimum.recipes.base import Metrics, load_data
from infimum.recipes.diffusion_base import DiffusionRecipe, flow_estimates, interval
from infimum.recipes.iwae import paired
from infimum.training import Run

__all__ = ["Diffenc"]

Name = Literal["vdm", "longer", "diffenc", "scaled"]
MODELS: tuple[Name, ...] = get_args(Name)
PARTS = ("bits", "diffusion", "reconstruction", "prior")


@dataclass(frozen=True)
class Diffenc(DiffusionRecipe):
    """DiffEnc (arXiv 2310.19789), its ablation without a network ("scaled"), and variational diffusion, all by v prediction."""

    seeds: int = 5
    """trainings of each, from --seed on (paper: 3 to 5)"""
    high: float = 8.0
    """log-SNR at time 0 (paper: 13.3 for 8 bits)"""
    models: tuple[Name, ...] = MODELS
    """which to train; longer: vdm with more steps; scaled: an encoder without a network"""
    ends: Literal["fixed", "learned"] = "fixed"
    """whether the ends of the linear schedule are learned; the paper has both"""
    network: Literal["mlp", "unet", "adm", "dit"] = "mlp"
    """the denoiser (paper: unet)"""
    encoder: Literal["mlp", "unet"] = "mlp"
    """the encoder (paper: unet)"""
    encoder_width: int = 64
    """of the encoder (paper: 64)"""
    encoder_blocks: int = 2
    """of the encoder (paper: 2, 4 or 8)"""
    longer: float = 2.8
    """times --steps that `longer` has; by default what takes as long as diffenc here"""
    flow_items: int = 40
    """test images whose likelihood under the probability flow is computed; 0: none"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {
            "data": "mnist5k", "steps": 100_000, "high": 13.3, "network": "unet", "encoder": "unet", "width": 64, "blocks": 8,
            "lr": 2e-4, "ema": 0.9999, "dropout": 0.1,
        },
        "paper": {
            "steps": 2_000_000, "high": 13.3, "network": "unet", "encoder": "unet", "width": 128, "blocks": 8, "lr": 2e-4,
            "ema": 0.9999, "dropout": 0.1,
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
        if self.encoder_width < 1 or self.encoder_blocks < 1:
            raise UserError(
                f"--encoder-width is {self.encoder_width} and --encoder-blocks {self.encoder_blocks}, expected at least 1 each"
            )

    def run(self, run: Run) -> Metrics:
        """Train every model from every seed; measure and write."""
        dataset = load_data(self.data, kind="integer", threshold=None, seed=self.split_seed)
        metrics: Metrics = {"models": {}}
        first: dict[str, Any] = {}
        for name in self.models:
            for seed in range(run.seed, run.seed + self.seeds):
                torch.manual_seed(seed)
                steps = round(self.longer * self.steps) if name == "longer" else self.steps
                one = self.trained(run, dataset, name, seed, steps, self._build(name, dataset))
                if one is None:
                    return {"interrupted": True}
                first.setdefault(name, one[0])
                found = one[1] | {"parameters": sum(p.numel() for p in one[0].parameters()), "steps": steps}
                found["diffusion"] = found["bits"] - found["prior"] - found["reconstruction"]
                metrics["models"].setdefault(name, []).append(found)
        for base in ("vdm", "longer"):
            if base in self.models:
                plain = metrics["models"][base]
                metrics[f"less {base}"] = {
                    name: {part: paired([m[part] for m in each], [m[part] for m in plain], self.delta) for part in PARTS}
                    for name, each in metrics["models"].items() if name not in ("vdm", base)
                }  # fmt: skip
        if "diffenc" in first:
            x, keys = dataset.test.to(run.device), dataset.test_ids.to(run.device)
            metrics["counter-term"] = {k: v.tolist() for k, v in counterterm_report(first["diffenc"], x).items()}
            metrics["bounds"] = self._bounds(first["diffenc"], x, keys, run)
            metrics["depth"] = self._depths(first["diffenc"], dataset, run)
        if run.writes:
            self._show(run, dataset, metrics, first)
        return metrics

    def _build(self, name: Name, dataset: Dataset) -> GaussianDiffusion:
        common: dict[str, Any] = {
            "shape": dataset.spec.shape, "levels": dataset.spec.levels, "low": self.low, "high": self.high, "head": "v",
            "schedule": "learned" if self.ends == "learned" else "linear", "network": self.network, "width": self.width,
            "blocks": self.blocks, "dropout": self.dropout,
        }  # fmt: skip
        if name in ("vdm", "longer"):
            return GaussianDiffusion(DiffusionConfig(**common))
        config = DiffEncConfig(
            **common, encoder="learned" if name == "diffenc" else "scaled", encoder_network=self.encoder,
            encoder_width=self.encoder_width, encoder_blocks=self.encoder_blocks,
        )  # fmt: skip
        return DiffEnc(config)

    def _bounds(self, model: DiffEnc, x: Tensor, keys: Tensor, run: Run) -> Metrics:
        """The same generative model by its own bound and by the plain one; some images by the flow of the same score."""
        unit = math.log(2) * model.config.dims
        sides = {"DiffEnc bound": model, "plain bound": model.without_encoder()}
        found = {}
        for name, each in sides.items():
            mean = evaluate(each, x, self.plan(), elbo, keys=keys, seed=run.seed).mean()
            found[name] = {"bits": -mean.value / unit, "stderr": mean.stderr / unit, "images": len(x)}
        some = slice(0, self.flow_items)
        if self.flow_items:
            for name, each in sides.items():
                mean = evaluate(each, x[some], self.plan(), elbo, keys=keys[some], seed=run.seed).mean()
                found[f"{name}, some"] = {
                    "bits": -mean.value / unit,
                    "stderr": mean.stderr / unit,
                    "images": len(x[some]),
                }
            mean = flow_estimates(
                model,
                x[some],
                Plan.iid(8),
                iwae,
                keys=keys[some],
                seed=run.seed,
                rows=64,
            ).mean()
            found["flow, exact determinant, IWAE-8"] = {
                "bits": -mean.value / unit, "stderr": mean.stderr / unit, "images": len(x[some])
            }  # fmt: skip
        return found

    def _depths(self, model: DiffEnc, dataset: Dataset, run: Run) -> Metrics:
        """Bits a dimension of the same networks in T steps, with variances of the posterior, and with the best for each step."""
        found: Metrics = {}
        variances: tuple[Literal["posterior", "optimal"], ...] = ("posterior", "optimal")
        x, keys = dataset.test.to(run.device), dataset.test_ids.to(run.device)
        known = dataset.train[:1000].to(run.device)
        draws = self.plan().draws(torch.arange(len(known), device=known.device), seed=run.seed, salt="variances")
        for depth in (16, 64, 256):
            for variance in variances:
                other = model.in_steps(depth, variance=variance)
                if variance == "optimal":
                    other.measure_variances(known, draws)
                value = evaluate(other, x, self.plan(), elbo, keys=keys, seed=run.seed).value.mean()
                found.setdefault(str(depth), {})[variance] = -float(value) / math.log(2) / model.config.dims
        return found

    def _show(self, run: Run, dataset: Dataset, metrics: Metrics, models: dict[str, Any]) -> None:
        from infimum.report import figures
        from infimum.report.dots import dots

        print(
            f"\n{len(dataset.test)} test images of {dataset.spec.name}, bits a dimension (negative ELBO), {self.seeds} seeds"
        )
        for name, each in metrics["models"].items():
            mean = {key: sum(m[key] for m in each) / len(each) for key in (*PARTS, "bits_stderr", "steps_per_second")}
            print(
                f"  {name}: {mean['bits']:.4f} ± {mean['bits_stderr']:.4f} a seed (diffusion {mean['diffusion']:.4f}, "
                f"reconstruction {mean['reconstruction']:.4f}, prior {mean['prior']:.6f}); {each[0]['parameters']:,} parameters, "
                f"{each[0]['steps']} steps, {mean['steps_per_second']:.1f} steps/s"
            )
        for base in ("vdm", "longer"):
            for name, each in metrics.get(f"less {base}", {}).items():
                print(f"  {name} less {base}: " + ", ".join(f"{part} {interval(each[part], 4)}" for part in PARTS))
        report = metrics.get("counter-term")
        if report:
            for title, key in (("what the counter-term misses", "mismatch"), ("what the network moves", "moved")):
                pairs = zip(report["log_snr"], report[key], strict=True)
                print(f"{title}, a share, by log-SNR: " + ", ".join(f"{snr:.1f} {value:.2g}" for snr, value in pairs))
            for name, one in metrics["bounds"].items():
                print(f"  {name}: {one['bits']:.4f} ± {one['stderr']:.4f} ({one['images']} images)")
            for depth, two in metrics["depth"].items():
                print(f"  T = {depth}: {two['posterior']:.3f}, with the best variances {two['optimal']:.3f}")
        titles = {
            "bits": "bits a dimension",
            "diffusion": "diffusion",
            "reconstruction": "reconstruction",
            "prior": "prior",
        }
        values = {name: {part: [m[part] for m in each] for part in PARTS} for name, each in metrics["models"].items()}
        dots(values, titles, run.figures / "diffenc.png")
        if "diffenc" in models and len(dataset.spec.shape) == 3:
            model = models["diffenc"]
            figures.images(encodings(model, dataset.test[:8].to(run.device)), run.figures / "encodings.png")
            draws = Plan.iid(1).draws(torch.arange(64, device=run.device), seed=run.seed, salt="sample")
            assert dataset.spec.levels is not None
            figures.images(sample(model, draws, steps=100)[0] / (dataset.spec.levels - 1), run.figures / "samples.png")


@torch.no_grad()
def encodings(model: DiffEnc, x: Tensor, columns: int = 8) -> Tensor:
    """x_t of every image at log-SNRs from clean to noise, side by side, each stretched to [0, 1]."""
    f = model.encode(x)
    low, high = model.schedule.limits
    levels = torch.linspace(high, low, columns, device=x.device, dtype=f.dtype)
    rows = torch.stack([model.encoding(f, snr.expand(len(f))) for snr in levels], 1)  # (B, columns, D)
    least, most = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    return ((rows - least) / (most - least).clamp_min(1e-6)).flatten(0, 1).unflatten(1, model.config.shape)
