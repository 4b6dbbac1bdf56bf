"""Annealing with resampling: a sequential Monte Carlo sampler on the path of `ais` (Del Moral, Doucet & Jasra 2006)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.evidence.anneal import Bridge, check_latent, check_path
from infimum.evidence.draws import Draws
from infimum.evidence.kernels import Kernel
from infimum.evidence.model import LatentModel, need_eval
from infimum.evidence.smc import smc
from infimum.evidence.tables import LogWeights

__all__ = ["annealed_smc"]


def annealed_smc(
    model: LatentModel,
    x: Any,
    draws: Draws,
    betas: Sequence[float],
    kernel: Kernel | Sequence[Kernel],
    *,
    resample: float = 0.5,
    rows: int = 2**11,
    progress: Callable[[int], None] | None = None,
) -> LogWeights:
    """Log evidence estimates of R systems of P annealed chains an item, E exp = p(x) for each: a table (R, B).

    The chains of `ais`, but those of a system share their weight: before a move they are resampled where their effective sample
    size has fallen below ``resample`` P (section 3.1 of the paper, with MCMC kernels: weigh, resample, move). With
    ``resample=0`` a row is the log-mean-exp of P independent annealed weights. No gradients; events are summed in float64.

    Args:
        model: a `LatentModel` with one tensor as latent.
        x: batch of B items.
        draws: of ``Plan(replicates=R, levels=P)``; streams "z", and the engine's own, in a fork of each temperature.
        betas: increasing, from 0 to 1, chosen before the run: an adaptive schedule comes from `tune`.
        kernel: as of `ais`.
        resample: fraction of P below which a system resamples, in [0, 1].
        rows: chains at a time; at least those of one system.
        progress: called with the number of (chain, temperature) pairs done, of R P B T in all.

    Raises:
        UserError: as `ais` and `smc`.
    """
    need_eval(model, layers=True)
    path = _Path(model, *check_path(betas, kernel))
    with torch.no_grad():
        table = smc(path, x, draws, resample=resample, rows=rows, progress=progress)
    return dataclasses.replace(
        table, target=getattr(model, "target", "log p(x)"), calls=sum(bridge.calls for bridge in path.bridges)
    )


class _Path:
    """The temperatures as the steps of a `SequentialModel`, whose state is z alone."""

    def __init__(self, model: LatentModel, betas: Sequence[float], kernels: Sequence[Kernel]) -> None:
        self.model, self.betas, self.kernels = model, betas, kernels
        self.bridges: list[Bridge] = []

    def encode(self, x: Any) -> Bridge:
        self.bridges.append(Bridge(self.model, x, self.model.encode(x)))
        return self.bridges[-1]

    def steps(self, s: Bridge) -> int:
        return len(self.betas) - 1

    def initial(self, s: Bridge, draws: Draws) -> Any:
        z = self.model.sample(s.s, draws)
        check_latent(z, self.kernels)
        return z

    def transition(self, s: Bridge, t: int, before: Tensor, draws: Draws) -> Tensor:
        """A move that leaves the density of the weights so far invariant."""
        return self.kernels[t - 1](before, s.density(self.betas[t]), draws, "\x00move")

    def log_increment(self, s: Bridge, t: int, before: Any, state: Tensor) -> Float[Tensor, "K B"]:
        return (self.betas[t + 1] - self.betas[t]) * s.log_ratio(state)
