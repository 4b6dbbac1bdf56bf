"""What a user of a selected model should know: warnings about a choice."""

import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from infimum.selection.settings import PPCASettings

__all__ = ["doubts"]


def doubts(
    table: Mapping[str, np.ndarray], q: int, *, selecting: bool, names: np.ndarray, limit: int, settings: PPCASettings,
    max_iter: int,
) -> None:  # fmt: skip
    """Warn about constant columns, fits that have not settled, a noise at its floor, the edge of the grid, a close decision.

    Args:
        table: criterion_ of the estimator.
        q: chosen number of components.
        selecting: whether it was chosen.
        names: of the constant columns.
        limit: most components that the data support.
        settings: the model's.
        max_iter: sweeps that were allowed.
    """
    for text, kind in _texts(table, q, selecting, names, limit, settings, max_iter):
        warnings.warn(text, kind, stacklevel=4)


def _texts(
    table: Mapping[str, np.ndarray], q: int, selecting: bool, names: np.ndarray, limit: int, settings: PPCASettings,
    max_iter: int,
) -> list[tuple[str, type[Warning]]]:  # fmt: skip
    found: list[tuple[str, type[Warning]]] = []
    chosen = table["n_components"] == q
    if len(names):
        many = len(names) > 1
        which = f"columns {_listed(names)} are" if many else f"column {names[0]} is"
        why = (
            "which a known noise rules out" if settings.noise == "known"
            else "which makes the common noise look smaller than it is in the others"
        )  # fmt: skip
        found.append((f"{which} constant, {why}: drop {'them' if many else 'it'}", UserWarning))
    if not table["converged"].all():
        bad = table["n_components"][~table["converged"]].tolist()
        what = "is left out of the choice" if table["converged"][chosen].all() else "was kept for want of another"
        text = f"the bound with {bad} components had not settled after max_iter={max_iter} sweeps and {what}: raise max_iter or tol"
        found.append((text, ConvergenceWarning))
    if table["at_floor"][chosen].any():
        text = (
            f"the noise variance with {_count(q)} hit its floor, {settings.floor:g} of the variance of the data, below which "
            "the bound grows without limit: use fewer components, or noise='known'"
        )
        found.append((text, UserWarning))
    if table["noise_from_prior"][chosen].any():
        text = (
            f"with {_count(q)} the prior of the noise (rate {settings.noise_rate:g}) weighs more than the squared error "
            "of the fit, and decides: drop columns that are sums of others, use fewer components, or noise='known'"
        )
        found.append((text, UserWarning))
    if not selecting or len(chosen) < 2:
        return found
    if q == table["n_components"][-1] < limit:
        text = f"the maximum lies at the edge of the grid, {_count(q)}: raise max_components"
        found.append((text, UserWarning))
    value = np.sort(table["criterion"][table["converged"]])
    gaps = table["gap"][~np.isnan(table["gap"])]  # what both bounds lose alike does not bear on the choice
    looseness = float(np.ptp(gaps)) if len(gaps) else 0.0
    if len(value) > 1 and value[-1] - value[-2] < looseness:
        text = (
            f"the best two criteria differ by {value[-1] - value[-2]:.2f} nats, less than their bounds differ in visible "
            f"looseness, {looseness:.2f} nats (collapsed bound less ELBO): try orbit=True, or collect more data"
        )
        found.append((text, UserWarning))
    return found


def _listed(names: np.ndarray) -> str:
    """At most ten names."""
    return ", ".join(map(str, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _count(q: int) -> str:
    return f"{q} component{'s' * (q != 1)}"
