"""Normalised densities: the proposal, the prior, the joint, and the evidence, each against draws of its own."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.evidence import Estimate, iwae, weigh
from infimum.evidence._tree import leaves, map_tree
from infimum.evidence.plan import Plan
from infimum.evidence.weights import log_weights_of
from infimum.testing.conformance.bridge import check_density
from infimum.testing.conformance.case import Case, discrete
from infimum.testing.conformance.report import Failed, Skipped
from infimum.testing.conformance.statistics import largest_z, normal_limit

__all__ = ["evidence", "joint", "prior", "proposal", "simulated_latents"]

ITEMS = 3  # of the test of the proposal
BESIDE = 7  # proposal draws beside each simulated latent


def proposal(case: Case) -> str:
    """exp(log_proposal) integrates to one and is the density of what sample draws."""
    model = case.model
    s = model.encode(case.repeated(ITEMS))
    z = model.sample(s, case.draws(Plan.iid(case.n), ITEMS, seed=10))
    try:
        support = model.posterior(s).support
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        support = None
    return check_density(
        lambda z: model.log_proposal(s, z), z, case.level, case.seed, "log_proposal",
        "look for a missing normaliser (0.5 log 2 pi, log scale) or a scale that sample and log_proposal do not share",
        support,
    )  # fmt: skip


def _simulated(case: Case) -> tuple[Any, Any]:
    """z (1, n, *event) and x (n, ...) from the model itself."""
    simulate = getattr(case.model, "simulate", None)
    if simulate is None:
        raise Skipped("the model has no simulate(n, seed) -> (z, x), latents (1, n, *event) with their data")
    z, x = simulate(case.n, case.seed + 1)
    if any(tuple(part.shape[:2]) != (1, case.n) for part in leaves(z)):
        shape = tuple(next(leaves(z)).shape)
        raise Failed(f"simulate(n={case.n}, seed) gave latents of shape {shape}: expected (1, n, *event)")
    return z, x


def prior(case: Case) -> str:
    """exp(log_prior) is the normalised density of the latents that the model simulates."""
    if not hasattr(case.model, "log_prior"):
        raise Skipped("the model has no log_prior(z)")
    z, _ = _simulated(case)
    return check_density(
        case.model.log_prior, map_tree(lambda t: t.transpose(0, 1), z), case.level, case.seed, "log_prior",
        "the joint does not hold the prior that the model draws from, or its normaliser is missing",
    )  # fmt: skip


def joint(case: Case) -> str:
    """exp(log_joint) is the normalised density of the pairs (x, z) that the model simulates."""
    z, x = _simulated(case)
    pair = {"z": map_tree(lambda t: t.transpose(0, 1), z), "x": map_tree(lambda t: t[:, None], x)}

    def log_density(pair: dict[str, Any]) -> Tensor:
        items = map_tree(lambda t: t[:, 0], pair["x"])
        return case.model.log_joint(items, map_tree(lambda t: t.transpose(0, 1), pair["z"])).T

    return check_density(
        log_density, pair, case.level, case.seed, "log_joint",
        "look for a missing normaliser of the prior or the likelihood (a squared error is no log-density), or a prior, noise "
        "or link that simulate and log_joint do not share",
    )  # fmt: skip


def _ranks(values: Float[Tensor, "K n"]) -> Float[Tensor, "K n"]:
    """Rank of each draw among the K of its item, in [0, 1]; ties, and what rounding cannot tell from them, share."""
    larger = values[:, None] > values[None] + 1e-4 * (1 + values[None].abs().nan_to_num(posinf=0.0))
    return 0.5 + 0.5 * (larger.double() - larger.transpose(0, 1).double()).mean(1)


def simulated_latents(case: Case) -> str:
    """Among proposal draws the simulated latent is the k-th with probability w_k / sum w: calibration of the weights.

    Holds for every proposal, and sees neither constants of log_joint nor the evidence.
    """
    z, x = _simulated(case)
    s = case.model.encode(x)
    beside = case.model.sample(s, case.draws(Plan.iid(BESIDE), case.n, seed=20))
    table = map_tree(lambda a, b: torch.cat((a.to(b.dtype), b)), z, beside)
    log_w, log_joint, log_q = log_weights_of(case.model, x, s, table, (BESIDE + 1, case.n))
    if bool((log_w[0] == -torch.inf).any()):
        raise Failed("log_joint is -inf at a latent that simulate drew: the two do not have the same support")
    weight = log_w.double().softmax(0)
    views = {"log_joint": log_joint, "log_proposal": log_q, "log_w": log_w}
    for i, part in enumerate(leaves(table)):
        if not discrete(part):
            views[f"|z|^2 of latent {i}"] = part.double().square().reshape(*part.shape[:2], -1).sum(-1)
    seen = {"weight": weight} | {name: _ranks(values.double()) for name, values in views.items()}
    gaps = torch.stack([h[0] - (weight * h).sum(0) for h in seen.values()], 1)
    limit, z_score = normal_limit(case.level, gaps.shape[1]), largest_z(gaps)
    if z_score > limit:
        worst = max(seen, key=lambda name: largest_z((seen[name][0] - (weight * seen[name]).sum(0))[:, None]))
        raise Failed(
            f"simulated latents are not posterior draws under log_joint (ranks of {worst}, |z| = {z_score:.1f}, expected at "
            f"most {limit:.1f}): simulate and log_joint do not share their prior or likelihood"
        )
    return f"the weights tell simulated latents from proposal draws as often as they say, |z| = {z_score:.1f} <= {limit:.1f}"


def evidence(case: Case) -> str:
    """log_evidence agrees with the weights: E_q[w / (w + p)] = E_posterior[p / (w + p)] over simulated pairs."""
    exact = getattr(case.model, "log_evidence", None)
    if exact is None:
        raise Skipped("the model has no log_evidence(x)")
    z, x = _simulated(case)
    answer = exact(x)
    log_p = (answer.value if isinstance(answer, Estimate) else answer).double()
    draws = case.draws(Plan.iid(1), case.n, seed=30)
    below = weigh(case.model, x, draws).log_w.double() - log_p
    above = weigh(case.model, x, draws, latents=z).log_w.double() - log_p
    gap = below.sigmoid() - (-above).sigmoid()
    limit, z_score = normal_limit(case.level, 1), largest_z(gap.T)
    if z_score > limit:
        raise Failed(
            f"log_evidence(x) does not agree with the importance weights (|z| = {z_score:.1f}, expected at most {limit:.1f})"
        )
    bias = float((iwae(weigh(case.model, x, case.draws(Plan.iid(16), case.n, seed=31))).value - log_p).mean())
    return f"IWAE-16 lies {bias:+.3f} nats from log_evidence in the mean, |z| = {z_score:.1f} <= {limit:.1f}"
