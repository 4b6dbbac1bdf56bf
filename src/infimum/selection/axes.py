"""Leading principal axes of a table, dense or sparse: where the ascent of a variational PPCA starts."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["leading_axes"]

_GRAM = 512  # rows or columns up to which a Gram matrix is decomposed in full


def leading_axes(table: Tensor, count: int) -> tuple[Float[Tensor, "k"], Float[Tensor, "d k"]]:
    """Leading eigenvalues and axes of the second moment X'X / n; beyond the rank both may be 0.

    Args:
        table: (n, d), dense or sparse CSR, 0 where nothing was observed.
        count: k, at most d.
    """
    n, d = table.shape
    if count == 0:
        return torch.zeros(0, dtype=torch.float64, device=table.device), torch.zeros(
            d, 0, dtype=torch.float64, device=table.device)  # fmt: skip
    if table.is_sparse_csr:
        values, axes = (torch.as_tensor(part, device=table.device) for part in _of_sparse(_scipy(table), count))
    else:
        small = table @ table.T if n < d else table.T @ table
        values, axes = torch.linalg.eigh(small / n)
        values, axes = values.flip(0)[:count], axes.flip(1)[:, :count]
        axes = table.T @ axes if n < d else axes
    good = values > 1e-12 * values[0]
    norm = axes.square().sum(0).sqrt()
    values, axes = torch.where(good, values, 0.0), torch.where(good, axes / norm.clamp_min(1e-300), 0.0)
    short = count - len(values)
    return torch.nn.functional.pad(values, (0, short)), torch.nn.functional.pad(axes, (0, short))


def _of_sparse(matrix: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The same before normalising: by the smaller Gram matrix where one fits, else by Lanczos' method."""
    n, d = matrix.shape
    if min(n, d) <= _GRAM:
        values, axes = np.linalg.eigh((matrix @ matrix.T if n < d else matrix.T @ matrix).toarray() / n)
        axes = axes[:, ::-1][:, :count].copy()
        return values[::-1][:count].copy(), matrix.T @ axes if n < d else axes
    from scipy.sparse.linalg import svds

    start = np.random.default_rng(0).standard_normal(min(n, d))  # no constant: centred columns would annihilate it
    _, values, axes = svds(matrix, k=min(count, min(n, d) - 1), v0=start)
    return values[::-1] ** 2 / n, axes[::-1].T.copy()


def _scipy(table: Tensor) -> Any:
    from scipy.sparse import csr_matrix

    parts = (table.values(), table.col_indices(), table.crow_indices())
    return csr_matrix(tuple(part.cpu().numpy() for part in parts), shape=tuple(table.shape))
