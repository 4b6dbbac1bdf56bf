"""The user's ``.npy`` and ``.npz`` files; pickled objects are never loaded."""

from pathlib import Path
from typing import Any

import numpy as np

from infimum.errors import UserError

from .coding import coded
from .raw import Raw, as_numbers, keys_of, refuse_missing

__all__ = ["read_npy", "read_npz"]


def _load(path: Path, title: str) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # damaged bytes fail in many ways
        raise _broken(error, title) from None


def _broken(error: Exception, title: str) -> UserError:
    if "allow_pickle" in str(error):
        return UserError(
            f"{title}: holds Python objects (pickle), which are never loaded, expected an array of numbers: "
            "convert it with .astype(float) before saving"
        )
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UserError(
        f"{title}: is not a readable numpy file ({reason}), expected what numpy.save or numpy.savez writes: "
        "save or copy it again"
    )


def _levels(values: np.ndarray) -> int | None:
    """The range that a dtype declares: bool 0 or 1, uint8 0 to 255."""
    return {"bool": 2, "uint8": 256}.get(values.dtype.name)


def read_npy(path: Path, title: str, *, id_column: str | None, labels: str | None) -> Raw:
    """One array (N, *shape).

    Raises:
        UserError: not such a file, or ids or labels are asked for.
    """
    if id_column is not None or labels is not None:
        option = "id" if id_column is not None else "labels"
        raise UserError(f"{title}: a .npy file has no column for {option}=, expected a .npz, .csv or .parquet file")
    values = _load(path, title)
    if not isinstance(values, np.ndarray):
        raise UserError(f"{title}: holds several arrays, expected one: name it .npz and choose one with {title}:KEY")
    values = as_numbers(values, title)
    refuse_missing(values, None, title)
    return Raw(values, np.arange(len(values), dtype=np.int64), path.name, levels=_levels(values), source=title)


def read_npz(path: Path, title: str, key: str | None, *, id_column: str | None, labels: str | None) -> Raw:
    """One array (N, *shape) of an archive; ids and labels are further arrays (N,) of it.

    Raises:
        UserError: not such a file; no such key; several arrays and no key.
    """
    archive = _load(path, title)
    if isinstance(archive, np.ndarray):
        raise UserError(f"{title}: holds a single array without a name, expected an archive: name the file .npy")
    with archive:
        names = archive.files
        beside = [name for name in (id_column, labels) if name is not None]
        choices = [name for name in names if name not in beside]
        if key is None and len(choices) != 1:
            listed = ", ".join(names) or "none"
            raise UserError(f"{title}: holds the arrays {listed}, expected one: choose with {path}:KEY")
        key = choices[0] if key is None else key
        values = as_numbers(_member(archive, key, title), title)
        refuse_missing(values, None, title)
        ids = np.arange(len(values), dtype=np.int64)
        if id_column is not None:
            cells = [str(cell) for cell in _column(archive, id_column, len(values), title)]
            ids = keys_of(cells, id_column, title)
        coding = (None, None) if labels is None else coded(_column(archive, labels, len(values), title), labels, title)
    return Raw(
        values,
        ids,
        path.name,
        levels=_levels(values),
        labels=coding[0],
        classes=coding[1],
        source=title,
        id_column=id_column,
        label_column=labels,
    )


def _member(archive: Any, key: str, title: str) -> np.ndarray:
    if key not in archive.files:
        raise UserError(
            f"{title}: has no array {key!r}, expected one of {', '.join(archive.files) or 'none'}: correct the name"
        )
    try:
        member = archive[key]
    except Exception as error:  # damaged bytes fail in many ways
        raise _broken(error, title) from None
    if not isinstance(member, np.ndarray):
        raise UserError(f"{title}: {key!r} is not an array, expected what numpy.savez writes: save it again")
    return member


def _column(archive: Any, key: str, count: int, title: str) -> np.ndarray:
    column = _member(archive, key, title)
    if column.shape != (count,):
        raise UserError(f"{title}: the array {key!r} has shape {column.shape}, expected ({count},), one a row")
    return column
