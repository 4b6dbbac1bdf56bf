"""Recipe: a masked diffusion model of English characters beside its autoregressive twin, by bits a character."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from infimum.data import Dataset
from infimum.data.characters import CHARACTERS, decoded
from infimum.discrete import Autoregressive, MaskedDiffusion, MaskedDiffusionConfig, SequenceLearner
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, iwae, path_terms, save_estimate
from infimum.recipes.base import Metrics, Recipe, load_data, mean_json, spec_json
from infimum.recipes.diffusion_base import interval
from infimum.recipes.iwae import paired
from infimum.training import Run, cosine, load_model, train

__all__ = ["MaskedDiffusionRecipe"]

Name = Literal["masked", "autoregressive"]
ESTIMATORS: dict[str, tuple[dict[str, Any], Plan]] = {
    "count": ({"form": "count"}, Plan(levels=1, replicates=8)),
    "count, stratified": ({"form": "count"}, Plan.stratified(8)),
    "complement, antithetic": ({"form": "complement"}, Plan.antithetic(8)),
    "time, floor .001": ({"form": "time", "floor": 0.001}, Plan(levels=1, replicates=8)),
    "time, floor .001, stratified": ({"form": "time", "floor": 0.001}, Plan.stratified(8)),
}
"""Ways to spend 8 network calls on the ELBO of a sequence."""


@dataclass(frozen=True)
class MaskedDiffusionRecipe(Recipe):
    """Masked diffusion (arXiv 2406.07524) over characters: its ELBO, unrolled orders, and a causal transformer of equal size."""

    data: str = "wikipedia-characters"
    """embedded data set of tokens, or a table or array of whole numbers, a sequence a row"""
    models: tuple[Name, ...] = ("masked", "autoregressive")
    """which to train"""
    seeds: int = 3
    """trainings of each, from --seed on (paper: 1)"""
    steps: int = 1000
    """optimizer steps of each (paper: 1,000,000)"""
    width: int = 128
    """of the transformer (paper: 768)"""
    blocks: int = 2
    """of the transformer (paper: 12)"""
    heads: int = 4
    """of its attention (paper: 12)"""
    batch: int = 32
    """sequences a step (paper: 512)"""
    lr: float = 3e-3
    """learning rate of AdamW, along a cosine (paper: 3e-4, constant)"""
    clip: float = 1.0
    """largest gradient norm (paper: 1)"""
    ema: float = 0.99
    """decay of the averaged weights, which are evaluated (paper: 0.9999)"""
    items: int = 1000
    """test sequences that are evaluated"""
    eval_k: int = 16
    """levels a sequence, stratified, in each of two replicates"""
    orders: int = 8
    """random orders to unroll for each of --order-items sequences; 0: none"""
    order_items: int = 100
    """test sequences whose orders are unrolled"""
    delta: float = 0.05
    """probability that an interval fails"""
    split_seed: int = 0
    """seed of the split into train, valid and test"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {"steps": 50_000, "width": 512, "blocks": 8, "heads": 8, "batch": 512, "lr": 3e-4, "ema": 0.9999, "seeds": 1},
        "paper": {"steps": 1_000_000, "width": 768, "blocks": 12, "heads": 12, "batch": 512, "lr": 3e-4, "ema": 0.9999, "seeds": 1},
    }  # fmt: skip

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        super().check()
        for name in ("seeds", "width", "blocks", "heads", "items", "order_items"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected at least 1")
        if self.orders < 0:
            raise UserError(f"--orders is {self.orders}, expected at least 0")
        if not self.models or len(set(self.models)) < len(self.models):
            raise UserError(
                f"--models names each of masked, autoregressive at most once, and one at least, got {self.models}"
            )
        if self.width % (2 * self.heads):
            raise UserError(
                f"--width {self.width} does not divide into {self.heads} heads of even size: change one of them"
            )

    def run(self, run: Run) -> Metrics:
        """Train every model from every seed; measure and write."""
        dataset = load_data(self.data, kind="integer", threshold=None, seed=self.split_seed)
        if len(dataset.spec.shape) != 1 or dataset.spec.levels is None:
            raise UserError(f"--data {self.data} has items of shape {dataset.spec.shape}, expected sequences of tokens")
        metrics: Metrics = {"anchors": anchors(dataset), "models": {}}
        first: dict[str, Any] = {}
        for name in self.models:
            for seed in range(run.seed, run.seed + self.seeds):
                one = self._trained(run, dataset, name, seed)
                if one is None:
                    return {"interrupted": True}
                first.setdefault(name, one[0])
                metrics["models"].setdefault(name, []).append(one[1])
        if len(self.models) == 2:
            bits = {name: [m["bits"] for m in each] for name, each in metrics["models"].items()}
            metrics["masked less autoregressive"] = paired(bits["masked"], bits["autoregressive"], self.delta)
        metrics["items"] = len(self._test(dataset, run)[0])
        if "masked" in first:
            x, keys = self._test(dataset, run)
            if self.orders:
                metrics["orders"] = self._orders(first["masked"], x[: self.order_items], keys[: self.order_items], run)
            metrics["estimators"] = self._estimators(first["masked"], x, keys, run)
        if run.writes:
            self._show(run, dataset, metrics, first)
        return metrics

    def _test(self, dataset: Dataset, run: Run) -> tuple[Tensor, Tensor]:
        """Sequences spread over the test articles."""
        step = max(1, len(dataset.test) // self.items)
        some = slice(0, step * self.items, step)
        return dataset.test[some].long().to(run.device), dataset.test_ids[some].to(run.device)

    def _trained(self, run: Run, dataset: Dataset, name: Name, seed: int) -> tuple[Any, Metrics] | None:
        assert dataset.spec.levels is not None
        torch.manual_seed(seed)
        config = MaskedDiffusionConfig(
            dataset.spec.levels, length=dataset.spec.shape[0], width=self.width, blocks=self.blocks, heads=self.heads,
            characters=CHARACTERS if dataset.spec.name == "wikipedia-characters" else "",
        )  # fmt: skip
        model = MaskedDiffusion(config) if name == "masked" else Autoregressive(config)
        child = Run(
            run.path / f"{name}-{seed}", seed=seed, device=str(run.device), precision=run.precision, resume=run.resume,
            quiet=run.quiet, config=run.config,
        )  # fmt: skip
        learner = SequenceLearner(
            model.to(run.device),
            dataset.train.long().to(run.device),
            batch=self.batch,
            lr=self.lr,
            clip=self.clip,
            seed=seed,
        )
        result = train(
            learner, steps=self.steps, run=child, every=max(1, self.steps // 4),
            schedule=cosine(self.steps, warmup=min(100, self.steps // 2)), ema={"model": self.ema}, data=spec_json(dataset),
        )  # fmt: skip
        if result.interrupted:
            return None
        best: Any = load_model(result.checkpoint)[0].to(run.device).eval()  # the averaged weights
        x, keys = self._test(dataset, run)
        if isinstance(best, Autoregressive):
            with torch.no_grad():
                estimate = best.log_evidence(x)
        else:
            estimate = evaluate(best, x, Plan.stratified(self.eval_k, replicates=2), elbo, keys=keys, seed=run.seed)
            if child.writes:
                save_estimate(estimate, child.path / "evidence.json")
        mean, unit = estimate.mean(self.delta), math.log(2) * dataset.spec.shape[0]
        metrics = {
            "bits": -mean.value / unit, "bits_stderr": mean.stderr / unit, "bits_population": mean.population_stderr / unit,
            "parameters": sum(p.numel() for p in best.parameters()), "steps_per_second": result.rate,
            "estimate": mean_json(mean),
        }  # fmt: skip
        child.finish(metrics)
        return best, metrics

    def _orders(self, model: MaskedDiffusion, x: Tensor, keys: Tensor, run: Run) -> Metrics:
        """The same sequences by the ELBO, and by importance weights over random orders."""
        unit = math.log(2) * x.shape[1]
        options: dict[str, Any] = {"keys": keys, "seed": run.seed}
        bound = evaluate(model, x, Plan.stratified(self.eval_k, replicates=2), elbo, **options).mean(self.delta)
        tight = evaluate(model.unrolled(), x, Plan.iid(self.orders), [elbo, iwae], **options)
        means = [each.mean(self.delta) for each in tight]
        return {
            "items": len(x), "ELBO": -bound.value / unit, "ELBO stderr": bound.stderr / unit,
            "unrolled ELBO": -means[0].value / unit, "unrolled ELBO stderr": means[0].stderr / unit,
            "unrolled": -means[1].value / unit, "unrolled stderr": means[1].stderr / unit,
            "certified": None if means[1].certificate is None else -means[1].certificate / unit,
        }  # fmt: skip

    def _estimators(self, model: MaskedDiffusion, x: Tensor, keys: Tensor, run: Run) -> Metrics:
        """Variance over repetitions of 8 network calls, averaged over sequences, in bits a token squared."""
        unit = math.log(2) * x.shape[1]
        some, mine = x[:100], keys[:100]
        found: Metrics = {}
        for name, (changes, plan) in ESTIMATORS.items():
            other = model.in_form(**changes)
            values = []
            for repetition in range(32):
                draws = plan.draws(mine, seed=run.seed, salt=f"estimators/{repetition}")
                with torch.no_grad():
                    values.append(path_terms(other, some, draws).value.mean(0) / unit)
            each = torch.stack(values)
            found[name] = {"variance": float(each.var(0).mean()), "mean": -float(each.mean())}
        return found

    def _show(self, run: Run, dataset: Dataset, metrics: Metrics, models: dict[str, Any]) -> None:
        from infimum.report.dots import dots

        length = dataset.spec.shape[0]
        print(
            f"\n{metrics['items']} test sequences of {length} tokens of {dataset.spec.name}, bits a token, {self.seeds} seeds"
        )
        for name, value in metrics["anchors"].items():
            print(f"  {name}: {value:.3f}")
        for name, each in metrics["models"].items():
            mean = {
                key: sum(m[key] for m in each) / len(each)
                for key in ("bits", "bits_stderr", "bits_population", "steps_per_second")
            }
            sign = "at most " if name == "masked" else ""
            print(
                f"  {name}: {sign}{mean['bits']:.4f} ± {mean['bits_stderr']:.4f} a seed, population ± "
                f"{mean['bits_population']:.3f}; "
                f"{each[0]['parameters']:,} parameters, {mean['steps_per_second']:.1f} steps/s"
            )
        if "masked less autoregressive" in metrics:
            print(f"  masked less autoregressive: {interval(metrics['masked less autoregressive'])}")
        if "orders" in metrics:
            one = metrics["orders"]
            limit = (
                ""
                if one["certified"] is None
                else f", at most {one['certified']:.4f} with probability {1 - self.delta:g}"
            )
            print(
                f"  {one['items']} sequences: ELBO {one['ELBO']:.4f} ± {one['ELBO stderr']:.4f}; orders unrolled, ELBO "
                f"{one['unrolled ELBO']:.4f} ± {one['unrolled ELBO stderr']:.4f}, IWAE-{self.orders} {one['unrolled']:.4f} ± "
                f"{one['unrolled stderr']:.4f}{limit}"
            )
        if "estimators" in metrics:
            base = metrics["estimators"]["count"]["variance"] or math.nan  # of one token: none varies
            print("variance of 8 network calls over that of 8 random counts: "
                  + ", ".join(f"{n} {v['variance'] / base:.3f}" for n, v in metrics["estimators"].items()))  # fmt: skip
        dots({name: {"bits": [m["bits"] for m in each]} for name, each in metrics["models"].items()},
             {"bits": "bits a token"}, run.figures / "masked-diffusion.png")  # fmt: skip
        if dataset.spec.name == "wikipedia-characters":
            draws = Plan.iid(1).draws(torch.arange(4, device=run.device), seed=run.seed, salt="sample")
            for name, model in models.items():
                print(f"drawn, {name}:")
                for line in decoded(model.generate(draws)[0]):
                    print(f"  {line}")


def anchors(dataset: Dataset) -> dict[str, float]:
    """Bits a token of counts of single tokens, and of pairs, with one count added to every one."""
    levels = dataset.spec.levels
    assert levels is not None
    train, test = dataset.train.long(), dataset.test.long()
    single = torch.bincount(train.flatten(), minlength=levels).double() + 1
    pairs = (
        torch.bincount((train[:, :-1] * levels + train[:, 1:]).flatten(), minlength=levels**2)
        .double()
        .view(levels, levels)
        + 1
    )
    p, q = (single / single.sum()).log2(), (pairs / pairs.sum(1, keepdim=True)).log2()
    second = p[test[:, 0]].sum() + q[test[:, :-1], test[:, 1:]].sum()
    return {"counts of tokens": -float(p[test].mean()), "counts of pairs": -float(second) / test.numel()}
