"""Bidirectional Monte Carlo: the evidence of simulated items from both sides (Grosse, Ghahramani & Adams 2015, 1511.02543)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence._tree import leaves
from infimum.evidence.anneal import ais, sigmoid_betas
from infimum.evidence.bounds import harmonic, iwae
from infimum.evidence.estimate import Bracket, Estimate
from infimum.evidence.kernels import hmc
from infimum.evidence.model import LatentModel, need_eval
from infimum.evidence.plan import Plan
from infimum.evidence.tables import LogWeights
from infimum.evidence.tuning import Annealing, tune

__all__ = ["annealed", "bdmc"]


def bdmc(
    model: LatentModel,
    items: int | tuple[Any, Any],
    path: Annealing | None = None,
    *,
    chains: int = 16,
    seed: int = 0,
    keys: Int[Tensor, "N"] | None = None,
    rows: int = 2**11,
    progress: Callable[[int], None] | None = None,
) -> Bracket:
    """Certified bounds from both sides: annealing forward from the proposal, and back from an exact posterior draw.

    Both sides hold for every kernel and schedule; the gap of a bracket bounds, in expectation, the bias of each of its sides.
    On data that the model did not make there is no posterior draw and no upper bound: report `ais` forward, and this gap at
    the same settings as a measure of how far it may be off.

    Args:
        model: in eval mode, with ``simulate(n, seed)`` where ``items`` is a number.
        items: how many items to simulate; or (z, x) from the joint: latents (1, N, *event), or (K, N, *event) for a posterior
            draw of its own for every chain, and items (N, ...).
        path: from `tune`; by default Hamiltonian Monte Carlo over 100 temperatures, tuned on these items.
        chains: K an item and a direction. In reverse all of an item's chains share its posterior draw, so that the
            upper side has no standard error of its own; its certificate stands.
        seed: of the draws and of the simulation.
        keys: item ids, int64 (N,); row numbers by default.
        rows: chains at a time.
        progress: called with the number of (chain, temperature) pairs done, of 2 K N T in all.

    Raises:
        UserError: a model in train mode or without ``simulate``; as `ais`.
    """
    need_eval(model)
    z, x = _simulated(model, items, seed) if isinstance(items, int) else items
    first = next(leaves(x))
    if len(first) == 0:
        raise UserError("bdmc needs at least 1 item, got an empty batch")
    keys = torch.arange(len(first), device=first.device) if keys is None else keys
    draws = Plan.iid(chains).draws(keys, seed=seed, salt="bdmc", device=first.device)
    path = tune(model, x, draws, sigmoid_betas(100), hmc()) if path is None else path
    half = chains * len(first) * (len(path.betas) - 1)
    later = (lambda done: progress(half + done)) if progress is not None else None
    lower = ais(model, x, draws.fork("forward"), path.betas, path.kernels, rows=rows, progress=progress)
    upper = ais(model, x, draws.fork("reverse"), path.betas, path.kernels, latents=z, rows=rows, progress=later)
    return Bracket(annealed(lower, path), annealed(upper, path))


def annealed(w: LogWeights, path: Annealing) -> Estimate:
    """The bound that a table of `ais` gives, named by its path: lower (`iwae`) forward, upper (`harmonic`) in reverse."""
    over = f"AIS-{w.shape[0]} over {len(path.betas) - 1} temperatures"
    if w.source == "posterior":
        return dataclasses.replace(harmonic(w), name=f"reverse {over}")
    return dataclasses.replace(iwae(w), name=over)


def _simulated(model: Any, items: int, seed: int) -> tuple[Any, Any]:
    if not hasattr(model, "simulate"):
        raise UserError(f"a {type(model).__name__} has no simulate(n, seed): pass (z, x) drawn from its joint")
    if items < 1:
        raise UserError(f"bdmc needs at least 1 item to simulate, got {items}")
    with torch.no_grad():
        z, x = model.simulate(items, seed)
    return z, x
