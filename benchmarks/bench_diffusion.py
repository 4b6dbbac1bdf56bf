"""Diffusion: steps a second beside diffusers' loop and VDM's in JAX, variance of the gradient, error of samplers by evaluations."""

import math
import os
import tempfile
import time
from typing import Any

import torch
from torch import Tensor, nn

from common import difference, options, paired, ratio, save
from diffusion_peer import JaxVDM, OfTimesteps, Sampled, diffusers_loop
from infimum.data import load
from infimum.diffusion import (
    AdaptiveBins,
    DiffusionConfig,
    DiffusionLearner,
    FixedSchedule,
    GaussianDiffusion,
    adaptive_flow,
    alpha_sigma,
    sample,
    training,
)
from infimum.evidence import Plan, elbo, evaluate
from infimum.nets import ResidualMLP, VDMUNet
from infimum.training import Run, cosine, load_model, train

GOALS = {"speed": 1.2, "variance": 4.0}
BATCH = 128


def networks(quick: bool) -> dict[str, tuple[Any, int]]:
    """Name to (a function that makes a network of (z, u), steps to time)."""
    from diffusers import UNet2DModel

    def unet() -> nn.Module:
        return UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
        )  # fmt: skip

    few = 2 if quick else 1000
    return {
        "residual MLP, 128 wide": (lambda: ResidualMLP(64, width=128, blocks=4), min(few, 300)),
        "VDM U-Net, 32 channels": (lambda: VDMUNet(1, width=32, blocks=2), min(few, 40)),
        "UNet2DModel of diffusers": (unet, min(few, 40)),
    }


def throughput(args: Any, images: Tensor) -> dict[str, Any]:
    """Both loops on the same network, data and loss: MSE of the noise at DDPM's noise levels, AdamW, clipping, EMA."""
    found = {}
    recipe = training("ddpm", -9.9, 9.2)
    for name, (make, steps) in networks(args.quick).items():
        flat, theirs = name.startswith("residual"), name.startswith("UNet2D")
        shape = (64,) if flat else (1, 8, 8)
        x = images.reshape(len(images), *shape)

        def infimum(
            make: Any = make, theirs: bool = theirs, shape: Any = shape, x: Tensor = x, steps: int = steps
        ) -> Any:
            torch.manual_seed(0)
            config = DiffusionConfig(shape, low=-9.9, high=9.2, schedule="linear")
            model = GaussianDiffusion(config, Sampled(make()) if theirs else make())
            learner = DiffusionLearner(
                model, x, weighting=recipe.weighting, times=recipe.schedule, batch=BATCH, lr=1e-4, clip=1.0
            )
            folder = tempfile.mkdtemp()
            return lambda: train(
                learner, steps=steps, run=Run(f"{folder}/run", quiet=True), every=steps, ema={"model": 0.9999},
                schedule=cosine(steps, warmup=min(10, steps)),
            )  # fmt: skip

        def peer(make: Any = make, theirs: bool = theirs, x: Tensor = x, steps: int = steps) -> Any:
            torch.manual_seed(0)
            network = make() if theirs else OfTimesteps(make())
            return lambda: diffusers_loop(network, x, steps, batch=BATCH, lr=1e-4)

        taken = paired({"infimum": infimum, "diffusers": peer}, runs=2 if args.quick else 7)
        found[name] = {
            "steps": steps,
            "steps_per_second": {side: steps * len(t) / sum(t) for side, t in taken.items()},
            "speedup": ratio(taken["diffusers"], taken["infimum"]),
        }
    return found


def digits_model(seed: int) -> GaussianDiffusion:
    """That of the recipe diffusion-elbo."""
    torch.manual_seed(seed)
    config = DiffusionConfig((1, 8, 8), levels=17, schedule="learned", high=7.0, width=128, blocks=4, dropout=0.3)
    return GaussianDiffusion(config)


def beside_jax(args: Any, dataset: Any) -> dict[str, Any]:
    """The same network and loss by VDM's loop in JAX: equality of the bound, steps a second, bits a dimension at equal time."""
    import jax

    model = digits_model(0)
    for p in model.network.parameters():
        if bool((p == 0).all()):
            nn.init.normal_(p, std=0.02)
    options: dict[str, Any] = {"batch": BATCH, "lr": 4e-3, "steps": 3000, "ema": 0.99, "clip": 1.0}
    peer = JaxVDM(model, dataset.train, seed=0, **options)
    x = dataset.train[:32]
    generator = torch.Generator().manual_seed(0)
    t = (torch.arange(32) + 0.5) / 32
    eps, eps_0 = (torch.randn(32, 64, generator=generator) for _ in range(2))
    theirs = peer.parts(peer.params, *(jax.numpy.asarray(v.numpy()) for v in (x.flatten(1), t, eps, eps_0)))
    model.eval()
    with torch.no_grad():
        f, unit = model.encode(x), 64 * math.log(2)
        snr = model.schedule.log_snr(t)[None]
        high = model.schedule.high
        near = f + (-0.5 * high).exp().float() * eps_0[None]
        ours = (
            model.prior(f) / unit,
            -model.decoder.log_prob(x.flatten(1), near, high)[0] / unit,
            (-0.5 * model.schedule.slope(t)[None] * model.error(f, eps[None], snr))[0] / unit,
        )  # fmt: skip
    apart = max(float((a - torch.tensor(jax.device_get(b))).abs().max()) for a, b in zip(ours, theirs, strict=True))
    if not apart < 1e-3:
        raise RuntimeError(f"the bound in JAX differs from that in torch by {apart}")

    budget, seeds = (0.5, 2) if args.quick else (40.0, 3)
    bits: dict[str, list[float]] = {"infimum": [], "VDM in JAX": []}
    rate: dict[str, list[float]] = {"infimum": [], "VDM in JAX": []}

    def told(model: GaussianDiffusion) -> float:
        plan = Plan.stratified(4 if args.quick else 64)
        return -float(evaluate(model.eval(), dataset.test, plan, elbo).value.mean()) / 64 / math.log(2)

    for seed in range(seeds):
        for side in ("infimum", "VDM in JAX") if seed % 2 == 0 else ("VDM in JAX", "infimum"):
            model, few = digits_model(seed), 10 if args.quick else 200
            if side == "infimum":
                probe = DiffusionLearner(digits_model(seed), dataset.train, batch=BATCH, lr=4e-3, clip=1.0)
                start = time.perf_counter()
                train(probe, steps=few, run=Run(f"{tempfile.mkdtemp()}/run", quiet=True))
                steps = max(2, int(budget / (time.perf_counter() - start) * few))
                learner = DiffusionLearner(model, dataset.train, batch=BATCH, lr=4e-3, clip=1.0)
                start = time.perf_counter()
                result = train(
                    learner, steps=steps, run=Run(f"{tempfile.mkdtemp()}/run", quiet=True), every=steps,
                    schedule=cosine(steps, warmup=min(100, steps)), ema={"model": 0.99},
                )  # fmt: skip
                rate[side].append(steps / (time.perf_counter() - start))
                model = load_model(result.checkpoint)[0]  # type: ignore[assignment]
            else:
                peer = JaxVDM(model, dataset.train, seed=seed, **options)
                first = peer.state
                peer.step().block_until_ready()  # compiled, and not counted
                start = time.perf_counter()
                for _ in range(few):
                    loss = peer.step()
                loss.block_until_ready()
                steps = max(2, int(budget / (time.perf_counter() - start) * few))
                peer.state, peer.steps = first, float(steps)
                start = time.perf_counter()
                for _ in range(steps):
                    loss = peer.step()
                loss.block_until_ready()
                rate[side].append(steps / (time.perf_counter() - start))
                peer.copy_to(model)
            bits[side].append(told(model))
    return {
        "seconds": budget, "seeds": seeds, "largest_difference_of_the_bound": apart,
        "steps_per_second": {side: sum(r) / len(r) for side, r in rate.items()},
        "speedup": ratio(rate["infimum"], rate["VDM in JAX"]),
        "bits": bits, "infimum_less_jax": difference(bits["infimum"], bits["VDM in JAX"]),
    }  # fmt: skip


def gradients(args: Any, dataset: Any) -> dict[str, Any]:
    """Mean squared deviation of the gradient of one batch over draws, by how times are spread and which density they have."""
    model = digits_model(0)
    train(
        DiffusionLearner(model, dataset.train, batch=BATCH, lr=4e-3, clip=1.0), steps=2 if args.quick else 500,
        run=Run(f"{tempfile.mkdtemp()}/run", quiet=True),
    )  # fmt: skip
    model.eval()
    model.schedule.requires_grad_(False)
    low, high = float(model.schedule.low), float(model.schedule.high)
    x = dataset.train[:BATCH]
    f, unit = model.encode(x), 64 * math.log(2)
    flat = FixedSchedule("linear", low, high)
    bins = AdaptiveBins(low, high, bins=50, rate=0.99)
    with torch.no_grad():
        for i in range(2 if args.quick else 40):
            draws = Plan.iid(2).draws(torch.arange(BATCH), seed=i, salt="adapt")
            snr = bins.log_snr(draws.lead())
            bins.update(snr, model.error(f, draws.normal("eps", 64), snr))
    weights = list(model.network.parameters())

    def one(plan: Plan, schedule: Any, seed: int, lead: Tensor | None = None) -> tuple[float, Tensor]:
        draws = plan.draws(torch.arange(BATCH), seed=seed, salt="bench")
        t = draws.lead() if lead is None else lead
        loss = (-0.5 * schedule.slope(t) * model.error(f, draws.normal("eps", 64), schedule.log_snr(t)) / unit).mean()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return float(loss.detach()), torch.cat([g.flatten() for g in found if g is not None])

    runs = 4 if args.quick else 200
    # antithetic and lattice times tile (0, 1) over the batch, as stratified ones do; "fixed" is what no choice of times removes
    sides: dict[str, tuple[Plan, Any]] = {}
    for density, schedule in (("uniform log-SNRs", flat), ("adapted", bins)):
        for lead in ("random", "lattice", "stratified"):
            sides[f"{density}, {lead}"] = Plan(lead=lead, spread=1 if lead == "random" else BATCH), schedule  # type: ignore[arg-type]
    rows = {}
    grid = ((torch.arange(BATCH) + 0.5) / BATCH).double()[None, torch.randperm(BATCH)]
    for name, (plan, schedule) in [*sides.items(), ("noise alone, times fixed", (Plan(), bins))]:
        lead = grid if name.startswith("noise") else None
        losses, total, square = [], 0.0, 0.0
        for i in range(runs):
            loss, g = one(plan, schedule, i, lead)
            losses.append(loss)
            total, square = total + g.double(), square + float(g.double().square().sum())
        mean = total / runs
        variance = (square / runs - float(mean.square().sum())) * runs / (runs - 1)
        rows[name] = {"loss": float(torch.tensor(losses).var()), "gradient": variance, "mean_loss": sum(losses) / runs}
    base = rows["uniform log-SNRs, random"]
    for row in rows.values():
        row["loss_gain"], row["gradient_gain"] = base["loss"] / row["loss"], base["gradient"] / row["gradient"]
    return {"draws": runs, "rows": rows}


MEANS = torch.tensor([[-0.6, 0.3], [0.5, -0.2], [0.1, 0.7]], dtype=torch.float64)
SD, SHARES = 0.1, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


class Exact(nn.Module):
    """The denoiser of a mixture of three Gaussians, which counts its evaluations."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high, self.calls = low, high, 0
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        """E[f | z]."""
        self.calls += 1
        alpha, sigma = alpha_sigma((self.high - u * (self.high - self.low))[:, None])
        v = alpha**2 * SD**2 + sigma**2
        away = z[:, None] - (alpha[..., None] * MEANS)
        share = (SHARES.log() - 0.5 * (away**2).sum(-1) / v).softmax(1)
        mean = MEANS + (alpha * SD**2 / v)[..., None] * away
        return (share[..., None] * mean).sum(1)


def samplers(args: Any) -> dict[str, Any]:
    """Error of z_0 against the flow solved very finely from the same z_1; of the ancestral sampler the energy distance to data."""
    low, high = -10.0, 9.0
    model = GaussianDiffusion(DiffusionConfig((2,), low=low, high=high, head="x"), Exact(low, high)).eval()
    n = 64 if args.quick else 2000
    draws = Plan.iid(1).draws(torch.arange(n), seed=1)
    path_end, _ = adaptive_flow(
        model, draws.normal("prior", 2)[0].double(), tolerance=1e-6 if args.quick else 1e-10, most=100_000
    )
    truth = path_end / alpha_sigma(torch.tensor(high, dtype=torch.float64))[0]
    rows: list[dict[str, Any]] = []

    def record(sampler: Any, **setting: Any) -> None:
        model.network.calls = 0
        out = sample(model, draws, sampler=sampler, decode=False, **setting)[0].double()
        calls: float = model.network.calls
        if sampler == "ode-adaptive":
            _, asked = adaptive_flow(model, draws.normal("prior", 2)[0].double(), tolerance=setting["tolerance"])
            calls = float(asked.double().mean())
        if sampler == "ancestral":
            rows.append({"sampler": sampler, "evaluations": calls} | energy(out, args.quick))
        else:
            error = (out - truth).square().sum(1)
            rms = float(error.mean().sqrt())
            stderr = float(error.std()) / math.sqrt(n) / (2 * rms)
            rows.append({"sampler": sampler, "evaluations": calls, "rms": rms, "stderr": stderr})

    for sampler, each in (("ddim", 1), ("dpmpp-2m", 1), ("heun", 2), ("ode", 4)):
        for evaluations in (8, 16, 32, 64, 128):
            record(sampler, steps=evaluations // each)
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
        record("ode-adaptive", tolerance=tolerance)
    for steps in (8, 16, 32, 64, 128, 256):
        record("ancestral", steps=steps)
    return {"points": n, "rows": rows}


def energy(x: Tensor, quick: bool) -> dict[str, float]:
    """The energy distance to the mixture's own points, unbiased, with its standard error over parts."""
    generator = torch.Generator().manual_seed(7)
    pick = torch.multinomial(SHARES, len(x), True, generator=generator)
    y = MEANS[pick] + SD * torch.randn(len(x), 2, generator=generator, dtype=torch.float64)
    parts = []
    for a, b in zip(x.chunk(4 if quick else 20), y.chunk(4 if quick else 20), strict=True):
        k = len(a)
        inner = sum(torch.cdist(s, s).sum() / (k * (k - 1)) for s in (a, b))
        parts.append(float(2 * torch.cdist(a, b).mean() - inner))
    each = torch.tensor(parts)
    return {"energy": float(each.mean()), "energy_stderr": float(each.std()) / math.sqrt(len(each))}


def main() -> None:
    """Measure and write."""
    args = options(__doc__ or "")
    if hasattr(os, "sched_setaffinity"):  # JAX would use all cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    dataset = load("digits", kind="integer")
    images = (dataset.train.float() / 8 - 1).flatten(1)
    result = {
        "goals": GOALS, "batch": BATCH, "throughput": throughput(args, images), "jax": beside_jax(args, dataset),
        "gradients": gradients(args, dataset), "samplers": samplers(args),
    }  # fmt: skip
    save("diffusion", args, result, "diffusers", "jax")


if __name__ == "__main__":
    main()
