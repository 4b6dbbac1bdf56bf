"""Recipe: does training by a tighter bound give a better model? VAE and IWAE over several seeds, with certified evidence."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from infimum.data import Dataset
from infimum.errors import UserError
from infimum.evidence import Bracket, Estimate, Plan, bdmc, evaluate, hmc, iw_eubo, iwae, sigmoid_betas, tune
from infimum.recipes.base import Metrics, Recipe, evaluate_run, fit, load_data, mean_json, table
from infimum.recipes.belief_net import BeliefNetRecipe
from infimum.recipes.vae import schedule_of
from infimum.training import Run, load_model
from infimum.vae import VAE, Objective, VAEConfig, VAELearner, defensive

__all__ = ["Iwae", "paired"]


@dataclass(frozen=True)
class Iwae(Recipe):
    """VAE, IWAE-5 and IWAE-50 (arXiv 1509.00519, section 5) over several seeds, ranked by certified held-out evidence."""

    data: str = "digits"
    """embedded data set, or a file or folder of binary items"""
    threshold: float | None = None
    """values from here on count as 1 (digits: 8)"""
    ks: tuple[int, ...] = (1, 5, 50)
    """draws an item in training, one model each; 1 is the VAE (paper: 1 5 50)"""
    seeds: int = 5
    """trainings of each model, from --seed on"""
    latent: int = 8
    """latent dimensions (paper: 50)"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the tanh layers (paper: 200 200)"""
    epochs: int = 200
    """passes through the training items (paper: 3,280)"""
    batch: int = 64
    """items a step (paper: 20)"""
    lr: float = 1e-3
    """learning rate of Adam"""
    eps: float = 1e-8
    """of Adam (paper: 1e-4)"""
    schedule: Literal["constant", "burda"] = "constant"
    """factor on the learning rate (paper: burda, 10^(-i/7) for 3^i epochs)"""
    eval_k: int = 5000
    """draws an item in the evaluation (paper: 5,000)"""
    simulate: int = 1000
    """items drawn from the first model of each kind, to bracket their evidence by draws from both sides"""
    anneal: int = 100
    """how many of those items are bracketed by annealing as well"""
    chains: int = 16
    """annealed chains an item"""
    temperatures: int = 100
    """of annealing"""
    belief_steps: int = 3000
    """optimizer steps of the belief net, whose exact evidence must lie inside its certified interval; 0: leave it out"""
    delta: float = 0.05
    """probability that a certificate or an interval fails"""
    split_seed: int = 0
    """seed of the split into train, valid and test"""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gpu": {"data": "mnist5k", "hidden": (200, 200), "latent": 50, "batch": 256, "epochs": 1000, "temperatures": 500},
        "paper": {
            "data": "mnist5k", "hidden": (200, 200), "latent": 50, "batch": 20, "epochs": 3280, "schedule": "burda",
            "eps": 1e-4, "temperatures": 10_000, "seeds": 1,
        },
    }  # fmt: skip

    def check(self) -> None:
        """Refuse what cannot be trained or compared, before anything is written."""
        super().check()
        if not self.ks or list(self.ks) != sorted(set(self.ks)) or self.ks[0] < 1:
            raise UserError(f"--ks is {self.ks}, expected increasing numbers of draws, such as 1 5 50")
        for name in ("seeds", "epochs", "simulate", "chains", "temperatures"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}, expected a whole number of at least 1")
        if not 1 <= self.anneal <= self.simulate:
            raise UserError(f"--anneal is {self.anneal}, expected from 1 to --simulate {self.simulate} items")
        if self.belief_steps < 0:
            raise UserError(f"--belief-steps is {self.belief_steps}, expected a whole number of at least 0")

    def run(self, run: Run) -> Metrics:
        """Train every model from every seed, evaluate all on the same items, rank, and check on the belief net."""
        dataset = load_data(self.data, kind="binary", threshold=self.threshold, seed=self.split_seed)
        metrics: Metrics = {}
        found: dict[str, list[dict[str, Estimate]]] = {}
        for k in self.ks:
            name = "vae" if k == 1 else f"iwae-{k}"
            found[name] = []
            for seed in range(run.seed, run.seed + self.seeds):
                one = self._train(run, dataset, name, k, seed)
                if one is None:
                    return {"interrupted": True}
                model, estimates, metrics[f"{name}-{seed}"] = one
                found[name].append(estimates)
                if seed == run.seed:
                    metrics[f"{name}-simulated"] = self._bracket(model, run, name)
        values = {name: [e["iwae"].mean(self.delta).value for e in each] for name, each in found.items()}
        metrics["seeds"] = {name: _summary(each) for name, each in values.items()}
        metrics["ranking"] = {
            f"{b} - {a}": paired(values[b], values[a], self.delta, slack=_bias(metrics[f"{a}-simulated"]["weighted"]))
            for a, b in itertools.pairwise(values)
        }
        if self.belief_steps:
            metrics["belief-net"] = self._belief(run)
            if metrics["belief-net"].get("interrupted"):
                return {"interrupted": True}
        if run.writes:
            self._show(run, dataset, found, metrics)
        return metrics

    def _train(
        self, run: Run, dataset: Dataset, name: str, k: int, seed: int
    ) -> tuple[VAE, dict[str, Estimate], Any] | None:
        """One model from one seed, and its held-out evidence; None if it was interrupted."""
        child = Run(
            run.path / f"{name}-{seed}", seed=seed, device=str(run.device), precision=run.precision, resume=run.resume,
            quiet=run.quiet, config=run.config,
        )  # fmt: skip
        epoch = max(1, len(dataset.train) // self.batch)
        steps = self.epochs * epoch
        if run.writes:
            print(f"training {name} from seed {seed} for {steps} steps on {len(dataset.train)} items", flush=True)
        config = VAEConfig(shape=tuple(dataset.spec.shape), latent=self.latent, hidden=self.hidden)
        objective = Objective(rule="stl" if k == 1 else "dreg", k=k)
        learner = VAELearner(
            VAE(config).to(run.device), dataset.train.to(run.device), objective, batch=self.batch, lr=self.lr,
            eps=self.eps, seed=seed,
        )  # fmt: skip
        schedule = schedule_of(self.schedule, steps, epoch)
        result = fit(learner, dataset, child, steps=steps, every=max(1, steps // 10), schedule=schedule)
        if result is None:
            return None
        model = load_model(result.best or result.checkpoint)[0].to(run.device)
        estimates, means = evaluate_run(
            model, dataset.test, dataset.test_ids, child, k=self.eval_k, delta=self.delta, label=child.path.name
        )
        content = {"evidence": means, "seconds": result.seconds, "steps_per_second": result.rate}
        child.finish(content)
        return model, estimates, content

    def _bracket(self, model: VAE, run: Run, name: str) -> dict[str, Any]:
        """Both sides on items of the model's own: by draws from both sides, and by annealing (00-bounds 3.5)."""
        if not run.quiet and run.writes:
            print(f"bracketing the evidence of {self.simulate} items drawn from {name}", flush=True)
        model.eval()
        with torch.no_grad():
            z, x = model.simulate(self.simulate, run.seed)
        proposal = defensive(model)
        lower = evaluate(proposal, x, Plan.iid(self.eval_k), iwae, seed=run.seed)
        upper = evaluate(proposal, x, Plan(levels=self.eval_k), iw_eubo, seed=run.seed + 1, latents=z)
        weighted = Bracket(lower, upper)
        few = x[: self.anneal]
        draws = Plan.iid(self.chains).draws(torch.arange(len(few), device=few.device), seed=run.seed, salt="pilot")
        path = tune(model, few, draws, sigmoid_betas(self.temperatures), hmc(leapfrog=5))
        annealed = bdmc(model, (z[:, : self.anneal], few), path, chains=self.chains, seed=run.seed)
        return {"weighted": _bracket_json(weighted, self.delta), "annealed": _bracket_json(annealed, self.delta)}

    def _belief(self, run: Run) -> Metrics:
        """The neighbour whose evidence is known: 12 binary latents, all of them summed."""
        recipe = BeliefNetRecipe(
            data=self.data, threshold=self.threshold, hidden=self.hidden, steps=self.belief_steps, every=self.belief_steps,
            batch=self.batch, eval_k=self.eval_k, delta=self.delta / 2, split_seed=self.split_seed,
        )  # fmt: skip
        child = run.child("belief-net")
        metrics = recipe.run(child)
        if not metrics.get("interrupted"):
            low, high = metrics["evidence"]["iwae"]["certificate"], metrics["upper"]["certificate"]
            exact = metrics["exact"]["value"]
            metrics |= {"certified": [low, high], "inside": low <= exact <= high, "width": high - low}
            child.finish(metrics)
        return metrics

    def _show(self, run: Run, dataset: Dataset, found: dict[str, list[dict[str, Estimate]]], metrics: Metrics) -> None:
        from infimum.report import figures

        means = {
            f"{name}, seed {run.seed + i}": (e["elbo"].mean(self.delta), e["iwae"].mean(self.delta))
            for name, each in found.items()
            for i, e in enumerate(each)
        }
        figures.bracket(means, run.figures / "evidence.png")
        print(f"\nheld-out log-evidence of {len(dataset.test)} items in nats an item, {dataset.spec.name}")
        print(table({name: pair[1] for name, pair in means.items()}))
        print(f"\nover {self.seeds} seeds")
        for name, one in metrics["seeds"].items():
            print(f"  {name}: {one['mean']:.3f}, standard deviation {_text(one['sd'])}")
        for name, one in metrics["ranking"].items():
            print(
                f"  {name}: {one['difference']:+.3f} nats, {1 - self.delta:.0%} t interval {_interval(one)}: {one['answer']}"
            )
        print("\non items of the first models' own")
        for name in found:
            for how, one in metrics[f"{name}-simulated"].items():
                print(
                    f"  {name}, {how}: gap {one['gap']:.4f} ± {_text(one['gap_stderr'], 4)} nats, certified interval of width "
                    f"{one['width']:.4f} on {one['items']} items"
                )
        if "belief-net" in metrics:
            one = metrics["belief-net"]
            print(
                f"\nbelief net: exact {one['exact']['value']:.4f}, certified interval [{one['certified'][0]:.4f}, "
                f"{one['certified'][1]:.4f}]: {'inside' if one['inside'] else 'OUTSIDE'}"
            )


def _bias(bracket: dict[str, Any]) -> float:
    """How far a lower bound may lie below the evidence: the bracket's gap and two of its standard errors."""
    return max(0.0, bracket["gap"] + 2 * (bracket["gap_stderr"] or 0.0))


def paired(first: Sequence[float], second: Sequence[float], delta: float, slack: float = 0.0) -> dict[str, Any]:
    """Mean difference of lower bounds over seeds with its t interval, and what follows at that level.

    A difference of two lower bounds has no sign of its own: "better" asks for more than ``slack``, the bias that the second's
    may have.

    Returns:
        "difference", "low", "high" (None for fewer than two seeds, which have no interval), "delta", "slack", "answer".
    """
    from scipy import stats

    gaps = torch.tensor(first, dtype=torch.float64) - torch.tensor(second, dtype=torch.float64)
    n, mean = len(gaps), float(gaps.mean())
    if n < 2:
        return {"difference": mean, "low": None, "high": None, "delta": delta, "slack": slack,
                "answer": "undecided: one seed has no interval"}  # fmt: skip
    half = float(stats.t.ppf(1 - delta / 2, n - 1)) * float(gaps.std()) / math.sqrt(n)
    low, high = mean - half, mean + half
    answer = "better" if low > slack else "worse" if high < -slack else "undecided"
    return {"difference": mean, "low": low, "high": high, "delta": delta, "slack": slack, "answer": answer}


def _summary(values: Sequence[float]) -> dict[str, Any]:
    each = torch.tensor(values, dtype=torch.float64)
    return {"mean": float(each.mean()), "sd": float(each.std()) if len(each) > 1 else None, "values": list(values)}


def _bracket_json(bracket: Bracket, delta: float) -> dict[str, Any]:
    mean, gap = bracket.mean(delta), bracket.gap
    low, high = mean.lower.certificate, mean.upper.certificate
    return {
        "lower": mean_json(mean.lower),
        "upper": mean_json(mean.upper),
        "gap": float(gap.mean()),
        "gap_stderr": float(gap.std()) / math.sqrt(len(gap)) if len(gap) > 1 else None,
        "width": None if low is None or high is None else high - low,
        "items": len(gap),
    }


def _text(value: float | None, digits: int = 3) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _interval(one: dict[str, Any]) -> str:
    return "unknown" if one["low"] is None else f"[{one['low']:+.3f}, {one['high']:+.3f}]"
