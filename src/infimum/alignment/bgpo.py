"""BGPO: boundary-guided policy optimisation (2510.11683): a lower bound of the objective that is a sum over masks."""

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.alignment.objective import (
    LARGEST,
    Objective,
    RatioNorm,
    check_norm,
    check_ratio,
    clipped,
    count_masks,
    per_length,
    ratio_report,
)
from infimum.alignment.surrogates import elbo_of
from infimum.alignment.table import TokenTable
from infimum.discrete import Canvas, MaskedDiffusion, Masks
from infimum.errors import UserError
from infimum.evidence import Draws, Plan
from infimum.language.advantages import ScaleRewards

__all__ = ["BGPO", "Boundary", "bgpo_terms", "boundary"]


def bgpo_terms(d: Float[Tensor, "K *B"], advantages: Float[Tensor, "*B"]) -> Float[Tensor, "K *B"]:
    """Terms whose mean over K bounds A exp(mean d) from below: A (1 + d) where A >= 0, A exp(d) where A < 0.

    exp(x) >= 1 + x, and exp(mean) <= mean of exp (2510.11683, both lemmas). The first is taken as it is: the published code takes
    exp(log(1 + d)), which is NaN below d = -1. Each term needs one draw; where all d are 0 value and gradient are exact.
    """
    return advantages * torch.where(advantages >= 0, 1 + d, d.clamp(max=LARGEST).exp())


class Boundary(NamedTuple):
    """The objective and its bound for a set of draws.

    Attributes:
        value: A exp(mean d).
        bound: the mean of `bgpo_terms`, never above it.
    """

    value: Float[Tensor, "*B"]
    bound: Float[Tensor, "*B"]


def boundary(d: Float[Tensor, "K *B"], advantages: Float[Tensor, "*B"]) -> Boundary:
    """A exp(mean d) and its bound (2510.11683)."""
    return Boundary(advantages * d.mean(0).exp(), bgpo_terms(d, advantages).mean(0))


@dataclass(frozen=True, kw_only=True)
class BGPO(Objective):
    """A ratio of ELBOs, replaced by a lower bound that is a sum over masks: any number of them in the memory of one.

    Advantages are divided by the standard deviation of their group, as published, unless the learner is told otherwise.

    Args:
        n_t: masks a completion (16; Sudoku 32).
        engine: "bgpo": the bound; "two_pass": the objective itself, exactly, in the memory of a chunk for one more forward pass;
            "graph": itself in one graph, whose memory grows with ``n_t``. Where policy and old policy agree, all three have "
            "one gradient.
        ratio_norm: differences are divided by the "length" of the completion, by "max_length" (published code), or by 1 (the
            paper's formula, which overflows off-policy).
        epsilon: clip of each term's ratio, for parity with the published code: then it is no bound. None: none.
        lead: how levels are spread: "random", or "stratified" (published: from one offset, with rounding mended).
    """

    n_t: int = 16
    engine: Literal["bgpo", "two_pass", "graph"] = "bgpo"
    ratio_norm: RatioNorm = "length"
    epsilon: float | None = None
    lead: Literal["random", "stratified"] = "stratified"

    compares: ClassVar[bool] = True
    per: ClassVar[Literal["token", "sequence"]] = "sequence"
    scale_rewards: ClassVar[ScaleRewards] = "group"

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        super().__post_init__()
        check_ratio(self.epsilon, 0.0, None)
        check_norm(self.ratio_norm)
        if self.lead not in ("random", "stratified"):
            raise UserError(f"lead is {self.lead!r}: choose random or stratified")
        if self.n_t < 1:
            raise UserError(f"n_t is {self.n_t}, expected at least 1 mask")
        if self.engine not in ("bgpo", "two_pass", "graph"):
            raise UserError(f"engine is {self.engine!r}: choose bgpo, two_pass or graph")
        if self.engine == "bgpo" and self.epsilon is not None:
            warnings.warn(
                "with a clip the terms are no lower bound, and their gradient is not that of the objective",
                stacklevel=3,
            )

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """Whether one pass does, draw by draw."""
        return self.engine == "bgpo"

    @property
    def plan(self) -> Plan:
        """Levels and a mask at each."""
        return Plan(levels=self.n_t, lead=self.lead)

    def masks(self, policy: MaskedDiffusion, s: Canvas, draws: Draws) -> Masks:
        """By exact numbers of masks."""
        return count_masks(policy, s, draws)

    def losses(
        self, now: TokenTable, old: TokenTable, reference: TokenTable | None, advantages: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """-R, or minus its bound: of these draws' share, so that parts of a plan add up."""
        unit = per_length(self.ratio_norm, now)
        if self.engine != "bgpo":
            return -clipped((elbo_of(now) - elbo_of(old)) / unit, advantages, self.epsilon)
        d = (now.terms - old.terms) / unit
        share = now.share.to(d.dtype)
        if self.epsilon is None:
            return -(share * bgpo_terms(d, advantages)).sum(0)
        ratio = torch.where(advantages >= 0, 1 + d, d.clamp(max=LARGEST).exp())
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - self.epsilon, 1 + self.epsilon) * advantages)
        return -(share * gain).sum(0)

    def report(self, now: TokenTable, old: TokenTable) -> dict[str, Tensor]:
        """The ratio, and how far single differences are from 0."""
        d = ((now.terms - old.terms) / per_length(self.ratio_norm, now)).abs().amax(0)
        return {**ratio_report(now, old, self.ratio_norm, self.epsilon), "largest_d": d}
