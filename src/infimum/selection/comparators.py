"""Other ways to choose the number of principal components, beside the bound: BIC, AIC, Minka, Horn, cross-validation."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln
from sklearn.base import clone

from infimum.errors import UserError
from infimum.selection.ppca import VariationalPPCA

__all__ = [
    "Criteria",
    "compare_criteria",
    "cross_validated",
    "held_out_cells",
    "information",
    "minka",
    "parallel_analysis",
]

_COMPLETE = ("evidence", "bic", "aic", "minka", "parallel", "cv")
_METHODS = (*_COMPLETE, "parallel correlation", "cells")


@dataclass(frozen=True)
class Criteria:
    """One table of all criteria.

    Attributes:
        n_components: 0 .. max_components.
        scores: criterion by name, larger is better, one number for each of ``n_components``, NaN where it is not defined: nats
            of the data set ("evidence", "bic", "aic", "minka"), nats a row ("cv"), nats a cell ("cells"), observed
            eigenvalue less its limit ("parallel": positive means kept).
        choice: chosen number by name.
    """

    n_components: np.ndarray
    scores: dict[str, np.ndarray]
    choice: dict[str, int]


def _eigenvalues(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d"]:
    """Of the covariance with divisor n, decreasing."""
    n, d = x.shape
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2 / n
    return np.concatenate((values, np.zeros(max(d - len(values), 0))))[:d]


def information(x: Float[np.ndarray, "n d"], q: np.ndarray, price: float) -> Float[np.ndarray, "Q"]:
    """Maximised PPCA log-likelihood less ``price`` for each parameter, nats (Tipping & Bishop 1999).

    l = -n/2 [d log 2pi + sum_{j<=q} log lambda_j + (d - q) log sigma^2 + d]; dq - q(q-1)/2 + 1 + d parameters. BIC has price
    log(n)/2, AIC 1. NaN where no noise is left.
    """
    n, d = x.shape
    values = _eigenvalues(x)
    noise = _residual(values, q)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.concatenate(([0.0], np.cumsum(np.log(values))))[q]
        likelihood = -n / 2 * (d * math.log(2 * math.pi) + logs + (d - q) * np.log(noise) + d)
    parameters = d * q - q * (q - 1) / 2 + 1 + d
    return np.where(noise > 1e-12 * values[0], likelihood - price * parameters, np.nan)


def _residual(values: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Mean of the eigenvalues beyond the first q; 0 beyond the last."""
    d = len(values)
    tail = np.concatenate((np.cumsum(values[::-1])[::-1], [0.0]))
    return np.where(q < d, tail[q] / np.maximum(d - q, 1), 0.0)


def minka(x: Float[np.ndarray, "n d"], q: np.ndarray) -> Float[np.ndarray, "Q"]:
    """Laplace evidence of PPCA in nats (Minka, NIPS 2000), as in scikit-learn; defined for 1 <= q < d and n >= d, else NaN."""
    n, d = x.shape
    spectrum = _eigenvalues(x) * n / (n - 1)
    out = np.full(len(q), np.nan)
    if n < d:
        return out
    for i, k in enumerate(q):
        if not 1 <= k < d or spectrum[k - 1] <= 1e-15 * spectrum[0]:
            continue
        rank = np.arange(1, k + 1)
        volume = -k * math.log(2) + (gammaln((d - rank + 1) / 2) - (d - rank + 1) / 2 * math.log(math.pi)).sum()
        noise = max(spectrum[k:].mean(), np.finfo(float).eps)
        m = d * k - k * (k + 1) / 2
        flat = np.where(np.arange(d) < k, spectrum, noise)
        gaps = spectrum[:k, None] - spectrum[None, :]
        inverse = 1 / flat[None, :] - 1 / flat[:k, None]
        upper = np.triu(np.ones((k, d), dtype=bool), 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            curvature = (np.log(gaps[upper] * inverse[upper]) + math.log(n)).sum()
        out[i] = (
            volume - n / 2 * np.log(spectrum[:k]).sum() - n * (d - k) / 2 * math.log(noise)
            + (m + k) / 2 * math.log(2 * math.pi) - curvature / 2 - k / 2 * math.log(n)
        )  # fmt: skip
    return out


def parallel_analysis(
    x: Float[np.ndarray, "n d"], *, correlation: bool = False, permutations: int = 100, quantile: float = 0.95, seed: Any = 0
) -> Float[np.ndarray, "d"]:  # fmt: skip
    """Eigenvalues less the quantile of their rank after every column was permuted (Horn 1965); keep the leading positive ones."""
    z = x - x.mean(0)
    if correlation:
        sd = z.std(0)
        z = z / np.where(sd > 0, sd, 1)
    rng = np.random.default_rng(seed)
    null = np.stack([_eigenvalues(rng.permuted(z, axis=0)) for _ in range(permutations)])
    return _eigenvalues(z) - np.quantile(null, quantile, axis=0)


def cross_validated(
    x: Float[np.ndarray, "n d"], q: np.ndarray, *, folds: int = 5, seed: int = 0
) -> Float[np.ndarray, "Q"]:
    """Mean log-likelihood of rows left out, under the maximum-likelihood PPCA of the others, nats a row; all q at once.

    Raises:
        UserError: fewer than 2 folds, or more than rows.
    """
    from sklearn.model_selection import KFold

    n, d = x.shape
    if not 2 <= folds <= n:
        raise UserError(f"folds must lie between 2 and the number of rows, {n}: got {folds}")
    total = np.zeros(len(q))
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(x):
        mean = x[train].mean(0)
        values, axes = np.linalg.eigh((x[train] - mean).T @ (x[train] - mean) / len(train))
        values, axes = np.maximum(values[::-1], 0), axes[:, ::-1]
        square = ((x[test] - mean) @ axes) ** 2
        noise = _residual(values, q)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = np.concatenate(([0.0], np.cumsum(np.log(values) + square.mean(0) / values)))[q]
            outside = np.concatenate((np.cumsum(square.mean(0)[::-1])[::-1], [0.0]))[q]
            score = -(d * math.log(2 * math.pi) + inside + (d - q) * np.log(noise) + outside / noise) / 2
        total += np.where(noise > 1e-12 * values[0], score, np.nan) * len(test)
    return total / n


def held_out_cells(
    x: Float[np.ndarray, "n d"], q: np.ndarray, *, estimator: VariationalPPCA, share: float = 0.1, seed: int = 0
) -> Float[np.ndarray, "Q"]:
    """Mean log predictive density of observed cells that were hidden from the fit, nats a cell, Gaussian predictive.

    Args:
        x: table with NaN where cells are missing.
        q: numbers of components.
        estimator: whose settings are used.
        share: of the observed cells that is hidden; every row and column keeps one.
        seed: of which.
    """
    rng = np.random.default_rng(seed)
    hidden = ~np.isnan(x) & (rng.random(x.shape) < share)
    seen = ~np.isnan(x) & ~hidden
    for axis in (0, 1):
        empty = ~seen.any(axis)
        hidden &= ~(empty[None, :] if axis == 0 else empty[:, None])
    if not hidden.any():
        raise UserError(f"no cell was hidden from {x.shape[0]} rows with share={share}: raise it")
    kept = np.where(hidden, np.nan, x)
    scores = []
    for number in q:
        fitted = clone(estimator).set_params(n_components=int(number))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mean, sd = fitted.fit(kept).impute(kept)
        z = (x[hidden] - mean[hidden]) / sd[hidden]
        scores.append(float((-0.5 * z**2 - np.log(sd[hidden]) - 0.5 * math.log(2 * math.pi)).mean()))
    return np.array(scores)


def compare_criteria(
    X: Any,
    *,
    max_components: int | None = None,
    methods: Sequence[str] | None = None,
    estimator: VariationalPPCA | None = None,
    seed: int = 0,
) -> Criteria:
    """The choice of the number of components by the evidence bound and by what is used instead, in one call.

    Args:
        X: table (n, d); NaN where cells are missing.
        max_components: largest number; None: min(n - 1, d - 1, 50).
        methods: of "evidence", "bic", "aic", "minka", "parallel", "parallel correlation", "cv", "cells"; None: the first six but
            "parallel correlation" for complete tables, "evidence" and "cells" where cells are missing.
        estimator: of the criterion "evidence" and the fits of "cells"; None: `VariationalPPCA` as it comes.
        seed: of folds, permutations and hidden cells.

    Raises:
        UserError: a method that is not known, or that needs a complete table.
    """
    x = np.asarray(X, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2:
        raise UserError(f"a table of at least 2 rows and 2 columns is needed to compare criteria, got shape {x.shape}")
    complete = not np.isnan(x).any()
    names = methods if methods is not None else (_COMPLETE if complete else ("evidence", "cells"))
    for name in names:
        if name not in _METHODS:
            raise UserError(f"methods are {', '.join(_METHODS)}; got {name!r}")
        if not complete and name not in ("evidence", "cells"):
            raise UserError(
                f"{name!r} needs a complete table, and this one has missing cells: use 'evidence' or 'cells'"
            )
    limit = min(x.shape[0] - 1, x.shape[1] - 1)
    top = min(limit, 50) if max_components is None else max_components
    if not 0 <= top <= limit:
        raise UserError(f"max_components must lie between 0 and {limit} for shape {x.shape}, got {top}")
    q = np.arange(top + 1)
    model = clone(estimator) if estimator is not None else VariationalPPCA(random_state=seed)
    scores: dict[str, np.ndarray] = {}
    choice: dict[str, int] = {}
    for name in names:
        if name == "evidence":
            fitted = model.set_params(n_components="evidence", max_components=top).fit(x)
            scores[name], choice[name] = fitted.criterion_["criterion"], fitted.n_components_
            continue
        if name.startswith("parallel"):
            gap = parallel_analysis(x, correlation=name.endswith("correlation"), seed=seed)
            scores[name] = np.concatenate(([np.nan], gap))[: top + 1]
            choice[name] = int(np.argmin(np.append(gap[:top] > 0, False)))
            continue
        scores[name] = {
            "bic": lambda: information(x, q, math.log(len(x)) / 2),
            "aic": lambda: information(x, q, 1.0),
            "minka": lambda: minka(x, q),
            "cv": lambda: cross_validated(x, q, folds=min(5, len(x)), seed=seed),
            "cells": lambda: held_out_cells(x, q, estimator=model, seed=seed),
        }[name]()
        if not np.isnan(scores[name]).all():
            choice[name] = int(q[np.nanargmax(scores[name])])
    return Criteria(q, scores, choice)
