"""Annealed importance sampling, forward from the proposal and in reverse from the posterior (Neal 2001; 1511.02543).

Forward weights are unbiased for p(x): lower bounds. Reverse weights, negated, are unbiased for 1/p(x): upper bounds.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.draws import Draws
from infimum.evidence.model import LatentModel
from infimum.evidence.tables import LogWeights

__all__ = ["Kernel", "ais", "metropolis"]

LogDensity = Callable[[Tensor], Float[Tensor, "K B"]]
Kernel = Callable[[Tensor, LogDensity, Draws, str], Tensor]
"""(z, log pi, draws, stream prefix) -> z, leaving pi invariant. Its settings are fixed: tuning it from the run's own
accept decisions would break unbiasedness."""


def metropolis(step: float) -> Kernel:
    """Random-walk Metropolis with normal steps of standard deviation ``step``."""
    if step <= 0:
        raise UserError(f"metropolis needs a positive step, got {step}")

    def kernel(z: Tensor, log_pi: LogDensity, draws: Draws, stream: str) -> Tensor:
        event = z.shape[2:]
        proposal = z + step * draws.normal(f"{stream}/step", *event).to(z.dtype)
        accept = draws.uniform(f"{stream}/accept").log() < log_pi(proposal) - log_pi(z)
        return torch.where(accept.reshape(*accept.shape, *[1] * len(event)), proposal, z)

    return kernel


def ais(
    model: LatentModel, x: Any, draws: Draws, betas: Sequence[float], kernel: Kernel, *, latents: Tensor | None = None
) -> LogWeights:
    """Weights of K annealed chains an item along q^(1-beta) p(x, z)^beta: weigh first, then move (00-bounds 3.5).

    Args:
        model: a `LatentModel` with one tensor as latent.
        x: batch of B items.
        draws: K chains an item; streams "z", "ais/t/step", "ais/t/accept".
        betas: increasing, from 0 to 1; chosen before the run.
        kernel: leaves every intermediate density invariant.
        latents: exact posterior draws (K, B, *event), or (1, B, *event) for one that all chains of an item share: the
            chains then run in reverse, and the table is one of posterior draws, for `eubo` and `harmonic`.

    Raises:
        UserError: a schedule that does not increase from 0 to 1, or latents of another shape.
    """
    grid = list(betas)
    if len(grid) < 2 or grid[0] != 0 or grid[-1] != 1 or any(b <= a for a, b in itertools.pairwise(grid)):
        raise UserError(f"ais needs betas that increase from 0 to 1, got {grid[:6]}{'...' if len(grid) > 6 else ''}")
    reverse, shared = latents is not None, False
    if latents is not None:
        k, b = draws.shape
        if tuple(latents.shape[:2]) not in ((k, b), (1, b)):
            raise UserError(
                f"latents must be ({k}, {b}, ...) or (1, {b}, ...) posterior draws, got {tuple(latents.shape)}"
            )
        shared = latents.shape[0] < k
        latents = latents.expand(k, *latents.shape[1:])
    path = grid[::-1] if reverse else grid
    with torch.no_grad():
        s = model.encode(x)
        z = latents if latents is not None else model.sample(s, draws)
        log_w = torch.zeros(draws.shape, dtype=torch.float64, device=draws.device)
        for t in range(1, len(path)):
            start, beta = path[t - 1], path[t]
            log_w += abs(beta - start) * (model.log_joint(x, z) - model.log_proposal(s, z)).double()
            if beta in (0, 1):
                break  # the last move changes no weight

            def log_pi(z: Tensor, beta: float = beta) -> Tensor:
                return (1 - beta) * model.log_proposal(s, z) + beta * model.log_joint(x, z)

            z = kernel(z, log_pi, draws, f"ais/{t}")
    if bool(log_w.isnan().any()) or math.inf in (float(log_w.amax()),):
        raise UserError(
            "an annealed log-weight is NaN or +inf: the kernel left the support, or the model is not finite there"
        )
    return LogWeights(
        log_w, None, "posterior" if reverse else "proposal", target=getattr(model, "target", "log p(x)"), draws=draws,
        block=draws.shape[0] if shared else None,  # chains of one start are no independent replicates
        calls=log_w.numel() * (len(grid) - 1),
    )  # fmt: skip
