"""Leading axes of dense and sparse tables against a full decomposition; the sparse ascent of wide tables against the dense one."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from infimum.selection import VariationalPPCA
from infimum.selection.axes import leading_axes
from infimum.selection.cells import csr


def few_cells(n: int, d: int, share: float, seed: int = 0) -> np.ndarray:
    """Three loud components, NaN where nothing was observed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) @ (rng.normal(size=(d, 3)) * [6, 5, 4]).T + rng.normal(size=(n, d)) + 2
    x[rng.random(x.shape) > share] = np.nan
    x[np.arange(n), rng.integers(d, size=n)] = 1.0
    x[rng.integers(n, size=d), np.arange(d)] = -1.0
    return x


def stored(x: np.ndarray) -> sp.csr_matrix:
    row, column = np.nonzero(~np.isnan(x))
    return sp.csr_matrix((x[row, column], (row, column)), shape=x.shape)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30), (40, 600), (600, 40), (520, 560), (560, 520)])
@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_eigenvalues_and_axes(n, d, layout):
    x = few_cells(n, d, 0.5)
    x = np.nan_to_num(x - np.nanmean(x, 0))  # columns sum to 0, as in a fit
    values, vectors = np.linalg.eigh(x.T @ x / n)
    table = torch.as_tensor(x) if layout == "dense" else csr(sp.csr_matrix(x), "cpu")
    found, axes = leading_axes(table, 3)
    np.testing.assert_allclose(found, values[::-1][:3], rtol=1e-9)
    overlap = np.abs(np.sum(vectors[:, ::-1][:, :3] * axes.numpy(), axis=0))
    np.testing.assert_allclose(overlap, 1, rtol=1e-9)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_beyond_the_rank_there_is_nothing(layout):
    x = np.random.default_rng(0).normal(size=(5, 9))
    table = torch.as_tensor(x) if layout == "dense" else csr(sp.csr_matrix(x), "cpu")
    values, axes = leading_axes(table, 8)
    assert (values[:5] > 0).all() and not values[5:].any() and not axes[:, 5:].any()
    torch.testing.assert_close((axes * values) @ axes.T, torch.as_tensor(x.T @ x / 5))
    empty = leading_axes(table, 0)
    assert (empty[0].shape, empty[1].shape) == ((0,), (9, 0))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("n", "d", "q"), [(40, 600, [0, 2, 45]), (530, 540, [2])])
def test_sparse_ascent_of_many_columns_equals_the_dense_one(n, d, q):
    x = few_cells(n, d, 0.3)
    for number in q:
        options = {"noise": "known", "noise_variance": 1.0, "prior": "fixed", "max_iter": 15}
        dense, sparse = (VariationalPPCA(number, **options).fit(t) for t in (x, stored(x)))
        assert sparse.elbo_ == pytest.approx(dense.elbo_, rel=1e-8)
        np.testing.assert_allclose(sparse.get_covariance(), dense.get_covariance(), atol=1e-4)
