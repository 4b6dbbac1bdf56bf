"""Reducing a table over its draws: sums in the log domain, share-weighted averages, and the errors of statistics."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.evidence.tables import LogWeights, PathTerms

__all__ = ["SUMS", "average", "influence_stderr", "log_shares", "log_sum_exp", "replicates"]

SUMS = ("exhaustive", "subset")  # tables of sums over latents: nothing random, standard error 0


def log_sum_exp(a: Float[Tensor, "K *n"]) -> Float[Tensor, "*n"]:
    """log sum exp over the first axis; where all is -inf the value is -inf and the gradient 0, never NaN."""
    peak = a.detach().amax(0)
    peak = torch.where(peak == -math.inf, 0.0, peak)
    total = (a - peak).exp().sum(0)
    alive = total > 0
    return torch.where(alive, torch.where(alive, total, 1.0).log() + peak, -math.inf)


def log_shares(t: LogWeights | PathTerms) -> Float[Tensor, "K B"]:
    """Log-shares of a table in float64, broadcast to (K, B)."""
    k, b = t.shape
    if t.log_share is None:
        device = t.log_w.device if isinstance(t, LogWeights) else t.value.device
        return torch.full((1, 1), -math.log(k), dtype=torch.float64, device=device).expand(k, b)
    return t.log_share.double().expand(k, b)


def average(t: LogWeights | PathTerms, values: Tensor) -> Tensor:
    """Share-weighted sum over draws, where no share times anything is nothing."""
    share = log_shares(t).exp()
    return torch.where(share > 0, values, 0.0).mul(share).sum(0)


def replicates(t: LogWeights | PathTerms) -> int:
    """Independent replicates of equal share; 1 where shares differ between them."""
    r = t.shape[0] // (t.block or 1)
    if t.log_share is None or r == 1:
        return r
    each = log_shares(t).reshape(r, -1, t.shape[1]).logsumexp(1)
    return r if bool((each + math.log(r)).abs().max() < 1e-6) else 1


def influence_stderr(t: LogWeights | PathTerms, psi: Float[Tensor, "K B"]) -> Float[Tensor, "B"]:
    """Standard error of a statistic from its influence function: the spread of replicates around each other.

    The delta method with the replicate, the smallest independent block, as unit: right for independent, antithetic, Sobol,
    stratified and nested draws alike. NaN for one replicate, 0 for sums over all latents.
    """
    with torch.no_grad():
        if isinstance(t, LogWeights) and t.source in SUMS:
            return psi.new_zeros(t.shape[1], dtype=torch.float64)
        r = replicates(t)
        if r < 2:
            return torch.full((t.shape[1],), math.nan, dtype=torch.float64, device=psi.device)
        share = log_shares(t).exp()
        each = torch.where(share > 0, psi.double(), 0.0).mul(share).reshape(r, -1, t.shape[1]).sum(1) * r
        return each.std(0) / math.sqrt(r)
