"""How fast is VAE training beside pythae's trainer? Same network, data, batch, optimizer and epochs."""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from common import difference, options, paired, ratio, save
from infimum.data import load
from infimum.evidence import Plan, evaluate
from infimum.training import Run, train
from infimum.vae import VAE, Objective, VAEConfig, VAELearner
from peer import trainer

GOAL = 1.3
BATCH, LR = 64, 1e-3
RULES = ("analytic", "elbo", "stl")  # the first is pythae's own loss: a closed-form divergence
CASES = {
    "784-512-16, MNIST": ("mnist5k", (512,), 16, "relu", 4),  # pythae's default network
    "784-200-200-50, MNIST": ("mnist5k", (200, 200), 50, "tanh", 8),  # Burda et al.
    "64-64-64-8, digits": ("digits", (64, 64), 8, "tanh", 40),
}


def case(data: str, hidden: tuple[int, ...], latent: int, activation: str, epochs: int, pairs: int) -> dict:
    """Seconds of both sides in turns, with three of infimum's gradient rules, and what the training reached."""
    dataset = load(data)
    x, test = dataset.train, dataset.test[:200]
    config = VAEConfig(tuple(x.shape[1:]), latent=latent, hidden=hidden, activation=activation)
    steps = epochs * len(x) // BATCH
    trained: dict[str, list[VAE]] = {name: [] for name in ("pythae", *RULES)}
    with tempfile.TemporaryDirectory() as folder:
        count = itertools.count()

        def fresh(name: str) -> VAE:
            """The network of the next round: both sides start from the same one."""
            torch.manual_seed(len(trained[name]))
            trained[name].append(VAE(config))
            return trained[name][-1]

        def ours(rule: str) -> Callable[[], object]:
            learner = VAELearner(fresh(rule), x, Objective(rule=rule), batch=BATCH, lr=LR)
            run = Run(Path(folder, str(next(count))), seed=len(trained[rule]), quiet=True)
            return lambda: train(learner, steps=steps, run=run, every=steps)

        def peer() -> Callable[[], object]:
            return trainer(fresh("pythae"), x, Path(folder, str(next(count))), epochs=epochs, batch=BATCH, lr=LR).train

        sides = {rule: (lambda rule=rule: ours(rule)) for rule in RULES}
        times = paired({"pythae": peer, **sides}, pairs)
    reached = {
        name: [evaluate(model.eval(), test, Plan.iid(64)).mean().value for model in models[-pairs:]]
        for name, models in trained.items()
    }
    examples = dict.fromkeys(RULES, steps * BATCH) | {"pythae": epochs * len(x)}
    return {
        "epochs": epochs, "steps": steps,
        "examples_per_second": {n: examples[n] / sorted(each)[len(each) // 2] for n, each in times.items()},
        "speedup": {n: ratio([t / examples["pythae"] for t in times["pythae"]], [t / examples[n] for t in times[n]])
                    for n in RULES},
        "held_out_iwae_64": reached, "gain_nats": {n: difference(reached[n], reached["pythae"]) for n in RULES},
        "seconds": times,
    }  # fmt: skip


def main() -> None:
    args = options(__doc__ or "")
    cases = {"64-64-64-8, digits": (*CASES["64-64-64-8, digits"][:4], 1)} if args.quick else CASES
    result = {name: case(*settings, pairs=2 if args.quick else 7) for name, settings in cases.items()}
    save("training", args, {"goal": GOAL, "batch": BATCH, "cases": result}, "pythae")


if __name__ == "__main__":
    main()
