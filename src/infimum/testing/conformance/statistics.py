"""The tests of hypotheses: each says how often it fails a correct model."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from infimum.testing.conformance.report import Failed

__all__ = ["largest_z", "normal_limit", "student_limit", "two_sample_z"]


def normal_limit(level: float, tests: int) -> float:
    """The limit on |z| of several two-sided tests that together raise a false alarm with probability ``level``."""
    return -float(torch.special.ndtri(torch.tensor(level / (2 * tests), dtype=torch.float64)))


def student_limit(level: float, freedom: int) -> float:
    """The limit on |t| of one two-sided test."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, level / 2))


def largest_z(values: Float[Tensor, "n m"], floor: float = 1e-6) -> float:
    """Largest |mean| / stderr over the columns; means below ``floor`` count as zero."""
    mean, error = values.mean(0).abs(), values.std(0) / math.sqrt(values.shape[0])
    return float(_ratio(mean, error, floor).max())


def two_sample_z(a: Float[Tensor, "n m"], b: Float[Tensor, "l m"], floor: float = 1e-6) -> Float[Tensor, "m"]:
    """|difference of the means| / stderr, column by column."""
    error = (a.var(0) / a.shape[0] + b.var(0) / b.shape[0]).sqrt()
    return _ratio((a.mean(0) - b.mean(0)).abs(), error, floor)


def _ratio(mean: Tensor, error: Tensor, floor: float) -> Tensor:
    if bool(mean.isnan().any()):
        raise Failed("the statistic is NaN: the densities are not finite where they were evaluated")
    return torch.where(mean <= floor, 0.0, mean / error)
