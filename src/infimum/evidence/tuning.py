"""A pilot run that sets step sizes and temperatures for annealing, and freezes them: the weighted run never adapts."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence._tree import map_tree
from infimum.evidence.anneal import Bridge, check_latent, check_path
from infimum.evidence.draws import Draws
from infimum.evidence.kernels import Kernel, MetropolisHastings
from infimum.evidence.model import LatentModel, double_reductions, need_eval

__all__ = ["Annealing", "tune"]

CHAINS = 512
FIRST, ROUNDS = 30, 8  # pilot moves at the first inner temperature, and at each of the others
SPREADS, SPREAD_ROUNDS = 5, 2  # pilots that place the temperatures, one after the other, and their moves


@dataclass(frozen=True)
class Annealing:
    """A frozen annealing path: what `ais` takes as ``betas`` and ``kernel``.

    Attributes:
        betas: temperatures, from 0 to 1.
        kernels: one for each inner temperature.
        acceptance: of the pilot's later moves at each inner temperature; empty for kernels that accept always.
    """

    betas: tuple[float, ...]
    kernels: tuple[Kernel, ...]
    acceptance: tuple[float, ...] = ()


def tune(
    model: LatentModel,
    x: Any,
    draws: Draws,
    betas: Sequence[float],
    kernel: Kernel,
    *,
    adaptive: bool = False,
    items: int = 32,
) -> Annealing:
    """Step sizes for every temperature from a pilot run on draws of its own (``draws.fork("pilot")``), then frozen.

    At each temperature the step of a `MetropolisHastings` kernel moves by Robbins-Monro steps towards the kernel's target
    acceptance rate; other kernels are left as they are. Being a function of the model, the items and independent draws, the
    result leaves annealed weights of ``draws`` unbiased (00-bounds 3.5).

    Args:
        model: as for `ais`.
        x: batch of B items; the pilot runs on the first ``items`` of them.
        draws: those of the weighted run, of which a fork is used; at most 512 chains.
        betas: the schedule; with ``adaptive`` its number of temperatures counts.
        kernel: with the step to begin from.
        adaptive: place the temperatures at a constant conditional effective sample size (Zhou, Johansen & Aston 2016,
            1303.3123), measured in the pilot, averaged over items. Needs at least 2 chains an item.
        items: how many of the items.

    Raises:
        UserError: as `ais`; too few chains for an adaptive schedule.
    """
    grid, _ = check_path(betas, kernel)
    need_eval(model, layers=True)
    if items < 1 or draws.shape[1] < 1:
        raise UserError(f"tune needs at least 1 item for its pilot, got items={items} of {draws.shape[1]}")
    items = min(items, draws.shape[1])
    index = torch.arange(items, device=draws.device)
    pilot = draws.take(index)[: max(1, CHAINS // items)].fork("pilot")
    few = map_tree(lambda t: t[:items], x)
    if adaptive:
        if pilot.shape[0] < 2:
            raise UserError(f"an adaptive schedule needs at least 2 chains an item in its pilot, got {pilot.shape[0]}")
        for i in range(SPREADS):
            lengths = _run(model, few, pilot.fork(f"schedule/{i}"), grid, kernel, SPREAD_ROUNDS)[1]
            grid = _spread(grid, lengths)
    return _run(model, few, pilot, grid, kernel, ROUNDS)[0]


def _run(
    model: LatentModel, x: Any, draws: Draws, grid: Sequence[float], kernel: Kernel, rounds: int
) -> tuple[Annealing, list[float]]:
    """Tuned kernels, and the length of every cell of the grid: sqrt(-log conditional ESS / K), averaged over items."""
    kernels: list[Kernel] = []
    rates: list[float] = []
    lengths: list[float] = []
    with torch.no_grad(), double_reductions():
        s = model.encode(x)
        bridge = Bridge(model, x, s)
        z = model.sample(s, draws)
        check_latent(z, [kernel])
        for t, (start, beta) in enumerate(itertools.pairwise(grid)):
            lengths.append(_length(bridge.log_ratio(z), beta - start))
            if beta == 1:
                break
            log_pi = bridge.density(beta)
            log_steps, accepted = [], []
            for i in range(rounds if t else FIRST):
                if not isinstance(kernel, MetropolisHastings):
                    z = kernel(z, log_pi, draws, f"{t}/{i}")
                    continue
                z, chance = kernel.attempt(z, log_pi, draws, f"{t}/{i}")
                log_steps.append(math.log(kernel.step))
                accepted.append(float(chance.mean()))
                gain = max(0.3, 1 - 0.1 * i) if t else max(0.3, 2 - 0.1 * i)
                moved = math.exp(gain * (accepted[-1] - kernel.target))
                kernel = dataclasses.replace(kernel, step=kernel.step * moved)
            if isinstance(kernel, MetropolisHastings):
                late = len(log_steps) // 2  # the average of the later moves is steadier than the last of them
                kernel = dataclasses.replace(kernel, step=math.exp(statistics.fmean(log_steps[late:])))
                rates.append(statistics.fmean(accepted[late:]))
            kernels.append(kernel)
    return Annealing(tuple(grid), tuple(kernels), tuple(rates)), lengths


def _length(log_ratio: Tensor, step: float) -> float:
    """sqrt(-log (conditional ESS / K)) of one temperature step, from (K, B) chains of equal weight."""
    log_w = step * log_ratio
    k = log_w.shape[0]
    cess = 2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0) - math.log(k)  # log(mean(w)^2 / mean(w^2))
    return math.sqrt(max(0.0, -float(cess.nan_to_num(neginf=-math.log(k), nan=-math.log(k)).mean())))


def _spread(grid: Sequence[float], lengths: Sequence[float]) -> list[float]:
    """The same number of temperatures at equal distances in the measured length."""
    total = sum(lengths)
    if total == 0:
        return list(grid)  # q is the posterior: any schedule will do
    # A floor keeps temperatures apart where the pilot saw no distance at all.
    cells = torch.tensor(lengths, dtype=torch.float64) + 1e-3 * total / len(lengths)
    upper = cells.cumsum(0)
    edge = torch.tensor(grid, dtype=torch.float64)
    wanted = torch.arange(1, len(grid) - 1, dtype=torch.float64) / (len(grid) - 1) * upper[-1]
    cell = torch.searchsorted(upper, wanted).clamp_max(len(cells) - 1)
    part = 1 - (upper[cell] - wanted) / cells[cell]
    inner = edge[cell] + part * (edge[cell + 1] - edge[cell])
    return [0.0, *inner.tolist(), 1.0]
