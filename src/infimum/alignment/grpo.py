"""Objectives to compare with: REINFORCE with the ELBO, diffu-GRPO (one network call a completion), ESPO (coupled masks)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from infimum.alignment.objective import (
    Kl,
    Objective,
    check_ratio,
    clipped,
    count_masks,
    divergence,
    per_length,
    ratio_report,
)
from infimum.alignment.spg import block_masks
from infimum.alignment.surrogates import elbo_of
from infimum.alignment.table import TokenTable, perturbed
from infimum.discrete import Canvas, MaskedDiffusion, Masks, masks_of
from infimum.errors import UserError
from infimum.evidence import Draws, Plan

__all__ = ["ESPO", "DiffuGRPO", "Reinforce"]


@dataclass(frozen=True, kw_only=True)
class Reinforce(Objective):
    """A log pi is A ELBO, whatever the sign of A; or A times the mean-field estimate of one network call.

    Args:
        num_masks: masks a completion.
        one_step: everything masked at once instead: not a bound, for it takes tokens as independent.
    """

    num_masks: int = 2
    one_step: bool = False
    num_iterations: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        super().__post_init__()
        if self.num_masks < 1:
            raise UserError(f"num_masks is {self.num_masks}, expected at least 1")

    @property
    def plan(self) -> Plan:
        """Independent masks."""
        return Plan.iid(1 if self.one_step else self.num_masks)

    def masks(self, policy: MaskedDiffusion, s: Canvas, draws: Draws) -> Masks:
        """By exact numbers of masks, or all."""
        return block_masks(s, draws, "all") if self.one_step else count_masks(policy, s, draws)

    def losses(
        self, now: TokenTable, old: TokenTable, reference: TokenTable | None, advantages: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """-A times the estimate."""
        return -advantages * elbo_of(now)

    def report(self, now: TokenTable, old: TokenTable) -> dict[str, Tensor]:
        """The estimate."""
        return {"elbo": elbo_of(now)}


@dataclass(frozen=True, kw_only=True)
class DiffuGRPO(Objective):
    """diffu-GRPO (d1, 2504.12216): token-wise clipped ratios of one network call on the masked completion. It is no bound.

    Args:
        epsilon: clip (0.5).
        beta: strength of the divergence from the reference; 0 here, as no reference is needed then (d1: 0.04, from a copy of the
            policy that is renewed every 64 steps; renewing it is left to the caller).
        kl: its estimator (k3).
        perturb: share of the prompt that is masked, anew in every update (0.15).
    """

    epsilon: float | None = 0.5
    beta: float = 0.0  # type: ignore[misc]
    kl: Kl | None = "k3"
    perturb: float = 0.15
    num_iterations: int = 12

    compares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        super().__post_init__()
        check_ratio(self.epsilon, self.beta, self.kl)
        if not 0 <= self.perturb <= 1:
            raise UserError(f"perturb is {self.perturb}, expected a share of 0 to 1")

    @property
    def plan(self) -> Plan:
        """One canvas."""
        return Plan.iid(1)

    def masks(self, policy: MaskedDiffusion, s: Canvas, draws: Draws) -> Masks:
        """Everything that was written, and a share of the prompt."""
        return perturbed(s, draws, block_masks(s, draws, "all"), self.perturb)

    def losses(
        self, now: TokenTable, old: TokenTable, reference: TokenTable | None, advantages: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """Sum over tokens of -min(r A, clip(r) A) + beta k3."""
        d = now.scores[0] - old.scores[0]
        each = -clipped(d, advantages[:, None].expand_as(d), self.epsilon)
        if reference is not None and self.beta:
            each = each + self.beta * divergence(self.kl, now.scores[0] - reference.scores[0])
        return (each * now.scored[0]).sum(-1)

    def report(self, now: TokenTable, old: TokenTable) -> dict[str, Tensor]:
        """The mean of the ratios, and the share of those outside of the clip."""
        ratio = (now.scores[0] - old.scores[0]).clamp(-20, 20).exp()
        count = now.scored[0].sum(-1)
        outside = ((ratio - 1).abs() > (self.epsilon or float("inf"))) & now.scored[0]
        return {
            "one_step": now.scores[0].sum(-1),
            "ratio": (ratio * now.scored[0]).sum(-1) / count,
            "clip_ratio": outside.sum(-1) / count,
        }


@dataclass(frozen=True, kw_only=True)
class ESPO(Objective):
    """ESPO (2512.03759): a clipped ratio of sequence ELBOs from coupled masks, each token masked in one of a pair.

    Args:
        pairs: of a mask and its complement (1).
        epsilon: clip (0.2).
        beta: strength of the divergence (Sudoku 1e-2, Countdown 3e-3, GSM8K and MATH 1e-3), that of sequences divided by their
            length.
        kl: its estimator (k2).

    Masks go over the whole completion, whatever blocks the policy writes it by: only then does a pair mask every token once.
    """

    pairs: int = 1
    epsilon: float | None = 0.2
    beta: float = 0.0  # type: ignore[misc]
    kl: Kl | None = "k2"
    num_iterations: int = 8

    compares: ClassVar[bool] = True
    per: ClassVar[Literal["token", "sequence"]] = "sequence"

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        super().__post_init__()
        check_ratio(self.epsilon, self.beta, self.kl)
        if self.pairs < 1:
            raise UserError(f"pairs is {self.pairs}, expected at least 1")

    @property
    def plan(self) -> Plan:
        """Twins: a mask and its complement."""
        return Plan.antithetic(2 * self.pairs)

    def masks(self, policy: MaskedDiffusion, s: Canvas, draws: Draws) -> Masks:
        """A number of masks uniform on 0 .. L, and the other tokens."""
        return masks_of(s, draws, "complement")

    def losses(
        self, now: TokenTable, old: TokenTable, reference: TokenTable | None, advantages: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """-min(r A, clip(r) A) + beta k2 / L, r = exp((ELBO - ELBO_old) / L), k2 of the difference of ELBOs."""
        value, unit = elbo_of(now), per_length("length", now)
        loss = -clipped((value - elbo_of(old)) / unit, advantages, self.epsilon)
        if reference is None or not self.beta:
            return loss
        return loss + self.beta * divergence(self.kl, value - elbo_of(reference)) / unit

    def report(self, now: TokenTable, old: TokenTable) -> dict[str, Tensor]:
        """The ratio, and whether the clip is active."""
        return ratio_report(now, old, "length", self.epsilon)
