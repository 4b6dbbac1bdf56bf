"""The user's table with its missing cells, the columns that were asked for, and what was done to them."""

import csv
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from infimum.data.registry import DATASETS
from infimum.data.tables import is_number, parse
from infimum.errors import UserError, require

__all__ = ["Table", "read_table"]

_MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "-")
_TABLES = ("digits", "wine", "breast_cancer", "iris", "diabetes")


@dataclass(frozen=True)
class Table:
    """A table of numbers.

    Attributes:
        title: path or name.
        columns: names.
        values: (n, d), NaN where a cell is missing.
        preprocessing: what turned the source into the values; JSON.
    """

    title: str
    columns: tuple[str, ...]
    values: np.ndarray
    preprocessing: dict[str, Any]

    def require_numbers(self, family: str) -> None:
        """Refuse what the family cannot be fitted to.

        Raises:
            UserError: infinite or missing cells, empty rows or columns, too few rows or columns.
        """
        n, d = self.values.shape
        if n < 2:
            raise UserError(f"{self.title}: has {n} row{'s' * (n != 1)}, expected at least 2 to learn a spread from")
        if d < 1 or (family == "ppca" and d < 2):
            raise UserError(f"{self.title}: has {d} column{'s' * (d != 1)}, expected at least 2 to find components in")
        if np.isinf(self.values).any():
            row, column = np.argwhere(np.isinf(self.values))[0]
            raise UserError(
                f"{self.title}: row {row}, column {self.columns[column]!r} is infinite, expected a finite number"
            )
        missing = np.isnan(self.values)
        if missing.all():
            raise UserError(f"{self.title}: every cell is missing, expected numbers: check the file")
        if family != "ppca" and missing.any():
            row, column = np.argwhere(missing)[0]
            raise UserError(
                f"{self.title}: row {row}, column {self.columns[column]!r} is missing, which --family {family} cannot use: "
                "fill it, drop the row, or use --family ppca"
            )
        self._refuse_columns(missing.all(0), "hold no value")
        if missing.all(1).any():
            rows = np.flatnonzero(missing.all(1))
            raise UserError(
                f"{self.title}: rows without a value: {_listed(rows.tolist())}, expected some in each: drop them"
            )
        if family == "mixture":
            self._refuse_columns(np.ptp(self.values, axis=0) == 0, "do not vary, so that their likelihood is unbounded")
        if family == "multinomial":
            counts = (self.values >= 0) & (self.values == np.round(self.values))
            self._refuse_columns(~counts.all(0), "hold what is no count of --family multinomial")

    def _refuse_columns(self, bad: np.ndarray, why: str) -> None:
        if bad.any():
            names = [self.columns[i] for i in np.flatnonzero(bad)]
            raise UserError(f"{self.title}: columns {why}: leave out {_listed(names)} (--columns names those to keep)")

    def chosen(self, columns: str | None) -> "Table":
        """The named columns alone."""
        if columns is None:
            return self
        wanted = [name.strip() for name in next(csv.reader([columns], skipinitialspace=True), [])]
        if not wanted:
            raise UserError("--columns is empty, expected names separated by commas: name columns or leave it out")
        at = []
        for name in wanted:
            if name in self.columns:
                at.append(self.columns.index(name))
            elif name.isascii() and name.isdigit() and int(name) < len(self.columns):
                at.append(int(name))
            else:
                raise UserError(
                    f"{self.title}: has no column {name!r}, expected some of {_listed(list(self.columns))}: correct --columns"
                )
        if len(set(at)) < len(at):
            raise UserError(f"--columns {columns} names a column twice: name each once")
        return replace(
            self, columns=tuple(self.columns[i] for i in at), values=np.ascontiguousarray(self.values[:, at])
        )

    def scaled(self, standardize: bool) -> "Table":
        """The columns, each divided by its standard deviation (divisor n, observed cells) and centred if asked for."""
        if not standardize:
            return self
        mean, scale = np.nanmean(self.values, 0), np.nanstd(self.values, 0)
        flat = np.nanmax(self.values, 0) == np.nanmin(self.values, 0)
        self._refuse_columns(flat, "do not vary and cannot be standardised")
        steps = {"standardize": True, "mean": mean.tolist(), "scale": scale.tolist()}
        return replace(self, values=(self.values - mean) / scale, preprocessing=self.preprocessing | steps)


def _listed(names: list[Any]) -> str:
    """At most ten names."""
    return ", ".join(map(str, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def read_table(source: str, columns: str | None) -> Table:
    """A ``.csv``, ``.npy`` or ``.parquet`` file or an embedded table; empty cells and NaN are missing.

    Args:
        source: path, or a name.
        columns: names or numbers separated by commas; text in the others does not matter.

    Raises:
        UserError: no such file, damaged, text where numbers were expected, an unknown column.
    """
    plain = {"source": source, "standardize": False}
    if source in DATASETS:
        if source not in _TABLES:
            raise UserError(f"{source} is not a table: use one of {', '.join(_TABLES)}, or a file")
        module, function = DATASETS[source].loader.split(":")
        raw = getattr(import_module(module), function)()
        flat = np.asarray(raw.values, dtype=np.float64).reshape(len(raw.values), -1)
        return Table(source, raw.columns or _numbered(flat.shape[1]), flat, plain).chosen(columns)
    path = Path(source)
    readers = {".csv": _csv, ".npy": _npy, ".parquet": _parquet}
    if not path.is_file():
        raise UserError(
            f"{source}: there is no such file, and the embedded tables are {', '.join(_TABLES)}: check the path"
        )
    if path.suffix.lower() not in readers:
        raise UserError(
            f"{source}: the name ends in {path.suffix!r}, expected .csv, .npy or .parquet: convert or rename it"
        )
    if path.stat().st_size == 0:
        raise UserError(f"{source}: the file is empty: write it again")
    names, cells = readers[path.suffix.lower()](path)
    table = Table(source, names, cells, plain).chosen(columns)
    return replace(table, values=_numbers(table))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(count))


def _numbers(table: Table) -> np.ndarray:
    """Cells as float64; names the columns that hold text."""
    if table.values.dtype != object:
        return np.ascontiguousarray(table.values, dtype=np.float64)
    out, text = np.full(table.values.shape, np.nan), []
    for j, column in enumerate(table.values.T):
        cells = [
            "nan" if cell is None or str(cell).strip().lower() in _MISSING else str(cell).strip() for cell in column
        ]
        bad = next((i for i, cell in enumerate(cells) if not is_number(cell)), None)
        if bad is None:
            out[:, j] = np.array(cells, dtype=np.float64)
        else:
            text.append(f"{table.columns[j]!r} ({cells[bad][:40]!r} in row {bad})")
    if text:
        raise UserError(
            f"{table.title}: holds text in {_listed(text)}, expected numbers: name the columns to use with --columns"
        )
    return out


def _csv(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    header, rows, _ = parse(path, str(path))
    width = len(header) if header is not None else len(rows[0])
    cells = np.array(rows, dtype=object).reshape(len(rows), width)
    return tuple(header) if header is not None else _numbered(width), cells


def _npy(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: is not a readable .npy file ({str(error).splitlines()[0]}): save it again") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "biuf":
        what = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else "an archive"
        raise UserError(f"{path}: holds {what}, expected a table of real numbers (rows, columns)")
    return _numbered(values.shape[1]), values.astype(np.float64)


def _parquet(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    polars = require("polars", "tables")
    try:
        frame = polars.read_parquet(path, glob=False)
    except (Exception, polars.exceptions.PanicException) as error:  # damaged bytes fail in many ways
        raise UserError(
            f"{path}: is not a readable Parquet file ({str(error).partition(chr(10))[0]}): save it again"
        ) from None
    # cell by cell as objects, so that columns of text are refused by name only where they are used
    cells = np.empty((frame.height, frame.width), dtype=object)
    for j, name in enumerate(frame.columns):
        numeric = frame.schema[name].is_numeric() or frame.schema[name] == polars.Boolean
        cells[:, j] = (
            frame[name].cast(polars.Float64).to_list()
            if numeric
            else frame[name].cast(polars.String, strict=False).to_list()
        )
    return tuple(frame.columns), cells
