"""How fast is a mixture VAE with a patch discriminator beside pythae's VAEGAN, and what do both reach in as many epochs?"""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from adversarial_peer import adversarial_share, in_vaegan, vaegan_trainer
from common import difference, options, paired, ratio, save
from infimum.data.embedded import photographs
from infimum.evidence import Plan, evaluate
from infimum.nets import PatchDiscriminator
from infimum.training import Run, train
from infimum.vae import ConvolutionalVAE, ConvolutionalVAEConfig, defensive
from infimum.vae.adversarial import Adversary, MixtureObjective, MixtureVAELearner
from infimum.vae.quality import frechet_distance, sharpness

GOAL = 1.3
SIZE, BATCH, LR, R, WEIGHT = 16, 64, 1e-3, 800.0, 16.0
OURS = {"means + PatchGAN": ("means", WEIGHT), "total + PatchGAN": ("total", WEIGHT), "kl": ("kl", 0.0)}
ERRORS = (
    "one backward pass after the other adds to gradients that were cleared before: the decoder steps along the discriminator's "
    "gradient as well, which turns its own adversarial term around, and the encoder along the decoder's loss"
)


def patches() -> tuple[Tensor, Tensor]:
    """Grey patches of photographs; the last two photographs are the test data."""
    raw = photographs(SIZE)
    assert raw.labels is not None
    x, number = torch.from_numpy(raw.values).float(), torch.from_numpy(raw.labels)
    last = int(number.max())
    return x[number < last - 1][::4], x[number >= last - 1][::8]


def nets(seed: int) -> tuple[ConvolutionalVAE, PatchDiscriminator]:
    """The networks of both sides."""
    torch.manual_seed(seed)
    config = ConvolutionalVAEConfig(
        shape=(1, SIZE, SIZE),
        likelihood="laplace",
        levels=256,
        scale=SIZE**2 / R,
        latent=32,
        width=16,
        stages=2,
        input_norm=False,
    )
    return ConvolutionalVAE(config), PatchDiscriminator(1, filters=(16, 16, 1), strides=(2, 2, 1))


def side(name: str, x: Tensor, seed: int, epochs: int, folder: Path) -> tuple[ConvolutionalVAE, Callable[[], object]]:
    """A fresh network and the call that trains it."""
    vae, critic = nets(seed)
    if name == "pythae VAEGAN":
        scaled = vae.likelihood.scaled(x)
        return vae, vaegan_trainer(vae, critic, scaled, folder, epochs=epochs, batch=BATCH, lr=LR).train
    divergence, weight = OURS[name]
    learner = MixtureVAELearner(
        vae, x, MixtureObjective(divergence), discriminator=critic if weight else None, adversary=Adversary(weight), batch=BATCH,  # type: ignore[arg-type]
        lr=LR, seed=seed,
    )  # fmt: skip
    steps, run = epochs * (len(x) // BATCH), Run(folder, seed=seed, quiet=True)
    return vae, lambda: train(learner, steps=steps, run=run, every=steps)


def throughput(x: Tensor, epochs: int, pairs: int) -> dict:
    """Images a second of all sides in turns."""
    count, names = itertools.count(), ("pythae VAEGAN", *OURS)
    with tempfile.TemporaryDirectory() as folder:
        times = paired(
            {name: (lambda name=name: side(name, x, 0, epochs, Path(folder, str(next(count))))[1]) for name in names},
            pairs,
        )
    examples = {name: epochs * (len(x) if name.startswith("pythae") else len(x) // BATCH * BATCH) for name in names}
    each = {name: [t / examples[name] for t in times[name]] for name in names}
    return {
        "images_per_second": {name: 1 / sorted(s)[len(s) // 2] for name, s in each.items()},
        "speedup": {name: ratio(each["pythae VAEGAN"], each[name]) for name in OURS},
    }


@torch.no_grad()
def measured(vae: ConvolutionalVAE, x: Tensor, test: Tensor, k: int) -> dict[str, float]:
    """Error, sharpness, distance of samples and evidence on the test patches, for every side by infimum."""
    vae.eval()
    shape = (1, SIZE, SIZE)
    real, target = vae.likelihood.scaled(x.flatten(1)), vae.likelihood.scaled(test.flatten(1))
    out = vae.decode(vae.encode(test)[0][None])[0]
    z = Plan.iid(1).draws(torch.arange(2000), salt="samples").normal("z", vae.config.latent)
    axes = torch.linalg.svd(real - real.mean(0), full_matrices=False).Vh[:16].T
    sharp = [sharpness(images.unflatten(1, shape)).mean() for images in (out, target)]
    return {
        "mae": float((out - target).abs().mean()),
        "sharpness": float(sharp[0] / sharp[1]),
        "frechet": frechet_distance(vae.decode(z)[0] @ axes, target @ axes),
        "evidence": evaluate(defensive(vae), test[:100], Plan.iid(k)).mean().value,
    }


def quality(x: Tensor, test: Tensor, epochs: int, seeds: int, k: int) -> dict:
    """What each side reaches in as many epochs, from the same starts."""
    reached: dict[str, list[dict[str, float]]] = {name: [] for name in ("pythae VAEGAN", *OURS)}
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in itertools.product(range(seeds), reached):
            vae, call = side(name, x, seed, epochs, Path(folder, f"{name}-{seed}"))
            call()
            reached[name].append(measured(vae, x, test, k))
    columns = {name: {key: [one[key] for one in each] for key in each[0]} for name, each in reached.items()}
    peer = columns["pythae VAEGAN"]
    gain = {name: {key: difference(columns[name][key], peer[key]) for key in peer} for name in OURS}
    return {"reached": columns, "less_pythae": gain, "epochs": epochs, "seeds": seeds, "k": k, "test": len(test)}


def main() -> None:
    args = options(__doc__ or "")
    x, test = patches()
    if args.quick:
        x, test = x[: 2 * BATCH], test[:20]
    vae, critic = nets(0)
    share = adversarial_share(in_vaegan(vae, critic), vae.likelihood.scaled(x[:BATCH]))
    result = {
        "goal": GOAL, "batch": BATCH, "train": len(x),
        "pythae_error": ERRORS, "pythae_share_of_the_discriminators_gradient_in_the_decoder": share,
        "training": throughput(x, 1 if args.quick else 2, 2 if args.quick else 7),
        "quality": quality(x, test, *((1, 2, 10) if args.quick else (30, 5, 500))),
    }  # fmt: skip
    save("mixture", args, result, "pythae")


if __name__ == "__main__":
    main()
