"""VRPO: preference optimisation with ELBOs of little variance (LLaDA 1.5, 2505.19223)."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from infimum.alignment.backward import Engine
from infimum.alignment.objective import count_masks
from infimum.alignment.policy import Reference
from infimum.discrete import Canvas, MaskedDiffusion
from infimum.errors import UserError
from infimum.evidence import Draws, Plan, two_pass_backward

__all__ = ["VRPO", "Score", "canvases", "pairs_of", "preference_backward", "preference_loss", "preference_score"]

LossType = Literal["sigmoid", "ipo", "hinge"]
PARTS = ("tokens", "target", "present")


@dataclass(frozen=True, kw_only=True)
class VRPO:
    """Direct preference optimisation with Monte Carlo ELBOs for log-likelihoods.

    Args:
        beta: strength (0.2).
        n_t: levels of masks for every likelihood (8).
        n_y: masks a level (1): for a budget of n_t n_y network calls the variance is smallest with n_y = 1.
        share_noise: policy and reference see the same masks (the paper's "antithetic sampling"): their errors cancel where they
            are alike.
        sft_weight: of the masked diffusion loss of the chosen completion, nats a token (0.05).
        loss_type: "sigmoid" (DPO), "ipo" or "hinge".
        label_smoothing: probability that a label is wrong ("sigmoid").
        lead: how levels are spread: "random" as published, or "stratified", which varies less.

    Raises:
        UserError: a strength that is not positive, no masks, a probability that is none.
    """

    beta: float = 0.2
    n_t: int = 8
    n_y: int = 1
    share_noise: bool = True
    sft_weight: float = 0.05
    loss_type: LossType = "sigmoid"
    label_smoothing: float = 0.0
    lead: Literal["random", "stratified"] = "random"

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if not 0 < self.beta < math.inf:
            raise UserError(f"beta is {self.beta}, expected a positive strength of the preference")
        if self.n_t < 1 or self.n_y < 1:
            raise UserError(f"n_t is {self.n_t} and n_y {self.n_y}, expected at least 1 of each")
        if self.loss_type not in get_args(LossType):
            raise UserError(f"loss_type is {self.loss_type!r}: choose one of {', '.join(get_args(LossType))}")
        if not 0 <= self.label_smoothing < 0.5 or self.sft_weight < 0:
            raise UserError(
                f"label_smoothing is {self.label_smoothing} and sft_weight {self.sft_weight}, expected 0 to below 0.5, and at "
                "least 0"
            )
        if self.lead not in ("random", "stratified"):
            raise UserError(f"lead is {self.lead!r}: choose random or stratified")
        if self.n_y > 1:
            warnings.warn(
                f"n_t = {self.n_t * self.n_y} levels with one mask each vary less than {self.n_t} with {self.n_y}",
                stacklevel=3,
            )
        if not self.share_noise:
            warnings.warn("policy and reference see different masks: the score is far noisier", stacklevel=3)

    @property
    def plan(self) -> Plan:
        """Of one likelihood."""
        return Plan(levels=self.n_t, per_level=self.n_y, lead=self.lead)


class Score(NamedTuple):
    """Preference scores of B pairs, from K draws for each likelihood, in nats.

    Attributes:
        policy: terms of the ELBOs of chosen and rejected completions.
        reference: of the reference, under the same draws or its own.
        share: of a draw.
        lengths: tokens of the chosen completions.
    """

    policy: Float[Tensor, "K B 2"]
    reference: Float[Tensor, "K B 2"]
    share: Float[Tensor, "K 1"]
    lengths: Float[Tensor, "B"]

    @property
    def margin(self) -> Float[Tensor, "B"]:
        """[B_theta - B_ref](chosen) - [B_theta - B_ref](rejected): unbiased for the difference of ELBOs; times beta, the score
        s.
        """
        gain = self.rewards
        return gain[:, 0] - gain[:, 1]

    @property
    def rewards(self) -> Float[Tensor, "B 2"]:
        """B_theta - B_ref of chosen and rejected."""
        return (self.share.to(self.policy.dtype)[..., None] * (self.policy - self.reference)).sum(0)

    @property
    def chosen(self) -> Float[Tensor, "B"]:
        """The policy's ELBO of the chosen completion."""
        return (self.share.to(self.policy.dtype) * self.policy[..., 0]).sum(0)


def pairs_of(chosen: Mapping[str, Tensor], rejected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Canvases of chosen and rejected completions as one batch, for `PreferenceLearner`: "chosen/tokens" and so on.

    Raises:
        UserError: unlike numbers of rows.
    """
    found: dict[str, Tensor] = {}
    for name, x in (("chosen", chosen), ("rejected", rejected)):
        present = x.get("present", torch.ones_like(x["tokens"], dtype=torch.bool))
        parts = {"tokens": x["tokens"], "target": x.get("target", present), "present": present}
        found |= {f"{name}/{part}": parts[part] for part in PARTS}
    if len(found["chosen/tokens"]) != len(found["rejected/tokens"]) or not len(found["chosen/tokens"]):
        raise UserError(
            f"got {len(found['chosen/tokens'])} chosen and {len(found['rejected/tokens'])} rejected completions, expected as "
            "many, and at least one"
        )
    return found


def terms_of(policy: MaskedDiffusion, s: tuple[Canvas, Canvas], draws: Draws) -> Float[Tensor, "k B 2"]:
    """Terms of both ELBOs; the rejected completion has masks of its own, independent of the chosen one's."""
    columns = []
    for canvas, mine in zip(s, (draws, draws.fork("rejected")), strict=True):
        masks = count_masks(policy, canvas, mine)
        scores = policy.token_scores(canvas, masks)
        columns.append(masks.weight.to(scores.dtype) * scores.sum(-1))
    return torch.stack(columns, -1)


@torch.no_grad()
def reference_terms(
    policy: MaskedDiffusion, reference: Reference, s: tuple[Canvas, Canvas], draws: Draws, rows: int
) -> Float[Tensor, "K B 2"]:
    """The reference's terms, ``rows`` canvases at a time."""

    def of(model: MaskedDiffusion) -> Tensor:
        return torch.cat([terms_of(model, s, some) for some in draws.chunks(max(1, rows // 2))])

    if isinstance(reference, MaskedDiffusion):
        return of(reference)
    with reference():
        return of(policy)


@torch.no_grad()
def preference_score(
    policy: MaskedDiffusion,
    reference: Reference,
    pairs: Mapping[str, Tensor],
    draws: Draws,
    *,
    share_noise: bool = True,
    rows: int = 256,
) -> Score:
    """Scores of preference pairs without gradients (2505.19223, the preference score).

    Args:
        policy: in evaluation mode, as the reference.
        reference: see `Reference`.
        pairs: see `pairs_of`.
        draws: K for each pair. Keys are pairs: the numbers do not depend on how a batch is divided.
        share_noise: policy and reference see the same masks.
        rows: canvases at a time.
    """
    s = canvases(policy, pairs)
    mine = torch.cat([terms_of(policy, s, some) for some in draws.chunks(max(1, rows // 2))])
    theirs = reference_terms(policy, reference, s, draws if share_noise else draws.fork("reference"), rows)
    return Score(mine, theirs, draws.log_share.exp(), s[0].lengths.to(mine.dtype))


def canvases(policy: MaskedDiffusion, pairs: Mapping[str, Tensor]) -> tuple[Canvas, Canvas]:
    """Those of the chosen and of the rejected completions."""
    parts = [{part: pairs[f"{name}/{part}"] for part in PARTS} for name in ("chosen", "rejected")]
    return policy.encode(parts[0]), policy.encode(parts[1])


def preference_loss(score: Score, method: VRPO) -> Float[Tensor, "B"]:
    """The loss of each pair: of the preference, and ``sft_weight`` times minus the chosen completion's ELBO a token.

    "sigmoid": -log sigmoid(s), s = beta times the margin; its expectation over masks is above that of the exact score, by at most
    Var(s) / 8. "ipo": (margin - 1 / (2 beta))^2 (2310.12036); "hinge": max(0, 1 - s) (2305.10425).
    """
    s = method.beta * score.margin
    if method.loss_type == "sigmoid":
        loss = -F.logsigmoid(s) * (1 - method.label_smoothing) - F.logsigmoid(-s) * method.label_smoothing
    elif method.loss_type == "ipo":
        loss = (score.margin - 1 / (2 * method.beta)).square()
    else:
        loss = F.relu(1 - s)
    return loss - method.sft_weight * score.chosen / score.lengths


def preference_backward(
    policy: MaskedDiffusion,
    reference: Reference,
    s: tuple[Canvas, Canvas],
    draws: Draws,
    method: VRPO,
    *,
    unit: float,
    engine: Engine = "auto",
    rows: int = 256,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> Score:
    """Accumulate the gradient of the sum of `preference_loss` over ``unit`` into ``.grad``.

    Args:
        policy: in evaluation mode, as the reference.
        reference: see `Reference`.
        s: canvases of chosen and rejected completions, see `canvases`.
        draws: K for each pair.
        method: `VRPO`.
        unit: what the sum is divided by.
        engine: "auto": one graph where all canvases fit into ``rows``, else two passes; "graph" or "two_pass".
        rows: masked canvases at a time.
        backward: what is called on every scalar.

    Returns:
        The scores, detached.
    """
    theirs = reference_terms(policy, reference, s, draws if method.share_noise else draws.fork("reference"), rows)
    share, lengths = draws.log_share.exp(), s[0].lengths.to(theirs.dtype)
    seen: list[Tensor] = []

    def objective(mine: Tensor) -> Tensor:
        seen.append(mine.detach())
        return preference_loss(Score(mine, theirs, share, lengths), method).sum() / unit

    whole = 2 * draws.shape[0] * draws.shape[1] <= rows
    if engine == "graph" or (engine == "auto" and whole):
        backward(objective(terms_of(policy, s, draws)))
    else:
        half = max(1, rows // 2)
        two_pass_backward(lambda some: terms_of(policy, s, some), draws, objective, rows=half, backward=backward)
    return Score(seen[0], theirs, share, lengths)
