"""Tempered variational PPCA of complete data, every number of components at once, from one eigendecomposition.

With complete data the coordinate updates (1810.11859; 1805.05054) that start at the principal axes stay there: loadings
M = U diag(m), row covariance S = diag(s). Given the noise sigma^2 and the prior variance p of its column, the stationary point
of a component with eigenvalue lambda is the root of a quadratic, so that nothing is iterated but sigma^2 and a learned prior.
Compare the global solution of variational matrix factorisation (Nakajima et al., JMLR 14, 2013).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from infimum.selection.settings import PPCASettings

__all__ = ["Spectrum", "component_gain", "components", "gamma_divergence", "solve_spectrum"]


@dataclass(frozen=True)
class Spectrum:
    """Solutions for Q numbers of components; row r has ``q[r]`` components, first those of the largest eigenvalues.

    Attributes:
        q: numbers of components.
        elbo: nats, of the data set, all constants included.
        noise: 1 / E[1 / sigma^2].
        prior: prior variances of the columns; 0 where a learned variance fell to 0, which removes the column.
        power: squared norms m^2 of the columns of the mean loadings.
        spread: s, posterior variance of a loading of that column; 0 for a removed column.
        residual: expected squared residual of all cells.
        history: the bound after every sweep.
        converged: whether the bound had settled.
        at_floor: whether the noise was held at its floor.
    """

    q: Int[Tensor, "Q"]
    elbo: Float[Tensor, "Q"]
    noise: Float[Tensor, "Q"]
    prior: Float[Tensor, "Q d"]
    power: Float[Tensor, "Q d"]
    spread: Float[Tensor, "Q d"]
    residual: Float[Tensor, "Q"]
    history: Float[Tensor, "sweeps Q"]
    converged: Bool[Tensor, "Q"]
    at_floor: Bool[Tensor, "Q"]


def gamma_divergence(
    shape: Float[Tensor, "*n"], rate: Float[Tensor, "*n"], shape0: float, rate0: float
) -> Float[Tensor, "*n"]:
    """KL(Gamma(shape, rate) || Gamma(shape0, rate0)) in nats."""
    base = torch.lgamma(torch.tensor(shape0, dtype=torch.float64))
    return (
        (shape - shape0) * torch.digamma(shape) - torch.lgamma(shape) + base
        + shape0 * (rate.log() - math.log(rate0)) + shape * (rate0 - rate) / rate
    )  # fmt: skip


def component_gain(
    eigenvalue: Tensor, n: int, d: int, alpha: float, noise: Tensor, prior: Tensor, power: Tensor, spread: Tensor
) -> Float[Tensor, "*n"]:
    """What a component adds to the bound at a given noise, in nats: fit, local divergence and divergence of its loadings."""
    b = power + d * spread
    c = noise / (noise + b)
    z = n * (eigenvalue * power / (noise + b).square() + c)
    residual = b * z - 2 * n * eigenvalue * power / (noise + b)
    local = z - n - n * c.log()
    return -alpha * (residual / noise + local) / 2 - (b / prior - d - d * (spread / prior).log()) / 2


def components(
    eigenvalue: Float[Tensor, "Q d"], n: int, d: int, settings: PPCASettings, noise: Tensor, prior: Float[Tensor, "Q d"]
) -> tuple[Float[Tensor, "Q d"], Float[Tensor, "Q d"], Float[Tensor, "Q d"], Float[Tensor, "Q d"]]:
    """Best prior variance, squared norm, posterior variance and gain of every component at a given noise.

    Stationarity in the norm reads m^2 + d s + sigma^2 = g s with g = alpha n lambda / sigma^2; put into the update of s it
    leaves a quadratic. The other stationary point has m = 0. The one with the larger bound is returned; under ARD the column
    is removed (gain 0) where that is better still.
    """
    alpha, v = settings.alpha, noise
    g = (alpha * n * eigenvalue / v).clamp_min(1e-300)
    if settings.prior == "ard":
        half = g - d + alpha * n
        root = half.square() - 4 * alpha * n * g
        spread = v * (half + root.clamp_min(0).sqrt()) / (2 * alpha * n * g)
        power, prior = (g - d) * spread - v, (g * spread - v) / d
        real = (root >= 0) & (power > 0) & (prior > 0) & (spread > 0)
        one = torch.ones_like(spread)
        gain = component_gain(eigenvalue, n, d, alpha, v, *(torch.where(real, t, one) for t in (prior, power, spread)))
        keep = real & (gain > 0)
        return tuple(torch.where(keep, t, 0.0) for t in (prior, power, spread, gain))  # type: ignore[return-value]
    slope = (d - alpha * n) / g
    spread = prior / 2 * (slope + (slope.square() + 4 * v / (prior * g)).sqrt())
    power = (g - d) * spread - v
    middle = v + (alpha * n - d) * prior
    silent = 2 * prior * v / (middle + (middle.square() + 4 * d * prior * v).sqrt())
    gain = component_gain(eigenvalue, n, d, alpha, v, prior, power.clamp_min(0), spread)
    nothing = component_gain(eigenvalue, n, d, alpha, v, prior, torch.zeros_like(power), silent)
    use = (power > 0) & (gain >= nothing)
    return prior, torch.where(use, power, 0.0), torch.where(use, spread, silent), torch.where(use, gain, nothing)


def _residual(eigenvalue: Tensor, n: int, d: int, noise: Tensor, power: Tensor, spread: Tensor) -> Float[Tensor, "Q"]:
    b = power + d * spread
    z = n * (eigenvalue * power / (noise + b).square() + noise / (noise + b))
    return n * eigenvalue[0].sum() + (b * z - 2 * n * eigenvalue * power / (noise + b)).sum(-1)


def solve_spectrum(
    eigenvalues: Float[Tensor, "d"],
    n: int,
    q: Int[Tensor, "Q"],
    settings: PPCASettings,
    *,
    sweeps: int = 2000,
    tolerance: float = 1e-12,
) -> Spectrum:
    """Fit every number of components in ``q``.

    Args:
        eigenvalues: of the second moment X^T X / n (of the centred data), decreasing, float64.
        n: rows.
        q: numbers of components, 0 to d.
        settings: mean is "center" or "zero" here: with "vb" the principal axes move.
        sweeps: at most so many; one sets all components, the prior and the noise, each exactly, so the bound never falls.
        tolerance: relative change of the bound at which a row has settled.
    """
    first = _solve(eigenvalues, n, q, settings, None, sweeps, tolerance)
    if settings.noise not in ("point", "gamma") or len(q) < 2:
        return first
    # A second start: the noise of the next smaller model, or of the best smaller one under ARD, which contains it.
    order = torch.argsort(q)
    rank = torch.arange(len(q), device=q.device)
    best = torch.where(first.elbo[order] == first.elbo[order].cummax(0).values, rank, 0).cummax(0).values
    source = best if settings.prior == "ard" else (rank - 1).clamp_min(0)
    start = torch.empty_like(first.noise)
    start[order] = first.noise[order][source]
    second = _solve(eigenvalues, n, q, settings, start, sweeps, tolerance)
    better = second.elbo > first.elbo
    merged = {
        name: torch.where(better[:, None] if a.ndim == 2 else better, b, a)
        for name, a, b in ((f, getattr(first, f), getattr(second, f)) for f in first.__dataclass_fields__)
        if name not in ("q", "history")
    }
    length = max(len(first.history), len(second.history))
    a, b = (torch.cat((t.history, t.history[-1:].expand(length - len(t.history), -1))) for t in (first, second))
    return Spectrum(q=q, history=torch.where(better, b, a), **merged)


def _solve(
    eigenvalues: Tensor, n: int, q: Tensor, settings: PPCASettings, start: Tensor | None, sweeps: int, tolerance: float
) -> Spectrum:
    d, alpha = eigenvalues.shape[0], settings.alpha
    lam = eigenvalues.expand(len(q), d)
    active = torch.arange(d, device=q.device) < q[:, None]
    floor = settings.floor * float(eigenvalues.sum()) / d
    left = torch.where(active, 0.0, lam).sum(-1) / (d - q).clamp_min(1)
    if settings.noise == "known":
        v = torch.full_like(left, float(settings.noise_variance or 0))
    else:
        v = (left if start is None else start).clamp_min(floor)
    p = torch.full_like(lam, settings.prior_variance)
    zero = torch.zeros_like(lam)
    if settings.prior == "shared":  # as in maximum likelihood: too small a variance would silence every column
        loud = torch.where(active, (lam - v[:, None]).clamp_min(0), zero).sum(-1) / (d * q.clamp_min(1))
        p = torch.where(loud > 0, loud, settings.prior_variance)[:, None].expand_as(lam)
    before = torch.full_like(v, -math.inf)
    shape, shape0, rate0 = alpha * n * d / 2 + settings.noise_shape, settings.noise_shape, settings.noise_rate
    rate = shape * v
    off = torch.zeros_like(active)
    history = []
    done = torch.zeros_like(before, dtype=torch.bool)
    for _ in range(sweeps):
        p, power, spread, _ = (
            torch.where(active, t, zero)
            for t in components(lam, n, d, settings, v[:, None], torch.where(active & (p > 0), p, 1.0))
        )
        if settings.prior == "shared":
            # Where every column is silent the bound rises as their common variance falls to 0: that is q = 0.
            off |= active & ((power > 0) & ~off).logical_not().all(-1, keepdim=True)
            power, spread = torch.where(off, 0.0, power), torch.where(off, 0.0, spread)
            b = power + d * spread
            p = torch.where(active, (b.sum(-1) / d / q.clamp_min(1))[:, None], zero)
        residual = _residual(lam, n, d, v[:, None], power, spread)
        divergences = _divergences(lam, n, d, alpha, v[:, None], p, power, spread, active)
        if settings.noise == "point":
            v = (residual / (n * d)).clamp_min(floor)
        if settings.noise == "gamma":
            rate = (rate0 + alpha * residual / 2).clamp_min(shape * floor)
            v = rate / shape
            log_precision = torch.digamma(torch.tensor(shape, dtype=v.dtype)) - rate.log()
            fit = alpha * (n * d / 2 * (log_precision - math.log(2 * math.pi)) - shape / rate * residual / 2)
            fit = fit - gamma_divergence(torch.full_like(rate, shape), rate, shape0, rate0)
        else:
            fit = alpha * (-n * d / 2 * (2 * math.pi * v).log() - residual / (2 * v))
        elbo = fit - divergences
        history.append(elbo)
        done = (elbo - before).abs() <= tolerance * elbo.abs()
        before = elbo
        if bool(done.all()):
            break
    known = settings.noise == "known"
    return Spectrum(
        q, before, v, p, power, spread, residual, torch.stack(history), done,
        torch.zeros_like(done) if known else v <= floor,
    )  # fmt: skip


def _divergences(
    lam: Tensor, n: int, d: int, alpha: float, noise: Tensor, p: Tensor, power: Tensor, spread: Tensor, active: Tensor
) -> Float[Tensor, "Q"]:
    """alpha times the local divergences, plus those of the loadings, of the components that are there."""
    there = active & (spread > 0)
    p, power, spread = (torch.where(there, t, 1.0) for t in (p, power, spread))
    b = power + d * spread
    c = noise / (noise + b)
    z = n * (lam * power / (noise + b).square() + c)
    each = alpha * (z - n - n * c.log()) / 2 + (b / p - d - d * (spread / p).log()) / 2
    return torch.where(there, each, 0.0).sum(-1)
