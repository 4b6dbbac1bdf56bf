"""Every bound: a pure function of a table that knows on which side of the evidence it stands.

All sums are in float64, all values differentiable. `elbo` takes both tables, all others need importance weights.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.diagnostics import weight_diagnostics
from infimum.evidence.estimate import Estimate, Side, Unbiased
from infimum.evidence.reductions import SUMS, average, influence_stderr, log_shares, log_sum_exp, replicates
from infimum.evidence.tables import LogWeights, PathTerms

__all__ = [
    "cubo",
    "elbo",
    "eubo",
    "harmonic",
    "iw_eubo",
    "iwae",
    "looser",
    "renyi",
    "snis_eubo",
    "tvo",
    "vr_max",
]


def _weights(w: LogWeights, name: str) -> LogWeights:
    if isinstance(w, PathTerms):
        raise UserError(
            f"{name} needs importance weights, E[exp(log_w)] = p(x); a path model's terms satisfy only "
            "E[term] <= log p(x). Use elbo(terms), or unroll the model."
        )
    if not isinstance(w, LogWeights):
        raise UserError(f"{name} needs a LogWeights table, got {type(w).__name__}: use weigh(model, x, draws)")
    return w


def _from_proposal(w: LogWeights, name: str, instead: str) -> LogWeights:
    if _weights(w, name).source in ("posterior", "mixed"):
        raise UserError(f"{name} needs draws from the proposal, these are {w.source} draws: use {instead}")
    return w


def _from_posterior(w: LogWeights, name: str) -> LogWeights:
    if _weights(w, name).source != "posterior":
        raise UserError(
            f"{name} needs exact posterior draws, these come from the {w.source}: pass latents=... to weigh, or simulate data"
        )
    if bool((w.log_w == -math.inf).any()):
        raise UserError(f"{name}: a posterior draw has log_w = -inf, so it is no posterior draw")
    return w


def _answer(
    w: LogWeights,
    value: Tensor,
    psi: Tensor | None,
    name: str,
    *,
    side: Side,
    unbiased_for: Unbiased | None = None,
    certified: bool = False,
    copies: float = 1,
) -> Estimate:
    """The estimate of a bound on importance weights, its claims taken back where the table cannot carry them."""
    obstacle = "" if certified else f"{name} holds in expectation or in the limit only, without a certificate"
    if not w.unbiased:
        side, certified, unbiased_for = "none", False, None
        obstacle = (
            "the lead follows a quadrature rule, which is biased"
            if w.draws is not None and w.draws.biased
            else "the weights are surrogates: E exp(log_w) = p(x) does not hold"
        )
    elif certified and w.draws is not None and w.draws.plan.spread > 1:
        obstacle = f"the plan spreads its lead over {w.draws.plan.spread} items, whose draws then depend on each other"
    if w.source in SUMS:
        copies = math.inf
    stderr = torch.full_like(value.detach(), math.nan) if psi is None else influence_stderr(w, psi.detach())
    return Estimate(
        value,
        stderr,
        side,
        certified,
        unbiased_for,
        name,
        w.target,
        w.keys,
        w.calls,
        _diagnostics(w),
        copies,
        obstacle,
        w.shape[0],
    )


def _diagnostics(w: LogWeights) -> dict[str, Tensor]:
    """Of what is averaged: w for draws from the proposal, 1/w for posterior draws; a replicate of both has no tail to fit."""
    if w.log_w.requires_grad or w.source in (*SUMS, "mixed"):
        return {}
    return weight_diagnostics(-w.log_w if w.source == "posterior" else w.log_w)


def _limit_answer(w: LogWeights, value: Tensor, psi: Tensor, name: str, limit: str) -> Estimate:
    """The estimate of an upper bound that is one in the limit only, or as a sum over all latents."""
    if w.source == "exhaustive":
        return _answer(w, value, psi, name, side="upper", certified=True)
    return _answer(w, value, psi, f"{name} ({limit} as K grows)", side="none")


def elbo(t: LogWeights | PathTerms) -> Estimate:
    """Evidence lower bound: E_q[log_w], or a path model's constant plus E[term] (Jordan et al. 1999).

    Lower. On weights certified, by AM-GM; on path terms in expectation only, and only under an unbiased plan.
    """
    if isinstance(t, PathTerms):
        return _path_elbo(t)
    w = _from_proposal(t, "elbo", "eubo or iw_eubo")
    log_w = w.log_w.double()
    finite = torch.isfinite(log_w) | (log_shares(w) == -math.inf)
    mean = average(w, torch.where(finite, log_w, 0.0))
    value = torch.where(finite.all(0), mean, -math.inf)
    return _answer(
        w, value, torch.where(finite, log_w, -math.inf), "ELBO", side="lower", unbiased_for="elbo", certified=True,
        copies=replicates(w),
    )  # fmt: skip


def _path_elbo(t: PathTerms) -> Estimate:
    value = average(t, t.value.double()) + t.constant.double()
    good = t.signed and not t.biased and not t.surrogate
    if not t.signed:
        obstacle = "a difference of two bounds bounds nothing"
    elif t.surrogate:
        obstacle = t.surrogate
    elif t.biased:
        obstacle = "the lead follows a quadrature rule that is not known to be exact for these terms"
    else:
        obstacle = "terms of a path model bound the target in expectation only: unroll the model for a certificate"
    name = "difference of ELBOs" if not t.signed else "ELBO, surrogate" if t.surrogate else "ELBO"
    return Estimate(
        value, influence_stderr(t, t.value), "lower" if good else "none", False, "elbo" if good else None, name,
        t.target, t.keys, t.calls, {}, 1, obstacle, t.shape[0],
    )  # fmt: skip


def iwae(w: LogWeights, splits: int = 1) -> Estimate:
    """Importance-weighted bound L_K = E log (1/K) sum_k w_k (Burda et al. 2016, 1509.00519, eq. 8).

    Lower, certified, unbiased for p(x); over all latents of finite support it is log p(x) itself.

    Args:
        w: weights of proposal draws.
        splits: average the bounds of this many groups of replicates instead: the bound loosens to L_{K/splits}, the slack of
            the certificate shrinks by the factor (00-bounds 3.1 e). Choose it before looking at the data.
    """
    w = _from_proposal(w, "iwae", "iw_eubo")
    k, b = w.shape
    if w.source in SUMS:
        value = log_sum_exp(w.log_w.double() + log_shares(w) if w.log_joint is None else w.log_joint.double())
        side: Side = "exact" if w.source == "exhaustive" else "lower"
        return _answer(w, value, value.expand(k, b), "log-sum", side=side, unbiased_for="evidence", certified=True)
    log_w = w.log_w.double() + log_shares(w)
    if splits == 1:
        value = log_sum_exp(log_w)
        psi = (w.log_w.double() - torch.where(value == -math.inf, 0.0, value)).exp()
        return _answer(w, value, psi, f"IWAE-{k}", side="lower", unbiased_for="evidence", certified=True)
    if splits < 1 or replicates(w) % splits:
        raise UserError(f"splits must divide the {replicates(w)} replicates, got {splits}")
    groups = log_sum_exp(log_w.reshape(splits, k // splits, b).movedim(1, 0)) + math.log(splits)  # (splits, B)
    value = groups.mean(0)
    estimate = _answer(
        w, value, None, f"IWAE-{k // splits} (mean of {splits})", side="lower", certified=True, copies=splits
    )
    return dataclasses.replace(estimate, stderr=groups.detach().std(0) / math.sqrt(splits))


def renyi(w: LogWeights, alpha: float) -> Estimate:
    """Renyi bound VR_alpha = 1/(1-alpha) log mean w^(1-alpha) (Li & Turner 2016, 1602.02311, eq. 5).

    For alpha >= 0 it lies below the log-mean-exp of the same weights (power means), so it is lower and certified. For
    alpha < 0 the population value is an upper bound, but the estimate is biased downwards: no side.
    """
    w = _from_proposal(w, "renyi", "iw_eubo")
    if alpha == 1:
        raise UserError("renyi at alpha=1 is the ELBO, the limit of the formula: use elbo(w)")
    if not math.isfinite(alpha):
        raise UserError(f"renyi needs a finite alpha, got {alpha}: use vr_max(w) for alpha = -inf")
    power = 1 - alpha
    log_w = w.log_w.double()
    dead = (log_w == -math.inf) & (log_shares(w) > -math.inf)
    if power < 0:  # one weight of zero makes the mean of w^power infinite
        log_w = torch.where(log_w == -math.inf, 0.0, log_w)
    inner = log_sum_exp(power * log_w + log_shares(w))
    value = inner / power
    psi = (power * log_w - torch.where(inner == -math.inf, 0.0, inner)).exp() / power
    if power < 0:
        value = torch.where(dead.any(0), -math.inf, value)
    name = f"VR({alpha:g})-{w.shape[0]}"
    if alpha < 0:
        return _limit_answer(w, value, psi, name, "upper")
    return _answer(w, value, psi, name, side="lower", certified=True, unbiased_for="evidence" if alpha == 0 else None)


def cubo(w: LogWeights, n: float = 2) -> Estimate:
    """chi upper bound CUBO_n = 1/n log mean w^n (Dieng et al. 2017, 1611.00328, eq. 4).

    The population value is an upper bound; the estimate is biased downwards (Jensen) and often below log p(x): no side.
    """
    w = _from_proposal(w, "cubo", "eubo or iw_eubo")
    if n < 1:
        raise UserError(f"cubo needs n >= 1, got {n}: for smaller powers use renyi(w, alpha=1-n)")
    log_w = n * w.log_w.double()
    inner = log_sum_exp(log_w + log_shares(w))
    psi = (log_w - torch.where(inner == -math.inf, 0.0, inner)).exp() / n
    return _limit_answer(w, inner / n, psi, f"CUBO_{n:g}-{w.shape[0]}", "upper")


def eubo(w: LogWeights) -> Estimate:
    """Evidence upper bound E_posterior[log_w]; its gap is KL(posterior to q). Upper, certified (AM-GM on 1/w)."""
    w = _from_posterior(w, "eubo")
    log_w = w.log_w.double()
    return _answer(w, average(w, log_w), log_w, "EUBO", side="upper", certified=True, copies=replicates(w))


def iw_eubo(w: LogWeights) -> Estimate:
    """Importance-weighted upper bound: log-mean-exp with the first of each replicate's draws from the posterior.

    exp(-value) is exactly unbiased for 1/p(x) (symmetry of w_1 / mean w): upper, certified, non-increasing in the draws
    of a replicate (Sobolev & Vetrov 2019; Brekelmans et al. 2022; 00-bounds 3.2). Replicates are averaged in 1/p.
    """
    w = _weights(w, "iw_eubo")
    if w.source not in ("mixed", "posterior"):
        raise UserError(
            f"iw_eubo needs one exact posterior draw a replicate, these come from the {w.source}: "
            "pass latents=... to weigh, or simulate data"
        )
    if w.log_share is not None:
        raise UserError("iw_eubo needs equal shares: its unbiasedness rests on the symmetry of the draws")
    block = w.block or w.shape[0]
    if w.source == "posterior" and block > 1:
        raise UserError("iw_eubo with more than one posterior draw a replicate is not symmetric: use harmonic(w)")
    if block > 1 and w.draws is not None and not w.draws.plan.independent:
        raise UserError("iw_eubo needs independent draws within a replicate: use Plan(replicates=R, levels=K)")
    r = w.shape[0] // block
    log_w = w.log_w.double().reshape(r, block, -1)
    if bool((log_w[:, 0] == -math.inf).any()):
        raise UserError("iw_eubo: a posterior draw has log_w = -inf, so it is no posterior draw")
    each = log_sum_exp(log_w.movedim(1, 0)) - math.log(block)  # (R, B)
    value = math.log(r) - log_sum_exp(-each)
    psi = (value - each).exp().repeat_interleave(block, 0)
    return _answer(w, value, psi, f"IW-EUBO-{block}", side="upper", certified=True, unbiased_for="inverse evidence")


def harmonic(w: LogWeights) -> Estimate:
    """Reverse harmonic bound -log E_posterior[1/w]. Upper, certified: the mean of 1/w is unbiased for 1/p(x)."""
    w = _from_posterior(w, "harmonic")
    log_w = w.log_w.double()
    value = -log_sum_exp(log_shares(w) - log_w)
    return _answer(
        w, value, (value - log_w).exp(), f"harmonic-{w.shape[0]}", side="upper", certified=True,
        unbiased_for="inverse evidence",
    )  # fmt: skip


def _tempered_mean(w: LogWeights, beta: float) -> tuple[Tensor, Tensor]:
    """Self-normalised mean of log_w under q^(1-beta) p(x, z)^beta, -inf where nothing has mass, and its influence."""
    log_w, log_share = w.log_w.double(), log_shares(w)
    dead = (log_w == -math.inf) | (log_share == -math.inf)
    live = torch.where(dead, 0.0, log_w)
    tempered = torch.where(dead, -math.inf, beta * live + log_share)
    empty = dead.all(0)
    weight = torch.where(empty, 0.0, torch.where(empty, 0.0, tempered).softmax(0))
    mean = (weight * live).sum(0)
    psi = torch.where(dead, 0.0, weight / log_share.exp() * (live - mean))
    # At beta = 0 a draw without mass still has its share, and log_w = -inf there.
    lost = empty if beta else (dead & (log_share > -math.inf)).any(0)
    return torch.where(lost, -math.inf, mean), psi


def snis_eubo(w: LogWeights) -> Estimate:
    """Self-normalised estimate of the EUBO from proposal draws: sum of w~ log_w.

    It lies in [L, L + log K] around the log-mean-exp L of the same weights, and is the value of the usual IWAE and DReG
    surrogates. No side.
    """
    w = _from_proposal(w, "snis_eubo", "eubo")
    value, psi = _tempered_mean(w, 1.0)
    return _limit_answer(w, value, psi, f"SNIS-EUBO-{w.shape[0]}", "EUBO")


def vr_max(w: LogWeights) -> Estimate:
    """VR-max: the largest log-weight, alpha -> -inf of the Renyi estimate (1602.02311, section 4). No bound on log p(x)."""
    w = _from_proposal(w, "vr_max", "eubo")
    return _answer(w, w.log_w.double().amax(0), None, f"VR-max-{w.shape[0]}", side="none")


def looser(w: LogWeights, groups: Int[Tensor, "K B"]) -> Estimate:
    """Mean over groups of draws of their log-mean-exps: the "looser" bound of mixture posteriors (00-bounds 3.2).

    Below the joint log-mean-exp for every table (Jensen), so lower and certified; it does not converge to log p(x).

    Args:
        w: weights with the mixture density below.
        groups: the component of every draw, from ``draws.choose(log_pi)``.
    """
    w = _from_proposal(w, "looser", "iw_eubo")
    if groups.shape != w.log_w.shape:
        raise UserError(f"groups must have the table's shape {tuple(w.log_w.shape)}, got {tuple(groups.shape)}")
    log_w, log_share = w.log_w.double(), log_shares(w)
    count, b = int(groups.max()) + 1, w.shape[1]

    def per_group(values: Tensor, reduce: str, start: float) -> Tensor:
        empty = torch.full((count, b), start, dtype=torch.float64, device=values.device)
        return empty.scatter_reduce(0, groups, values, reduce)

    peak = per_group(log_w.detach(), "amax", -math.inf)
    peak = torch.where(peak == -math.inf, 0.0, peak)
    mass = per_group((log_w + log_share - peak.gather(0, groups)).exp(), "sum", 0.0)
    share = per_group(log_share.exp(), "sum", 0.0)
    alive = mass > 0
    log_mean = torch.where(
        alive, (torch.where(alive, mass, 1.0) / torch.where(alive, share, 1.0)).log() + peak, -math.inf
    )
    value = torch.where(share > 0, log_mean, 0.0).mul(share).sum(0)
    level = torch.where(alive, log_mean, 0.0).gather(0, groups)
    psi = (log_w - level).exp() + level  # the second term: how many draws a group gets may be random
    return _answer(w, value, psi, f"looser-{w.shape[0]}", side="lower", certified=True)


def _same_keys(a: LogWeights, b: LogWeights) -> bool:
    return a.keys is None or b.keys is None or torch.equal(a.keys, b.keys)


def tvo(
    w: LogWeights | Sequence[LogWeights], betas: Sequence[float], rule: Literal["left", "right"] = "left"
) -> Estimate:
    """Thermodynamic variational objective: a Riemann sum of E_beta[log_w] over [0, 1] (Masrani et al. 2019, 1907.00031).

    The integrand does not decrease in beta, so with exact expectations the left rule is lower, the right rule upper. With
    self-normalised weights only beta = 0 is an exact expectation, so the sum has no side (but for the single left cell,
    the ELBO).

    Args:
        w: one table, self-normalised at each beta; or one table a beta, with draws from q^(1-beta) p(x, z)^beta.
        betas: increasing, from 0 to 1.
        rule: which end of every cell is evaluated.
    """
    grid = torch.tensor(list(betas), dtype=torch.float64)
    if grid.numel() < 2 or grid[0] != 0 or grid[-1] != 1 or bool((grid.diff() <= 0).any()):
        raise UserError(f"tvo needs betas that increase from 0 to 1, got {list(betas)}")
    if rule not in ("left", "right"):
        raise UserError(f"tvo's rule is 'left' or 'right', got {rule!r}")
    steps = grid.diff()
    used = grid[:-1] if rule == "left" else grid[1:]
    name = f"TVO-{rule}-{used.numel()}"
    side: Side = "lower" if rule == "left" else "upper"
    if isinstance(w, Sequence):
        tables = [_weights(table, "tvo") for table in w]
        if len(tables) != used.numel():
            raise UserError(f"tvo's {rule} rule on {grid.numel()} betas needs {used.numel()} tables, got {len(tables)}")
        first = tables[0]
        if any(table.shape != first.shape or table.block != first.block for table in tables):
            raise UserError(
                "tvo needs tables of one shape and one plan: make them from the same Draws, or from forks of it"
            )
        if any(table.target != first.target or not _same_keys(table, first) for table in tables):
            raise UserError("tvo needs tables of the same items and one target: their keys or targets differ")
        if rule == "right" and tables[-1].source != "posterior":
            raise UserError(
                f"tvo's right rule ends at beta = 1, the posterior, but its table is of the {tables[-1].source}"
            )
        means = [average(table, table.log_w.double()) for table in tables]
        value = torch.stack([step * mean for step, mean in zip(steps, means, strict=True)]).sum(0)
        # The draws of different betas may be shared, so the spread is that of whole sums.
        whole = torch.stack([step * table.log_w.double() for step, table in zip(steps, tables, strict=True)]).sum(0)
        good = all(table.unbiased for table in tables)
        return Estimate(
            value, influence_stderr(first, whole), side if good else "none", False, None, name,
            tables[0].target, tables[0].keys, sum(t.calls for t in tables),
            obstacle=f"{name} holds in expectation only", draws=tables[0].shape[0],
        )  # fmt: skip

    w = _from_proposal(w, "tvo", "one table a beta")
    cells = [_tempered_mean(w, beta) for beta in used.tolist()]
    value = torch.stack([step * mean for step, (mean, _) in zip(steps, cells, strict=True)]).sum(0)
    psi = torch.stack([step * each for step, (_, each) in zip(steps, cells, strict=True)]).sum(0)
    if w.source == "exhaustive":
        return _answer(w, value, psi, name, side=side, certified=True)
    if rule == "left" and used.numel() == 1:
        return _answer(w, value, psi, name, side="lower", certified=True, unbiased_for="elbo", copies=replicates(w))
    return _answer(w, value, psi, f"{name} (self-normalised)", side="none")
