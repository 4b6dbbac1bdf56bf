"""Better, worse or undecided: what two evaluations on the same items allow one to say."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from infimum.evidence.diagnostics import pareto_threshold
from infimum.evidence.estimate import Bracket, Estimate, same_question

__all__ = ["Limit", "Verdict", "asymptotic_limit", "certified_limit", "compare"]


@dataclass(frozen=True)
class Verdict:
    """Which of two models has the higher mean evidence on the same items, as seen from the first.

    Attributes:
        answer: "better", "worse" or "undecided".
        reason: one sentence with the numbers.
        certified: whether the answer rests on certificates alone; otherwise on the asymptotics that ``reason`` names.
    """

    answer: Literal["better", "worse", "undecided"]
    reason: str
    certified: bool = False

    def __str__(self) -> str:
        return f"{self.answer}{' (certified)' if self.certified else ''}: {self.reason}"


@dataclass(frozen=True)
class Limit:
    """A limit of a mean over items, what it rests on, or why there is none (then it is infinite).

    Attributes:
        value: in the unit of the estimate.
        basis: what it rests on, or why it is infinite.
        certified: whether it holds with its probability for any number of draws.
    """

    value: float
    basis: str
    certified: bool = False


def _point(a: Estimate | Bracket) -> Estimate:
    return a.lower if isinstance(a, Bracket) else a


def certified_limit(a: Estimate | Bracket, side: Literal["lower", "upper"], delta: float) -> float:
    """The certified limit of the mean on that side, failing with probability delta; infinite where there is none."""
    part = getattr(a, side) if isinstance(a, Bracket) else a
    none = -math.inf if side == "lower" else math.inf
    if part.side not in (side, "exact"):
        return none
    limit = part.mean(delta).certificate
    return none if limit is None else limit


def _reliable(a: Estimate) -> torch.Tensor:
    """Items whose weights have a Pareto k below the limit, so that their standard error means something."""
    k = a.diagnostics.get("pareto_k")
    if k is None or bool(a.stderr.isnan().any()):
        return torch.zeros(a.value.shape, dtype=torch.bool)
    return (k <= pareto_threshold(a.draws)).cpu()


def asymptotic_limit(a: Estimate, side: Literal["lower", "upper"], delta: float) -> Limit:
    """A limit of the mean from the central limit theorem over draws: unbiased evidence estimates, reliable item by item.

    The upper one adds the bias stderr^2 / 2 of each logarithm, and counts unreliable items at the ceiling of the target.
    """
    none = -math.inf if side == "lower" else math.inf
    if a.unbiased_for != "evidence":
        return Limit(none, f"the distance of {a.name} from the target is unknown")
    good = _reliable(a)
    share = f"{float((~good).double().mean()):.1%} of its items have Pareto k above {pareto_threshold(a.draws):.2f}"
    if a.stderr.isnan().any():
        return Limit(none, f"{a.name} has no standard error")
    if not bool(good.all()) and (side == "lower" or a.ceiling is None):
        return Limit(none, share)
    value, stderr = a.value.detach().cpu(), a.stderr.cpu()
    n = value.numel()
    width = (
        -float(torch.special.ndtri(torch.tensor(delta, dtype=torch.float64)))
        * float(stderr[good].square().sum().sqrt())
        / n
    )
    if side == "lower":
        return Limit(float(value.mean()) - width, "Monte Carlo interval")
    bias = (stderr / a.nat()).square() / 2 * a.nat()
    ceiling = math.inf if a.ceiling is None else a.ceiling
    mean = float(torch.where(good, value + bias, ceiling).mean())
    extra = "" if bool(good.all()) else f"; {share} and count as {ceiling:g}"
    return Limit(mean + width, f"Monte Carlo interval{extra}")


def _limit(a: Estimate | Bracket, side: Literal["lower", "upper"], delta: float) -> Limit:
    """The sharper of the certified and the asymptotic limit."""
    certified = Limit(certified_limit(a, side, delta), "certified", True)
    if certified.value == (_point(a).value.mean()) and _point(a).side == "exact":
        return certified
    asymptotic = asymptotic_limit(_point(a), side, delta)
    if math.isinf(certified.value):
        return asymptotic
    sharper = asymptotic.value > certified.value if side == "lower" else asymptotic.value < certified.value
    return asymptotic if sharper else certified


def compare(a: Estimate | Bracket, b: Estimate | Bracket, *, delta: float = 0.05) -> Verdict:
    """Say whether the first model's mean evidence on the same items is better, worse or undecided.

    An answer needs a lower limit of one above an upper limit of the other. Four limits may be looked at, two certificates and
    two others; each fails with probability delta / 4 at the most.
    Certified where both are certificates. Otherwise a limit may come from the central limit theorem over the draws of
    an unbiased evidence estimate, where every item's Pareto k is reliable; on the upper side, unreliable items are
    counted at the most that log p(x) can be (0 for discrete data). All else is undecided: a difference of two lower
    bounds has no sign.

    Raises:
        UserError: different targets, items or units.
    """
    first, second = _point(a), _point(b)
    same_question(first, second)
    unit = first.unit
    for certified in (True, False):
        for answer, high, low in (("better", a, b), ("worse", b, a)):
            if certified:
                above = Limit(certified_limit(high, "lower", delta / 4), "certified", True)
                below = Limit(certified_limit(low, "upper", delta / 4), "certified", True)
            else:
                above, below = _limit(high, "lower", delta / 4), _limit(low, "upper", delta / 4)
            if above.value > below.value:
                one, other = ("its", "the other's") if answer == "better" else ("the other's", "its")
                return Verdict(
                    answer,  # type: ignore[arg-type]
                    f"{one} mean is at least {above.value:.4f} ({above.basis}), {other} at most {below.value:.4f} {unit} "
                    f"({below.basis})",
                    certified,
                )
    gap = float((first.value - second.value).detach().mean())
    leader, trailer = (a, b) if gap > 0 else (b, a)
    above, below = _limit(leader, "lower", delta / 4), _limit(trailer, "upper", delta / 4)
    if math.isinf(above.value) or math.isinf(below.value):
        why = above.basis if math.isinf(above.value) else below.basis
        return Verdict("undecided", f"the gap between the two values is {gap:+.4f} {unit}, but it has no sign: {why}")
    return Verdict(
        "undecided",
        f"the gap between the two values is {gap:+.4f} {unit}, but the leader's mean is only known to be at least "
        f"{above.value:.4f} ({above.basis}), the other's at most {below.value:.4f} ({below.basis})",
    )
