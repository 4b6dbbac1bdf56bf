"""The user's tables: ``.csv`` through the standard library, ``.parquet`` through polars."""

import csv
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from infimum.errors import UserError, require

from .coding import coded
from .raw import Raw, as_numbers, keys_of, refuse_missing

__all__ = ["read_csv", "read_parquet"]

_MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-"}
_BLOCK = 4096  # rows turned into numbers at a time


def read_csv(path: Path, title: str, *, id_column: str | None, labels: str | None) -> Raw:
    """A table of numbers, separated by comma, semicolon or tab.

    The first line names the columns, unless all of its cells are numbers (other than 0, 1, 2 ..., which pandas writes
    as names); columns without names are called "0", "1", ... in ``id=`` and ``labels=``.

    Raises:
        UserError: text, a missing value or a ragged row; the message names row, line and column.
    """
    header, rows, lines = parse(path, title)
    names = header if header is not None else [str(i) for i in range(len(rows[0]))]
    taken = [_find(names, column, title) for column in (id_column, labels) if column is not None]
    kept = [i for i in range(len(names)) if i not in taken]
    columns = tuple(names[i] for i in kept)
    blocks = []
    for top in range(0, len(rows), _BLOCK):
        block = [[row[i] for i in kept] for row in rows[top : top + _BLOCK]]
        try:
            if any("_" in cell for row in block for cell in row):  # Python reads 2020_01 as 202001
                raise ValueError
            blocks.append(np.array(block, dtype=np.float64))
        except ValueError:
            raise _not_number(block, top, columns, lines, title) from None
    values = np.concatenate(blocks) if blocks else np.empty((0, len(kept)))
    values = as_numbers(values, title)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise _bad_cell(rows[row][kept[column]], int(row), columns[column], lines, title)
    ids = np.arange(len(rows), dtype=np.int64)
    if id_column is not None:
        ids = keys_of([row[names.index(id_column)].strip() for row in rows], id_column, title)
    numbers, classes = None, None
    if labels is not None:
        cells = [row[names.index(labels)].strip() for row in rows]
        numbers, classes = coded(_typed(cells), labels, title)
    return Raw(
        values,
        ids,
        path.name,
        columns=columns if header is not None else None,
        labels=numbers,
        classes=classes,
        source=title,
        id_column=id_column,
        label_column=labels,
    )


def parse(path: Path, title: str) -> tuple[list[str] | None, list[list[str]], list[int]]:
    """Header if there is one, rows of cells, and the line of the file on which each row ends."""
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True, skipinitialspace=True)
            for row in reader:
                if not row:
                    continue  # an empty line
                rows.append(row)
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"line {reader.line_num}: {error}"
        raise UserError(f"{title}: is not a readable CSV file ({reason}): save it as UTF-8 CSV") from None
    if not rows:
        raise UserError(f"{title}: holds no row, expected a CSV table of numbers: check the file")
    width = len(rows[0])
    for row, line in zip(rows, lines, strict=True):
        if len(row) != width:
            raise UserError(
                f"{title}: line {line} has {len(row)} cells, expected {width} as in the first line: mend that line"
            )
    first_row = [cell.strip() for cell in rows[0]]
    named = first_row == [str(i) for i in range(width)] and width > 1
    numbers = [is_number(cell) for cell in first_row]
    values = [number or cell.lower() in _MISSING for number, cell in zip(numbers, first_row, strict=True)]
    if not named and any(numbers) and all(values):
        return None, rows, lines
    if any(number and "." in cell for number, cell in zip(numbers, first_row, strict=True)):
        raise UserError(f"{title}: line {lines[0]} mixes names and numbers, expected names alone: add a line of names")
    _distinct(first_row, title)
    return first_row, rows[1:], lines[1:]


def _distinct(names: list[str], title: str) -> None:
    for i, name in enumerate(names):
        if not name:
            raise UserError(
                f"{title}: column {i} has no name, expected a name for each: name it, or leave out the index "
                "(pandas: index=False)"
            )
        if name in names[:i]:
            raise UserError(f"{title}: two columns are called {name!r}, expected distinct names: rename one")


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _find(names: list[str], column: str, title: str) -> int:
    if column not in names:
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise UserError(f"{title}: has no column {column!r}, expected one of {shown}: correct id= or labels=")
    return names.index(column)


def _typed(cells: list[str]) -> np.ndarray:
    """Whole numbers, numbers or text: whatever all the cells are."""
    for dtype in (np.int64, np.float64):
        try:
            return np.array([int(cell) if dtype is np.int64 else float(cell) for cell in cells], dtype=dtype)
        except (ValueError, OverflowError):
            continue
    return np.array(cells, dtype=np.str_)


def _not_number(block: list[list[str]], top: int, columns: tuple[str, ...], lines: list[int], title: str) -> UserError:
    row, column = next(
        (i, j) for i, cells in enumerate(block) for j, cell in enumerate(cells) if not is_number(cell.strip())
    )
    return _bad_cell(block[row][column], top + row, columns[column], lines, title)


def _bad_cell(cell: str, row: int, column: str, lines: list[int], title: str) -> UserError:
    where = f"{title}: row {row} (line {lines[row]}), column {column!r}"
    if cell.strip().lower() in _MISSING:
        return UserError(f"{where} has a missing value ({cell!r}), expected a number: fill it or drop the row")
    return UserError(
        f"{where} holds {cell[:40]!r}, expected a finite number: mend it, remove the column, or name it as id= or "
        "labels="
    )


def read_parquet(path: Path, title: str, *, id_column: str | None, labels: str | None) -> Raw:
    """A table of numbers.

    Raises:
        UserError: polars is not installed; the file is damaged; a column holds text, dates or missing values.
    """
    polars = require("polars", "tables")
    try:
        frame = polars.read_parquet(path, glob=False)
    except (Exception, polars.exceptions.PanicException) as error:  # damaged bytes fail in many ways
        raise UserError(
            f"{title}: is not a readable Parquet file ({str(error).partition(chr(10))[0]}): save or copy it again"
        ) from None
    for column in (id_column, labels):
        if column is not None:
            _find(frame.columns, column, title)
    columns = tuple(name for name in frame.columns if name not in (id_column, labels))
    for name in columns:
        _refuse_column(frame[name], name, title)
    booleans = bool(columns) and all(frame.schema[name] == polars.Boolean for name in columns)
    dtype = np.bool_ if booleans else np.float64
    values = np.empty((frame.height, len(columns)), dtype=dtype)
    for j, name in enumerate(columns):
        values[:, j] = frame[name].to_numpy()
    values = as_numbers(values, title)
    refuse_missing(values, columns, title)
    ids = np.arange(frame.height, dtype=np.int64)
    if id_column is not None:
        ids = keys_of(frame[id_column].cast(polars.String).fill_null("").to_list(), id_column, title)
    numbers, classes = None, None
    if labels is not None:
        numbers, classes = coded(_labels(polars, frame[labels], title), labels, title)
    return Raw(
        values,
        ids,
        path.name,
        columns=columns,
        levels=2 if booleans else None,
        labels=numbers,
        classes=classes,
        source=title,
        id_column=id_column,
        label_column=labels,
    )


def _labels(polars: ModuleType, series: Any, title: str) -> np.ndarray:
    """A column of labels as numbers, or as text with "" where one is missing."""
    if series.dtype in (polars.String, polars.Categorical, polars.Enum):
        return np.array(series.cast(polars.String).fill_null("").to_list(), dtype=np.str_)
    _refuse_column(series, series.name, title)
    return np.asarray(series.to_numpy())


def _refuse_column(series: Any, name: str, title: str) -> None:
    """Refuse a column that does not hold numbers throughout."""
    if not (series.dtype.is_numeric() or str(series.dtype) == "Boolean"):
        first = f" ({series[0][:40]!r} in row 0)" if len(series) and isinstance(series[0], str) else ""
        raise UserError(
            f"{title}: column {name!r} holds {series.dtype}{first}, expected numbers: remove it, or name it as id= or "
            "labels="
        )
    if series.null_count():
        row = int(series.is_null().arg_max())
        raise UserError(
            f"{title}: row {row}, column {name!r} has a missing value, expected a number "
            f"({series.null_count()} such rows in the column): fill it or drop the row"
        )
