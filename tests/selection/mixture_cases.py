"""Families, tables and exact evidences that the tests of mixtures share."""

import itertools
import math

import numpy as np
import torch
from scipy.special import gammaln, multigammaln

from infimum.selection.mixture_axes import Axes, Known
from infimum.selection.mixture_full import Full

KINDS = ("full", "diag", "spherical", "known")


def tensor(x) -> torch.Tensor:
    return torch.tensor(np.asarray(x, dtype=np.float64))


def clusters(sizes=(60, 60, 60), seed: int = 0, apart: float = 6.0) -> np.ndarray:
    """Unit Gaussians at the corners of a right angle."""
    rng = np.random.default_rng(seed)
    corners = apart * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    return np.concatenate([rng.normal(size=(n, 2)) + c for n, c in zip(sizes, corners, strict=False)])


def family(kind: str, d: int = 2, seed: int = 5):
    """Components with a prior that has nothing special about it."""
    rng = np.random.default_rng(seed)
    center, root = rng.normal(size=d), rng.normal(size=(d, d))
    matrix = root @ root.T + np.eye(d)
    if kind == "full":
        return Full(tensor(center), 0.3, d + 0.7, tensor(matrix))
    if kind == "known":
        return Known(tensor(center), 0.3, tensor(np.linalg.cholesky(matrix)))
    return Axes(tensor(center), 0.3, 1.7, tensor(np.diag(matrix) if kind == "diag" else [matrix[0, 0]]))


def exact(kind: str, components, x: np.ndarray, alpha: float = 1.0) -> float:
    """log int prod_i N(x_i | m, Lambda^-1)^alpha dPrior, from normalising constants; 0 rows: 0."""
    y = x - components.center.numpy()
    n, d = y.shape
    size, b0 = alpha * n, components.precision0
    beta = b0 + size
    total = alpha * y.sum(0)
    common = d / 2 * math.log(b0 / beta)
    if kind == "known":
        sigma = (components.root @ components.root.T).numpy()
        inverse = np.linalg.inv(sigma)
        square = alpha * np.einsum("ni,ij,nj->", y, inverse, y) - total @ inverse @ total / beta
        return common - size / 2 * (d * math.log(2 * math.pi) + np.linalg.slogdet(sigma)[1]) - square / 2
    nu0, scale0 = components.dof0, components.scale0.numpy()
    scatter = alpha * y.T @ y - np.outer(total, total) / beta
    common -= size * d / 2 * math.log(math.pi)
    if kind == "full":
        nu = nu0 + size
        logdets = nu0 / 2 * np.linalg.slogdet(scale0)[1] - nu / 2 * np.linalg.slogdet(scale0 + scatter)[1]
        return common + logdets + multigammaln(nu / 2, d) - multigammaln(nu0 / 2, d)
    if kind == "diag":
        nu, scale = nu0 + size, scale0 + np.diag(scatter)
    else:
        nu, scale = nu0 + d * size, scale0 + np.trace(scatter)
    return common + float(
        (nu0 / 2 * np.log(scale0) - nu / 2 * np.log(scale) + gammaln(nu / 2) - gammaln(nu0 / 2)).sum()
    )


def enumerated(evidence, n: int, a0: float, k: int = 2) -> float:
    """log p(X) of a mixture: sum over all k^n assignments, each the product of its clusters' evidences."""
    values = []
    for z in itertools.product(range(k), repeat=n):
        z = np.array(z)
        sizes = np.bincount(z, minlength=k)
        weight = gammaln(k * a0) - gammaln(k * a0 + n) + (gammaln(a0 + sizes) - gammaln(a0)).sum()
        values.append(weight + sum(evidence(z == j) for j in range(k) if sizes[j]))
    return float(np.logaddexp.reduce(values))
