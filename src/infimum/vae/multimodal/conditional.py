"""Evidence of some modalities, and of some given others: log p(x_B | x_A) = log p(x_A, x_B) - log p(x_A)."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Bracket, Estimate, Plan, asymptotic_limit, certified_limit, evaluate, iw_eubo, iwae
from infimum.vae.multimodal.items import Items, part_of
from infimum.vae.multimodal.model import MultimodalVAE
from infimum.vae.multimodal.subsets import name_members

__all__ = ["ConditionalEvidence", "conditional_evidence", "evidence_of"]

CERTIFIED = "certified"


def evidence_of(
    model: MultimodalVAE,
    x: Items,
    names: Iterable[str] | None = None,
    *,
    plan: Plan | None = None,
    latents: Any = None,
    keys: Int[Tensor, "N"] | None = None,
    seed: int = 0,
    rows: int = 2**11,
) -> Estimate | Bracket:
    """Importance-weighted evidence of the named modalities (those that are given; a mask's gaps are integrated out), certified.

    Args:
        model: in eval mode.
        x: items.
        names: which modalities count; all that x has if not given.
        plan: of the draws; ``Plan.iid(1000)`` if not given.
        latents: (1, N, D), exact posterior draws of simulated items: then a bracket from both sides.
        keys: item ids; row numbers if not given.
        seed: of the draws.
        rows: (draw, item) pairs through the network at a time.
    """
    plan = Plan.iid(1000) if plan is None else plan
    part = x if names is None else part_of(x, tuple(names))
    target = "log p(x)" if names is None else f"log p({', '.join(n for n in model.names if n in set(names))})"
    lower = evaluate(model, part, plan, iwae, keys=keys, seed=seed, rows=rows)
    lower = dataclasses.replace(lower, target=target)
    if latents is None:
        return lower
    upper = evaluate(model, part, Plan(levels=plan.k), iw_eubo, keys=keys, seed=seed + 1, rows=rows, latents=latents)
    return Bracket(lower, dataclasses.replace(upper, target=target))


@dataclass(frozen=True)
class ConditionalEvidence:
    """log p(x_B | x_A) as a difference of two answers, mean over items in nats.

    Attributes:
        value: difference of the two lower estimates' means. It has no side.
        stderr: its Monte Carlo standard error, of independent draws.
        low, high: limits that hold together with probability 1 - delta, where they hold; infinite where nothing is known.
        certified: whether both limits are certificates; otherwise ``basis`` says what they rest on.
        joint, given: of x_A and x_B together, and of x_A.
    """

    value: float
    stderr: float
    low: float
    high: float
    certified: bool
    basis: str
    delta: float
    target: str
    joint: Estimate | Bracket
    given: Estimate | Bracket

    def __str__(self) -> str:
        return (
            f"{self.target} {self.value:.4f} ± {self.stderr:.2g} nats, in [{self.low:.4f}, {self.high:.4f}] with probability "
            f"{1 - self.delta:g} ({self.basis})"
        )


def conditional_evidence(
    model: MultimodalVAE,
    x: Items,
    given: Iterable[str],
    target: Iterable[str] | None = None,
    *,
    plan: Plan | None = None,
    latents: Any = None,
    keys: Int[Tensor, "N"] | None = None,
    seed: int = 0,
    rows: int = 2**11,
    delta: float = 0.05,
) -> ConditionalEvidence:
    """log p(x_B | x_A), the difference of two intervals: a difference of two lower bounds alone bounds nothing.

    Args:
        model: in eval mode.
        x: items that have these modalities.
        given: A.
        target: B; all others if not given.
        plan: of the draws; ``Plan.iid(1000)`` if not given.
        latents: (1, N, D) of simulated items: then all limits are certificates. Without them upper limits come from the
            central limit theorem over draws, where Pareto k allows it.
        keys: item ids; row numbers if not given.
        seed: of the draws; the four parts use seed .. seed + 3.
        rows: (draw, item) pairs through the network at a time.
        delta: probability that the interval fails.

    Raises:
        UserError: A or B is empty, they share a modality or name one twice, or one that the model or the items lack.
    """
    given, target = _sides(model.names, given, target)
    if isinstance(x, Tensor):
        x = model.split(x)
    if isinstance(x, tuple) and not bool(
        model.read(part_of(x, (*given, *target)))[1].sum(1).eq(len(given) + len(target)).all()
    ):
        raise UserError(f"some items lack one of {', '.join((*given, *target))}: choose the items that have them")
    common: dict[str, Any] = {"plan": plan, "latents": latents, "keys": keys, "rows": rows}
    joint = evidence_of(model, x, (*given, *target), seed=seed, **common)
    alone = evidence_of(model, x, given, seed=seed + 2, **common)
    bottom, bottom_basis = _limit(joint, "lower", delta / 4)
    top, top_basis = _limit(joint, "upper", delta / 4)
    floor, floor_basis = _limit(alone, "lower", delta / 4)
    ceiling, ceiling_basis = _limit(alone, "upper", delta / 4)
    bases = dict.fromkeys((bottom_basis, top_basis, floor_basis, ceiling_basis))
    if len(bases) > 1:  # the interval is as good as the weakest of its four limits
        bases.pop(CERTIFIED, None)
    a, b = ((part.lower if isinstance(part, Bracket) else part).mean() for part in (joint, alone))
    return ConditionalEvidence(
        value=a.value - b.value,
        stderr=math.hypot(a.stderr, b.stderr),
        low=bottom - ceiling,
        high=top - floor,
        certified=list(bases) == [CERTIFIED],
        basis="; ".join(bases),
        delta=delta,
        target=f"log p({', '.join(target)} | {', '.join(given)})",
        joint=joint,
        given=alone,
    )


def _sides(
    names: tuple[str, ...], given: Iterable[str], target: Iterable[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A and B, each of at least one modality, none named twice."""
    given = tuple(given)
    if not given:
        raise UserError(
            f"nothing is given: name some of {', '.join(names)}, or leave it out for the evidence of all of them"
        )
    target = tuple(n for n in names if n not in given) if target is None else tuple(target)
    if shared := sorted(set(given) & set(target)):
        raise UserError(f"{shared[0]!r} is both given and a target: name each modality once")
    name_members(names, (*given, *target))
    if not target:
        raise UserError(f"nothing is left to tell: {', '.join(given)} are given, leave out at least one of them")
    for side in (given, target):
        if twice := next((name for name in side if side.count(name) > 1), None):
            raise UserError(f"{twice!r} is named twice: name each modality once")
    return given, target


def _limit(part: Estimate | Bracket, side: Literal["lower", "upper"], delta: float) -> tuple[float, str]:
    """A limit that fails with probability delta, and what it rests on: the certificate where there is one."""
    certificate = certified_limit(part, side, delta)
    if math.isfinite(certificate):
        return certificate, CERTIFIED
    asymptotic = asymptotic_limit(part.lower if isinstance(part, Bracket) else part, side, delta)
    return asymptotic.value, asymptotic.basis
