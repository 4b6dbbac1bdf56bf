"""One row an item, as CSV or Parquet."""

import csv
from pathlib import Path

from torch import Tensor

from infimum.errors import require
from infimum.evidence import Bracket, Estimate

__all__ = ["write_tables"]

Columns = dict[str, list[float] | list[int]]


def write_tables(found: Estimate | Bracket, keys: Tensor, *, csv: str | None, parquet: str | None) -> None:
    """Write the asked-for files, each of them at once.

    Raises:
        UserError: Parquet without polars.
    """
    if csv is not None:
        _write_csv(Path(csv), _columns(found, keys))
    if parquet is not None:
        target = Path(parquet)
        temporary = target.with_name(f".{target.name}.tmp")
        require("polars", "tables").DataFrame(_columns(found, keys)).write_parquet(temporary)
        temporary.replace(target)


def _columns(found: Estimate | Bracket, keys: Tensor) -> Columns:
    """Names of a bracket's columns begin with their side."""
    columns: Columns = {"item": keys.tolist()}
    sides = {"lower_": found.lower, "upper_": found.upper} if isinstance(found, Bracket) else {"": found}
    for side, estimate in sides.items():
        columns[f"{side}value_{estimate.unit}"] = estimate.value.tolist()
        columns[f"{side}stderr_{estimate.unit}"] = estimate.stderr.tolist()
        for name, values in estimate.diagnostics.items():
            if values.shape == estimate.value.shape:
                columns[f"{side}{name}"] = values.tolist()
    return columns


def _write_csv(target: Path, columns: Columns) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    temporary.replace(target)
