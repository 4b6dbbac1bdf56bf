"""VRPO: preference optimisation with ELBOs of little variance (LLaDA 1.5, 2505.19223)."""

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.alignment.backward import Engine
from infimum.alignment.objective import count_masks
from infimum.alignment.policy import Reference, check_reference, parts_of
from infimum.alignment.table import take
from infimum.data import batches
from infimum.discrete import Canvas, MaskedDiffusion
from infimum.errors import UserError
from infimum.evidence import Draws, Plan, two_pass_backward
from infimum.training import Fit

__all__ = ["VRPO", "PreferenceLearner", "Score", "pairs_of", "preference_loss", "preference_score"]

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


class PreferenceLearner:
    """A step is a batch of preference pairs, for `train`. The network is in evaluation mode: no dropout.

    Args:
        policy: trained in place.
        pairs: see `pairs_of`.
        reference: a frozen model, or a context in which the policy is the reference, such as peft's ``model.disable_adapter``.
        method: `VRPO`.
        batch: pairs a step, over all processes (64).
        engine: "auto": one graph for as many pairs as fit into ``rows`` with their draws; "graph" or "two_pass".
        rows: masked canvases at a time: what memory grows with.
        lr, betas, decay: of AdamW (5e-7; 0.9, 0.95; 0.01).
        clip: largest gradient norm; None: no clipping.
        seed: of the order of the pairs.

    Raises:
        UserError: no pairs, pairs that are none, a reference that shares its parameters with the policy.
    """

    def __init__(
        self,
        policy: MaskedDiffusion,
        pairs: Mapping[str, Tensor],
        reference: Reference,
        method: VRPO | None = None,
        *,
        batch: int = 64,
        engine: Engine = "auto",
        rows: int = 256,
        lr: float = 5e-7,
        betas: tuple[float, float] = (0.9, 0.95),
        decay: float = 0.01,
        clip: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        self.policy, self.pairs, self.reference, self.method = policy, dict(pairs), reference, method or VRPO()
        missing = [
            f"{name}/{part}" for name in ("chosen", "rejected") for part in PARTS if f"{name}/{part}" not in pairs
        ]
        if missing:
            raise UserError(f"the pairs have no {missing[0]}: make them with pairs_of or text_pairs")
        if engine not in ("auto", "graph", "two_pass"):
            raise UserError(f"engine is {engine!r}: choose auto, graph or two_pass; a sigmoid is no sum over masks")
        if batch < 1 or rows < 1:
            raise UserError(f"batch is {batch} and rows {rows}, expected at least 1 of each")
        self.batch, self.engine, self.rows, self.clip, self.seed = batch, engine, rows, clip, seed
        first = canvases(policy, {name: each[:1] for name, each in self.pairs.items()})
        del first  # refuses what is no batch
        same = self._same()
        if same:
            warnings.warn(
                f"{same} of {len(self.pairs['chosen/tokens'])} pairs have the same completion twice and teach nothing",
                stacklevel=2,
            )
        trained = [p for p in policy.parameters() if p.requires_grad]
        check_reference(policy, reference)
        self._alike = isinstance(reference, MaskedDiffusion) and all(
            torch.equal(a, b) for a, b in zip(policy.parameters(), reference.parameters(), strict=False)
        )
        self.modules: Mapping[str, nn.Module] = parts_of(policy)
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "main": torch.optim.AdamW(trained, lr=lr, betas=betas, weight_decay=decay, fused=True)
        }

    def _same(self) -> int:
        """Pairs whose completions have the same tokens, wherever they stand."""
        rows = []
        for name in ("chosen", "rejected"):
            target = self.pairs[f"{name}/target"]
            found = self.pairs[f"{name}/tokens"][target].tolist()
            ends = target.sum(1).cumsum(0).tolist()
            rows.append([found[a:b] for a, b in zip([0, *ends], ends, strict=False)])
        return sum(one == other for one, other in zip(*rows, strict=True))

    def batches(self, start: int) -> Iterator[Any]:
        """Minibatches, pure in their number."""
        index = torch.arange(len(self.pairs["chosen/tokens"]))
        for _, i in batches(index, self.batch, seed=self.seed, start=start):
            yield {name: each[i.to(each.device)] for name, each in self.pairs.items()}

    def step(self, batch: Any, fit: Fit) -> Mapping[str, float | Tensor]:
        """One update; metrics by TRL's names."""
        self.policy.to(fit.device).eval()  # of an adapter the loop has moved the trained part alone
        if isinstance(self.reference, MaskedDiffusion):
            self.reference.to(fit.device).eval()
        one = self.method
        s = canvases(self.policy, batch)
        items = len(s[0].lengths)
        draws = fit.draws(one.plan, items)
        losses, plain, rewards, size = [], [], [], max(1, self.rows // (2 * one.plan.k))
        for part in torch.arange(items, device=draws.device).split(size):
            mine, some = (take(s[0], part), take(s[1], part)), draws.take(part)
            with fit.autocast():
                score = self._backward(mine, some, items, fit)
            losses.append(preference_loss(score, one))
            plain.append(losses[-1] + one.sft_weight * score.chosen / score.lengths)
            rewards.append(one.beta * score.rewards)
            if fit.step == 0 and self._alike and one.share_noise and bool((score.margin != 0).any()):
                raise UserError(
                    f"policy and reference have the same weights and a score of {float(score.margin.abs().max()):.3g} nats: "
                    f"they do not "
                    "see the same masks, or dropout is active"
                )
            fit.watch(score=score.policy[..., 0] - score.policy[..., 1])
        fit.update(clip=self.clip)
        gain = torch.cat(rewards)
        margin = gain[:, 0] - gain[:, 1]
        return {
            "loss": torch.cat(losses).mean(),
            "loss/preference": torch.cat(plain).mean(),
            "rewards/chosen": gain[:, 0].mean(),
            "rewards/rejected": gain[:, 1].mean(),
            "rewards/margins": margin.mean(),
            "rewards/accuracies": (margin > 0).double().mean(),
        }

    def _backward(self, s: tuple[Canvas, Canvas], draws: Draws, items: int, fit: Fit) -> Score:
        one, policy = self.method, self.policy
        theirs = reference_terms(
            policy, self.reference, s, draws if one.share_noise else draws.fork("reference"), self.rows
        )
        share, lengths = draws.log_share.exp(), s[0].lengths.to(theirs.dtype)

        def objective(mine: Tensor) -> Tensor:
            return preference_loss(Score(mine, theirs, share, lengths), one).sum() / items

        seen: list[Tensor] = []

        def kept(mine: Tensor) -> Tensor:
            seen.append(mine.detach())
            return objective(mine)

        whole = 2 * draws.shape[0] * draws.shape[1] <= self.rows
        if self.engine == "graph" or (self.engine == "auto" and whole):
            fit.backward(kept(terms_of(policy, s, draws)))
        else:
            two_pass_backward(
                lambda some: terms_of(policy, s, some), draws, kept, rows=max(1, self.rows // 2), backward=fit.backward
            )
        return Score(seen[0], theirs, share, lengths)
