"""How far a column of importance weights can be trusted.

Pareto-smoothed importance sampling: Vehtari, Simpson, Gelman, Yao & Gabry (1507.02646, revision of 2024); the fit of the
generalised Pareto distribution: Zhang & Stephens, Technometrics 51 (2009).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ParetoFit", "effective_sample_size", "pareto_k", "pareto_threshold", "psis", "weight_diagnostics"]


class ParetoFit(NamedTuple):
    """Shape k (positive: heavy tail) and scale sigma of generalised Pareto distributions, one a column, shape (B,)."""

    k: Float[Tensor, "B"]
    sigma: Float[Tensor, "B"]


def tail_size(draws: int) -> int:
    """M = ceil(min(0.2 S, 3 sqrt(S))): how many of S ratios count as tail."""
    return math.ceil(min(0.2 * draws, 3 * math.sqrt(draws)))


def pareto_threshold(draws: int) -> float:
    """min(1 - 1/log10(S), 0.7): estimates with k below it are reliable."""
    return min(1 - 1 / math.log10(draws), 0.7) if draws > 1 else -math.inf


def fit_pareto(x: Float[Tensor, "M B"]) -> ParetoFit:
    """Zhang & Stephens' profile-posterior fit to exceedances sorted upwards, with the shrinkage of PSIS.

    Args:
        x: positive exceedances over the tail's threshold, ascending along the first axis, float64.
    """
    count = x.shape[0]
    grid = 30 + int(math.sqrt(count))
    quartile = x[int(count / 4 + 0.5) - 1]
    j = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device)[:, None]
    theta = 1 / x[-1] + (1 - (grid / (j - 0.5)).sqrt()) / (3 * quartile)  # (grid, B)
    shape = torch.stack([torch.log1p(-t * x).mean(0) for t in theta])  # a row at a time: (grid, M, B) would be large
    loglik = count * ((-theta / shape).log() - shape - 1)
    mean_theta = (loglik.softmax(0) * theta).sum(0)
    k = torch.log1p(-mean_theta * x).mean(0)
    sigma = -k / mean_theta
    return ParetoFit((count * k + 5.0) / (count + 10), sigma)


def _tail(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(exceedances ascending (M, B), threshold (B,), largest log-weight (B,), index of the tail) of each column."""
    top, index = log_w.topk(tail_size(log_w.shape[0]) + 1, dim=0)
    peak = top[0]
    scaled = (top - torch.where(peak == -math.inf, 0.0, peak)).exp()
    return (scaled[:-1] - scaled[-1]).flip(0), scaled[-1], peak, index[:-1].flip(0)


def pareto_k(log_w: Float[Tensor, "K B"]) -> Float[Tensor, "B"]:
    """Tail index k-hat of every column (1507.02646): variance exists below 1/2, the mean below 1.

    NaN below 25 draws, and where over half of the tail's weights are ties (discrete latents); -inf where all are equal.
    """
    k, columns = log_w.shape
    if k < 25 or columns == 0:
        return torch.full((columns,), math.nan, dtype=torch.float64, device=log_w.device)
    log_w = log_w.detach().double()
    exceed, _, peak, index = _tail(log_w)
    fit = fit_pareto(exceed.clamp_min(torch.finfo(torch.float64).tiny)).k
    constant = peak - log_w.amin(0) <= 1e-9
    # Draws of a discrete latent repeat: a tail made of few distinct weights has no density to fit.
    tail = log_w.gather(0, index)
    distinct = (tail.diff(dim=0) > 1e-4 * (tail[-1] - tail[0])).sum(0) + 1
    fit = torch.where(2 * distinct < tail.shape[0], math.nan, fit)
    return torch.where(constant, -math.inf, fit)


def psis(log_w: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
    """Pareto-smoothed log-weights: the tail replaced by quantiles of its fit, truncated at the largest raw weight.

    A point estimate made from them is not a bound. Columns of fewer than 25 draws, or with a constant tail, stay as they are.
    """
    if log_w.shape[0] < 25:
        return log_w
    raw = log_w.double()
    exceed, threshold, peak, index = _tail(raw)
    count = exceed.shape[0]
    k, sigma = fit_pareto(exceed.clamp_min(torch.finfo(torch.float64).tiny))
    level = (torch.arange(1, count + 1, dtype=raw.dtype, device=raw.device)[:, None] - 0.5) / count
    near = k.abs() < 1e-12
    quantile = sigma * torch.where(
        near, -torch.log1p(-level), torch.expm1(-k * torch.log1p(-level)) / torch.where(near, 1, k)
    )
    smooth = ((threshold + quantile).log()).clamp_max(0.0) + peak
    tail = raw.gather(0, index)
    usable = torch.isfinite(smooth).all(0) & (exceed[-1] > 1e-12) & (tail > -math.inf).all(0)
    kept = torch.where(usable, smooth, tail)
    return raw.scatter(0, index, kept)


def _self_normalised(log_w: Tensor) -> Tensor:
    """softmax over draws; 0 for columns without any mass."""
    return torch.where((log_w > -math.inf).any(0), log_w.double().softmax(0), 0.0)


def effective_sample_size(log_w: Float[Tensor, "K B"]) -> Float[Tensor, "B"]:
    """1 / sum of squared self-normalised weights, 0 without mass; ESS / K tends to 1 / (1 + chi-square(posterior, q))."""
    return _self_normalised(log_w).square().sum(0).reciprocal().nan_to_num(posinf=0.0)


def weight_diagnostics(log_w: Float[Tensor, "K B"]) -> dict[str, Tensor]:
    """Pareto k, effective sample size and largest self-normalised weight of every column, each (B,)."""
    with torch.no_grad():
        return {
            "pareto_k": pareto_k(log_w),
            "ess": effective_sample_size(log_w),
            "max_weight": _self_normalised(log_w).amax(0),
        }
