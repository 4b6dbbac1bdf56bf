"""Tables and exact values that the tests of PPCA share."""

import dataclasses
import math

import numpy as np
import torch

from infimum.selection.cavi import State, bound, update_noise
from infimum.selection.cells import Cells
from infimum.selection.settings import PPCASettings

FIXED = {"prior": "fixed", "noise": "known", "noise_variance": 0.5, "mean": "zero"}


def oracle_table() -> np.ndarray:
    """d = 2, q = 1, n = 30: small enough for quadrature over W."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2, 1))
    return rng.normal(size=(30, 1)) @ w.T + math.sqrt(0.5) * rng.normal(size=(30, 2))


def table(n: int = 60, d: int = 5, q: int = 2, seed: int = 0, missing: float = 0.0) -> np.ndarray:
    """q loud components in unit noise; cells missing completely at random, none of their rows or columns empty."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(d, q)) * np.linspace(2, 1, q)
    x = rng.normal(size=(n, q)) @ w.T + rng.normal(size=(n, d))
    hole = rng.random(x.shape) < missing
    hole[np.arange(n), rng.integers(d, size=n)] = False
    x[hole] = np.nan
    return x


def quadrature(x: np.ndarray, alpha: float, noise: float, prior: float, points: int = 801, width: float = 5.0) -> float:
    """log int prod_i N(x_i; 0, w w' + noise I)^alpha N(w; 0, prior I) dw for d = 2, by the trapezoidal rule."""
    axis = torch.linspace(-width, width, points, dtype=torch.float64)
    w = torch.cartesian_prod(axis, axis)
    square = w.square().sum(1)
    x = torch.as_tensor(x)
    total, projected = x.square().sum(), (w @ (x.T @ x) * w).sum(1)
    n = len(x)
    logs = (
        -n * math.log(2 * math.pi) - n / 2 * (math.log(noise) + (noise + square).log())
        - (total - projected / (noise + square)) / (2 * noise)
    )  # fmt: skip
    density = alpha * logs - square / (2 * prior) - math.log(2 * math.pi * prior)
    return float(density.logsumexp(0)) + 2 * math.log(2 * width / (points - 1))


def value(state: State, cells: Cells, settings: PPCASettings) -> float:
    """The bound at any point between two updates: the residual is brought up to date, the noise is not."""
    copy = dataclasses.replace(state)
    update_noise(copy, cells, dataclasses.replace(settings, noise="known", noise_variance=1.0), 1e-12)
    return bound(copy, cells, settings)
