"""Which numbers of principal components a table supports, and which of them are tried."""

from typing import Any

import numpy as np

from infimum.errors import UserError
from infimum.selection.settings import PPCASettings

__all__ = ["numbers", "supported"]

_GRID = 50  # tried where max_components is None


def supported(shape: tuple[int, int], means: np.ndarray, variances: np.ndarray, settings: PPCASettings) -> int:
    """Most components that leave something to learn the noise from.

    Constant columns span one axis where nothing is subtracted, and none about their mean.

    Raises:
        UserError: no column varies, and the noise is to be learned.
    """
    if settings.noise == "known":
        return shape[1]
    varying = int((variances > 0).sum())
    if not varying:
        raise UserError(
            "no column varies, so that the likelihood is unbounded: use noise='known' with a noise_variance, or other data"
        )
    spanned = bool(means[variances == 0].any()) if settings.mean == "zero" else False
    return max(min(shape[0], varying + spanned) - 1, 0)


def numbers(
    n_components: Any, max_components: Any, shape: tuple[int, int], constant: int, limit: int, noise: str
) -> list[int]:
    """The numbers to try.

    Args:
        n_components: "evidence" or a number.
        max_components: the largest number to try, or None.
        shape: of the table.
        constant: columns that do not vary.
        limit: most components that the table supports.
        noise: of the settings.

    Raises:
        UserError: not a number of components, or more than the table supports.
    """
    n, d = shape
    for name, value, automatic in (
        ("n_components", n_components, "evidence"),
        ("max_components", max_components, None),
    ):
        if value is automatic or (isinstance(value, str) and value == automatic):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            other = "'evidence' or " if name == "n_components" else ""
            raise UserError(f"{name} must be {other}a number of components, 0 or more: got {value!r}")
        if value > limit:
            remedy = f"use noise='known' or at most {limit}" if noise != "known" else f"use at most {limit}"
            flat = f", {constant} of them constant" if constant else ""
            raise UserError(
                f"{name}={value} leaves no residual degrees of freedom with n_samples={n} and n_features={d}{flat}: {remedy}"
            )
    if isinstance(n_components, str):
        return list(range((min(limit, _GRID) if max_components is None else int(max_components)) + 1))
    return [int(n_components)]
