"""What other criteria choose for the same table."""

import math
import warnings
from typing import Any

import numpy as np

__all__ = ["others_of"]

Scores = tuple[np.ndarray, int | None]


def others_of(family: str, x: np.ndarray, estimator: Any, seed: int) -> dict[str, Scores]:
    """Criterion by name: its values over ``estimator.criterion_["n_components"]``, larger is better, and its choice.

    PPCA: BIC, AIC, Minka, parallel analysis, cross-validation (complete tables), hidden cells (missing). Gaussian mixtures:
    BIC and the lower bound of scikit-learn's BayesianGaussianMixture as it comes. Multinomial mixtures: none.
    """
    counts = estimator.criterion_["n_components"]
    if family == "ppca":
        return _ppca(x, counts, estimator, seed)
    return _mixture(x, counts, estimator, seed) if family == "mixture" else {}


def _ppca(x: np.ndarray, counts: np.ndarray, estimator: Any, seed: int) -> dict[str, Scores]:
    from infimum.selection import compare_criteria

    complete = not np.isnan(x).any()
    methods = ("bic", "aic", "minka", "parallel", "cv") if complete else ("cells",)
    top = min(int(counts[-1]), min(x.shape) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = compare_criteria(x, max_components=top, methods=methods, estimator=estimator, seed=seed)
    filled = {
        name: np.concatenate((score, np.full(len(counts) - len(score), np.nan))) for name, score in found.scores.items()
    }
    return {name: (score, found.choice.get(name)) for name, score in filled.items()}


def _mixture(x: np.ndarray, counts: np.ndarray, estimator: Any, seed: int) -> dict[str, Scores]:
    from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

    bic, raw = [], []
    kind = estimator.covariance_type
    for count in counts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"n_components": int(count), "covariance_type": kind, "n_init": 5, "random_state": seed}
            bic.append(-GaussianMixture(**options).fit(x).bic(x) / 2 if count <= len(x) else math.nan)
            bayesian = BayesianGaussianMixture(
                weight_concentration_prior_type="dirichlet_distribution", max_iter=500, **options
            )
            raw.append(bayesian.fit(x).lower_bound_)
    scores = {"bic": np.array(bic), "sklearn bound": np.array(raw)}
    return {name: (score, int(counts[np.nanargmax(score)])) for name, score in scores.items()}
