"""Labels: numbers stay numbers, text becomes class numbers."""

import numpy as np

from infimum.errors import UserError

__all__ = ["coded"]


def coded(column: np.ndarray, name: str, title: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Labels as int64 or float64, and the sorted class names where they were text.

    Args:
        column: (N,) of numbers or of text.
        name: of the column, for messages.
        title: of the file, for messages.

    Raises:
        UserError: a label is missing, or is neither number nor text.
    """
    if column.dtype.kind in "bui":
        return column.astype(np.int64), None
    if column.dtype.kind == "f":
        whole = np.isfinite(column)
        if not whole.all():
            raise UserError(
                f"{title}: row {int(np.argmin(whole))} has no label in {name!r} ({column[np.argmin(whole)]}), "
                "expected a number: drop the row"
            )
        return column.astype(np.float64), None
    if column.dtype.kind not in "U":
        raise UserError(f"{title}: the labels {name!r} are of dtype {column.dtype}, expected numbers or text")
    empty = column == ""
    if empty.any():
        raise UserError(f"{title}: row {int(np.argmax(empty))} has no label in {name!r}, expected one: drop the row")
    classes, numbers = np.unique(column, return_inverse=True)
    return numbers.astype(np.int64), tuple(str(word) for word in classes)
