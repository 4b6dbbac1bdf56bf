"""Gaussian components without a covariance of their own: a precision an axis, one for all axes, or a known covariance."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.selection.mixture_normal import (
    Normals,
    chi_square,
    mean_divergence,
    normal_noise,
    posterior_means,
    student,
    wishart_divergence,
)  # fmt: skip

__all__ = ["Axes", "Known"]


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
        size, precision, mean = posterior_means(rows, weights, self.precision0)
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
        return (gamma + mean_divergence(factor, self.precision0, square)).sum(-1)

    def log_predictive(self, rows: Float[Tensor, "n d"], factor: Normals) -> Float[Tensor, "R K n"]:
        """Student's t with nu degrees of freedom: one an axis, or of dimension d where all axes share a precision."""
        d, dof = rows.shape[1], factor.dof[..., None]
        stretch = (factor.scale * (1 + 1 / factor.precision[..., None])) / dof
        if factor.scale.shape[-1] < d:
            square = _axis_square(rows, factor.mean, (1 / stretch).expand(factor.mean.shape))
            return student(square, d * stretch.log(), dof, d)
        each = [
            student((rows - m).square() / s, s.log(), v, 1).sum(-1)
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
        noise, scale = normal_noise(rng, len(labels), factor.mean), factor.scale[0, labels]
        tau = chi_square(rng, factor.dof[0, labels][:, None].expand(scale.shape)) / scale
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
        size, precision, mean = posterior_means(rows, weights, self.precision0)
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
        return mean_divergence(factor, self.precision0, factor.mean.square().sum(-1)).sum(-1)

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
        noise = normal_noise(rng, len(labels), factor.mean) * (1 + 1 / factor.precision[0, labels]).sqrt()[:, None]
        return self.means(factor)[0, labels] + noise @ self.root.T
