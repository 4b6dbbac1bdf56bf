"""Recipe: a diffusion model by its ELBO, bits a dimension with their error; weightings, time samplers and depths beside it."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from infimum.data import Dataset
from infimum.diffusion import (
    AdaptiveBins,
    DiffusionConfig,
    FixedSchedule,
    FlowBound,
    GaussianDiffusion,
    Schedule,
    sample,
    training,
)
from infimum.errors import UserError
from infimum.evidence import Estimate, Plan, elbo, evaluate, iwae
from infimum.recipes.base import Metrics, load_data
from infimum.recipes.diffusion_base import DiffusionRecipe, flow_estimates, interval
from infimum.recipes.iwae import paired
from infimum.training import Run

__all__ = ["DiffusionElbo"]

Name = Literal["elbo", "iddpm", "v-cosine", "edm", "edm-monotonic", "sigmoid"]
WEIGHTINGS: tuple[Name, ...] = get_args(Name)
TIMES = ("linear", "cosine", "flow", "edm", "velocity")


@dataclass(frozen=True)
class DiffusionElbo(DiffusionRecipe):
    """Variational diffusion (arXiv 2107.00630) and weighted ELBOs (arXiv 2303.00848) on integer images."""

    seeds: int = 5
    """trainings of each, from --seed on"""
    steps: int = 3000
    """optimizer steps of the model with learned ends"""
    weightings: tuple[Name, ...] = WEIGHTINGS
    """recipes that train the same network between fixed ends; all predict the noise, so that the weighting alone differs"""
    weighted_steps: int = 1000
    """optimizer steps of each of them; 0: leave them out"""
    flow_items: int = 40
    """test images whose likelihood under the probability flow is computed; 0: none"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {
            "data": "mnist5k", "steps": 100_000, "weighted_steps": 20_000, "high": 13.3, "width": 1024, "blocks": 8, "lr": 1e-3,
            "ema": 0.999,
        },
        "paper": {"steps": 200_000, "high": 13.3, "width": 1024, "blocks": 16, "lr": 2e-4, "ema": 0.9999, "dropout": 0.1},
    }  # fmt: skip

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        super().check()
        for name in ("weighted_steps", "flow_items"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected at least 0")

    def run(self, run: Run) -> Metrics:
        """Train from every seed, then all weightings between fixed ends; measure and write."""
        dataset = load_data(self.data, kind="integer", threshold=None, seed=self.split_seed)
        metrics: Metrics = {"anchors": anchors(dataset)}
        models: list[GaussianDiffusion] = []
        for seed in range(run.seed, run.seed + self.seeds):
            one = self._train(run, dataset, "learned", "elbo", seed, self.steps)
            if one is None:
                return {"interrupted": True}
            models.append(one[0])
            metrics.setdefault("learned", []).append(one[1])
        if self.weighted_steps:
            metrics["weightings"] = {}
            for name in self.weightings:
                for seed in range(run.seed, run.seed + self.seeds):
                    one = self._train(run, dataset, name, name, seed, self.weighted_steps)
                    if one is None:
                        return {"interrupted": True}
                    metrics["weightings"].setdefault(name, []).append(one[1])
            if "elbo" in self.weightings:
                exact = [m["bits"] for m in metrics["weightings"]["elbo"]]
                metrics["elbo minus"] = {
                    name: paired(exact, [m["bits"] for m in each], self.delta)
                    for name, each in metrics["weightings"].items() if name != "elbo"
                }  # fmt: skip
        x, keys = dataset.test.to(run.device), dataset.test_ids.to(run.device)
        schedules = self._schedules(models[0], x, keys, run)
        metrics["times"] = self._times(models[0], schedules, x, keys, run)
        metrics["depth"] = self._depths(models[0], x, keys, run)
        if self.flow_items:
            metrics["flow"] = self._flow(models[0], x[: self.flow_items], keys[: self.flow_items], run)
        if run.writes:
            self._show(run, dataset, metrics, models[0], schedules)
        return metrics

    def _train(
        self, run: Run, dataset: Dataset, name: str, recipe: str, seed: int, steps: int
    ) -> tuple[GaussianDiffusion, Metrics] | None:
        """One model and its bits a dimension on the test images; None if it was interrupted."""
        torch.manual_seed(seed)
        learned = name == "learned"
        config = DiffusionConfig(
            dataset.spec.shape, levels=dataset.spec.levels, schedule="learned" if learned else "linear", low=self.low,
            high=self.high, width=self.width, blocks=self.blocks, dropout=self.dropout,
        )  # fmt: skip
        weighting, times = None, None
        if not learned and recipe != "elbo":
            chosen = training(recipe, self.low, self.high)
            weighting, times = chosen.weighting, chosen.schedule
        return self.trained(
            run, dataset, name, seed, steps, GaussianDiffusion(config), weighting=weighting, times=times
        )

    def _schedules(self, model: GaussianDiffusion, x: Tensor, keys: Tensor, run: Run) -> dict[str, Schedule]:
        """Densities of log-SNRs between the model's ends: by formula, and one that has seen the model's errors."""
        low, high = model.schedule.limits
        fixed: dict[str, Schedule] = {name: FixedSchedule(name, low, high).to(x.device) for name in TIMES}
        return fixed | {"adaptive": self._adapted(model, x, keys, run)}

    def _times(
        self, model: GaussianDiffusion, schedules: dict[str, Schedule], x: Tensor, keys: Tensor, run: Run
    ) -> Metrics:
        """Mean and variance of the diffusion loss under densities of times, one draw or a batch; bits a dimension."""
        unit = math.log(2) * model.config.dims
        answers: Metrics = {}
        with torch.no_grad():
            f = model.encode(x)
            for name, schedule in schedules.items():
                draws = Plan.iid(16).draws(keys, seed=run.seed, salt=f"times/{name}")
                each = model.diffusion(f, draws, schedule) / unit
                answers[name] = {
                    "mean": float(each.mean()), "stderr": float(each.mean(1).std()) / math.sqrt(len(each)),
                    "variance": float(each.var(0).mean()),
                }  # fmt: skip
            size = min(128, len(x))
            batch: Metrics = {}
            leads: tuple[Literal["random", "lattice", "stratified"], ...] = ("random", "lattice", "stratified")
            for lead in leads:
                plan = Plan(replicates=64, lead=lead, spread=1 if lead == "random" else size)
                draws = plan.draws(torch.arange(size, device=x.device), seed=run.seed, salt=f"lead/{lead}")
                means = (model.diffusion(f[:size], draws) / unit).mean(1)
                batch[lead] = {"variance": float(means.var()), "mean": float(means.mean())}
        return {"draw": answers, "batch": batch}

    def _adapted(self, model: GaussianDiffusion, x: Tensor, keys: Tensor, run: Run) -> AdaptiveBins:
        """Bins that have seen the model's errors."""
        low, high = model.schedule.limits
        bins = AdaptiveBins(low, high, bins=50, rate=0.99).to(x.device)
        with torch.no_grad():
            f = model.encode(x)
            for i in range(20):
                draws = Plan.iid(4).draws(keys, seed=run.seed, salt=f"adapt/{i}")
                snr = bins.log_snr(draws.lead())
                bins.update(snr, model.error(f, draws.normal("eps", f.shape[1]).to(f.dtype), snr))
        return bins

    def _depths(self, model: GaussianDiffusion, x: Tensor, keys: Tensor, run: Run) -> dict[str, float]:
        """Bits a dimension of the same network as a model of T steps."""
        found = {}
        for depth in (16, 64, 256, None):
            value = evaluate(model.in_steps(depth), x, self.plan(), elbo, keys=keys, seed=run.seed).value.mean()
            found[str(depth or "continuous")] = -float(value) / math.log(2) / model.config.dims
        return found

    def _flow(self, model: GaussianDiffusion, x: Tensor, keys: Tensor, run: Run) -> Metrics:
        """The likelihood of some images under the probability flow, beside their ELBO under the diffusion model."""
        unit = math.log(2) * model.config.dims
        options: dict[str, Any] = {"keys": keys, "seed": run.seed, "rows": 64}

        def told(estimate: Estimate) -> Metrics:
            mean = estimate.mean(self.delta)
            limit = None if mean.certificate is None else -mean.certificate / unit
            return {"bits": -mean.value / unit, "stderr": mean.stderr / unit, "certified": limit}

        exact = flow_estimates(model, x, Plan.iid(8), [elbo, iwae], **options)
        return {
            "diffusion ELBO": told(evaluate(model, x, self.plan(), elbo, keys=keys, seed=run.seed)),
            "flow, Hutchinson, ELBO": told(
                evaluate(FlowBound(model, steps=25).eval(), x, Plan.iid(8), elbo, **options)
            ),
            "flow, exact determinant, ELBO": told(exact[0]),
            "flow, exact determinant, IWAE-8": told(exact[1]),
        }

    def _show(
        self, run: Run, dataset: Dataset, metrics: Metrics, model: GaussianDiffusion, schedules: dict[str, Schedule]
    ) -> None:
        from infimum.report import figures
        from infimum.report.dots import dots

        print(
            f"\n{len(dataset.test)} test images of {dataset.spec.name}, bits a dimension (negative ELBO), {self.seeds} seeds"
        )
        for name, value in metrics["anchors"].items():
            print(f"  {name}: {value:.3f}")
        for one in metrics["learned"]:
            print(
                f"  learned ends: {one['bits']:.4f} ± {one['bits_stderr']:.4f} (population ± {one['bits_population']:.3f}), "
                f"of it reconstruction {one['reconstruction']:.3f}, prior {one['prior']:.4f}; log-SNR {one['high']:.2f} to "
                f"{one['low']:.2f}"
            )
        for name, each in metrics.get("weightings", {}).items():
            gap = metrics.get("elbo minus", {}).get(name)
            text = "" if gap is None else f"; elbo less {name}: {interval(gap)}"
            print(f"  {name}: {sum(m['bits'] for m in each) / len(each):.3f}{text}")
        times = metrics["times"]
        base = times["draw"]["linear"]["variance"]
        print("variance of one draw over that of uniform log-SNRs: "
              + ", ".join(f"{n} {v['variance'] / base:.2f}" for n, v in times["draw"].items()))  # fmt: skip
        print("their means: " + ", ".join(f"{n} {v['mean']:.3f} ± {v['stderr']:.3f}" for n, v in times["draw"].items()))
        base = times["batch"]["random"]["variance"]
        print("variance of a batch's loss over random times: "
              + ", ".join(f"{n} {v['variance'] / base:.3f}" for n, v in times["batch"].items()))  # fmt: skip
        print("steps: " + ", ".join(f"T = {n} {v:.3f}" for n, v in metrics["depth"].items()))
        for name, one in metrics.get("flow", {}).items():
            limit = (
                ""
                if one["certified"] is None
                else f", at most {one['certified']:.3f} with probability {1 - self.delta:g}"
            )
            print(f"  {self.flow_items} images, {name}: {one['bits']:.3f} ± {one['stderr']:.3f}{limit}")
        if metrics.get("weightings"):
            values = {name: {"bits": [m["bits"] for m in each]} for name, each in metrics["weightings"].items()}
            dots(values, {"bits": "bits a dimension"}, run.figures / "weightings.png")
        low, high = model.schedule.limits
        at = torch.linspace(low, high, 601, dtype=torch.float64)[1:-1].to(run.device)
        with torch.no_grad():
            shown = {name: each.density(at) for name, each in {**schedules, "learned": model.schedule}.items()}
        figures.densities(at, shown, run.figures / "schedules.png", "log-SNR", strong=("adaptive", "learned"))
        draws = Plan.iid(1).draws(torch.arange(64, device=run.device), seed=run.seed, salt="sample")
        if len(dataset.spec.shape) == 3:
            made = sample(model, draws, steps=100)[0]
            assert dataset.spec.levels is not None
            figures.images(made / (dataset.spec.levels - 1), run.figures / "samples.png")


def anchors(dataset: Dataset) -> dict[str, float]:
    """Bits a dimension of a histogram a pixel, with one count added to every level; and of one for each pixel and class."""
    levels = dataset.spec.levels
    assert levels is not None

    def bits(train: Tensor, test: Tensor) -> Tensor:
        counts = torch.nn.functional.one_hot(train.flatten(1).long(), levels).sum(0).double() + 1
        log_p = (counts / counts.sum(-1, keepdim=True)).log2()
        return log_p.expand(len(test), -1, -1).gather(2, test.flatten(1).long()[..., None])[..., 0].sum(1)

    dims = dataset.test[0].numel()
    found = {"histogram of each pixel": -float(bits(dataset.train, dataset.test).mean()) / dims}
    if dataset.train_labels is not None:
        each = []
        for label in dataset.train_labels.unique():
            mine = dataset.train_labels == label
            each.append(bits(dataset.train[mine], dataset.test) + mine.double().mean().log2())
        log_p = torch.stack(each) * math.log(2)
        found["mixture of histograms of the classes"] = -float(log_p.logsumexp(0).mean()) / dims / math.log(2)
    return found
