"""Preprocessing steps: small frozen records that turn raw values into what a model sees."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from infimum.errors import UserError

from .raw import place

__all__ = ["STEPS", "Standardise", "Step", "Threshold", "refuse_levels"]


def refuse_levels(values: np.ndarray, levels: int, columns: tuple[str, ...] | None, title: str, remedy: str) -> None:
    """Refuse values that are not whole numbers in 0 .. levels - 1, naming the first place.

    Raises:
        UserError: such a value.
    """
    wrong = (values < 0) | (values > levels - 1)
    if values.dtype.kind == "f":
        wrong |= values != np.floor(values)
    if wrong.any():
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), values.shape))
        expected = "0 or 1" if levels == 2 else f"a whole number from 0 to {levels - 1}"
        raise UserError(
            f"{title}: {place(index, columns)} holds {values[index]:g}, expected {expected} "
            f"({int(wrong.sum())} such values in all): {remedy}"
        )


@dataclass(frozen=True)
class Threshold:
    """Binarise: 1 where raw value >= ``value``, else 0.

    Attributes:
        value: in the source's own units.
        levels: number of grey levels of the raw values, so that values of another range are refused; None: any number.
    """

    value: float
    levels: int | None = None
    name: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        if not np.isfinite(self.value):
            raise UserError(f"threshold is {self.value}, expected a finite number: choose one within the data's range")
        if self.levels is not None and self.levels < 2:
            raise UserError(f"threshold: levels is {self.levels}, expected at least 2, or none for continuous values")

    def apply(self, values: np.ndarray, columns: tuple[str, ...] | None, title: str) -> np.ndarray:
        """Raw values (N, *shape) -> zeros and ones of the same shape."""
        if self.levels is not None:
            remedy = "give values on the scale that the model was trained on"
            refuse_levels(values, self.levels, columns, title, remedy)
        return values >= self.value

    def log_scale(self) -> float:
        """0: a binary item has a probability, not a density."""
        return 0.0


@dataclass(frozen=True)
class Standardise:
    """(x - mean) / std for each value of an item, in float64.

    Attributes:
        mean: one number for each value of an item, flattened; of the training rows.
        std: the same, population standard deviation (divisor N), above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: ClassVar[str] = "standardise"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UserError(
                f"standardise: {len(self.mean)} means and {len(self.std)} stds, expected one each for every column"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and min(self.std, default=1.0) > 0):
            raise UserError("standardise: means and stds must be finite and every std above 0: fit them again")

    @staticmethod
    def fit(train: np.ndarray, columns: tuple[str, ...] | None, title: str) -> "Standardise":
        """Mean and standard deviation of the training rows, (N, *shape).

        Raises:
            UserError: a column is constant in them (a density would grow without bound), or too large to square.
        """
        flat = train.reshape(len(train), -1).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = flat.mean(0), flat.std(0)
        constant = std <= 1e-12 * np.abs(flat).max(0)
        for wrong, problem, remedy in (
            (~np.isfinite(std), "is too large to be squared", "rescale the column"),
            (constant, f"has the same value in all {len(flat)} training rows", "remove the column"),
        ):
            if wrong.any():
                column = int(np.argmax(wrong))
                index = tuple(int(i) for i in np.unravel_index(column, train.shape[1:]))
                where = place((0, *index), columns).split(", ", 1)[1]
                raise UserError(
                    f"{title}: {where} {problem} ({flat[0, column]:g}), expected a spread that can be standardised "
                    f"({int(wrong.sum())} such columns in all): {remedy}"
                )
        return Standardise(tuple(mean.tolist()), tuple(std.tolist()))

    def apply(self, values: np.ndarray, columns: tuple[str, ...] | None, title: str) -> np.ndarray:
        """Raw values (N, *shape) -> standardised values of the same shape."""
        flat = values.reshape(len(values), -1).astype(np.float64)
        return ((flat - self.mean) / self.std).reshape(values.shape)

    def log_scale(self) -> float:
        """log |d out / d in| of an item in nats: -sum_d log std_d."""
        return -float(np.log(self.std).sum())


Step = Threshold | Standardise
STEPS: dict[str, type[Threshold] | type[Standardise]] = {step.name: step for step in (Threshold, Standardise)}
