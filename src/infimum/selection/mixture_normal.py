"""Gaussian components with conjugate priors: Normal-Wishart, Normal-Gamma by axis or for all axes, and known covariance.

Rows are read relative to the prior mean, so that the prior mean of every component is 0 here (Bishop, PRML 10.2).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Axes", "Full", "Known", "Normals", "wishart_divergence"]

_CELLS = 2**22  # of the table of rows by components that is held at once


@dataclass(frozen=True)
class Normals:
    """q(m_k | Lambda_k) = N(mean, (precision Lambda_k)^-1), q(Lambda_k) = Wishart with ``dof`` and inverse scale ``scale``.

    Attributes:
        precision: beta_k.
        mean: m_k, from the prior mean; in units of the known covariance's root where that is known.
        dof: nu_k.
        scale: W_k^-1: (R, K, d, d), or (R, K, d) by axis, or (R, K, 1) for all axes.
    """

    precision: Float[Tensor, "R K"]
    mean: Float[Tensor, "R K d"]
    dof: Float[Tensor, "R K"]
    scale: Float[Tensor, "R K *e"]


def wishart_divergence(
    dof: Float[Tensor, "*b"], logdet: Float[Tensor, "*b"], trace: Float[Tensor, "*b"], dof0: float,
    logdet0: Float[Tensor, "*c"], dim: int,
) -> Float[Tensor, "*b"]:  # fmt: skip
    """KL(Wishart(W, dof) || Wishart(W0, dof0)) in nats; of dimension 1: Gamma(dof / 2, 1 / (2 W)).

    Args:
        dof: nu.
        logdet: log |W^-1|.
        trace: tr(W0^-1 W).
        dof0: nu0.
        logdet0: log |W0^-1|.
        dim: d.
    """
    half, base = dof / 2, torch.full_like(dof, dof0 / 2)
    return (
        dof0 / 2 * (logdet - logdet0) + half * (trace - dim) + torch.mvlgamma(base, dim) - torch.mvlgamma(half, dim)
        + (dof - dof0) / 2 * _multidigamma(half, dim)
    )  # fmt: skip


def _multidigamma(half: Float[Tensor, "*b"], dim: int) -> Float[Tensor, "*b"]:
    steps = torch.arange(dim, dtype=torch.float64, device=half.device) / 2
    return torch.digamma(half[..., None] - steps).sum(-1)


def _means(
    rows: Float[Tensor, "n d"], weights: Float[Tensor, "R K n"], precision0: float
) -> tuple[Tensor, Tensor, Tensor]:
    size = weights.sum(-1)
    precision = precision0 + size
    return size, precision, (weights @ rows) / precision[..., None]


def _mean_divergence(q: Normals, precision0: float, square: Float[Tensor, "R K"]) -> Float[Tensor, "R K"]:
    """KL of q(m | Lambda), averaged over Lambda; ``square`` is m' E[Lambda] m."""
    d, ratio = q.mean.shape[-1], precision0 / q.precision
    return (d * (ratio - 1 - ratio.log()) + precision0 * square) / 2


def _student(square: Float[Tensor, "*n"], logdet: Tensor, dof: Tensor, dim: int) -> Float[Tensor, "*n"]:
    """log density of Student's t of dimension ``dim``, from squared distances and log |scale matrix|."""
    half = (dof + dim) / 2
    base = torch.lgamma(half) - torch.lgamma(dof / 2) - dim / 2 * (dof * math.pi).log() - logdet / 2
    return base - half * torch.log1p(square / dof)


@dataclass(frozen=True)
class Full:
    """Normal-Wishart components: every covariance of its own.

    Attributes:
        center: prior mean m0.
        precision0: beta0.
        dof0: nu0, above d - 1.
        scale0: W0^-1.
    """

    center: Float[Tensor, "d"]
    precision0: float
    dof0: float
    scale0: Float[Tensor, "d d"]

    def read(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Rows, from the prior mean."""
        return x - self.center

    def update(self, rows: Float[Tensor, "n d"], weights: Float[Tensor, "R K n"]) -> Normals:
        """W_k^-1 = W0^-1 + sum_i r_ik (x_i - m_k)(x_i - m_k)' + beta0 (m_k - m0)(m_k - m0)': no small differences of large sums."""
        size, precision, mean = _means(rows, weights, self.precision0)
        scatter = []
        for centers, shares in self._chunks(rows, mean.flatten(0, 1), weights.flatten(0, 1)):
            moved = rows - centers[:, None]
            scatter.append((moved * shares[..., None]).mT @ moved)
        outer = self.precision0 * mean[..., :, None] * mean[..., None, :]
        scale = self.scale0 + outer + torch.cat(scatter).unflatten(0, mean.shape[:2])
        return Normals(precision, mean, self.dof0 + size, (scale + scale.mT) / 2)

    def _chunks(self, rows: Tensor, *each: Tensor) -> Any:
        size = max(1, _CELLS // rows.numel())
        return zip(*(t.split(size) for t in each), strict=True)

    def _square(self, rows: Float[Tensor, "n d"], q: Normals) -> tuple[Float[Tensor, "R K n"], Float[Tensor, "R K"]]:
        """(x - m)' W (x - m), and log |W^-1|."""
        d = rows.shape[1]
        root = torch.linalg.cholesky(q.scale)
        inverse = torch.linalg.solve_triangular(root, torch.eye(d, dtype=root.dtype, device=root.device), upper=False)
        square = [
            ((rows - centers[:, None]) @ roots.mT).square().sum(-1)
            for centers, roots in self._chunks(rows, q.mean.flatten(0, 1), inverse.flatten(0, 1))
        ]
        logdet = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.cat(square).unflatten(0, q.dof.shape), logdet

    def log_likelihood(self, rows: Float[Tensor, "n d"], factor: Normals) -> Float[Tensor, "R K n"]:
        """E log N(x_i | m_k, Lambda_k^-1)."""
        d = rows.shape[1]
        square, logdet = self._square(rows, factor)
        base = _multidigamma(factor.dof / 2, d) - logdet - d * math.log(math.pi) - d / factor.precision
        return (base[..., None] - factor.dof[..., None] * square) / 2

    def divergence(self, factor: Normals) -> Float[Tensor, "R"]:
        """KL of all Normal-Wishart factors."""
        d = factor.mean.shape[-1]
        root = torch.linalg.cholesky(factor.scale)
        spread = torch.linalg.solve_triangular(root, torch.linalg.cholesky(self.scale0), upper=False)
        move = torch.linalg.solve_triangular(root, factor.mean[..., None], upper=False)
        logdet = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        wishart = wishart_divergence(
            factor.dof, logdet, spread.square().sum((-2, -1)), self.dof0, torch.linalg.slogdet(self.scale0)[1], d
        )
        square = factor.dof * move.square().sum((-2, -1))
        return (wishart + _mean_divergence(factor, self.precision0, square)).sum(-1)

    def log_predictive(self, rows: Float[Tensor, "n d"], factor: Normals) -> Float[Tensor, "R K n"]:
        """Student's t with nu + 1 - d degrees of freedom and scale W^-1 (1 + beta) / (beta (nu + 1 - d))."""
        d = rows.shape[1]
        square, logdet = self._square(rows, factor)
        dof = factor.dof + 1 - d
        stretch = (1 + factor.precision) / (factor.precision * dof)
        return _student(square / stretch[..., None], (logdet + d * stretch.log())[..., None], dof[..., None], d)

    def means(self, factor: Normals) -> Float[Tensor, "R K d"]:
        """E[m_k]."""
        return self.center + factor.mean

    def covariances(self, factor: Normals) -> Float[Tensor, "R K d d"]:
        """E[Lambda_k]^-1."""
        return factor.scale / factor.dof[..., None, None]

    def draw(self, factor: Normals, labels: Tensor, rng: Any) -> Float[Tensor, "n d"]:
        """Rows from the predictive of the components ``labels`` of the first restart; ``rng`` is a numpy RandomState."""
        d = factor.mean.shape[-1]
        noise, dof = _noise(rng, len(labels), factor.mean), factor.dof[0, labels] + 1 - d
        precision = factor.precision[0, labels]
        stretch = (1 + precision) / (precision * _chi_square(rng, dof))
        root = torch.linalg.cholesky(factor.scale[0])[labels]
        return self.means(factor)[0, labels] + stretch.sqrt()[:, None] * torch.einsum("nij,nj->ni", root, noise)


def _noise(rng: Any, count: int, like: Tensor) -> Float[Tensor, "n d"]:
    return torch.as_tensor(rng.standard_normal((count, like.shape[-1])), device=like.device)


def _chi_square(rng: Any, dof: Tensor) -> Tensor:
    return torch.as_tensor(rng.chisquare(dof.cpu().numpy()), device=dof.device)


@dataclass(frozen=True)
class Axes:
    """Normal-Gamma components: a precision for every axis (``scale0`` of d numbers) or one for all axes (of one).

    A precision is Gamma(nu / 2, scale / 2): a Wishart of dimension 1; one for all axes gains d degrees of freedom a row.
    """

    center: Float[Tensor, "d"]
    precision0: float
    dof0: float
    scale0: Float[Tensor, "e"]

    def read(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Rows, from the prior mean."""
        return x - self.center

    def update(self, rows: Float[Tensor, "n d"], weights: Float[Tensor, "R K n"]) -> Normals:
        """Scale: scale0 + sum_i r_ik (x_i - m_k)^2 + beta0 (m_k - m0)^2 = scale0 + sum_i r_ik x_i^2 - beta_k m_k^2."""
        size, precision, mean = _means(rows, weights, self.precision0)
        spread = (weights @ rows.square() - precision[..., None] * mean.square()).clamp_min(0)
        shared = len(self.scale0) < rows.shape[1]
        spread = spread.sum(-1, keepdim=True) if shared else spread
        return Normals(precision, mean, self.dof0 + size * (rows.shape[1] if shared else 1), self.scale0 + spread)

    def _precisions(self, q: Normals) -> tuple[Float[Tensor, "R K d"], Float[Tensor, "R K d"]]:
        """E[tau] and E[log tau] of every axis."""
        mean = q.dof[..., None] / q.scale
        log = torch.digamma(q.dof / 2)[..., None] - (q.scale / 2).log()
        return mean.expand(q.mean.shape), log.expand(q.mean.shape)

    def log_likelihood(self, rows: Float[Tensor, "n d"], factor: Normals) -> Float[Tensor, "R K n"]:
        """E log N(x_i | m_k, diag(tau_k)^-1)."""
        tau, log = self._precisions(factor)
        base = log.sum(-1) - rows.shape[1] * (math.log(2 * math.pi) + 1 / factor.precision)
        return (base[..., None] - _axis_square(rows, factor.mean, tau)) / 2

    def divergence(self, factor: Normals) -> Float[Tensor, "R"]:
        """KL of all Normal-Gamma factors."""
        square = (self._precisions(factor)[0] * factor.mean.square()).sum(-1)
        dof = factor.dof[..., None].expand(factor.scale.shape)
        ratio = self.scale0 / factor.scale
        gamma = wishart_divergence(dof, factor.scale.log(), ratio, self.dof0, self.scale0.log(), 1).sum(-1)
        return (gamma + _mean_divergence(factor, self.precision0, square)).sum(-1)

    def log_predictive(self, rows: Float[Tensor, "n d"], factor: Normals) -> Float[Tensor, "R K n"]:
        """Student's t with nu degrees of freedom: one an axis, or of dimension d where all axes share a precision."""
        d, dof = rows.shape[1], factor.dof[..., None]
        stretch = (factor.scale * (1 + 1 / factor.precision[..., None])) / dof
        if factor.scale.shape[-1] < d:
            square = _axis_square(rows, factor.mean, (1 / stretch).expand(factor.mean.shape))
            return _student(square, d * stretch.log(), dof, d)
        each = [
            _student((rows - m).square() / s, s.log(), v, 1).sum(-1)
            for m, s, v in zip(factor.mean.flatten(0, 1), stretch.flatten(0, 1), dof.flatten(0, 1), strict=True)
        ]
        return torch.stack(each).unflatten(0, factor.dof.shape)

    def means(self, factor: Normals) -> Float[Tensor, "R K d"]:
        """E[m_k]."""
        return self.center + factor.mean

    def covariances(self, factor: Normals) -> Tensor:
        """1 / E[tau_k]: (R, K, d), or (R, K) where all axes share a precision."""
        variance = factor.scale / factor.dof[..., None]
        return variance if variance.shape[-1] == factor.mean.shape[-1] else variance[..., 0]

    def draw(self, factor: Normals, labels: Tensor, rng: Any) -> Float[Tensor, "n d"]:
        """Rows from the predictive of the components ``labels`` of the first restart; ``rng`` is a numpy RandomState."""
        noise, scale = _noise(rng, len(labels), factor.mean), factor.scale[0, labels]
        tau = _chi_square(rng, factor.dof[0, labels][:, None].expand(scale.shape)) / scale
        return self.means(factor)[0, labels] + ((1 + 1 / factor.precision[0, labels])[:, None] / tau).sqrt() * noise


def _axis_square(
    rows: Float[Tensor, "n d"], mean: Float[Tensor, "R K d"], tau: Float[Tensor, "R K d"]
) -> Float[Tensor, "R K n"]:
    """sum_j tau_j (x_ij - m_j)^2 by matrix products."""
    pull = (tau @ rows.square().T) - 2 * (tau * mean) @ rows.T
    return (pull + (tau * mean.square()).sum(-1)[..., None]).clamp_min(0)


@dataclass(frozen=True)
class Known:
    """Components whose common covariance is known: N(m_k, covariance), m_k ~ N(m0, covariance / beta0).

    Attributes:
        center: prior mean m0.
        precision0: beta0.
        root: Cholesky factor of the covariance; rows are read in its units.
    """

    center: Float[Tensor, "d"]
    precision0: float
    root: Float[Tensor, "d d"]

    def read(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Rows, from the prior mean, whitened."""
        return torch.linalg.solve_triangular(self.root, (x - self.center).T, upper=False).T

    def update(self, rows: Float[Tensor, "n d"], weights: Float[Tensor, "R K n"]) -> Normals:
        """beta_k = beta0 + N_k, m_k = sum_i r_ik x_i / beta_k."""
        size, precision, mean = _means(rows, weights, self.precision0)
        return Normals(precision, mean, size, mean[..., :0])

    def _log_normal(self, rows: Tensor, mean: Tensor, variance: Tensor | float, extra: Tensor | float) -> Tensor:
        d = rows.shape[1]
        logdet = 2 * self.root.diagonal().log().sum() + d * torch.as_tensor(variance, dtype=torch.float64).log()
        square = _axis_square(rows, mean, torch.ones_like(mean)) / variance
        return -(square + d * math.log(2 * math.pi) + logdet + extra) / 2

    def log_likelihood(self, rows: Float[Tensor, "n d"], factor: Normals) -> Float[Tensor, "R K n"]:
        """E log N(x_i | m_k, covariance)."""
        return self._log_normal(rows, factor.mean, 1.0, (rows.shape[1] / factor.precision)[..., None])

    def divergence(self, factor: Normals) -> Float[Tensor, "R"]:
        """KL of all Gaussian factors."""
        return _mean_divergence(factor, self.precision0, factor.mean.square().sum(-1)).sum(-1)

    def log_predictive(self, rows: Float[Tensor, "n d"], factor: Normals) -> Float[Tensor, "R K n"]:
        """N(m_k, (1 + 1 / beta_k) covariance)."""
        return self._log_normal(rows, factor.mean, (1 + 1 / factor.precision)[..., None], 0.0)

    def means(self, factor: Normals) -> Float[Tensor, "R K d"]:
        """E[m_k]."""
        return self.center + factor.mean @ self.root.T

    def covariances(self, factor: Normals) -> Float[Tensor, "d d"]:
        """The known one."""
        return self.root @ self.root.T

    def draw(self, factor: Normals, labels: Tensor, rng: Any) -> Float[Tensor, "n d"]:
        """Rows from the predictive of the components ``labels`` of the first restart; ``rng`` is a numpy RandomState."""
        noise = _noise(rng, len(labels), factor.mean) * (1 + 1 / factor.precision[0, labels]).sqrt()[:, None]
        return self.means(factor)[0, labels] + noise @ self.root.T
