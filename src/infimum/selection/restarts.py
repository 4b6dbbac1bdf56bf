"""Where the ascent of a mixture starts: k-means from k-means++ centres, and the nearest of some rows drawn uniformly."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Int
from sklearn.exceptions import ConvergenceWarning

__all__ = ["start_labels"]


def start_labels(features: Any, components: int, restarts: int, rng: np.random.Generator) -> Int[np.ndarray, "R n"]:
    """Component of every row at the start of every restart.

    The first half of the restarts, rounded up, are runs of k-means from k-means++ centres (Arthur & Vassilvitskii 2007); the
    others give each row to the nearest of 1 to K rows drawn uniformly: with fewer than K, components start empty, and the optima
    in which they stay so (Wang & Yang, 2404.16746) are found too.

    Args:
        features: (n, f) array or scipy sparse matrix whose Euclidean distances tell rows apart.
        components: K, at most n.
        restarts: R.
        rng: source of randomness.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances_argmin

    labels = np.zeros((restarts, features.shape[0]), dtype=np.int64)
    for restart in range(restarts):
        if restart < (restarts + 1) // 2:
            means = KMeans(components, n_init=1, random_state=int(rng.integers(2**31)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than components
                labels[restart] = means.fit(features).labels_
        else:
            drawn = rng.choice(features.shape[0], size=rng.integers(1, components + 1), replace=False)
            labels[restart] = pairwise_distances_argmin(features, features[drawn])
    return labels
