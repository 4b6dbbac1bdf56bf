"""Masked diffusion: tokens a second beside dllm's MDLM trainer, the variance of the ELBO by network calls, and what caches save."""

import math
import os
import tempfile
from typing import Any

import torch
from torch import Tensor

from common import options, paired, ratio, save
from infimum.data import load
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, SequenceLearner, completions, fill
from infimum.evidence import Plan, elbo, evaluate
from infimum.training import Run, cosine, train
from masked_peer import likelihood, training_loop

GOALS = {"speed": 1.2, "variance": 5.0}
SIZES = {
    "27 characters": (27, 64, 32, 20),
    "8,192 tokens": (8192, 64, 8, 12),
    "32,768 tokens": (32_768, 64, 8, 6),
}
"""Vocabulary, length, batch, steps to time."""


def throughput(args: Any) -> dict[str, Any]:
    """The same network, batch and optimizer: training, and 8 draws of the ELBO."""
    found = {}
    for name, (vocabulary, length, batch, steps) in SIZES.items():
        n = 2 if args.quick else steps
        x = torch.randint(0, vocabulary, (max(64, batch * 4), length), generator=torch.Generator().manual_seed(0))

        def model(vocabulary: int = vocabulary) -> MaskedDiffusion:
            torch.manual_seed(0)
            return MaskedDiffusion(MaskedDiffusionConfig(vocabulary))

        def ours(x: Tensor = x, batch: int = batch, n: int = n, model: Any = model) -> Any:
            learner = SequenceLearner(model(), x, batch=batch)
            folder = tempfile.mkdtemp()
            return lambda: train(
                learner, steps=n, run=Run(f"{folder}/run", quiet=True), every=n, schedule=cosine(n, warmup=1)
            )

        def theirs(x: Tensor = x, batch: int = batch, n: int = n, model: Any = model) -> Any:
            made = model()
            return lambda: training_loop(made.network, x, made.config.mask, n, batch=batch, lr=3e-4)

        def our_bound(x: Tensor = x, batch: int = batch, model: Any = model) -> Any:
            made = model().eval()
            return lambda: evaluate(made, x[: 2 * batch], Plan.stratified(8), elbo, rows=batch)

        def their_bound(x: Tensor = x, batch: int = batch, model: Any = model) -> Any:
            made = model()
            return lambda: likelihood(made.network, x[: 2 * batch], made.config.mask, k=8, batch=batch)

        runs = 2 if args.quick else 5
        trained = paired({"infimum": ours, "dllm": theirs}, runs=runs)
        bounded = paired({"infimum": our_bound, "dllm": their_bound}, runs=runs)
        found[name] = {
            "tokens_per_second": {side: n * batch * length * len(t) / sum(t) for side, t in trained.items()},
            "training": ratio(trained["dllm"], trained["infimum"]),
            "elbo": ratio(bounded["dllm"], bounded["infimum"]),
        }
    return found


def variances(args: Any) -> dict[str, Any]:
    """Variance of the ELBO of a sequence at 16 network calls, of a model of characters that was trained for a while."""
    data = load("wikipedia-characters")
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(27))
    steps, items, repetitions = (2, 4, 3) if args.quick else (300, 40, 20)
    learner = SequenceLearner(model, data.train.long(), batch=32, lr=3e-3)
    train(learner, steps=steps, run=Run(f"{tempfile.mkdtemp()}/run", quiet=True), schedule=cosine(steps, warmup=1))
    model.eval()
    x = data.test[:: len(data.test) // items][:items].long()
    keys = torch.arange(items)

    def spread(values: list[Tensor]) -> Tensor:
        return torch.stack(values).double().var(0) / x.shape[1] ** 2 / math.log(2) ** 2

    torch.manual_seed(0)
    base = spread([likelihood(model.network, x, 27, k=16, batch=items) for _ in range(repetitions)])
    rows: dict[str, Any] = {
        "by time, random (dllm)": {"variance": float(base.mean()), "gain": 1.0, "low": 1.0, "high": 1.0}
    }
    plans = {
        "by count, random": ("count", Plan(replicates=16)),
        "by count, stratified": ("count", Plan.stratified(16)),
        "by count, antithetic": ("count", Plan.antithetic(16)),
        "complements, antithetic": ("complement", Plan.antithetic(16)),
    }
    for name, (form, plan) in plans.items():
        other = model.in_form(form)  # type: ignore[arg-type]
        each = spread([evaluate(other, x, plan, elbo, keys=keys, seed=seed).value for seed in range(repetitions)])
        gain = float(base.mean() / each.mean())
        parts = torch.stack([base.sum() - base, each.sum() - each])
        jack = (parts[0] / parts[1]).log()
        half = 1.96 * math.sqrt(float((items - 1) * jack.var(unbiased=False)))
        rows[name] = {
            "variance": float(each.mean()),
            "gain": gain,
            "low": gain * math.exp(-half),
            "high": gain * math.exp(half),
        }
    return {"rows": rows, "items": items, "calls": 16, "unit": "bits a token squared"}


def writing(args: Any) -> dict[str, Any]:
    """Seconds of writing 128 tokens behind a prompt of 128, in blocks of 32 and two tokens a step, with and without caches."""
    torch.manual_seed(0)
    config = MaskedDiffusionConfig(1024, width=256, blocks=2 if args.quick else 6, heads=4)
    model = MaskedDiffusion(config).eval()
    prompts, length = (2, 32) if args.quick else (4, 128)
    x = completions(torch.randint(0, 1024, (prompts, length)).tolist(), length, pad_id=0, fill=config.mask)
    draws = Plan.iid(1).draws(torch.arange(prompts))
    found: dict[str, Any] = {}

    def write(cache: Any) -> Any:
        def call() -> None:
            found[cache] = fill(model, x, draws, steps=length // 2, block_length=32, temperature=1.0, cache=cache)

        return lambda: call

    times = paired({cache: write(cache) for cache in ("none", "prefix", "dual")}, runs=2 if args.quick else 5)
    return {
        "prompts": prompts, "length": length,
        "rows": {
            cache: {
                "tokens_per_second": prompts * length * len(each) / sum(each),
                "speed": ratio(times["none"], each),
                "columns": found[cache].positions / found["none"].positions,
            }
            for cache, each in times.items()
        },
    }  # fmt: skip


def main() -> None:
    """Measure and write."""
    args = options(__doc__ or "")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    parts = {"throughput": throughput(args), "variance": variances(args), "writing": writing(args)}
    save("masked", args, {"goals": GOALS, **parts}, "transformers")


if __name__ == "__main__":
    main()
