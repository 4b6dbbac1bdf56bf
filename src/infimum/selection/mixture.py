"""Variational Gaussian mixtures as a scikit-learn estimator that chooses the number of components by the evidence bound."""

import math
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from infimum.errors import UserError
from infimum.selection.mixture_axes import Axes, Known
from infimum.selection.mixture_base import MixtureEstimator, positive
from infimum.selection.mixture_full import Full

__all__ = ["VariationalGaussianMixture"]

_TYPES = ("full", "diag", "spherical", "known")


class VariationalGaussianMixture(MixtureEstimator):
    """Gaussian mixture fitted by its tempered evidence bound, which also chooses the number of components (1810.11859).

    x_i ~ sum_k p_k N(m_k, Lambda_k^-1), p ~ Dirichlet(weight_concentration_prior, ..), m_k | Lambda_k ~ N(mean_prior,
    (mean_precision_prior Lambda_k)^-1), Lambda_k ~ Wishart(covariance_prior^-1, degrees_of_freedom_prior). Each number K of
    components gets the criterion ELBO_alpha(K) - log(1 / pi_K), and the largest wins, ties to the smallest K. All numbers are
    in nats of the data set, all constants included, so that the bounds of different K, and of other models of the same data,
    can be compared. The default priors are placed by mean and covariance of the data, the same for all K.

    Args:
        n_components: "evidence", or a number.
        max_components: largest number that is tried; None: 10, or the number of rows if that is less.
        covariance_type: "full"; "diag"; "spherical": one precision a component; "known": ``covariance`` for all.
        covariance: known covariance: a variance, d variances or a (d, d) matrix.
        alpha: temper of the likelihood, in (0, 1]; the oracle inequality needs alpha < 1.
        weight_concentration_prior: Dirichlet parameter of the weights.
        mean_prior: m0, (d,); None: mean of the data.
        mean_precision_prior: beta0.
        degrees_of_freedom_prior: nu0; None: d for "full", 1 for "diag" and "spherical", whose precisions are Gamma(nu0 / 2,
            covariance_prior / 2).
        covariance_prior: inverse scale of the Wishart prior: (d, d) for "full", (d,) for "diag", a number for "spherical"; None:
            covariance of the data, its diagonal, or the mean of that.
        model_prior: pi_K: "geometric" 2^-K, "uniform", or an array that is positive and sums to at most 1.
        label_switching: add log K! to the criterion and to ``estimate_``, which is then no strict bound; reported always.
        n_init: restarts, half from k-means and half from 1 to K rows drawn uniformly, fitted as one batch.
        max_iter: sweeps over all factors.
        tol: relative change of the bound at which a fit has settled.
        random_state: of the restarts and of samples.
        device: torch device.

    Attributes:
        n_components_: chosen number of components.
        criterion_: dict of arrays, an entry a number of components: "n_components", "elbo", "penalty", "label_switching" (log K!),
            "criterion", "converged", "restarts_agreeing" (restarts that ended within 0.01 nats of the best), "posterior".
        elbo_, log_prior_weight_: of the chosen model; log pi_K is 0 where K was given.
        estimate_: the bound as an `infimum.evidence.Estimate` that says what it bounds.
        model_posterior_: softmax of the criterion; 0 for fits that have not settled.
        weights_, means_: E[p] (K,) and E[m] (K, d).
        covariances_: E[Lambda_k]^-1: (K, d, d), (K, d), (K,), or the known one (d, d).
        weight_concentration_, mean_precision_, degrees_of_freedom_: of q, (K,).
        converged_, n_iter_: of the chosen model; sweeps.
        n_features_in_, feature_names_in_: as in scikit-learn.
    """

    def __init__(
        self,
        n_components: Any = "evidence",
        *,
        max_components: Any = None,
        covariance_type: Any = "full",
        covariance: Any = None,
        alpha: Any = 0.9,
        weight_concentration_prior: Any = 1.0,
        mean_prior: Any = None,
        mean_precision_prior: Any = 0.01,
        degrees_of_freedom_prior: Any = None,
        covariance_prior: Any = None,
        model_prior: Any = "geometric",
        label_switching: Any = False,
        n_init: Any = 10,
        max_iter: Any = 2000,
        tol: Any = 1e-8,
        random_state: Any = None,
        device: Any = "cpu",
    ) -> None:
        self.n_components = n_components
        self.max_components = max_components
        self.covariance_type = covariance_type
        self.covariance = covariance
        self.alpha = alpha
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_prior = mean_prior
        self.mean_precision_prior = mean_precision_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.model_prior = model_prior
        self.label_switching = label_switching
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.device = device

    def _read(self, X: Any, *, reset: bool) -> np.ndarray:
        return validate_data(self, X, reset=reset, dtype=np.float64, ensure_min_samples=2 if reset else 1)

    def _check_settings(self) -> None:
        super()._check_settings()
        positive(mean_precision_prior=self.mean_precision_prior)
        if self.covariance_type not in _TYPES:
            raise UserError(f"covariance_type must be one of {', '.join(_TYPES)}, got {self.covariance_type!r}")
        if (self.covariance is not None) != (self.covariance_type == "known"):
            remedy = (
                "give the covariance" if self.covariance is None else "use covariance_type='known', or covariance_prior"
            )
            raise UserError(f"covariance goes with covariance_type='known', got {self.covariance_type!r}: {remedy}")

    def _tensor(self, value: Any) -> torch.Tensor:
        return torch.tensor(np.asarray(value, dtype=np.float64), device=self.device)

    def _prepare(self, x: np.ndarray) -> tuple[Full | Axes | Known, np.ndarray]:
        d = x.shape[1]
        center = x.mean(0) if self.mean_prior is None else np.asarray(self.mean_prior, dtype=np.float64)
        if center.shape != (d,) or not np.isfinite(center).all():
            raise UserError(f"mean_prior must be {d} finite numbers, one a column, got shape {center.shape}")
        beta = float(self.mean_precision_prior)
        spread = x.std(0)
        scaled = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
        if self.covariance_type == "known":
            root = np.linalg.cholesky(_matrix("covariance", self.covariance, d))
            known = Known(self._tensor(center), beta, self._tensor(root))
            return known, known.read(self._tensor(x)).cpu().numpy()
        least = d - 1 if self.covariance_type == "full" else 0
        dof = least + 1 if self.degrees_of_freedom_prior is None else self.degrees_of_freedom_prior
        if isinstance(dof, (bool, str)) or not least < dof < math.inf:
            raise UserError(f"degrees_of_freedom_prior must be above {least} for {self.covariance_type!r}, got {dof!r}")
        scale = self._scale(x, d)
        family = Full if self.covariance_type == "full" else Axes
        return family(self._tensor(center), beta, float(dof), self._tensor(scale)), scaled

    def _scale(self, x: np.ndarray, d: int) -> np.ndarray:
        """W0^-1, checked."""
        kind = self.covariance_type
        if self.covariance_prior is None:
            constant = np.flatnonzero(np.ptp(x, axis=0) == 0)
            if len(constant) and kind != "spherical":
                names = getattr(self, "feature_names_in_", np.arange(d))
                raise UserError(
                    f"column {names[constant[0]]} is constant, so that its likelihood is unbounded: drop it or give "
                    "covariance_prior"
                )
            if kind == "full":
                values = np.linalg.eigvalsh(np.corrcoef(x.T).reshape(d, d))
                if values[0] <= 1e-10 * values[-1]:
                    raise UserError(
                        f"the covariance of the data ({len(x)} rows, {d} columns) is singular and cannot be the prior: drop "
                        "dependent columns, use covariance_type='diag', or give covariance_prior"
                    )
                return np.cov(x.T, bias=True).reshape(d, d)
            variance = x.var(0)
            if kind == "spherical" and not variance.any():
                raise UserError("no column varies, so that the likelihood is unbounded: give covariance_prior")
            return variance if kind == "diag" else np.array([variance.mean()])
        if kind == "full":
            return _matrix("covariance_prior", self.covariance_prior, d)
        value = np.asarray(self.covariance_prior, dtype=np.float64)
        expected = (d,) if kind == "diag" else ()
        if value.shape != expected or not ((value > 0) & np.isfinite(value)).all():
            what = f"{d} positive numbers" if kind == "diag" else "a positive number"
            raise UserError(
                f"covariance_prior must be {what} for covariance_type={kind!r}, got {self.covariance_prior!r}"
            )
        return value.reshape(-1)

    def _rows(self, x: np.ndarray) -> torch.Tensor:
        return self._components.read(self._tensor(x))

    def _keep(self) -> None:
        family, factor = self._components, self._factor
        known = self.covariance_type == "known"
        self.means_ = family.means(factor)[0].cpu().numpy()
        self.covariances_ = (family.covariances(factor) if known else family.covariances(factor)[0]).cpu().numpy()
        self.mean_precision_ = factor.precision[0].cpu().numpy()
        if not known:
            self.degrees_of_freedom_ = factor.dof[0].cpu().numpy()

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draws from the predictive of `score_samples`: rows (n_samples, d) and their components; from ``random_state``."""
        check_is_fitted(self)
        rng = check_random_state(self.random_state)
        labels = self._draw_labels(n_samples, rng)
        x = self._components.draw(self._factor, torch.as_tensor(labels, device=self.device), rng)
        return x.cpu().numpy(), labels


def _matrix(name: str, value: Any, d: int) -> np.ndarray:
    """A covariance matrix from a variance, d variances or a matrix."""
    value = np.asarray(value, dtype=np.float64)
    if value.ndim < 2 and value.shape in ((), (d,)):
        value = np.diag(np.broadcast_to(value, (d,)))
    if value.shape != (d, d) or not np.isfinite(value).all() or not np.allclose(value, value.T):
        raise UserError(
            f"{name} must be a number, {d} numbers or a symmetric ({d}, {d}) matrix, got shape {value.shape}"
        )
    if np.linalg.eigvalsh(value)[0] <= 0:
        raise UserError(f"{name} must be positive definite, its least eigenvalue is {np.linalg.eigvalsh(value)[0]:g}")
    return value
