"""How much a preference score varies, by the way that network calls are spent on it (2505.19223, its table of variances)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from infimum.alignment.policy import Reference
from infimum.alignment.preference import VRPO, preference_loss, preference_score
from infimum.discrete import MaskedDiffusion
from infimum.errors import UserError
from infimum.evidence import Plan

__all__ = ["PUBLISHED", "ScoreVariance", "score_variances"]


class Spending(NamedTuple):
    """A way to spend network calls."""

    n_t: int
    n_y: int
    shared: bool


PUBLISHED = tuple(
    Spending(*each) for each in ((4, 1, True), (1, 1, True), (8, 1, True), (1, 4, True), (2, 2, True), (4, 1, False))
)
"""Rows of the paper's table."""


@dataclass(frozen=True)
class ScoreVariance:
    """A row of the report; variances over repetitions, means over pairs, with their standard errors over pairs.

    Attributes:
        n_t, n_y, shared: how calls were spent.
        score: variance of s in nats squared.
        score_stderr: of it.
        loss: variance of the loss.
        loss_mean: mean of the loss.
    """

    n_t: int
    n_y: int
    shared: bool
    score: float
    score_stderr: float
    loss: float
    loss_mean: float


def score_variances(
    policy: MaskedDiffusion,
    reference: Reference,
    pairs: Mapping[str, Tensor],
    *,
    beta: float = 0.2,
    spendings: Iterable[tuple[int, int, bool]] = PUBLISHED,
    repeats: int = 64,
    seed: int = 0,
    rows: int = 1024,
) -> list[ScoreVariance]:
    """Variance of the preference score and of its loss for ways to spend network calls.

    Args:
        policy, reference, pairs: see `preference_score`.
        beta: strength.
        spendings: (n_t, n_y, shared) of each row.
        repeats: independent repetitions (paper: 8).
        seed: of the masks.
        rows: canvases at a time.

    Raises:
        UserError: fewer than 2 repetitions.
    """
    if repeats < 2:
        raise UserError(f"repeats is {repeats}, expected at least 2: a variance needs them")
    found = []
    keys = torch.arange(len(pairs["chosen/tokens"]), device=pairs["chosen/tokens"].device)
    plain = VRPO(beta=beta, n_t=1, sft_weight=0.0)
    for n_t, n_y, shared in spendings:
        plan = Plan(levels=n_t, per_level=n_y)
        scores, losses = [], []
        for repeat in range(repeats):
            draws = plan.draws(keys, seed=seed, salt=f"variance/{repeat}")
            one = preference_score(policy, reference, pairs, draws, share_noise=shared, rows=rows)
            scores.append(beta * one.margin)
            losses.append(preference_loss(one, plain))
        score, loss = torch.stack(scores).double(), torch.stack(losses).double()
        each = score.var(0)
        error = float(each.std() / len(keys) ** 0.5) if len(keys) > 1 else float("nan")
        found.append(
            ScoreVariance(n_t, n_y, shared, float(each.mean()), error, float(loss.var(0).mean()), float(loss.mean()))
        )
    return found
