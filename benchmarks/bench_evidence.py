"""What does the evidence of held-out images cost at K = 5,000, beside pythae's `get_nll` on the same weights?

Time in turns, peak memory by K in fresh processes, and the error of both against an exactly known evidence.
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from common import RESULTS, forget_peak, options, paired, peak_mib, peak_of_child, ratio, save, seconds
from infimum.data import load
from infimum.evidence import Plan, evaluate
from infimum.training import Run, train
from infimum.vae import VAE, Objective, VAEConfig, VAELearner
from peer import Probabilities, in_pythae

GOAL = 20
K = 5000
ROWS = 2**11  # (draw, item) pairs at a time: activations stay in the cache of a CPU
NETWORKS = {  # data, hidden, latent, activation, training steps, items in a timed run
    "784-512-16, MNIST": ("mnist5k", (512,), 16, "relu", 600, 16),  # pythae's default network
    "64-64-64-8, digits": ("digits", (64, 64), 8, "tanh", 2000, 100),
}
BATCHES = (100, 1000, 5000)  # pythae's batch_size: its default, and larger


def trained(name: str, steps: int | None = None) -> tuple[VAE, Tensor]:
    """A VAE of that network and the held-out images."""
    data, hidden, latent, activation, default, _ = NETWORKS[name]
    dataset = load(data)
    torch.manual_seed(0)
    model = VAE(VAEConfig(tuple(dataset.train.shape[1:]), latent=latent, hidden=hidden, activation=activation))
    steps = default if steps is None else steps
    if steps:
        with tempfile.TemporaryDirectory() as folder:
            learner = VAELearner(model, dataset.train, Objective(rule="stl"))
            seconds(lambda: train(learner, steps=steps, run=Run(Path(folder, "run"), quiet=True), every=steps))
    return model.eval(), dataset.test


def speed(name: str, k: int, pairs: int, items: int, steps: int | None) -> dict:
    """Seconds of both sides in turns; pythae with the batch size that suits it best here."""
    model, test = trained(name, steps)
    peer = in_pythae(model)
    wrapped = Probabilities(peer)
    few = test[:4]
    pilot = {b: min(seconds(lambda b=b: peer.get_nll(few, k, b)) for _ in range(2)) for b in BATCHES if b <= k}
    best = min(pilot, key=lambda b: pilot[b])
    x = test[:items]
    value: dict[str, float] = {}

    def ours(side: str, m: VAE | Probabilities) -> Callable[[], None]:
        return lambda: value.update({side: evaluate(m, x, Plan.iid(k), rows=ROWS).mean().value})

    def decoder() -> None:
        """What no method that decodes every draw can avoid: the limit of any speed-up at this K."""
        z = torch.randn(ROWS, model.config.latent)
        with torch.no_grad():
            for _ in range(-(-items * k // ROWS)):
                model.decoder(z)

    def theirs(size: int) -> Callable[[], None]:
        return lambda: value.update({"pythae": float(peer.get_nll(x, k, size))})

    times = paired(
        {"pythae": lambda: theirs(best), "infimum": lambda: ours("infimum", model),
         "infimum on pythae's probabilities": lambda: ours("infimum on pythae's probabilities", wrapped),
         "the decoder alone": lambda: decoder}, pairs,
    )  # fmt: skip
    half = seconds(lambda: peer.get_nll(x[: items // 2], k, best))
    return {
        "items": items, "k": k, "pythae_batch_size": best, "pythae_pilot_seconds": {str(b): t for b, t in pilot.items()},
        "speedup": {n: ratio(times["pythae"], times[n]) for n in times if n != "pythae"},
        "milliseconds_an_item": {n: 1e3 * sorted(t)[len(t) // 2] / items for n, t in times.items()},
        "pythae_seconds_half_of_the_items": half, "mean_log_evidence": value, "seconds": times,
    }  # fmt: skip


def full(name: str, k: int, batch: int, items: int, steps: int | None) -> dict:
    """All held-out images once on both sides."""
    model, test = trained(name, steps)
    peer, x = in_pythae(model), test[:items]
    value: dict[str, float] = {}
    ours = seconds(lambda: value.update(infimum=evaluate(model, x, Plan.iid(k), rows=ROWS).mean().value))
    theirs = seconds(lambda: value.update(pythae=float(peer.get_nll(x, k, batch))))
    return {"items": len(x), "k": k, "infimum_seconds": ours, "pythae_seconds": theirs, "ratio": theirs / ours,
            "mean_log_evidence": value}  # fmt: skip


def equal_error(name: str, seeds: int, items: int, steps: int | None) -> dict:
    """Spread over seeds of an item's estimate: how many Sobol draws are worth K random ones on this model."""
    model, test = trained(name, steps)
    x = test[:items]
    rows = {}
    for plan, label in ((Plan.iid(K), f"{K} random"), *((Plan.sobol(n), f"{n} Sobol") for n in (512, 1024, 4096))):
        values, taken = [], []
        for seed in range(seeds):
            taken.append(
                seconds(lambda p=plan, s=seed, v=values: v.append(evaluate(model, x, p, seed=s, rows=ROWS).value))
            )
        table = torch.stack(values)
        rows[label] = {"rms_sd_nats": float(table.var(0).mean().sqrt()), "mean": float(table.mean()),
                       "milliseconds_an_item": 1e3 * min(taken) / items}  # fmt: skip
    return rows


def linear_gaussian(latent: int = 4, dims: int = 32) -> tuple[VAE, torch.distributions.MultivariateNormal]:
    """A VAE whose evidence is known: linear decoder of orthogonal columns, unit variance; q moved and 1.3x too wide.

    pythae's "mse" is the Gaussian of unit variance, with its normaliser in `get_nll` (its training loss has none).
    """
    generator = torch.Generator().manual_seed(1)
    config = VAEConfig((dims,), likelihood="gaussian", latent=latent, hidden=())
    model = VAE(config).eval()
    basis = torch.linalg.qr(torch.randn(dims, latent, generator=generator))[0]
    weight = basis * torch.linspace(0.5, 2.0, latent)
    precision = 1 + weight.square().sum(0)
    with torch.no_grad():
        model.decoder[0].weight.copy_(weight)
        model.decoder[0].bias.zero_()
        model.encoder[0].weight.copy_(torch.cat((weight.T / precision[:, None], torch.zeros(latent, dims))))
        model.encoder[0].bias.copy_(torch.cat((0.3 * precision.rsqrt(), (1.3 * precision.rsqrt()).log())))
    double = weight.double()
    covariance = double @ double.T + torch.eye(dims, dtype=torch.float64)
    return model, torch.distributions.MultivariateNormal(torch.zeros(dims, dtype=torch.float64), covariance)


def accuracy(k: int, items: int) -> dict:
    """Error an item of both sides where log p(x) is known, and what `get_nll` does when asked for other K."""
    model, evidence = linear_gaussian()
    torch.manual_seed(2)
    x = evidence.sample((items,))
    exact = evidence.log_prob(x)
    x = x.float()
    peer = in_pythae(model)
    rows: dict[str, dict] = {}

    def pythae(size: int, items: Tensor = x) -> Tensor:
        return torch.tensor([float(peer.get_nll(one[None], k, size)) for one in items])

    # float32 inputs on both sides: pythae has no other. Its batch size is the one that suits it best here.
    pilot = {b: min(seconds(lambda b=b: pythae(b, x[:10])) for _ in range(3)) for b in BATCHES if b <= k}
    best = min(pilot, key=lambda b: pilot[b])
    theirs = f"pythae, n_samples={k}"
    sides: dict[str, Callable[[], Tensor]] = {
        theirs: lambda: pythae(best),
        f"infimum, {k} random draws": lambda: evaluate(model, x, Plan.iid(k)).value,
    }
    for n in (64, 256, 1024, 4096):
        sides[f"infimum, {n} Sobol draws"] = lambda n=n: evaluate(model, x, Plan.sobol(n)).value
    taken = paired({name: (lambda estimate=estimate: estimate) for name, estimate in sides.items()}, 7)
    for name, estimate in sides.items():
        error = estimate() - exact
        rows[name] = {"rms_error_nats": float(error.square().mean().sqrt()), "mean_error_nats": float(error.mean()),
                      "milliseconds_an_item": 1e3 * statistics.median(taken[name]) / items,
                      "speedup": ratio(taken[theirs], taken[name])}  # fmt: skip
    calls = [0]
    peer.decoder.register_forward_hook(lambda module, given, out: calls.__setitem__(0, calls[0] + len(given[0])))
    used = {}
    for asked in (1, 50, 250):
        calls[0] = 0
        peer.get_nll(x[:1], asked, 100)
        used[str(asked)] = calls[0]
    return {
        "items": items,
        "exact_mean": float(exact.mean()),
        "rows": rows,
        "pythae_batch_size": best,
        "pythae_draws_used_when_asked": used,
    }


def child(side: str, k: int) -> None:
    """One image set on one side in this process; prints its peak above what loading and building needed."""
    model, test = trained("784-512-16, MNIST", 0)
    peer = in_pythae(model)
    with torch.no_grad():
        peer.decoder(peer.encoder(test[:2]).embedding)
    forget_peak()
    base = peak_mib()
    if side == "infimum":
        evaluate(model, test[:64], Plan.iid(k), rows=ROWS)
    else:
        peer.get_nll(test[:2], k, 100)
    print(peak_mib() - base)


def main() -> None:
    args = options(__doc__ or "", side={"choices": ("infimum", "pythae")}, k={"type": int, "default": K},
                   part={"help": "measure this part anew, keep the others of results/evidence.json"})  # fmt: skip
    if args.side:
        return child(args.side, args.k)
    pairs, k, steps = (2, 200, 20) if args.quick else (5, K, None)
    networks = list(NETWORKS)[1:] if args.quick else list(NETWORKS)
    grid = (50,) if args.quick else (50, 500, 5000)
    measures: dict[str, Callable[[], object]] = {
        "speed": lambda: {n: speed(n, k, pairs, 6 if args.quick else NETWORKS[n][-1], steps) for n in networks},
        "memory_mib": lambda: {side: {str(n): peak_of_child(__file__, "--side", side, "--k", str(n)) for n in grid}
                               for side in ("infimum", "pythae")},
        "accuracy": lambda: accuracy(k, 4 if args.quick else 50),
    }  # fmt: skip
    if not args.quick:
        measures["full"] = lambda: full(networks[0], K, 1000, 1000, None)
        measures["equal_error"] = lambda: {name: equal_error(name, 8, 16, None) for name in networks}
    known = RESULTS / "evidence.json"
    result = json.loads(known.read_text(encoding="utf-8")) if args.part else {}
    result |= {"goal": GOAL, "rows": ROWS}
    result |= {name: measure() for name, measure in measures.items() if args.part in (None, name)}
    save("evidence", args, result, "pythae")


if __name__ == "__main__":
    main()
