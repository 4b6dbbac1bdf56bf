"""Tempered coordinate ascent for PPCA: missing cells, every noise, prior and mean (1810.11859; Ilin & Raiko, JMLR 2010).

q(W) = prod_j N(w_j; m_j, S_j), q(z_i) = N(a_i, C_i). The local bound is tempered with its entropy: it comes from the likelihood.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.selection.cells import Cells
from infimum.selection.settings import PPCASettings
from infimum.selection.spectrum import gamma_divergence

__all__ = ["State", "ascend", "bound", "divergence", "start", "sweep"]


@dataclass
class State:
    """All factors of a variational PPCA with q components.

    Attributes:
        loadings: m_j, (d, q).
        loadings_cov: S of every pattern of columns, (P', q, q).
        scores: a_i, (n, q).
        scores_cov: C of every pattern of rows, (P, q, q).
        prior: s_k^2.
        precision: E[1 / sigma^2].
        log_precision: E[log(1 / sigma^2)].
        mean: E[mu], (d,).
        mean_var: posterior variance of mu, (d,); 0 where the mean is maximised.
        residual: expected squared residual of the observed cells.
    """

    loadings: Float[Tensor, "d q"]
    loadings_cov: Float[Tensor, "P2 q q"]
    scores: Float[Tensor, "n q"]
    scores_cov: Float[Tensor, "P q q"]
    prior: Float[Tensor, "q"]
    precision: float
    log_precision: float
    mean: Float[Tensor, "d"]
    mean_var: Float[Tensor, "d"]
    residual: float = math.nan
    noise_divergence: float = 0.0
    history: list[float] = field(default_factory=list)
    converged: bool = False
    at_floor: bool = False


def _outer(vectors: Float[Tensor, "m q"]) -> Float[Tensor, "m q2"]:
    return (vectors[:, :, None] * vectors[:, None, :]).flatten(1)


def _inverse(precision: Float[Tensor, "m q q"]) -> Float[Tensor, "m q q"]:
    return torch.cholesky_inverse(torch.linalg.cholesky(precision)) if precision.shape[-1] else precision


def _loading_moments(state: State, cells: Cells) -> Float[Tensor, "d q2"]:
    """E[w_j w_j^T]."""
    return _outer(state.loadings) + state.loadings_cov.flatten(1)[cells.column_pattern]


def _score_moments(state: State, cells: Cells) -> Float[Tensor, "n q2"]:
    """E[z_i z_i^T]."""
    return _outer(state.scores) + state.scores_cov.flatten(1)[cells.row_pattern]


def start(cells: Cells, q: int, settings: PPCASettings, noise: float, directions: Float[Tensor, "d q"]) -> State:
    """Loadings at the principal axes of the (filled) table, a small covariance, and a noise."""
    n, d = cells.shape
    device = cells.row_pattern.device
    options: dict[str, Any] = {"dtype": torch.float64, "device": device}
    _, sizes = cells.sizes()
    mean = torch.zeros(d, **options)
    if settings.mean != "zero":
        mean = cells.values[1] @ torch.ones(n, **options) / sizes
    eye = torch.eye(q, **options)
    value = float(settings.noise_variance or 0) if settings.noise == "known" else noise
    prior = torch.full((q,), settings.prior_variance, **options)
    if settings.prior != "fixed" and bool(directions.any()):  # too small a variance would silence every column
        each = directions.square().mean(0)
        prior = each.mean().expand(q).clone() if settings.prior == "shared" else each.clamp_min(1e-12 * each.max())
    return State(
        directions.clone(), (1e-3 * value * eye).repeat(cells.column_mask.shape[0], 1, 1), torch.zeros(n, q, **options),
        eye.repeat(cells.row_mask.shape[0], 1, 1), prior, 1 / value, -math.log(value), mean, torch.zeros(d, **options),
    )  # fmt: skip


def update_scores(state: State, cells: Cells) -> None:
    """q(z): C_i = (I + sum_{j in O_i} E[w_j w_j^T] / sigma^2)^-1, a_i = C_i sum_j m_j (x_ij - mu_j) / sigma^2."""
    q = state.prior.shape[0]
    if q == 0:
        return
    eye = torch.eye(q, dtype=torch.float64, device=state.prior.device)
    weights = cells.over_columns(_loading_moments(state, cells)).unflatten(1, (q, q))
    state.scores_cov = _inverse(eye + state.precision * weights)
    pull = cells.values[0] @ state.loadings
    pull = pull - cells.over_columns(state.mean[:, None] * state.loadings)[cells.row_pattern]
    state.scores = state.precision * torch.einsum("nij,nj->ni", state.scores_cov[cells.row_pattern], pull)


def update_loadings(state: State, cells: Cells, alpha: float) -> None:
    """q(W): S_j = (diag(1/s^2) + alpha/sigma^2 sum_{i in O_j} E[z_i z_i^T])^-1, m_j = alpha/sigma^2 S_j sum_i a_i (x_ij - mu_j)."""
    q = state.prior.shape[0]
    if q == 0:
        return
    moments = cells.over_rows(_score_moments(state, cells)).unflatten(1, (q, q))
    state.loadings_cov = _inverse(torch.diag(1 / state.prior) + alpha * state.precision * moments)
    pull = cells.values[1] @ state.scores
    pull = pull - state.mean[:, None] * cells.over_rows(state.scores)[cells.column_pattern]
    state.loadings = (
        alpha * state.precision * torch.einsum("dij,dj->di", state.loadings_cov[cells.column_pattern], pull)
    )


def update_mean(state: State, cells: Cells, settings: PPCASettings) -> None:
    """q(mu_j) = N(mu_j, v_j): with a prior under mean="vb", maximised under "center"."""
    if settings.mean == "zero":
        return
    n = cells.shape[0]
    _, sizes = cells.sizes()
    total = cells.values[1] @ torch.ones(n, dtype=torch.float64, device=state.mean.device)
    total = total - (state.loadings * cells.over_rows(state.scores)[cells.column_pattern]).sum(-1)
    if settings.mean == "center":
        state.mean = total / sizes
        return
    pull = settings.alpha * state.precision
    state.mean_var = 1 / (1 / settings.mean_variance + pull * sizes)
    state.mean = state.mean_var * pull * total


def update_prior(state: State, cells: Cells, settings: PPCASettings) -> None:
    """s_k^2: the mean of E[w_jk^2] over the columns of the table, and over k when it is shared."""
    d, q = state.loadings.shape
    if settings.prior == "fixed" or q == 0:
        return
    each = _loading_moments(state, cells).reshape(d, q, q).diagonal(dim1=1, dim2=2).mean(0)
    least = 1e-12 * float(each.max())
    state.prior = each.clamp_min(least) if settings.prior == "ard" else each.mean().expand(q).clone()


def rotate(state: State, cells: Cells, settings: PPCASettings) -> None:
    """Replace z by R z and W by W R^-1, with the R that raises the bound most (equal or ARD prior variances: closed form).

    Under equal s: whiten sum E[z z^T], diagonalise sum E[w w^T], then scale each axis by the root of a quadratic. Under ARD the
    bound is highest where sum E[z z^T] = n I and sum E[w w^T] is diagonal (Hadamard's inequality).
    """
    d, q = state.loadings.shape
    n, alpha = cells.shape[0], settings.alpha
    if q == 0:
        return
    z = _score_moments(state, cells).sum(0).reshape(q, q)
    b = _loading_moments(state, cells).sum(0).reshape(q, q)
    lower = torch.linalg.cholesky(z)
    values, vectors = torch.linalg.eigh(lower.T @ b @ lower)
    if settings.prior == "ard":
        scale = torch.full_like(values, math.sqrt(n))
    else:
        # maximise (alpha n - d) log r - alpha r^2 / 2 - b / (2 s r^2) over r
        surplus, share = alpha * n - d, values.clamp_min(0) / state.prior
        scale = ((surplus + (surplus**2 + 4 * alpha * share).sqrt()) / (2 * alpha)).sqrt()
    turn = scale[:, None] * vectors.T @ torch.linalg.inv(lower)
    back = lower @ vectors / scale
    state.scores = state.scores @ turn.T
    state.scores_cov = turn @ state.scores_cov @ turn.T
    state.loadings = state.loadings @ back
    state.loadings_cov = back.T @ state.loadings_cov @ back


def update_noise(state: State, cells: Cells, settings: PPCASettings, floor: float) -> None:
    """sigma^2: maximised, or q(1 / sigma^2) = Gamma(a0 + alpha |O| / 2, b0 + alpha R / 2)."""
    q = state.prior.shape[0]
    moments = cells.over_rows(_score_moments(state, cells))[cells.column_pattern]
    square = (cells.values[0] * cells.values[0]).sum() if not cells.values[0].is_sparse_csr else (
        cells.values[0].values().square().sum())  # fmt: skip
    n = cells.shape[0]
    total = cells.values[1] @ torch.ones(n, dtype=torch.float64, device=state.mean.device)
    _, sizes = cells.sizes()
    fit = cells.values[1] @ state.scores - state.mean[:, None] * cells.over_rows(state.scores)[cells.column_pattern]
    spread = (_loading_moments(state, cells) * moments).sum() if q else torch.zeros(())
    residual = (
        square - 2 * (state.mean * total).sum() + (sizes * (state.mean.square() + state.mean_var)).sum()
        - 2 * (state.loadings * fit).sum() + spread
    )  # fmt: skip
    state.residual = max(float(residual), 0.0)
    count, alpha = cells.count, settings.alpha
    if settings.noise == "point":
        value = max(state.residual / count, floor)
        state.precision, state.log_precision = 1 / value, -math.log(value)
        state.at_floor = value <= floor
    if settings.noise == "gamma":
        shape = settings.noise_shape + alpha * count / 2
        rate = float(max(settings.noise_rate + alpha * state.residual / 2, shape * floor))
        shapes = torch.tensor(shape, dtype=torch.float64)
        state.precision = shape / rate
        state.log_precision = float(torch.digamma(shapes)) - math.log(rate)
        state.noise_divergence = float(
            gamma_divergence(shapes, torch.tensor(rate, dtype=torch.float64), settings.noise_shape, settings.noise_rate)
        )
        state.at_floor = rate <= shape * floor


def divergence(state: State, cells: Cells, settings: PPCASettings) -> float:
    """KL of the factors of loadings, noise and mean from their priors, in nats."""
    d = cells.shape[1]
    q = state.prior.shape[0]
    value = state.noise_divergence
    if q:
        moments = _loading_moments(state, cells).reshape(d, q, q).diagonal(dim1=1, dim2=2).sum(0)
        logdet = torch.linalg.slogdet(state.loadings_cov)[1][cells.column_pattern].sum()
        value += float((moments / state.prior).sum() - d * q - logdet + d * state.prior.log().sum()) / 2
    if settings.mean == "vb":
        ratio = state.mean_var / settings.mean_variance
        value += float((ratio + state.mean.square() / settings.mean_variance - 1 - ratio.log()).sum()) / 2
    return value


def bound(state: State, cells: Cells, settings: PPCASettings) -> float:
    """The tempered bound in nats, all constants included; ``state.residual`` must be up to date."""
    n, _ = cells.shape
    q, alpha = state.prior.shape[0], settings.alpha
    fit = alpha / 2 * (cells.count * (state.log_precision - math.log(2 * math.pi)) - state.precision * state.residual)
    if q:
        trace = _score_moments(state, cells).reshape(n, q, q).diagonal(dim1=1, dim2=2).sum()
        local = trace - n * q - torch.linalg.slogdet(state.scores_cov)[1][cells.row_pattern].sum()
        fit -= alpha / 2 * float(local)
    return fit - divergence(state, cells, settings)


def prune(state: State, cells: Cells, settings: PPCASettings, floor: float) -> bool:
    """Remove the column of least prior variance (all columns, where one prior is shared and all are silent) if the bound is
    higher without it; whether it was.

    A learned variance that falls to 0 does so ever more slowly; its limit is the model without the column.
    """
    q = state.prior.shape[0]
    if q == 0 or settings.prior == "fixed":
        return False
    if settings.prior == "ard":
        keep = torch.arange(q, device=state.prior.device) != state.prior.argmin()
    else:
        silent = state.loadings.square().sum() < 1e-6 * _loading_moments(state, cells).unflatten(1, (q, q)).diagonal(
            dim1=1, dim2=2).sum()  # fmt: skip
        if not bool(silent):
            return False
        keep = torch.zeros(q, dtype=torch.bool, device=state.prior.device)
    less = dataclasses.replace(
        state, loadings=state.loadings[:, keep], loadings_cov=state.loadings_cov[:, keep][:, :, keep],
        scores=state.scores[:, keep], scores_cov=state.scores_cov[:, keep][:, :, keep], prior=state.prior[keep],
    )  # fmt: skip
    update_noise(less, cells, settings, floor)
    if bound(less, cells, settings) < bound(state, cells, settings):
        return False
    for name in ("loadings", "loadings_cov", "scores", "scores_cov", "prior", "residual", "precision", "log_precision",
                 "noise_divergence"):  # fmt: skip
        setattr(state, name, getattr(less, name))
    return True


def sweep(state: State, cells: Cells, settings: PPCASettings, floor: float) -> None:
    """Every factor once, each an exact maximisation; the bound never falls."""
    update_scores(state, cells)
    update_loadings(state, cells, settings.alpha)
    update_prior(state, cells, settings)
    rotate(state, cells, settings)
    update_prior(state, cells, settings)
    update_mean(state, cells, settings)
    update_noise(state, cells, settings, floor)


def ascend(
    state: State, cells: Cells, settings: PPCASettings, *, floor: float, sweeps: int = 2000, tolerance: float = 1e-9
) -> float:
    """Sweep until the bound's relative change falls below ``tolerance``; returns the bound."""
    value = -math.inf
    for count in range(1, sweeps + 1):
        sweep(state, cells, settings, floor)
        if count % 20 == 0:
            prune(state, cells, settings, floor)
        new = bound(state, cells, settings)
        state.history.append(new)
        if abs(new - value) <= tolerance * abs(new):
            state.converged = True
            return new
        value = new
    return value
