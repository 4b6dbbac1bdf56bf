"""Estimates of log p(x) itself with less bias than the bound, and therefore without a side.

Nowozin, "Debiasing evidence approximations" (ICLR 2018); Luo et al., SUMO (ICLR 2020, 2004.00353); Blanchet & Glynn (2015) and
Rhee & Glynn (2015) for randomised telescoping sums.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence._tree import map_tree
from infimum.evidence.bounds import _answer, _from_proposal
from infimum.evidence.diagnostics import pareto_k
from infimum.evidence.estimate import Estimate
from infimum.evidence.model import LatentModel, double_reductions
from infimum.evidence.plan import Plan
from infimum.evidence.random import row_keys, unit, words
from infimum.evidence.reductions import log_shares, log_sum_exp
from infimum.evidence.tables import LogWeights
from infimum.evidence.weights import weigh

__all__ = ["delta_corrected", "jvi", "leave_one_out", "log_evidence", "mlmc", "sumo"]


def leave_one_out(log_w: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """log sum of all weights but one, for every one of them, in O(K).

    total + log(1 - w_k / total) loses its digits when one weight dominates: those entries are summed again without it.
    """
    k = log_w.shape[0]
    total = log_sum_exp(log_w)
    safe = torch.where(total == -math.inf, 0.0, total)
    share = (log_w - safe).exp()
    rest = total + torch.log1p(-share.clamp(max=1 - 1e-6))
    heavy = share.detach() > 1 - 1e-6
    if bool(heavy.any()):
        column = heavy.any(0)
        row = heavy[:, column].long().argmax(0)  # at most one entry a column can be this heavy, for K >= 2
        inside = log_w[:, column]
        without = log_sum_exp(torch.where(torch.arange(k, device=log_w.device)[:, None] == row, -math.inf, inside))
        fixed = rest[:, column].scatter(0, row[None], without[None])
        rest = rest.clone()
        rest[:, column] = fixed
    return rest


def _log_mean_without(log_w: Tensor, left_out: int) -> Tensor:
    """Average over all subsets of size K - left_out (0, 1 or 2) of their log-mean-exp; (B,)."""
    k = log_w.shape[0]
    if left_out == 0:
        return log_sum_exp(log_w) - math.log(k)
    if left_out == 1:
        return (leave_one_out(log_w) - math.log(k - 1)).mean(0)
    pieces = [leave_one_out(torch.cat((log_w[:i], log_w[i + 1 :])))[i:] for i in range(k - 1)]
    return torch.cat(pieces).mean(0) - math.log(k - 2)


def jvi(w: LogWeights, order: Literal[1, 2] = 1) -> Estimate:
    """Jackknife J = sum_j c_j Lbar_{K-j}, c_j = (-1)^j (K-j)^m / ((m-j)! j!): bias O(K^-(m+1)) (Nowozin 2018, eq. 12).

    It can exceed log p(x): no side. Order 2 visits all pairs, O(K^2) an item.

    Raises:
        UserError: fewer than order + 1 draws, unequal shares, or draws that depend on each other.
    """
    w = _from_proposal(w, "jvi", "iw_eubo")
    k = w.shape[0]
    if order not in (1, 2):
        raise UserError(f"jvi has order 1 or 2, got {order}")
    if k < order + 1:
        raise UserError(f"jvi of order {order} needs at least {order + 1} draws per item, got K={k}")
    _need_independent(w, "jvi")
    log_w = w.log_w.double()
    levels = [_log_mean_without(log_w, j) for j in range(order + 1)]
    # Where leaving draws out leaves no mass, nothing can be extrapolated: L_K stands.
    usable = torch.stack(levels).isfinite().all(0)
    value = torch.zeros_like(log_w[0])
    for j, level in enumerate(levels):
        c = (-1) ** j * (k - j) ** order / (math.factorial(order - j) * math.factorial(j))
        value = value + c * torch.where(usable, level, 0.0)
    value = torch.where(usable, value, levels[0])
    psi = (log_w - (log_sum_exp(log_w) - math.log(k))).exp()
    return _answer(w, value, psi, f"JVI-{order}-{k} (log p as K grows)", side="none")


def _need_independent(w: LogWeights, name: str) -> None:
    if w.log_share is not None or (w.draws is not None and not w.draws.plan.independent) or w.source != "proposal":
        raise UserError(f"{name} needs independent draws of equal share from the proposal: use Plan.iid(k)")


def delta_corrected(w: LogWeights) -> Estimate:
    """log-mean-exp + s^2 / (2K), s^2 the relative variance of the weights: bias O(K^-2) (Nowozin 2018, section 3). No side."""
    w = _from_proposal(w, "delta_corrected", "iw_eubo")
    k = w.shape[0]
    if k < 2:
        raise UserError(f"delta_corrected needs at least 2 draws per item, got K={k}")
    _need_independent(w, "delta_corrected")
    log_w = w.log_w.double()
    level = log_sum_exp(log_w + log_shares(w))
    ratio = (log_w - torch.where(level == -math.inf, 0.0, level)).exp()
    value = level + ratio.var(0) / (2 * k)
    return _answer(w, value, ratio, f"delta-corrected-{k} (log p as K grows)", side="none")


def _telescope(
    model: LatentModel,
    x: Any,
    keys: Int[Tensor, "B"],
    *,
    name: str,
    replicates: int,
    seed: int,
    salt: str,
    rows: int,
    level_of: Callable[[Tensor], Tensor],
    draws_of: Callable[[int], int],
    value_of: Callable[[Tensor, int], Tensor],
) -> Estimate:
    """Average of ``replicates`` randomised telescoping sums; items that drew the same level go through the model together."""
    if replicates < 1:
        raise UserError(f"{name} needs replicates >= 1, got {replicates}")
    values = torch.empty(replicates, keys.shape[0], dtype=torch.float64, device=keys.device)
    pooled = torch.empty(2 * replicates, keys.shape[0], dtype=torch.float64, device=keys.device)
    turn = torch.arange(replicates, device=keys.device)
    level = level_of(unit(words(row_keys(seed, f"{salt}\x00{name}/level", keys, turn), 1)[..., 0]))
    calls = 0
    with torch.no_grad(), double_reductions():
        for r in range(replicates):
            for j in level[r].unique().tolist():
                item = (level[r] == j).nonzero().flatten()
                draws = Plan.iid(draws_of(j)).draws(keys[item], seed=seed, salt=f"{salt}/{name}/{r}")
                w = weigh(model, map_tree(lambda t, item=item: t[item], x), draws, rows=rows)
                values[r, item] = value_of(w.log_w.double(), j)
                pooled[2 * r : 2 * r + 2, item] = w.log_w[:2].double()  # every level has at least two draws
                calls += w.calls
    k = pareto_k(pooled)
    tail = float(k.nanmedian())
    if tail >= 0.5:
        warnings.warn(
            f"{name}: the median Pareto k of the items is {tail:.2f}; above 0.5 the variance of the estimate is infinite",
            stacklevel=3,
        )
    stderr = values.std(0) / math.sqrt(replicates) if replicates > 1 else torch.full_like(values[0], math.nan)
    return Estimate(
        values.mean(0), stderr, "none", False, "log evidence", name, getattr(model, "target", "log p(x)"), keys, calls,
        {"pareto_k": k}, obstacle="the estimate is unbiased for log p(x), so it lies on neither side", draws=2 * replicates,
    )  # fmt: skip


def mlmc(
    model: LatentModel, x: Any, keys: Int[Tensor, "B"], *, replicates: int = 32, seed: int = 0, salt: str = "eval",
    rows: int = 2**14,
) -> Estimate:  # fmt: skip
    """Multi-level Monte Carlo with roulette: L_1 + Delta_J / P(J), P(J = j) proportional to 2^(-3j/2) (00-bounds 3.3).

    Delta_j is the log-mean-exp of 2^(j+1) draws less the average of its two halves': unbiased for log p(x), with finite
    variance and mean cost when the weights have four moments. Warns where Pareto k says that they do not.
    """
    ratio = 2.0**-1.5

    def level_of(u: Tensor) -> Tensor:
        return (u.log() / math.log(ratio)).floor().long()

    def value_of(log_w: Tensor, j: int) -> Tensor:
        half = 2**j
        fine = log_sum_exp(log_w) - math.log(2 * half)
        coarse = (log_sum_exp(log_w[:half]) + log_sum_exp(log_w[half:])) / 2 - math.log(half)
        # Any one weight has mean L_1; the average of all has it too, with less variance.
        return log_w.mean(0) + (fine - coarse) / ((1 - ratio) * ratio**j)

    return _telescope(
        model, x, keys, name="MLMC", replicates=replicates, seed=seed, salt=salt, rows=rows, level_of=level_of,
        draws_of=lambda j: 2 ** (j + 1), value_of=value_of,
    )  # fmt: skip


def _sumo_tail(k: Tensor) -> Tensor:
    """P(level >= k): 1/k up to 80, then a geometric tail, so that the mean cost is finite (2004.00353, section 4)."""
    return torch.where(k < 80, 1 / k, (1 / 80) * 0.9 ** (k - 80))


def _sumo_value(log_w: Float[Tensor, "K B"], level: int) -> Float[Tensor, "B"]:
    """L_1 + sum over k <= level of (L_{k+1} - L_k) / P(level >= k), on level + 1 nested draws."""
    count = torch.arange(1, level + 2, dtype=torch.float64, device=log_w.device)[:, None]
    bound = log_w.logcumsumexp(0) - count.log()
    return bound[0] + (bound.diff(dim=0) / _sumo_tail(count[:-1])).sum(0)


def sumo(
    model: LatentModel, x: Any, keys: Int[Tensor, "B"], *, replicates: int = 32, seed: int = 0, salt: str = "eval",
    rows: int = 2**14,
) -> Estimate:  # fmt: skip
    """SUMO: L_1 + sum over k <= J of (L_{k+1} - L_k) / P(J >= k) (Luo et al. 2020, 2004.00353, eq. 10).

    Unbiased for log p(x); its variance may be infinite. Warns where Pareto k is above 1/2.
    """

    def level_of(u: Tensor) -> Tensor:
        shallow = (1 / u).floor()
        deep = 80 + ((80 * u).log() / math.log(0.9)).floor()
        return torch.where(u > 1 / 80, shallow, deep).long()

    return _telescope(
        model, x, keys, name="SUMO", replicates=replicates, seed=seed, salt=salt, rows=rows, level_of=level_of,
        draws_of=lambda j: j + 1, value_of=_sumo_value,
    )  # fmt: skip


def log_evidence(w: LogWeights) -> Estimate:
    """PSIS-smoothed log-mean-exp: a point estimate with the least error when tails are heavy, not a bound (1507.02646)."""
    from infimum.evidence.diagnostics import psis

    w = _from_proposal(w, "log_evidence", "iw_eubo")
    value = log_sum_exp(psis(w.log_w.double()) + log_shares(w))
    psi = (w.log_w.double() - torch.where(value == -math.inf, 0.0, value)).exp()
    return _answer(w, value, psi, f"PSIS-{w.shape[0]}", side="none")
