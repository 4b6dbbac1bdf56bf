"""Observed cells of a table: dense with NaN where a value is missing, or sparse, where stored entries are the observed ones."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.errors import UserError

__all__ = ["Cells", "csr", "observe"]


@dataclass(frozen=True)
class Cells:
    """What the updates of a variational PPCA ask of the data: sums over the observed cells of rows and of columns.

    Rows that miss the same cells share a posterior covariance, and so do columns: the sums of matrices run over patterns.

    Attributes:
        values: x with 0 where nothing was observed, and its transpose.
        row_mask: observed columns of every pattern of rows (P, d); as float64.
        row_pattern: pattern of every row (n,).
        column_mask: observed rows of every pattern of columns (P', n).
        column_pattern: pattern of every column (d,).
        count: number of observed cells.
    """

    values: tuple[Tensor, Tensor]
    row_mask: Tensor
    row_pattern: Int[Tensor, "n"]
    column_mask: Tensor
    column_pattern: Int[Tensor, "d"]
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.row_pattern.shape[0], self.column_pattern.shape[0]

    @property
    def complete(self) -> bool:
        """Whether every cell was observed."""
        return self.count == self.shape[0] * self.shape[1]

    def over_columns(self, each: Float[Tensor, "d r"]) -> Float[Tensor, "P r"]:
        """Sum over the observed columns, for every pattern of rows."""
        return self.row_mask @ each

    def over_rows(self, each: Float[Tensor, "n r"]) -> Float[Tensor, "P r"]:
        """Sum over the observed rows, for every pattern of columns."""
        return self.column_mask @ each

    def sizes(self) -> tuple[Float[Tensor, "n"], Float[Tensor, "d"]]:
        """Observed cells of every row and of every column."""
        rows = self.over_columns(torch.ones(self.shape[1], 1, dtype=torch.float64, device=self.row_pattern.device))
        columns = self.over_rows(torch.ones(self.shape[0], 1, dtype=torch.float64, device=self.row_pattern.device))
        return rows[self.row_pattern, 0], columns[self.column_pattern, 0]


def observe(x: Any, device: str | torch.device = "cpu", *, empty: bool = False) -> Cells:
    """The observed cells of an (n, d) array with NaN where a value is missing, or of a scipy sparse matrix.

    Args:
        x: the table.
        device: where the cells are to lie.
        empty: accept rows and columns without any observed cell: new rows, from which nothing is learned. Empty rows of
            a sparse matrix are always accepted (a user who rated nothing); they add nothing to a bound.

    Raises:
        UserError: a row or a column without any observed cell, infinite values.
    """
    if hasattr(x, "tocsr"):
        return _observe_sparse(x.tocsr(), device, empty)
    x = torch.as_tensor(x, dtype=torch.float64, device=device)
    seen = ~x.isnan()
    _check(x[seen], seen.any(1) | empty, seen.any(0) | empty)
    values = torch.where(seen, x, 0.0)
    rows, row_pattern = torch.unique(seen, dim=0, return_inverse=True)
    columns, column_pattern = torch.unique(seen.T, dim=0, return_inverse=True)
    return Cells((values, values.T), rows.double(), row_pattern, columns.double(), column_pattern, int(seen.sum()))


def _check(values: Tensor, rows: Tensor, columns: Tensor) -> None:
    if bool(values.isinf().any()):
        raise UserError(
            "the data hold infinite values: a likelihood needs finite numbers, or NaN where a value is missing"
        )
    for name, seen in (("row", rows), ("column", columns)):
        if not bool(seen.all()):
            missing = (~seen).nonzero().flatten().tolist()
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{name} {missing[0]}{more} has no observed value: drop it")


def csr(matrix: Any, device: str | torch.device) -> Tensor:
    """A scipy CSR matrix as a float64 torch tensor of the same layout."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR layout beta
        return torch.sparse_csr_tensor(
            torch.as_tensor(matrix.indptr, dtype=torch.int64), torch.as_tensor(matrix.indices, dtype=torch.int64),
            torch.as_tensor(matrix.data, dtype=torch.float64), size=matrix.shape, device=device,
        )  # fmt: skip


def _observe_sparse(x: Any, device: str | torch.device, empty: bool) -> Cells:
    x = x.astype("float64", copy=True)
    x.sum_duplicates()
    mask = x.copy()
    mask.data[:] = 1.0
    n, d = x.shape
    seen = torch.as_tensor(mask.sum(0)).flatten() > 0
    _check(torch.as_tensor(x.data), torch.ones(n, dtype=torch.bool), seen | empty)
    if bool(torch.as_tensor(x.data).isnan().any()):
        raise UserError("a sparse table stores NaN: leave cells out that were not observed")
    index = (torch.arange(n, device=device), torch.arange(d, device=device))
    transposed, mask_t = x.T.tocsr(), mask.T.tocsr()
    return Cells((csr(x, device), csr(transposed, device)), csr(mask, device), index[0], csr(mask_t, device),
                 index[1], int(mask.nnz))  # fmt: skip
