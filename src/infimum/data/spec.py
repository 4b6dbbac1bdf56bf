"""``DataSpec``: all that is needed to turn raw values into what a model saw, or to refuse them."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from infimum.errors import UserError

from .raw import Raw, as_numbers, refuse_missing
from .registry import Kind
from .steps import Standardise, Step, Threshold, refuse_levels

__all__ = ["DataSpec", "Split", "load_spec", "save_spec"]


@dataclass(frozen=True)
class Split:
    """Which share of the items goes where; the choice of items is pure in (seed, item ids).

    Attributes:
        seed: of the order in which items are dealt out.
        train: share of the training items; the three sum to 1.
        valid: share held out for choices.
        test: share held out for the final number.
    """

    seed: int = 0
    train: float = 0.7
    valid: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        for name, share in (("valid", self.valid), ("test", self.test)):
            if not 0 <= share < 1:
                raise UserError(f"{name} is {share}, expected a share from 0 up to but not including 1")
        if not 0 < self.train <= 1:
            raise UserError(
                f"valid {self.valid} and test {self.test} leave {self.train:g} of the data for training: lower one"
            )
        if abs(self.train + self.valid + self.test - 1) > 1e-9:
            raise UserError(f"the shares train {self.train}, valid {self.valid} and test {self.test} must sum to 1")


@dataclass(frozen=True)
class DataSpec:
    """What ``data.json`` holds.

    Attributes:
        name: of the data set, or of the user's file or folder.
        kind: what the likelihood may be: "binary" (Bernoulli), "integer" (categorical, discretised logistic) or
            "real" (a density).
        shape: of one item as stored: (1, 8, 8) for an image, (13,) for a row of a table.
        levels: number of grey levels of integer data (values 0 .. levels - 1), None for the other kinds.
        columns: names of a table's columns.
        steps: the preprocessing, in order.
        source: path of a user's file as given, for messages; None for an embedded data set.
        split: how the items were divided.
        id_column: column of the user's file that the item ids come from.
        label_column: column of the user's file that holds labels.
        fingerprint: of the whole source, see `Raw.fingerprint`.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    levels: int | None = None
    columns: tuple[str, ...] | None = None
    steps: tuple[Step, ...] = ()
    source: str | None = None
    split: Split = Split()
    id_column: str | None = None
    label_column: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("binary", "integer", "real"):
            raise UserError(f"kind is {self.kind!r}, expected binary, integer or real")
        if not self.shape or min(self.shape) < 1:
            raise UserError(f"shape is {list(self.shape)}, expected the positive sizes of one item, like [1, 8, 8]")
        if (self.kind == "integer") != (self.levels is not None):
            raise UserError(
                f"levels is {self.levels} for {self.kind} data, expected a number for integer data and none otherwise"
            )
        if self.levels is not None and self.levels < 2:
            raise UserError(f"levels is {self.levels}, expected at least 2 grey levels")
        if self.columns is not None and self.shape != (len(self.columns),):
            raise UserError(f"there are {len(self.columns)} column names for items of shape {list(self.shape)}")
        for step in self.steps:
            if not isinstance(step, Threshold if self.kind == "binary" else Standardise) or self.kind == "integer":
                raise UserError(f"the step {step.name!r} does not fit {self.kind} data: remove it or change kind")
            if isinstance(step, Standardise) and len(step.mean) != math.prod(self.shape):
                raise UserError(f"standardise has {len(step.mean)} means for items of shape {list(self.shape)}")

    def apply(self, raw: "Raw | np.ndarray | Tensor") -> Float32[Tensor, "N *shape"]:
        """Turn raw values, in the source's own units, into what the model saw.

        Args:
            raw: (N, *shape), or (N, D) with D the product of ``shape``. Columns of a `Raw` are matched by name.

        Returns:
            (N, *shape): 0 and 1, or whole numbers below ``levels``, or standardised numbers.

        Raises:
            UserError: the data do not fit: shape, column names, missing values, or range.
        """
        if isinstance(raw, Raw):
            values, title = self._matched(raw), raw.title
        else:
            values, title = np.asarray(raw.detach().cpu() if isinstance(raw, Tensor) else raw), "the data"
            if values.dtype.kind not in "buif":
                as_numbers(values, title)
        if values.shape[1:] != self.shape:
            if values.ndim != 2 or values.shape[1] != math.prod(self.shape):
                raise UserError(
                    f"{title}: the items have shape {values.shape[1:]}, expected {self.shape} as in {self.name!r}: "
                    "give data of that shape"
                )
            values = values.reshape(-1, *self.shape)
        refuse_missing(values, self.columns, title)
        for step in self.steps:
            with np.errstate(over="ignore"):
                values = step.apply(values, self.columns, title)
        if self.kind == "binary":
            remedy = "pass threshold=, from which on a value counts as 1, or another kind="
            refuse_levels(values, 2, self.columns, title, remedy)
        elif self.levels is not None:
            remedy = "give grey levels of that scale, or another kind= or levels="
            refuse_levels(values, self.levels, self.columns, title, remedy)
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        refuse_missing(single, self.columns, f"{title} after preprocessing")
        return torch.from_numpy(single)

    def _matched(self, raw: Raw) -> np.ndarray:
        """The values of ``raw`` with its columns in this spec's order."""
        if self.columns is None or raw.columns is None or raw.columns == self.columns:
            return raw.values
        for wrong, problem, remedy in (
            (set(self.columns) - set(raw.columns), "lacks the column", "add it"),
            (set(raw.columns) - set(self.columns), "has the unknown column", "remove it, or name it as id= or labels="),
        ):
            if wrong:
                raise UserError(
                    f"{raw.title} {problem} {min(wrong)!r}, expected the columns {', '.join(self.columns)}: {remedy}"
                )
        return raw.values[:, [raw.columns.index(column) for column in self.columns]]

    def log_scale(self) -> float:
        """log |Jacobian| of the preprocessing in nats per item, 0 for binary and integer data.

        Evidence of the standardised data plus this number is evidence in the raw data's units:
        log p(x_raw) = log p(x) - sum_d log std_d.
        """
        return math.fsum(step.log_scale() for step in self.steps)

    def to_json(self) -> str:
        """The text of ``data.json``."""
        from .specfile import encode

        return encode(self)

    @staticmethod
    def from_json(text: str) -> "DataSpec":
        """Read the text of a ``data.json``; unknown fields and wrong types are refused.

        Raises:
            UserError: the text is not a spec of this format version.
        """
        from .specfile import decode

        return decode(text)


def save_spec(spec: DataSpec, path: str | Path) -> None:
    """Write ``data.json`` atomically."""
    from .specfile import write

    write(Path(path), spec.to_json())


def load_spec(path: str | Path) -> DataSpec:
    """Read ``data.json``.

    Raises:
        UserError: the file is missing, unreadable, or not a spec; the message names the file.
    """
    try:
        return DataSpec.from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason}), expected the data.json of a checkpoint") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
