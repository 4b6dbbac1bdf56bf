"""Normal-Wishart components of a Gaussian mixture: every covariance of its own (Bishop, PRML 10.2)."""

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
    multidigamma,
    normal_noise,
    posterior_means,
    student,
    wishart_divergence,
)  # fmt: skip

__all__ = ["Full"]

_CELLS = 2**22  # of the table of rows by components that is held at once


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
        size, precision, mean = posterior_means(rows, weights, self.precision0)
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
        base = multidigamma(factor.dof / 2, d) - logdet - d * math.log(math.pi) - d / factor.precision
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
        return (wishart + mean_divergence(factor, self.precision0, square)).sum(-1)

    def log_predictive(self, rows: Float[Tensor, "n d"], factor: Normals) -> Float[Tensor, "R K n"]:
        """Student's t with nu + 1 - d degrees of freedom and scale W^-1 (1 + beta) / (beta (nu + 1 - d))."""
        d = rows.shape[1]
        square, logdet = self._square(rows, factor)
        dof = factor.dof + 1 - d
        stretch = (1 + factor.precision) / (factor.precision * dof)
        return student(square / stretch[..., None], (logdet + d * stretch.log())[..., None], dof[..., None], d)

    def means(self, factor: Normals) -> Float[Tensor, "R K d"]:
        """E[m_k]."""
        return self.center + factor.mean

    def covariances(self, factor: Normals) -> Float[Tensor, "R K d d"]:
        """E[Lambda_k]^-1."""
        return factor.scale / factor.dof[..., None, None]

    def draw(self, factor: Normals, labels: Tensor, rng: Any) -> Float[Tensor, "n d"]:
        """Rows from the predictive of the components ``labels`` of the first restart; ``rng`` is a numpy RandomState."""
        d = factor.mean.shape[-1]
        noise, dof = normal_noise(rng, len(labels), factor.mean), factor.dof[0, labels] + 1 - d
        precision = factor.precision[0, labels]
        stretch = (1 + precision) / (precision * chi_square(rng, dof))
        root = torch.linalg.cholesky(factor.scale[0])[labels]
        return self.means(factor)[0, labels] + stretch.sqrt()[:, None] * torch.einsum("nij,nj->ni", root, noise)
