"""What a Gaussian factor q(W) loses by covering one point of the rotation orbit of the loadings.

Likelihood and prior (equal variances) of PPCA do not change under W -> W R, R in O(q). The symmetrised factor
q_sym(W) = int q(W R) dR is as legal, and its bound is higher by G = E_q[-log int q(W R) / q(W) dR] >= 0, dR the uniform
probability on O(q). Under unequal (ARD) variances only flips of signs leave the prior unchanged.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Estimate

__all__ = ["exact", "laplace", "laplace_spectrum", "log_volume", "signs"]

_FULL = 32  # components up to which all of H is built: q^4 numbers
_SILENT = 1e-6


def log_volume(q: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log of the volume of O(q) in the coordinates of the basis e_i e_j' - e_j e_i' of skew matrices; 0 at q = 0."""
    top = int(q.max()) if q.numel() else 0
    k = torch.arange(2, max(top, 1) + 1, dtype=torch.float64, device=q.device)
    steps = math.log(2) + k / 2 * math.log(math.pi) - torch.lgamma(k / 2)
    table = torch.cat((steps.new_tensor([0.0, math.log(2)]), math.log(2) + steps.cumsum(0)))
    return table[q.long()]


def signs(signal: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """G of the flip of one column's sign, exactly: log 2 - E log(1 + e^(-2t)), t ~ N(signal, signal).

    Args:
        signal: sum_j m_j^2 / s_j of the column.
    """
    from numpy.polynomial.hermite_e import hermegauss

    nodes, weights = (torch.as_tensor(t, dtype=torch.float64, device=signal.device) for t in hermegauss(80))
    t = signal[..., None] + signal[..., None].sqrt() * nodes
    overlap = (torch.nn.functional.softplus(-2 * t) * weights).sum(-1) / math.sqrt(2 * math.pi)
    return (math.log(2) - overlap).clamp_min(0)


def _quotient(q: Tensor, silent: Tensor, logdet: Tensor) -> Tensor:
    """log Vol O(q) / O(silent) - (m / 2) log(2 pi e) + logdet / 2, m the dimension of that quotient."""
    m = (q * (q - 1) - silent * (silent - 1)).double() / 2
    value = log_volume(q) - log_volume(silent) - m / 2 * math.log(2 * math.pi * math.e) + logdet / 2
    return value.clamp_min(0)


def laplace_spectrum(power: Float[Tensor, "Q d"], spread: Float[Tensor, "Q d"]) -> Float[Tensor, "Q"]:
    """Laplace's approximation of G for the complete-data solutions of `solve_spectrum`, in nats.

    There H is diagonal: m_i^2 / s_j + m_j^2 / s_i for the plane (i, j). Columns with a posterior mean of 0 and one spread can
    be turned into each other without a change of q: they leave the quotient O(q) / O(silent) as orbit.

    Args:
        power: squared norms m^2 of the columns.
        spread: posterior variances; 0 for a column that is not there.
    """
    there, loud = spread > 0, power > 0
    safe = torch.where(there, spread, 1.0)
    h = power[:, :, None] / safe[:, None, :]
    h = h + h.transpose(1, 2)
    plane = there[:, :, None] & there[:, None, :] & (loud[:, :, None] | loud[:, None, :])
    plane = plane.triu(1)
    logdet = torch.where(plane, h.clamp_min(1e-12).log(), 0.0).sum((1, 2))
    return _quotient(there.sum(-1), (there & ~loud).sum(-1), logdet)


def laplace(
    loadings: Float[Tensor, "d q"], loadings_cov: Float[Tensor, "P q q"], column_pattern: Int[Tensor, "d"]
) -> float:
    """Laplace's approximation of G for any row covariances: H_ab = sum_j m_j' E_a' S_j^-1 E_b m_j.

    Beyond 32 components H is replaced by its diagonal in the principal basis, whose determinant is not smaller (Hadamard).
    """
    d, q = loadings.shape
    if q == 0:
        return 0.0
    turn = torch.linalg.svd(loadings, full_matrices=True)[2].T if d < q else torch.linalg.svd(loadings, False)[2].T
    m = loadings @ turn
    cov = turn.T @ loadings_cov @ turn
    total = cov.diagonal(dim1=1, dim2=2)[column_pattern].sum(0)
    silent = m.square().sum(0) <= _SILENT * total
    precision = torch.linalg.inv(cov)[column_pattern]
    i, j = torch.triu_indices(q, q, 1, device=m.device)
    keep = ~(silent[i] & silent[j])
    if q > _FULL:
        i, j = i[keep], j[keep]
        diagonal = precision.diagonal(dim1=1, dim2=2)
        cross = torch.einsum("ra,rb,rab->ab", m, m, precision)
        weight = m.square().T @ diagonal
        h = weight[j, i] + weight[i, j] - 2 * cross[i, j]
        logdet = h.clamp_min(1e-12).log().sum()
    else:
        h = _curvature(m, precision)[keep][:, keep]
        logdet = torch.linalg.eigvalsh((h + h.T) / 2).clamp_min(1e-12).log().sum()
    return float(_quotient(torch.tensor(q), silent.sum().cpu(), logdet.cpu()))


def exact(
    loadings: Float[Tensor, "d q"],
    loadings_cov: Float[Tensor, "P q q"],
    column_pattern: Int[Tensor, "d"],
    *,
    draws: int = 256,
    rotations: int = 2048,
    rng: Any,
) -> Estimate:
    """G by Monte Carlo over W, in nats, with its standard error.

    The integral over R is exact for q = 1 (two points; then nothing is drawn) and for q = 2 (angles and reflections by the
    trapezoidal rule); beyond that it is importance sampling with a Student proposal in Cayley's coordinates
    R = (I - A)(I + A)^-1, in which the uniform probability has a density proportional to det(I + A)^-(q-1). Its logarithm then
    makes the value too high by about the relative variance of the weights over 2 ``rotations``.

    Args:
        loadings: m_j.
        loadings_cov: S of every pattern of columns.
        column_pattern: pattern of every column of the table.
        draws: of W.
        rotations: angles, or draws of R.
        rng: numpy Generator or RandomState.
    """
    d, q = loadings.shape
    if draws < 2:
        raise UserError(f"the orbit's correction needs at least 2 draws for a standard error, got {draws}")
    precision = torch.linalg.inv(loadings_cov)[column_pattern]
    if q < 2:
        value = signs((loadings.square() * precision[:, :, 0]).sum(0)) if q else torch.zeros(1, dtype=torch.float64)
        return Estimate(value, torch.zeros_like(value), "exact", False, None, "orbit correction", "G")
    root = torch.linalg.cholesky(loadings_cov)[column_pattern]
    noise = torch.as_tensor(rng.standard_normal((draws, d, q)), device=loadings.device)
    w = loadings + torch.einsum("dij,kdj->kdi", root, noise)
    if q == 2:
        turns, weight = _circle(rotations, loadings)
    else:
        turns, weight = _cayley(_curvature(loadings, precision), q, rotations, rng)
    # log q(W R) - log q(W), with W R row by row: quadratic in R, linear in R
    pulled = torch.einsum("dij,dj->di", precision, loadings)
    linear = torch.einsum("kdi,rij,dj->kr", w, turns, pulled)
    second = torch.stack([_quadratic(each, turns, precision) for each in w])
    here = torch.einsum("kdi,di->k", w, pulled) - torch.einsum("kdi,dij,kdj->k", w, precision, w) / 2
    inner = (linear - second / 2 - here[:, None] + weight).logsumexp(1)
    value = -inner
    return Estimate(
        value.mean()[None], (value.std() / math.sqrt(draws))[None], "none", False, None,
        f"orbit correction, {draws} draws", "G", draws=draws, obstacle="a correction bounds nothing by itself",
    )  # fmt: skip


def _quadratic(w: Float[Tensor, "d q"], turns: Float[Tensor, "R q q"], precision: Tensor) -> Float[Tensor, "R"]:
    """sum_j w_j' R S_j^-1 R' w_j."""
    moved = torch.einsum("di,rij->rdj", w, turns)
    return torch.einsum("rdi,dij,rdj->r", moved, precision, moved)


def _circle(points: int, like: Tensor) -> tuple[Float[Tensor, "R 2 2"], Float[Tensor, "R"]]:
    angle = torch.arange(points, dtype=torch.float64, device=like.device) * (2 * math.pi / points)
    c, s = angle.cos(), angle.sin()
    turn = torch.stack((torch.stack((c, -s), -1), torch.stack((s, c), -1)), -2)
    flip = torch.tensor([1.0, -1.0], dtype=torch.float64, device=like.device)
    return torch.cat((turn, turn * flip)), angle.new_full((2 * points,), -math.log(2 * points))


def _curvature(loadings: Tensor, precision: Tensor) -> Float[Tensor, "m m"]:
    """H over the planes (i, j), i < j."""
    i, j = torch.triu_indices(loadings.shape[1], loadings.shape[1], 1, device=loadings.device)
    t = torch.einsum("ra,rb,rce->abce", loadings, loadings, precision)
    a, b, c, e = i[:, None], j[:, None], i[None], j[None]
    return t[b, e, a, c] - t[b, c, a, e] - t[a, e, b, c] + t[a, c, b, e]


def _cayley(h: Float[Tensor, "m m"], q: int, count: int, rng: Any) -> tuple[Tensor, Float[Tensor, "R"]]:
    """Draws of R and log(uniform probability / proposal / count). R = I - 2A near I, so that A has covariance H^-1 / 4."""
    m, freedom = h.shape[0], 5.0
    half = count // 2
    eye = torch.eye(q, dtype=torch.float64, device=h.device)
    values, vectors = torch.linalg.eigh(h)
    scale = (0.25 / values.clamp_min(1.0)).sqrt()
    normal = torch.as_tensor(rng.standard_normal((2 * half, m)), device=h.device)
    chi = torch.as_tensor(rng.chisquare(freedom, 2 * half), device=h.device)
    standard = normal * (freedom / chi)[:, None].sqrt()
    log_proposal = (
        math.lgamma((freedom + m) / 2) - math.lgamma(freedom / 2) - m / 2 * math.log(freedom * math.pi)
        - scale.log().sum() - (freedom + m) / 2 * torch.log1p(standard.square().sum(1) / freedom)
    )  # fmt: skip
    i, j = torch.triu_indices(q, q, 1, device=h.device)
    a = torch.zeros(2 * half, q, q, dtype=torch.float64, device=h.device)
    a[:, i, j] = (standard * scale) @ vectors.T
    a = a - a.transpose(1, 2)
    turns = torch.linalg.solve(eye + a, eye - a)
    turns[half:, :, -1] *= -1  # the other half of O(q)
    scaled = m * math.log(2) + math.log(2) - float(log_volume(torch.tensor(q)))
    log_uniform = scaled - (q - 1) * torch.linalg.slogdet(eye + a)[1]
    # each half of O(q) has probability 1/2 and half of the draws
    return turns, log_uniform - log_proposal - math.log(2 * half)
