"""The evidence bound of scikit-learn's BayesianGaussianMixture, with the constants that its lower_bound_ leaves out."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from infimum.errors import UserError
from infimum.evidence import Estimate, closed_form

__all__ = ["RepairedBound", "from_sklearn"]


@dataclass(frozen=True)
class RepairedBound:
    """Bounds that may be compared between numbers of components and between priors.

    Attributes:
        elbo: nats of the data set, all constants included.
        estimate: the same as an Estimate.
        lower_bound: scikit-learn's ``lower_bound_``.
        constants: what was added to it.
        converged: whether scikit-learn's fit had settled.
    """

    elbo: float
    estimate: Estimate
    lower_bound: float
    constants: float
    converged: bool


def from_sklearn(mixture: Any, X: Any) -> RepairedBound:
    """ELBO of a fitted `sklearn.mixture.BayesianGaussianMixture` (scikit-learn issues 8823 and 19074).

    ELBO = lower_bound_ + log Gamma(K a0) - K log Gamma(a0) + K log B(W0, nu0) + (K d / 2) log beta0 - (n d / 2) log 2 pi;
    log B is the Wishart's normalising constant without the powers of pi, which scikit-learn leaves out on both sides.

    Args:
        mixture: with covariance_type="full", weight_concentration_prior_type="dirichlet_distribution" and reg_covar=0.
        X: the rows that it was fitted to, (n, d).

    Raises:
        UserError: another kind of mixture, one that was not fitted, or other rows.
    """
    from sklearn.mixture import BayesianGaussianMixture
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(mixture, BayesianGaussianMixture):
        raise UserError(f"from_sklearn takes a BayesianGaussianMixture, got {type(mixture).__name__}")
    for name, needed in (("covariance_type", "full"), ("weight_concentration_prior_type", "dirichlet_distribution"),
                         ("reg_covar", 0)):  # fmt: skip
        if getattr(mixture, name) != needed:
            raise UserError(
                f"the bound can be repaired for {name}={needed!r} only, got {getattr(mixture, name)!r}: fit again with "
                f"{name}={needed!r}, or use VariationalGaussianMixture"
            )
    check_is_fitted(mixture)
    x = np.asarray(X, dtype=np.float64)
    count, d = mixture.means_.shape
    if x.ndim != 2 or x.shape[1] != d:
        raise UserError(f"X has shape {x.shape}, the mixture was fitted to {d} columns: pass the rows of its fit")
    n, a0 = len(x), float(mixture.weight_concentration_prior_)
    fitted = float(np.sum(mixture.weight_concentration_)) - count * a0
    if abs(fitted - n) > 1e-6 * n:
        raise UserError(f"X has {n} rows, the mixture was fitted to {fitted:.0f}: pass the rows of its fit")
    nu0, scale0 = float(mixture.degrees_of_freedom_prior_), mixture.covariance_prior_
    log_b = nu0 / 2 * np.linalg.slogdet(scale0)[1] - nu0 * d / 2 * math.log(2) - gammaln((nu0 - np.arange(d)) / 2).sum()
    constants = float(
        gammaln(count * a0) - count * gammaln(a0) + count * log_b + count * d / 2 * math.log(mixture.mean_precision_prior_)
        - n * d / 2 * math.log(2 * math.pi)
    )  # fmt: skip
    lower = float(mixture.lower_bound_)
    estimate = closed_form(
        torch.tensor([lower + constants], dtype=torch.float64),
        "lower",
        name="ELBO",
        target="evidence of the data set, a=1",
    )
    return RepairedBound(lower + constants, estimate, lower, constants, bool(mixture.converged_))
