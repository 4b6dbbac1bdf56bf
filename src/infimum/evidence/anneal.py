"""Annealed importance sampling, forward from the proposal and in reverse from the posterior (Neal 2001; 1511.02543).

Forward weights are unbiased for p(x): lower bounds. Reverse weights, negated, are unbiased for 1/p(x): upper bounds.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.draws import Draws
from infimum.evidence.kernels import Kernel, LogDensity, MetropolisHastings
from infimum.evidence.model import LatentModel, double_reductions, need_eval
from infimum.evidence.tables import LogWeights
from infimum.evidence.weights import blocks, check_rows, need_whole

__all__ = ["Bridge", "ais", "linear_betas", "sigmoid_betas"]


def linear_betas(temperatures: int) -> list[float]:
    """Equal steps from 0 to 1."""
    _check_count(temperatures)
    return [t / temperatures for t in range(temperatures + 1)]


def sigmoid_betas(temperatures: int) -> list[float]:
    """beta_t = (s(4 (2t/T - 1)) - s(-4)) / (s(4) - s(-4)), s the logistic function: slow at both ends (00-bounds 3.5)."""
    _check_count(temperatures)

    def s(a: float) -> float:
        return 1 / (1 + math.exp(-a))

    inner = [(s(4 * (2 * t / temperatures - 1)) - s(-4)) / (s(4) - s(-4)) for t in range(1, temperatures)]
    return [0.0, *inner, 1.0]


def _check_count(temperatures: int) -> None:
    if temperatures < 1:
        raise UserError(f"a schedule needs at least 1 temperature after 0, got {temperatures}")


@dataclass
class Bridge:
    """The densities q^(1-beta) p(x, z)^beta of one batch, and how many (draw, item) pairs were evaluated on them."""

    model: LatentModel
    x: Any
    s: Any
    calls: int = 0

    def parts(self, z: Tensor) -> tuple[Float[Tensor, "K B"], Float[Tensor, "K B"]]:
        """log q(z | x) and log p(x, z)."""
        shape = (z.shape[0], z.shape[1])
        self.calls += shape[0] * shape[1]
        log_q = check_rows(self.model.log_proposal(self.s, z), shape, "log_proposal(s, z)")
        return log_q, check_rows(self.model.log_joint(self.x, z), shape, "log_joint(x, z)")

    def log_ratio(self, z: Tensor) -> Float[Tensor, "K B"]:
        """log p(x, z) - log q(z | x) in float64."""
        log_q, log_joint = self.parts(z)
        return (log_joint - log_q).double()

    def density(self, beta: float) -> LogDensity:
        """log of the unnormalised density at an inner temperature."""

        def log_pi(z: Tensor) -> Tensor:
            log_q, log_joint = self.parts(z)
            return (1 - beta) * log_q + beta * log_joint

        return log_pi


def ais(
    model: LatentModel,
    x: Any,
    draws: Draws,
    betas: Sequence[float],
    kernel: Kernel | Sequence[Kernel],
    *,
    latents: Tensor | None = None,
    rows: int = 2**11,
    progress: Callable[[int], None] | None = None,
) -> LogWeights:
    """Weights of K annealed chains an item along q^(1-beta) p(x, z)^beta: weigh first, then move (00-bounds 3.5).

    Memory: the table and one chunk of ``rows`` chains, whatever K and B are. No gradients; events are summed in float64.

    Args:
        model: a `LatentModel` with one tensor as latent.
        x: batch of B items.
        draws: K chains an item; streams "z", and the engine's own.
        betas: increasing, from 0 to 1; chosen before the run: `linear_betas`, `sigmoid_betas`, or from `tune`.
        kernel: leaves every intermediate density invariant; or one for each of the inner betas, from `tune`.
        latents: exact posterior draws (K, B, *event), or (1, B, *event) for one that all chains of an item share: the
            chains then run in reverse, and the table is one of posterior draws, for `eubo` and `harmonic`.
        rows: chains at a time.
        progress: called with the number of (chain, temperature) pairs done, of K B T in all.

    Raises:
        UserError: a schedule that does not increase from 0 to 1, latents of another shape or kind, NaN weights.
    """
    grid, kernels = check_path(betas, kernel)
    need_whole(draws)
    need_eval(model, layers=True)
    k, b = draws.shape
    if latents is not None:
        if not isinstance(latents, Tensor) or tuple(latents.shape[:2]) not in ((k, b), (1, b)):
            got = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            raise UserError(f"latents must be ({k}, {b}, ...) or (1, {b}, ...) posterior draws, got {got}")
        grid, kernels = grid[::-1], kernels[::-1]
    shared = latents is not None and latents.shape[0] < k
    log_w = torch.zeros(draws.shape, dtype=torch.float64, device=draws.device)
    calls = done = 0
    with torch.no_grad(), double_reductions():
        for part_x, part, items in blocks(x, draws, rows):
            s = model.encode(part_x)
            for chunk in part.chunks(rows):
                at = slice(chunk.start - draws.start, chunk.stop - draws.start)
                bridge = Bridge(model, part_x, s)
                z = model.sample(s, chunk) if latents is None else latents.expand(k, *latents.shape[1:])[at, items]
                check_latent(z, kernels)
                for t in range(1, len(grid)):
                    log_w[at, items] += abs(grid[t] - grid[t - 1]) * bridge.log_ratio(z)
                    if t < len(grid) - 1:  # the last move would change no weight
                        z = kernels[t - 1](z, bridge.density(grid[t]), chunk, f"\x00ais/{t}")
                    done += z.shape[0] * z.shape[1]
                    if progress is not None:
                        progress(done)
                calls += bridge.calls
    if bool((log_w.isnan() | (log_w == math.inf)).any()):
        raise UserError(
            "an annealed log-weight is NaN or +inf: the kernel left the support, or the model is not finite there"
        )
    return LogWeights(
        log_w, None, "proposal" if latents is None else "posterior", target=getattr(model, "target", "log p(x)"),
        draws=draws, block=k if shared else None,  # chains of one start are no independent replicates
        calls=calls,
    )  # fmt: skip


def check_path(betas: Sequence[float], kernel: Kernel | Sequence[Kernel]) -> tuple[list[float], list[Kernel]]:
    """The schedule, and one kernel for each of its inner temperatures."""
    grid = list(betas)
    if len(grid) < 2 or grid[0] != 0 or grid[-1] != 1 or not all(a < b for a, b in itertools.pairwise(grid)):
        raise UserError(f"ais needs betas that increase from 0 to 1, got {grid[:6]}{'...' if len(grid) > 6 else ''}")
    if not callable(kernel) and not isinstance(kernel, Sequence):
        raise UserError(f"ais needs a kernel such as hmc() or gibbs(), or a list of them, got {kernel!r}")
    kernels = list(kernel) if isinstance(kernel, Sequence) else [kernel] * (len(grid) - 2)
    if len(kernels) != len(grid) - 2:
        raise UserError(
            f"ais needs one kernel, or one for each of the {len(grid) - 2} inner temperatures, got {len(kernels)}"
        )
    return grid, kernels


def check_latent(z: Any, kernels: Sequence[Kernel]) -> None:
    """Refuse latents that the chains cannot hold, and continuous kernels on bits, which would leave their support."""
    if not isinstance(z, Tensor):
        raise UserError(
            f"annealing moves one tensor of latents, and this model's latents are a {type(z).__name__}: concatenate its "
            "parts on the last axis in sample, log_proposal and log_joint"
        )
    moved = next((kernel.name for kernel in kernels if isinstance(kernel, MetropolisHastings)), None)
    if moved is not None and (not z.is_floating_point() or bool(((z == 0) | (z == 1)).all())):
        raise UserError(f"{moved} moves continuous latents, and this model's are discrete: use the gibbs kernel")
