"""What a method must say for the trainer to use it."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.alignment.surrogates import elbo_of
from infimum.alignment.table import TokenTable
from infimum.discrete import Canvas, MaskedDiffusion, Masks, masks_of
from infimum.errors import UserError
from infimum.evidence import Draws, Plan

__all__ = [
    "Kl",
    "Objective",
    "RatioNorm",
    "check_ratio",
    "clipped",
    "count_masks",
    "divergence",
    "per_length",
    "ratio_report",
]

Kl = Literal["k2", "k3"]
RatioNorm = Literal["length", "max_length", "none"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A method as a plug-in of `PolicyLearner`: how masks are drawn, and the loss of a completion as a function of token scores.

    Args:
        num_iterations: updates for every batch of completions (TRL's name; mu of the papers).
        fresh_masks: new masks for each of these updates; otherwise the first ones are kept.

    Attributes:
        compares: whether the loss needs the scores of the policy that wrote the completions.
        linear: whether it is a sum of terms that each need one draw, so that memory does not grow with the draws in one pass.
        per: a batch's loss is the sum over completions divided by their "token" or "sequence" number.
        beta: strength of the divergence from a reference model; 0: none is needed.
    """

    num_iterations: int = 1
    fresh_masks: bool = True

    compares: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    per: ClassVar[Literal["token", "sequence"]] = "token"
    beta: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.num_iterations < 1:
            raise UserError(f"num_iterations is {self.num_iterations}, expected at least 1")

    @property
    def plan(self) -> Plan:
        """How masks are drawn."""
        raise NotImplementedError

    def masks(self, policy: MaskedDiffusion, s: Canvas, draws: Draws) -> Masks:
        """Masked canvases; as the policy's own form has them."""
        return policy.masks(s, draws)

    def losses(
        self, now: TokenTable, old: TokenTable, reference: TokenTable | None, advantages: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """To be minimised: a number for each completion.

        Args:
            now: scores under the policy, with a graph.
            old: the same masks under the policy that wrote the completions, without one.
            reference: the same masks under the reference, where ``beta`` is positive.
            advantages: of the completions.
        """
        raise NotImplementedError

    def report(self, now: TokenTable, old: TokenTable) -> dict[str, Tensor]:
        """Figures worth watching, each (B,)."""
        return {}


def count_masks(policy: MaskedDiffusion, s: Canvas, draws: Draws) -> Masks:
    """By exact numbers of masks, whatever the policy's own form; in its blocks if it has any."""
    return masks_of(s, draws, "count", block_length=policy.config.block_length)


def per_length(norm: RatioNorm, table: TokenTable) -> Float[Tensor, "B"]:
    """What a difference of log-likelihoods is divided by before it becomes a ratio: tokens, those of the canvas, or 1."""
    if norm not in ("length", "max_length", "none"):
        raise UserError(f"ratio_norm is {norm!r}: choose length, max_length or none")
    lengths = table.lengths.to(table.scores.dtype)
    if norm == "length":
        return lengths
    return torch.full_like(lengths, table.scores.shape[-1] if norm == "max_length" else 1)


LARGEST = 20.0
"""Log-ratios are cut off there: exp(20) is 5e8."""


def clipped(
    log_ratio: Float[Tensor, "*n"], advantages: Float[Tensor, "*n"], epsilon: float | None
) -> Float[Tensor, "*n"]:
    """min(r A, clip(r, 1 - epsilon, 1 + epsilon) A), r = exp(log_ratio) (PPO, 1707.06347); None: r A."""
    ratio = log_ratio.clamp(-LARGEST, LARGEST).exp()
    if epsilon is None:
        return ratio * advantages
    return torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)


def divergence(kl: Kl | None, log_ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Estimates of KL(policy || reference) from log policy - log reference: d^2 / 2, or exp(-d) - 1 + d.

    Raises:
        UserError: no estimator is named.
    """
    if kl == "k2":
        return log_ratio.square() / 2
    if kl == "k3":
        return (-log_ratio).clamp(max=LARGEST).exp() - 1 + log_ratio
    raise UserError("beta is positive and no estimator of the divergence is named: choose kl='k2' or kl='k3'")


def check_ratio(epsilon: float | None, beta: float, kl: Kl | None) -> None:
    """Refuse clips and divergences that mean nothing.

    Raises:
        UserError: see there.
    """
    if epsilon is not None and not 0 < epsilon < math.inf:
        raise UserError(f"epsilon is {epsilon}, expected a positive clip, or None")
    if not 0 <= beta < math.inf:
        raise UserError(f"beta is {beta}, expected a strength of the divergence of at least 0")
    if beta:
        divergence(kl, torch.zeros(1))


def ratio_report(now: TokenTable, old: TokenTable, norm: RatioNorm, epsilon: float | None) -> dict[str, Tensor]:
    """ELBO, ratio and share of ratios outside of the clip, a completion."""
    value = elbo_of(now)
    ratio = ((value - elbo_of(old)) / per_length(norm, now)).clamp(-LARGEST, LARGEST).exp()
    outside = torch.zeros_like(ratio) if epsilon is None else ((ratio - 1).abs() > epsilon).to(ratio.dtype)
    return {"elbo": value, "ratio": ratio, "clip_ratio": outside}
