"""GDPO: group diffusion policy optimisation with semi-deterministic Monte Carlo (2510.08554)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from infimum.alignment.objective import (
    Kl,
    Objective,
    RatioNorm,
    check_norm,
    check_ratio,
    clipped,
    divergence,
    per_length,
    ratio_report,
)
from infimum.alignment.surrogates import elbo_of
from infimum.alignment.table import TokenTable, perturbed
from infimum.discrete import Canvas, Form, MaskedDiffusion, Masks, masks_of
from infimum.errors import UserError
from infimum.evidence import Draws, Plan

__all__ = ["GroupDiffusionPO", "quadrature_plan"]

Rule = Literal["gauss", "midpoint", "simpson-heuristic", "mc"]
NodeMask = Literal["bernoulli", "count_corrected", "count_official"]
FORMS: dict[NodeMask, Form] = {
    "bernoulli": "time",
    "count_corrected": "rounded",
    "count_official": "rounded-official",
}
NEARLY_ONE = 1 - 2.0**-53


def quadrature_plan(rule: Rule, points: int, per_node: int = 1, replicates: int = 1) -> Plan:
    """Levels t by a rule on (0, 1), and masks at each.

    Args:
        rule: "gauss": Gauss-Legendre, exact for polynomials of degree below twice the points; "midpoint"; "simpson-heuristic": t
            = .1, .5, 1 with weights 1/6, 4/6, 1/6 (of the co-author's port: not Simpson's rule); "mc": random t.
        points: N, levels; "simpson-heuristic" has 3.
        per_node: K, masks at a level.
        replicates: independent repetitions.

    Raises:
        UserError: an unknown rule, or another number of points than the rule has.

    Source: 2510.08554, the semi-deterministic estimator.
    """
    if points < 1 or per_node < 1:
        raise UserError(f"points is {points} and per_node {per_node}, expected at least 1 of each")
    if rule == "gauss":
        return Plan.gauss(points, per_node, replicates)
    if rule == "mc":
        return Plan(replicates=replicates, levels=points, per_level=per_node)
    if rule == "midpoint":
        return Plan.nodes(
            tuple((i + 0.5) / points for i in range(points)), (1 / points,) * points, per_node, replicates
        )
    if rule != "simpson-heuristic":
        raise UserError(f"rule is {rule!r}: choose gauss, midpoint, simpson-heuristic or mc")
    if points != 3:
        raise UserError(f"the rule simpson-heuristic has 3 points, got {points}")
    return Plan.nodes((0.1, 0.5, NEARLY_ONE), (1 / 6, 4 / 6, 1 / 6), per_node, replicates)


@dataclass(frozen=True, kw_only=True)
class GroupDiffusionPO(Objective):
    """A clipped ratio of sequence likelihoods, each an ELBO by quadrature over the masking level and a random mask a node.

    Masks go over the whole completion, whatever blocks the policy writes it by: a few fixed levels would leave blocks out.

    Not to be confused with "group reward-decoupled normalisation" (2601.05242), which has the same abbreviation.

    Args:
        rule: of the levels, see `quadrature_plan`.
        points: levels N (paper: 2 or 3).
        per_node: masks a level.
        mask: at a level t. "bernoulli": each token with probability t, weight 1 / t: the ELBO, exactly in expectation, where 2 N
            is at least the number of tokens; "count_corrected": the number next to t L, weight L over it; "count_official":
            floor(t L), weight 1 / t, biased for short completions. Beyond that number no rule is exact, and the value is no bound.
            With random times ("mc") "count_corrected" draws the number uniformly, which is unbiased.
        epsilon: clip of the ratio (0.5).
        ratio_norm: log-ratios are divided by the "length" of the completion (the co-author's port), by "max_length", or by 1
            ("none": the formula of the paper, whose ratio leaves the clip after one update of long texts).
        beta: strength of the divergence from the reference (0), of differences divided as the ratio's.
        kl: its estimator; the paper names none.
        perturb: share of the prompt that is masked as well (0).

    Raises:
        UserError: a rule with another number of points, or a divergence without an estimator.
    """

    rule: Rule = "gauss"
    points: int = 3
    per_node: int = 1
    mask: NodeMask = "count_corrected"
    epsilon: float | None = 0.5
    ratio_norm: RatioNorm = "length"
    beta: float = 0.0  # type: ignore[misc]
    kl: Kl | None = None
    perturb: float = 0.0
    num_iterations: int = 12

    compares: ClassVar[bool] = True
    per: ClassVar[Literal["token", "sequence"]] = "sequence"

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        super().__post_init__()
        check_ratio(self.epsilon, self.beta, self.kl)
        check_norm(self.ratio_norm)
        if self.mask not in FORMS:
            raise UserError(f"mask is {self.mask!r}: choose {', '.join(FORMS)}")
        if not 0 <= self.perturb <= 1:
            raise UserError(f"perturb is {self.perturb}, expected a share of 0 to 1")
        _ = self.plan

    @property
    def plan(self) -> Plan:
        """Nodes and masks."""
        return quadrature_plan(self.rule, self.points, self.per_node)

    def masks(self, policy: MaskedDiffusion, s: Canvas, draws: Draws) -> Masks:
        """Masks at the nodes."""
        even = self.rule == "mc" and self.mask == "count_corrected"  # rounding would favour the middle
        masks = masks_of(s, draws, "count" if even else FORMS[self.mask])
        return perturbed(s, draws, masks, self.perturb)

    def losses(
        self, now: TokenTable, old: TokenTable, reference: TokenTable | None, advantages: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """-min(r A, clip(r) A), r = exp of the difference of likelihoods; by "none", divided by the length outside of the ratio."""
        value, unit = elbo_of(now), per_length(self.ratio_norm, now)
        gain = clipped((value - elbo_of(old)) / unit, advantages, self.epsilon)
        if self.ratio_norm == "none":
            gain = gain / per_length("length", now)
        if reference is None or not self.beta:
            return -gain
        return self.beta * divergence(self.kl, (value - elbo_of(reference)) / unit) - gain

    def report(self, now: TokenTable, old: TokenTable) -> dict[str, Tensor]:
        """The ratio, and whether the clip is active."""
        return ratio_report(now, old, self.ratio_norm, self.epsilon)
