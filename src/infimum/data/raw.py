"""Raw values as their source holds them, with the words that say where a value stands."""

import hashlib
from dataclasses import dataclass

import numpy as np

from infimum.errors import UserError

__all__ = ["Raw", "as_numbers", "keys_of", "place", "refuse_missing"]


@dataclass(frozen=True)
class Raw:
    """What a file, a folder or an embedded data set holds, before any preprocessing.

    Attributes:
        values: (N, *shape), in the source's own numbers; all finite.
        ids: (N,) int64, distinct: row numbers from 0, or 64 bits of blake2b of the user's id column.
        name: the data set's name, or the file's.
        columns: names of the columns of a table.
        levels: number of grey levels that the source declares (8-bit images: 256), None where it declares none.
        labels: (N,) class numbers (int64) or numbers (float64), never seen by the model.
        classes: names of the classes, where labels were text.
        groups: (N,) group number of every item; a group is never divided between train and test.
        source: path as the user gave it; None for an embedded data set.
        id_column: the user's id column, if any.
        label_column: the user's label column, if any.
    """

    values: np.ndarray
    ids: np.ndarray
    name: str
    columns: tuple[str, ...] | None = None
    levels: int | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    groups: np.ndarray | None = None
    source: str | None = None
    id_column: str | None = None
    label_column: str | None = None

    @property
    def title(self) -> str:
        """How messages call it: the path as given, or the name."""
        return self.source or self.name

    def fingerprint(self) -> str:
        """128 bits of blake2b of values and ids: tells whether a source is still the one that was trained on."""
        digest = hashlib.blake2b(f"{self.values.dtype.str}{self.values.shape}".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.values).data)
        digest.update(np.ascontiguousarray(self.ids).data)
        return digest.hexdigest()


def place(index: tuple[int, ...], columns: tuple[str, ...] | None) -> str:
    """Words for the position of one value: "row 3, column 'age'", all counted from 0."""
    row, rest = index[0], index[1:]
    if len(rest) == 1:
        return f"row {row}, column {columns[rest[0]]!r}" if columns else f"row {row}, column {rest[0]}"
    return f"item {row}, position {rest}"


def refuse_missing(values: np.ndarray, columns: tuple[str, ...] | None, title: str) -> None:
    """Refuse NaN and infinity, naming the first place.

    Raises:
        UserError: a value is not finite.
    """
    if values.dtype.kind != "f":
        return
    finite = np.isfinite(values)
    if finite.all():
        return
    index = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), values.shape))
    value = values[index]
    word = "a missing value (NaN)" if np.isnan(value) else f"{value}"
    raise UserError(
        f"{title}: {place(index, columns)} holds {word}, expected a finite number "
        f"({values.size - int(finite.sum())} such values in all): fill or drop those rows first"
    )


def as_numbers(values: np.ndarray, title: str) -> np.ndarray:
    """The array itself if it can be data: real numbers, at least two items, at least one value in each.

    Raises:
        UserError: another dtype, fewer than two axes, no items, or items without values.
    """
    if values.dtype.kind not in "buif":
        raise UserError(
            f"{title}: the array holds dtype {values.dtype}, expected real numbers (float, int or bool): "
            "convert it with .astype(float) before saving"
        )
    if values.ndim < 2:
        raise UserError(
            f"{title}: the array has shape {values.shape}, expected (rows, columns) or (items, *shape): "
            "reshape a single column to (-1, 1)"
        )
    if len(values) == 0:
        raise UserError(f"{title}: there is no row of data, expected at least 1: add rows")
    if values[0].size == 0:
        raise UserError(
            f"{title}: the items have shape {values.shape[1:]} and so no values, expected at least one column of "
            "numbers: keep a column that is neither id nor labels"
        )
    return values


def keys_of(cells: list[str], column: str, title: str) -> np.ndarray:
    """Item keys of an id column: the first 64 bits of blake2b of each cell's text.

    Raises:
        UserError: an id is empty or occurs twice.
    """
    seen: dict[str, int] = {}
    for row, cell in enumerate(cells):
        if not cell:
            raise UserError(
                f"{title}: row {row}, id column {column!r} is empty, expected an id: give every row its own"
            )
        if cell in seen:
            raise UserError(
                f"{title}: id {cell!r} stands in rows {seen[cell]} and {row} of column {column!r}, expected distinct "
                "ids: remove one of them or choose another id column"
            )
        seen[cell] = row
    digests = b"".join(hashlib.blake2b(cell.encode(), digest_size=8).digest() for cell in cells)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)
