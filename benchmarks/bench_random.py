"""What do pure, counter-based numbers cost? A normal beside other generators, the share of an evaluation, of a step."""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from common import options, paired, save
from infimum.evidence import Plan, evaluate
from infimum.evidence.random import normals, row_keys
from infimum.vae import VAE, VAEConfig

SHAPES = {"1,024 rows x 32": (1024, 32, 64, 100), "256 rows x 3,072": (256, 3072, 128, 1)}
"""Rows, event; then items and draws an item for one `torch.Generator` an item."""
LOW = 2**32 - 1


def philox(counter: Tensor, key: tuple[int, int], rounds: int = 10) -> Tensor:
    """Philox4x32-10 (Salmon et al., SC 2011) in tensor operations: (4, n) words of 32 bits held in int64."""
    a, b, c, d = counter.unbind(0)
    first, second = key
    for _ in range(rounds):
        # 32 x 32 bits fill 64: the high half of a signed product, made non-negative.
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        high_p, high_q = (p >> 32) & LOW, (q >> 32) & LOW
        a, b, c, d = high_q ^ b ^ first, q & LOW, high_p ^ d ^ second, p & LOW
        first, second = (first + 0x9E3779B9) & LOW, (second + 0xBB67AE85) & LOW
    return torch.stack((a, b, c, d))


def philox_normals(n: int) -> Tensor:
    """n normals by Box-Muller on Philox words, four a counter."""
    counter = torch.zeros(4, -(-n // 4), dtype=torch.int64)
    counter[0] = torch.arange(counter.shape[1])
    u = (philox(counter, (1, 2)).float() + 0.5) * 2.0**-32
    radius, angle = (-2 * u[:2].log()).sqrt(), 2 * torch.pi * u[2:]
    return torch.cat(((radius * angle.cos()).flatten(), (radius * angle.sin()).flatten()))[:n]


def per_item(items: int, draws: int, event: int) -> Tensor:
    """The alternative for numbers that depend on their item alone: one generator, reseeded for every item."""
    generator, out = torch.Generator(), torch.empty(draws, items, event)
    for i in range(items):
        out[:, i] = torch.randn(draws, event, generator=generator.manual_seed(i))
    return out


def nanoseconds(runs: int) -> dict[str, dict[str, float]]:
    """Median time of one normal."""
    table = {}
    for name, (rows, event, items, draws) in SHAPES.items():
        keys = tuple(k[0] for k in row_keys(0, "z", torch.arange(rows), torch.zeros(1, dtype=torch.int64)))
        sides: dict[str, tuple[Callable[[], Tensor], int]] = {
            "torch.randn": (lambda r=rows, e=event: torch.randn(r, e), rows * event),
            "infimum (SplitMix64, 128-bit key)": (lambda k=keys, e=event: normals(k, e), rows * event),
            "Philox4x32-10 in torch operations": (lambda n=rows * event: philox_normals(n), rows * event),
            "a reseeded torch.Generator an item": (
                lambda i=items, d=draws, e=event: per_item(i, d, e), items * draws * event),
        }  # fmt: skip
        times = paired({side: (lambda call=call: call) for side, (call, _) in sides.items()}, runs)
        table[name] = {side: 1e9 * statistics.median(times[side]) / n for side, (_, n) in sides.items()}
    return table


def share_of_evaluation(runs: int, k: int = 1000, items: int = 64) -> dict[str, float]:
    """Seconds of the draws over the seconds of the evaluation that they serve; the decoder is one linear layer."""
    table = {}
    for dims, latent in ((784, 20), (784, 50), (3072, 64)):
        model = VAE(VAEConfig((dims,), latent=latent, hidden=())).eval()
        x = (torch.rand(items, dims) < 0.5).float()
        draws = Plan.iid(k).draws(torch.arange(items), salt="eval")
        times = paired({"whole": lambda m=model, x=x: lambda: evaluate(m, x, Plan.iid(k)),
                        "draws": lambda d=draws, n=latent: lambda: [part.normal("z", n) for part in d.chunks(2**11)]},
                       runs)  # fmt: skip
        table[f"{latent} latents, {dims} pixels"] = statistics.median(
            d / w for d, w in zip(times["draws"], times["whole"], strict=True)
        )
    return table


def cost_of_a_step(runs: int) -> dict[str, dict[str, float]]:
    """Milliseconds of one training step's noise, and of the forward and backward pass that it belongs to."""
    table = {}
    for name, sizes in {"784-400-20": (784, 400, 20), "64-64-8": (64, 64, 8)}.items():
        dims, hidden, latent = sizes
        net = nn.Sequential(nn.Linear(dims, hidden), nn.ReLU(), nn.Linear(hidden, latent), nn.Linear(latent, hidden),
                            nn.ReLU(), nn.Linear(hidden, dims))  # fmt: skip
        x = torch.rand(128, dims)
        draws = Plan.iid(1).draws(torch.arange(128), salt="train")
        times = paired({"noise": lambda d=draws, n=latent: lambda: d.normal("z", n),
                        "torch.randn": lambda n=latent: lambda: torch.randn(1, 128, n),
                        "network": lambda net=net, x=x: lambda: net(x).square().sum().backward()}, runs)  # fmt: skip
        table[name] = {side: 1e3 * statistics.median(t) for side, t in times.items()}
    return table


def main() -> None:
    args = options(__doc__ or "")
    runs = 3 if args.quick else 51
    known = philox(torch.zeros(4, 1, dtype=torch.int64), (0, 0))[:, 0].tolist()
    if known != [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]:  # the authors' known answer
        raise SystemExit("Philox4x32-10 does not give its known answer")
    result = {
        "nanoseconds_a_normal": nanoseconds(runs),
        "share_of_evaluation": share_of_evaluation(2 if args.quick else 7),
        "milliseconds_a_step": cost_of_a_step(runs),
    }
    save("random", args, result)


if __name__ == "__main__":
    main()
