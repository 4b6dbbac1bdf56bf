"""Tables with missing cells, dense (NaN) or sparse (not stored): moments of the observed cells, shifts, densifying."""

from typing import Any

import numpy as np

__all__ = ["dense", "less", "moments"]


def moments(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the observed cells of every column."""
    if not hasattr(x, "tocsr"):
        mean = np.nanmean(x, 0)
        spread = np.nanvar(x, 0)
        return mean, np.where(np.nanmax(x, 0) == np.nanmin(x, 0), 0.0, spread)
    columns = x.tocsc()
    size = np.maximum(np.diff(columns.indptr), 1)
    column = np.repeat(np.arange(x.shape[1]), np.diff(columns.indptr))
    mean = np.bincount(column, columns.data, x.shape[1]) / size
    return mean, np.bincount(column, (columns.data - mean[column]) ** 2, x.shape[1]) / size


def less(x: Any, mean: np.ndarray) -> Any:
    """Observed cells minus their column's mean."""
    if not hasattr(x, "tocsr"):
        return x - mean
    moved = x.tocsr().astype(np.float64, copy=True)
    moved.data -= mean[moved.indices]
    return moved


def dense(x: Any) -> np.ndarray:
    """A table with NaN for the cells that a sparse matrix does not store."""
    if not hasattr(x, "tocsr"):
        return x
    pairs = x.tocoo()
    table = np.full(x.shape, np.nan)
    table[pairs.row, pairs.col] = pairs.data
    return table
