"""`check_model`: the order of the checks, and what they leave behind (nothing)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.evidence._tree import leaves
from infimum.testing.conformance import densities, gradients, layout, paths, randomness, shapes, tables
from infimum.testing.conformance.case import ITEMS, Case, pick
from infimum.testing.conformance.report import Check, Failed, Report, Skipped

__all__ = ["check_model"]

Stage = tuple[tuple[str, Callable[[Case], str]], ...]

LATENT: tuple[Stage, ...] = (
    (
        ("encode", shapes.encode),
        ("latents", shapes.latents),
        ("log_proposal", shapes.log_proposal),
        ("log_joint", shapes.log_joint),
        ("finite", shapes.finite),
    ),
    (
        ("deterministic network", randomness.deterministic),
        ("train mode", randomness.modes_agree),
        ("replayable draws", randomness.replayable),
        ("no randomness of its own", randomness.own_randomness),
        ("fresh draws", randomness.fresh),
    ),
    (
        ("layout", layout.layout),
        ("items apart", layout.items_apart),
        ("chunks", layout.chunks),
        ("precision", shapes.precision),
    ),
    (
        ("proposal", densities.proposal),
        ("prior", densities.prior),
        ("joint", densities.joint),
        ("simulated latents", densities.simulated_latents),
        ("evidence", densities.evidence),
        ("any plan", tables.any_plan),
        ("bounds in order", tables.bounds_in_order),
        ("finite gradients", gradients.finite_gradients),
        ("gradient rules", gradients.gradient_rules),
        ("score", gradients.score),
        ("pathwise gradient", gradients.pathwise),
        ("unbiased gradients", gradients.unbiased_gradients),
    ),
)
PATH: tuple[Stage, ...] = (
    (("encode", shapes.encode), ("constant", paths.constant), ("terms", paths.terms)),
    (
        ("deterministic network", randomness.path_deterministic),
        ("train mode", randomness.path_modes_agree),
        ("no randomness of its own", randomness.path_own_randomness),
        ("fresh draws", randomness.path_fresh),
    ),
    (
        ("items apart", layout.path_items_apart),
        ("chunks", layout.path_chunks),
        ("precision", paths.precision),
    ),
    (
        ("lead", tables.path_lead),
        ("lead degree", tables.path_lead_degree),
        ("any plan", tables.path_any_plan),
        ("below the evidence", tables.path_below_evidence),
        ("finite gradients", paths.finite_gradients),
        ("two passes", paths.two_passes),
    ),
)
MIXED_PLAN = Plan(levels=4, per_level=2, lead="stratified", noise="antithetic")


def check_model(
    model: nn.Module,
    x: Any,
    *,
    plan: Plan | None = None,
    draws: int = 2000,
    seed: int = 0,
    alarm: float = 1e-6,
    pathwise: bool | None = None,
) -> Report:
    """Put a model through the engine's contract and report each demand by name.

    Shapes come first, then sources of randomness, layout and precision, then densities and gradients; where a stage
    fails, the later ones are not run. Up to five items are looked at, in the mode that the model is in: pass it in train
    mode to check what training sees, in eval mode for evaluation. Optional methods bring further checks:
    ``simulate(n, seed) -> (z (1, n, *event), x (n, ...))``, ``log_prior(z)``, ``log_evidence(x)``, ``pair_score(s, z)``.

    Parameters, buffers, gradients, modes and torch's generator are left as they were.

    Args:
        model: a `LatentModel` or a `PathModel`.
        x: a batch of items: a tensor or a nested tuple / dict of tensors.
        plan: must agree with independent draws; by default one with a stratified lead and antithetic noise.
        draws: of the statistical checks, an item.
        seed: of all draws: the same seed gives the same report.
        alarm: probability that a correct model fails any of the statistical checks, by the central limit theorem.
        pathwise: whether latents must carry gradients; None: where they are continuous.

    Raises:
        UserError: not a model of either kind, or an empty batch.
    """
    if not hasattr(model, "log_joint") and not hasattr(model, "terms"):
        raise UserError(f"check_model needs a LatentModel or a PathModel, got {type(model).__name__}")
    if draws < 200:
        raise UserError(f"check_model needs at least 200 draws for its statistics, got draws={draws}")
    if not 0 < alarm < 1:
        raise UserError(f"alarm is a probability, inside (0, 1), got {alarm}")
    first = next(leaves(x), None)
    if first is None or first.ndim == 0 or first.shape[0] == 0:
        raise UserError("check_model needs a batch x of at least one item")
    stages = LATENT if hasattr(model, "log_joint") else PATH
    count = sum(len(stage) for stage in stages)
    index = torch.arange(ITEMS, device=first.device) % first.shape[0]
    case = Case(
        model,
        pick(x, index),
        min(ITEMS, first.shape[0]),
        seed,
        draws,
        alarm / count,
        MIXED_PLAN if plan is None else plan,
        pathwise,
    )
    checks: list[Check] = []
    obstacle = ""
    with _untouched(model, first.device):
        for stage in stages:
            for name, check in stage:
                checks.append(Check(name, None, f"not run: {obstacle}") if obstacle else _run(name, check, case))
            failed = [check.name for check in checks if check.passed is False]
            obstacle = f"mend {', '.join(repr(name) for name in failed)} first" if failed else ""
    return Report(type(model).__name__, tuple(checks))


def _run(name: str, check: Callable[[Case], str], case: Case) -> Check:
    try:
        with torch.no_grad():
            return Check(name, True, check(case))
    except Skipped as reason:
        return Check(name, None, str(reason))
    except (Failed, UserError) as reason:
        return Check(name, False, str(reason))
    except Exception as error:
        # Whatever a user's model raises is a finding about the model, not a fault of the suite.
        lines = str(error).strip().splitlines()
        return Check(name, False, f"raised {type(error).__name__}{': ' + lines[0] if lines else ''}")


@contextmanager
def _untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put back buffers (batch norm counts), gradients and generators, whatever the checks did."""
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])
