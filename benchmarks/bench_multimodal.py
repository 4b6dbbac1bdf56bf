"""How fast does a multimodal VAE train and answer beside multivae, how right is its joint evidence, and is it as good?"""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import difference, options, paired, ratio, save
from infimum.data.polydigits import polydigits
from infimum.evidence import Plan, evaluate
from infimum.testing.oracles.multimodal import LinearGaussianModalities
from infimum.training import Run, train
from infimum.vae.multimodal import (
    Modality,
    MultimodalLearner,
    MultimodalObjective,
    MultimodalVAE,
    PictureClassifier,
    judge,
    mmvae,
    mopoe,
    mvae,
    train_classifiers,
)
from multimodal_peer import KINDS, in_multivae, own_nll, trainer

GOALS = {"training": 1.5, "evaluation": 20}
MEMBERS = {"mvae": mvae, "mmvae": mmvae, "mopoe": mopoe}
OBJECTIVES = {
    "mvae": MultimodalObjective(),
    "mmvae": MultimodalObjective("looser_iwae"),
    "mopoe": MultimodalObjective(draws="iid"),
}
"""What multivae trains by: one draw of every expert (MMVAE), one subset an item (MoPoE)."""
BATCH, LR, MODALITIES, LATENT = 64, 2e-3, 3, 32
ERRORS = {
    "mmvae": "one expert for all draws of a batch, chosen at random: it converges to as many values as there are experts",
    "mopoe": "one subset an item, by its place in the batch: the order of the items changes the answer",
}
"""Why compute_joint_nll of multivae 1.0.3 is no estimate of log p(x) for mixtures; its MVAE is right."""


def pictures(x: Tensor) -> dict[str, Tensor]:
    """A tensor (N, M, C, H, W) by modality."""
    return {f"m{i}": part.contiguous() for i, part in enumerate(x.unbind(1))}


def network(kind: str, seed: int) -> MultimodalVAE:
    """The network of the recipe."""
    torch.manual_seed(seed)
    part = Modality((3, 16, 16), "laplace", network="conv", hidden=(16, 32, 64), width=256, activation="tanh")
    return MultimodalVAE(MEMBERS[kind](dict.fromkeys(("m0", "m1", "m2"), part), latent=LATENT))


def peer_of(model: MultimodalVAE, kind: str) -> object:
    return in_multivae(model, kind, dict.fromkeys(model.names, ("laplace", 0.75)))


def training(kind: str, x: dict[str, Tensor], epochs: int, pairs: int) -> dict:
    """Seconds of both trainers in turns, from the same start."""
    count, steps = itertools.count(), epochs * (len(x["m0"]) // BATCH)
    with tempfile.TemporaryDirectory() as folder:

        def ours() -> Callable[[], object]:
            run = Run(Path(folder, str(next(count))), quiet=True)
            learner = MultimodalLearner(network(kind, 0), x, OBJECTIVES[kind], batch=BATCH, lr=LR)
            return lambda: train(learner, steps=steps, run=run, every=steps)

        def theirs() -> Callable[[], object]:
            place = Path(folder, str(next(count)))
            return trainer(peer_of(network(kind, 0), kind), x, place, epochs=epochs, batch=BATCH, lr=LR).train

        times = paired({"multivae": theirs, "infimum": ours}, pairs)
    rate = {side: steps * BATCH / sorted(each)[len(each) // 2] for side, each in times.items()}
    return {"tuples_per_second": rate, "speedup": ratio(times["multivae"], times["infimum"]), "steps": steps}


def evaluation(kind: str, x: dict[str, Tensor], k: int, pairs: int) -> dict:
    """Seconds of the joint evidence of the same convolutional network at the same K."""
    model = network(kind, 0).eval()
    peer, items = peer_of(model, kind), len(x["m0"])
    peer.eval()
    times = paired(
        {"multivae": lambda: lambda: own_nll(peer, x, k), "infimum": lambda: lambda: evaluate(model, x, Plan.iid(k))},
        pairs,
    )
    ms = {side: 1000 * sorted(each)[len(each) // 2] / items for side, each in times.items()}
    return {"milliseconds_an_item": ms, "speedup": ratio(times["multivae"], times["infimum"]), "items": items, "k": k}


def accuracy(kind: str, items: int, pairs: int) -> dict:
    """Error an item and time where log p(x) is known: a linear-Gaussian world, its own decoders, trained encoders."""
    world = LinearGaussianModalities.world(3, 0)
    parts = {name: Modality((6,), "gaussian", hidden=()) for name in world.names}
    torch.manual_seed(0)
    model = MultimodalVAE(MEMBERS[kind](parts, latent=world.latent_dim))
    x = {name: part.float() for name, part in world.simulate(20_000, 1)[1].items()}
    with torch.no_grad():
        for name, net in model.nets.items():
            net.decoder[0].weight.copy_(world.weights[name])
            net.decoder[0].bias.zero_()
            net.likelihood.log_scale.fill_(float(np.log(0.3)))
    for net in model.nets.values():
        net.decoder.requires_grad_(False)
        net.likelihood.requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        learner = MultimodalLearner(model, x, MultimodalObjective(), batch=128, lr=1e-2)
        train(learner, steps=600, run=Run(Path(folder, "run"), quiet=True), every=600)
    model.eval()
    test = {name: part.float() for name, part in world.simulate(items, 2)[1].items()}
    truth = world.log_evidence(test)
    peer = in_multivae(model, kind, dict.fromkeys(model.names, ("normal", 0.3)))
    peer.eval()
    single = [{name: part[i : i + 1] for name, part in test.items()} for i in range(items)]
    whole = {name: part.expand(-1, -1) for name, part in test.items()}
    plans = {
        "infimum, 1000 random": Plan.iid(1000),
        "infimum, 64 Sobol": Plan.sobol(64),
        "infimum, 256 Sobol": Plan.sobol(256),
    }
    torch.manual_seed(0)
    np.random.seed(0)
    errors = {"multivae, 1000": torch.tensor([own_nll(peer, item, 1000) for item in single]) - truth}
    errors |= {name: evaluate(model, test, plan).value - truth for name, plan in plans.items()}
    sides: dict[str, Callable[[], Callable[[], object]]] = {
        "multivae, 1000": lambda: lambda: own_nll(peer, whole, 1000)
    }
    sides |= {name: (lambda plan=plan: lambda: evaluate(model, test, plan)) for name, plan in plans.items()}
    times = paired(sides, pairs)
    return {
        name: {"rms_error_nats": float(e.square().mean().sqrt()), "mean_error_nats": float(e.mean()),
               "milliseconds_an_item": 1000 * sorted(times[name])[len(times[name]) // 2] / items,
               "speedup": ratio(times["multivae, 1000"], times[name])}
        for name, e in errors.items()
    }  # fmt: skip


def quality(kind: str, data: object, judges: dict[str, PictureClassifier], epochs: int, seeds: int, k: int) -> dict:
    """Evidence (lower, by infimum for both sides) and coherence after as many epochs of either trainer, from the same starts."""
    x, test, labels = pictures(data.train), pictures(data.test), data.test_labels  # type: ignore[attr-defined]
    few = {name: part[:100] for name, part in test.items()}
    reached: dict[str, dict[str, list[float]]] = {
        side: {"evidence": [], "given_one": [], "joint": []} for side in ("multivae", "infimum")
    }
    with tempfile.TemporaryDirectory() as folder:
        for seed, side in itertools.product(range(seeds), reached):
            model, place = network(kind, seed), Path(folder, f"{side}-{seed}")
            if side == "multivae":
                trainer(peer_of(model, kind), x, place, epochs=epochs, batch=BATCH, lr=LR).train()
            else:
                learner = MultimodalLearner(model, x, OBJECTIVES[kind], batch=BATCH, lr=LR, seed=seed)
                steps = epochs * (len(x["m0"]) // BATCH)
                train(learner, steps=steps, run=Run(place, seed=seed, quiet=True), every=steps)
            model.eval()
            found = judge(model, test, labels, judges, seed=seed)
            reached[side]["evidence"].append(evaluate(model, few, Plan.iid(k)).mean().value / MODALITIES)
            reached[side]["given_one"].append(found.conditional[1].value)
            reached[side]["joint"].append(found.joint.value)
    gain = {key: difference(reached["infimum"][key], reached["multivae"][key]) for key in reached["infimum"]}
    return {"reached": reached, "gain": gain, "epochs": epochs}


def main() -> None:
    args = options(__doc__ or "")
    quick, data = args.quick, polydigits(MODALITIES)
    x = {name: part[: 128 if quick else None] for name, part in pictures(data.train).items()}
    few = {name: part[: 2 if quick else 10] for name, part in pictures(data.test).items()}
    pairs = 2 if quick else 5
    real = polydigits(MODALITIES, copies=1 if quick else 10)
    assert real.train_labels is not None and real.test_labels is not None
    judges, _ = train_classifiers(
        pictures(real.train),
        real.train_labels,
        pictures(real.test),
        real.test_labels,
        steps=2 if quick else 600,
        least=0.0,
    )
    kinds = ["mopoe"] if quick else list(KINDS)
    epochs, seeds, k = (1, 2, 10) if quick else (20, 3, 200)
    result = {
        "goals": GOALS, "batch": BATCH, "modalities": MODALITIES, "multivae_errors": ERRORS,
        "training": {kind: training(kind, x, 1 if quick else 3, pairs) for kind in kinds},
        "evaluation": {kind: evaluation(kind, few, 20 if quick else 1000, pairs) for kind in kinds},
        "accuracy": {kind: accuracy(kind, 4 if quick else 50, pairs) for kind in kinds},
        "quality": {kind: quality(kind, data, judges, epochs, seeds, k) for kind in kinds},
    }  # fmt: skip
    save("multimodal", args, result, "multivae")


if __name__ == "__main__":
    main()
