"""What a method must say for the trainer to use it."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.alignment.surrogates import elbo_of
from infimum.alignment.table import TokenTable
from infimum.discrete import Canvas, MaskedDiffusion, Masks, masks_of
from infimum.errors import UserError
from infimum.evidence import Draws, Plan
from infimum.language.advantages import ScaleRewards

__all__ = [
    "Kl",
    "Objective",
    "RatioNorm",
    "check_norm",
    "check_ratio",
    "clipped",
    "count_masks",
    "divergence",
    "per_length",
    "ratio_report",
    "warn_of_drift",
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
        scale_rewards: how advantages are scaled as published, see `group_advantages`.
        drops_negative: whether completions with a negative advantage have no loss, and need no network call.
        written_by: tokens of a block that the sampler should write by; None: no matter.
    """

    num_iterations: int = 1
    fresh_masks: bool = True

    compares: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    per: ClassVar[Literal["token", "sequence"]] = "token"
    beta: ClassVar[float] = 0.0
    scale_rewards: ClassVar[ScaleRewards] = "none"
    drops_negative: ClassVar[bool] = False
    written_by: ClassVar[int | None] = None

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
    check_norm(norm)
    lengths = table.lengths.to(table.scores.dtype)
    if norm == "length":
        return lengths
    return torch.full_like(lengths, table.scores.shape[-1] if norm == "max_length" else 1)


def check_norm(norm: str) -> None:
    """Refuse an unknown one.

    Raises:
        UserError: see there.
    """
    if norm not in get_args(RatioNorm):
        raise UserError(f"ratio_norm is {norm!r}: choose {', '.join(get_args(RatioNorm))}")


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
    if kl is not None:
        raise UserError(f"kl is {kl!r}, which is no estimator of the divergence: choose k2 or k3")
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
    """ELBO, ratio, share of ratios outside of the clip, and the size of the log-ratio before it is cut off, a completion."""
    value = elbo_of(now)
    log_ratio = (value - elbo_of(old)) / per_length(norm, now)
    ratio = log_ratio.clamp(-LARGEST, LARGEST).exp()
    outside = torch.zeros_like(ratio) if epsilon is None else ((ratio - 1).abs() > epsilon).to(ratio.dtype)
    return {"elbo": value, "ratio": ratio, "clip_ratio": outside, "log_ratio": log_ratio.abs()}


def warn_of_drift(found: Mapping[str, Tensor], outside: list[Tensor], updates: int) -> None:
    """Where ratios have left the range in which an update means something."""
    if "largest_d" in found and len(found["largest_d"]) and float(found["largest_d"].max()) > 10:
        warnings.warn(
            "log-ratios of single masks, divided as the objective says, exceed 10: the policy has drifted from the one that wrote "
            "the completions; take fewer iterations, or a lower learning rate",
            stacklevel=2,
        )
    if "log_ratio" in found and len(found["log_ratio"]) and float(found["log_ratio"].max()) > LARGEST:
        warnings.warn(
            f"log-ratios up to {float(found['log_ratio'].max()):.3g} were cut off at {LARGEST:g}, where they have no gradient: "
            "divide them by the length (ratio_norm), or lower the learning rate",
            stacklevel=2,
        )
    later = outside[len(outside) // updates :]  # the first update has ratios of 1
    if later and len(torch.cat(later)) and bool((torch.cat(later) == 1).all()):
        warnings.warn(
            "every ratio is outside of its clip, where most completions teach nothing: divide log-ratios by the length "
            "(ratio_norm), or lower the learning rate",
            stacklevel=2,
        )
