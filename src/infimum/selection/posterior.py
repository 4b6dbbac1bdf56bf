"""What a fitted variational PPCA knows of its parameters: q(W) q(mu) q(1 / sigma^2), and what follows for rows of a table."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.selection.cells import Cells

__all__ = ["Posterior", "log_density"]


def log_density(
    cells: Cells, loadings: Float[Tensor, "d q"], precision: float, mean: Float[Tensor, "d"] | None = None
) -> Float[Tensor, "n"]:
    """log N(x_i; mu, W W^T + sigma^2 I) of the observed cells of every row, in nats, by q x q algebra (Woodbury)."""
    q = loadings.shape[1]
    ones = torch.ones(cells.shape[1], 1, dtype=torch.float64, device=loadings.device)
    size = cells.over_columns(ones)[cells.row_pattern, 0]
    x = cells.values[0]
    square = (x * x).sum(1) if not x.is_sparse_csr else _square(x) @ ones[:, 0]
    if mean is not None:
        square = square - 2 * (x @ mean) + cells.over_columns(mean.square()[:, None])[cells.row_pattern, 0]
    value = size * (math.log(precision) - math.log(2 * math.pi)) - precision * square
    if q:
        outer = (loadings[:, :, None] * loadings[:, None, :]).flatten(1)
        eye = torch.eye(q, dtype=torch.float64, device=loadings.device)
        root = torch.linalg.cholesky(eye + precision * cells.over_columns(outer).unflatten(1, (q, q)))
        pull = x @ loadings
        if mean is not None:
            pull = pull - cells.over_columns(mean[:, None] * loadings)[cells.row_pattern]
        inverse = torch.cholesky_inverse(root)
        value = value - 2 * root.diagonal(dim1=1, dim2=2).log().sum(-1)[cells.row_pattern]
        value = value + precision**2 * (_apply(inverse, cells.row_pattern, pull) * pull).sum(-1)
    return value / 2


def _square(x: Tensor) -> Tensor:
    return torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), x.values().square(), x.shape)


def _apply(
    each: Float[Tensor, "P q q"], pattern: Int[Tensor, "n"], vectors: Float[Tensor, "n q"]
) -> Float[Tensor, "n q"]:
    """The matrix of its pattern times every row's vector; one product where all rows share a matrix."""
    if each.shape[0] == 1:
        return vectors @ each[0]
    return torch.einsum("nij,nj->ni", each[pattern], vectors)


@dataclass(frozen=True)
class Posterior:
    """q(W) = prod_j N(w_j; m_j, S_j), q(mu) = N(mean, diag(mean_var)), q(1 / sigma^2) = Gamma with mean ``precision``.

    Attributes:
        loadings: m_j; the columns by decreasing norm.
        loadings_cov: S of every pattern of columns.
        column_pattern: pattern of every column of the table.
        mean: E[mu].
        mean_var: posterior variance of mu; 0 where the mean was maximised or is not there.
        precision: E[1 / sigma^2].
        noise_shape: shape of the Gamma factor; infinite where sigma^2 is one number.
    """

    loadings: Float[Tensor, "d q"]
    loadings_cov: Float[Tensor, "P q q"]
    column_pattern: Int[Tensor, "d"]
    mean: Float[Tensor, "d"]
    mean_var: Float[Tensor, "d"]
    precision: float
    noise_shape: float

    def draw(self, count: int, rng: Any) -> tuple[Float[Tensor, "K d q"], Float[Tensor, "K"], Float[Tensor, "K d"]]:
        """Draws of W, 1 / sigma^2 and mu - E[mu]; ``rng`` is a numpy Generator or RandomState."""
        d, q = self.loadings.shape
        noise = self._normal(rng, count, d, q)
        values, vectors = torch.linalg.eigh(self.loadings_cov)
        root = vectors * values.clamp_min(0).sqrt()[:, None, :]
        loadings = self.loadings + torch.einsum("dij,kdj->kdi", root[self.column_pattern], noise)
        precision = torch.full((count,), self.precision, dtype=torch.float64, device=self.mean.device)
        if math.isfinite(self.noise_shape):
            scale = torch.as_tensor(rng.standard_gamma(self.noise_shape, count), device=self.mean.device)
            precision = precision * scale / self.noise_shape
        shift = torch.zeros(count, d, dtype=torch.float64, device=self.mean.device)
        if bool((self.mean_var > 0).any()):
            shift = self._normal(rng, count, d) * self.mean_var.sqrt()
        return loadings, precision, shift

    def _normal(self, rng: Any, *shape: int) -> Tensor:
        return torch.as_tensor(np.asarray(rng.standard_normal(shape)), device=self.mean.device)

    def scores(self, cells: Cells) -> tuple[Float[Tensor, "n q"], Float[Tensor, "P q q"]]:
        """q(z_i) of the rows of a table from which E[mu] was subtracted: means, and a covariance for every pattern."""
        d, q = self.loadings.shape
        moments = (self.loadings[:, :, None] * self.loadings[:, None, :]) + self.loadings_cov[self.column_pattern]
        weights = cells.over_columns(moments.reshape(d, q * q)).unflatten(1, (q, q))
        eye = torch.eye(q, dtype=torch.float64, device=self.loadings.device)
        cov = torch.linalg.inv(eye + self.precision * weights)
        return self.precision * _apply(cov, cells.row_pattern, cells.values[0] @ self.loadings), cov

    def predict(self, cells: Cells) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Mean and variance of every cell given the observed cells of its row; x - E[mu] in, deviations from E[mu] out.

        Var[x_ij] = sigma^2 + v_j + m_j' C_i m_j + a_i' S_j a_i + tr(S_j C_i), with 1 / E[1 / sigma^2] for sigma^2: noise, and
        what is not known of mean, scores and loadings.
        """
        a, cov = self.scores(cells)
        second = a[:, :, None] * a[:, None, :] + cov[cells.row_pattern]
        outer = self.loadings[:, :, None] * self.loadings[:, None, :]
        variance = second.flatten(1) @ self.loadings_cov[self.column_pattern].flatten(1).T
        variance = variance + (cov.flatten(1) @ outer.flatten(1).T)[cells.row_pattern]
        return a @ self.loadings.T, variance + self.mean_var + 1 / self.precision
