"""Variational PPCA as a scikit-learn estimator that chooses its number of components by the evidence bound."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from infimum.errors import UserError
from infimum.evidence import closed_form
from infimum.selection.cells import Cells, observe
from infimum.selection.columns import dense, less, moments
from infimum.selection.doubts import doubts
from infimum.selection.grid import CellsGrid, SpectrumGrid
from infimum.selection.numbers import numbers, supported
from infimum.selection.posterior import Posterior, log_density
from infimum.selection.settings import PPCASettings, model_weights

__all__ = ["VariationalPPCA"]

_GAP_DRAWS = 32  # of the collapsed bound of the best two models


class VariationalPPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Probabilistic PCA fitted by its tempered evidence bound, which also chooses the number of components (1810.11859).

    x_i = mu + W z_i + eps_i; each number q of components gets the criterion ELBO_alpha(q) - log(1 / pi_q), and the largest
    wins, ties to the smallest q. Missing cells are NaN, or the cells that a scipy sparse matrix does not store; which
    ones are missing must not depend on their values (missing at random). All numbers are in nats of the data set.

    Complete tables cost one eigendecomposition for all q; others coordinate ascent, whose cost grows with the number of
    different patterns of missing cells.

    Args:
        n_components: "evidence", or a number.
        max_components: largest number that is tried; None: 50, or what the table supports if that is less.
        model_prior: pi_q: "geometric" 2^-(q+1), "uniform", or an array that is positive and sums to at most 1.
        orbit: add the correction for the rotation orbit to the criterion; reported always. Its Laplace form is not a strict bound.
        alpha, prior, prior_variance, noise, noise_variance, noise_shape, mean, mean_variance, floor: see `PPCASettings`.
        noise_rate: rate of the Gamma prior of 1 / sigma^2; None: ``noise_shape`` times the mean variance of the columns, so
            that the choice does not depend on units.
        max_iter: sweeps over all factors.
        tol: relative change of the bound at which a fit has settled.
        random_state: of the Monte Carlo estimate of the bound's looseness, which decides on a warning only, and of samples.
        device: torch device.

    Attributes:
        n_components_: chosen number of components.
        criterion_: dict of arrays, an entry a model: "n_components", "elbo", "penalty", "orbit", "criterion", "gap" (collapsed
            bound less ELBO, of the best two; else NaN), "noise_variance", "converged", "at_floor" (of the noise),
            "noise_from_prior" (its Gamma prior weighs more than the residual of the data), "posterior".
        elbo_: of the chosen model.
        estimate_: the same as an `infimum.evidence.Estimate` that says what it bounds.
        log_prior_weight_: log pi of the chosen number; 0 where the number was given.
        model_posterior_: softmax of the criterion; 0 for fits that have not settled.
        components_: unit vectors (n_components_, d) along the columns of the posterior mean loadings, by decreasing norm:
            principal axes for complete data. A column that the data do not support has a row of zeros.
        loadings_: E[W], (d, n_components_).
        mean_, noise_variance_: E[mu] and 1 / E[1 / sigma^2].
        posterior_: q of all parameters.
        converged_, n_iter_: of the chosen model; sweeps.
        n_features_in_, feature_names_in_: as in scikit-learn.
    """

    n_components_: int

    def __init__(
        self,
        n_components: Any = "evidence",
        *,
        max_components: Any = None,
        model_prior: Any = "geometric",
        orbit: Any = False,
        alpha: Any = 0.9,
        prior: Any = "shared",
        prior_variance: Any = 1.0,
        noise: Any = "gamma",
        noise_variance: Any = None,
        noise_shape: Any = 1e-3,
        noise_rate: Any = None,
        mean: Any = "center",
        mean_variance: Any = 100.0,
        floor: Any = 1e-6,
        max_iter: Any = 2000,
        tol: Any = 1e-9,
        random_state: Any = None,
        device: Any = "cpu",
    ) -> None:
        self.n_components = n_components
        self.max_components = max_components
        self.model_prior = model_prior
        self.orbit = orbit
        self.alpha = alpha
        self.prior = prior
        self.prior_variance = prior_variance
        self.noise = noise
        self.noise_variance = noise_variance
        self.noise_shape = noise_shape
        self.noise_rate = noise_rate
        self.mean = mean
        self.mean_variance = mean_variance
        self.floor = floor
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.device = device

    def settings(self, variance: float = 1.0) -> PPCASettings:
        """The model's assumptions, checked; ``variance`` is that of the data, on average over columns."""
        given = {name: getattr(self, name) for name in PPCASettings.__dataclass_fields__}
        if self.noise_rate is None:
            del given["noise_rate"]
            settings = PPCASettings(**given)
            return replace(settings, noise_rate=settings.noise_shape * variance) if variance > 0 else settings
        return PPCASettings(**given)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags

    def _read(self, x: Any, *, reset: bool) -> Any:
        return validate_data(
            self, x, reset=reset, accept_sparse="csr", dtype=np.float64, ensure_all_finite="allow-nan", copy=True, order="C",
            ensure_min_samples=2 if reset else 1,
        )  # fmt: skip

    def fit(self, X: Any, y: Any = None) -> "VariationalPPCA":
        """Fit every number of components and keep the best.

        Raises:
            UserError: settings out of range; a row or column without values; a table without variance; too many components.
        """
        self.settings()
        if not isinstance(self.max_iter, (int, np.integer)) or self.max_iter < 1 or not self.tol > 0:
            raise UserError(f"max_iter and tol must be positive, got max_iter={self.max_iter} and tol={self.tol}")
        x = self._read(X, reset=True)
        cells = observe(x, self.device)
        means, variances = moments(x)
        settings = self.settings(float(variances.mean()))
        limit = supported(cells.shape, means, variances, settings)
        constant = int((variances == 0).sum())
        candidates = numbers(self.n_components, self.max_components, cells.shape, constant, limit, settings.noise)
        offset = means if settings.mean == "center" else np.zeros_like(means)
        options: dict[str, Any] = {"sweeps": self.max_iter, "tolerance": self.tol}
        grid: SpectrumGrid | CellsGrid
        if cells.complete and not cells.values[0].is_sparse_csr and settings.mean != "vb":
            centred = torch.as_tensor(x - offset, device=self.device)
            grid = SpectrumGrid(centred, candidates, settings, **options)
        else:
            grid = CellsGrid(observe(less(x, offset), self.device), candidates, settings, **options)
        winner = self._choose(grid, candidates)
        self._keep(grid, winner, candidates, offset, settings)
        names = getattr(self, "feature_names_in_", np.arange(cells.shape[1]))
        doubts(self.criterion_, self.n_components_, selecting=self.n_components == "evidence", names=names[variances == 0],
               limit=limit, settings=settings, max_iter=int(self.max_iter))  # fmt: skip
        return self

    def _choose(self, grid: SpectrumGrid | CellsGrid, candidates: list[int]) -> int:
        rows = grid.rows
        selecting = self.n_components == "evidence"
        penalty = -model_weights(self.model_prior, len(candidates)) if selecting else np.zeros(1)
        criterion = rows.elbo - penalty + (rows.orbit if self.orbit else 0)
        finite = np.isfinite(criterion)
        if not finite.any():
            raise UserError(
                "no bound is a finite number, the values are too large or too small for float64: rescale the columns"
            )
        usable = np.where(finite & (rows.converged | (not rows.converged[finite].any())), criterion, -np.inf)
        best = usable.max()
        winner = int(np.argmax(usable >= best - 1e-10 * abs(best)))  # equal up to rounding: the smallest
        weights = np.exp(usable - best)
        gap = np.full(len(candidates), np.nan)
        rng = check_random_state(self.random_state)
        for row in np.argsort(-usable)[:2] if selecting else ():
            if np.isfinite(usable[row]):
                gap[row] = max(float(grid.collapsed(int(row), _GAP_DRAWS, rng).value[0]) - rows.elbo[row], 0.0)
        self.model_posterior_ = weights / weights.sum()
        self.criterion_ = {
            "n_components": np.array(candidates), "elbo": rows.elbo, "penalty": penalty, "orbit": rows.orbit,
            "criterion": criterion, "gap": gap, "noise_variance": rows.noise, "converged": rows.converged,
            "at_floor": rows.at_floor, "noise_from_prior": rows.noise_from_prior, "posterior": self.model_posterior_,
        }  # fmt: skip
        self.log_prior_weight_ = -float(penalty[winner])
        return winner

    def _keep(
        self, grid: SpectrumGrid | CellsGrid, winner: int, candidates: list[int], offset: np.ndarray, settings: PPCASettings
    ) -> None:  # fmt: skip
        q = grid.posterior(winner)
        top = q.loadings.abs().argmax(0) if q.loadings.shape[1] else torch.zeros(0, dtype=torch.long)
        flip = torch.sign(q.loadings.gather(0, top[None])[0]) if q.loadings.shape[1] else q.loadings.new_zeros(0)
        flip = torch.where(
            flip == 0, 1.0, flip
        )  # signs as in scikit-learn: the largest loading of a column is positive
        self.posterior_ = Posterior(
            q.loadings * flip, q.loadings_cov * flip * flip[:, None], q.column_pattern, q.mean, q.mean_var, q.precision,
            q.noise_shape,
        )  # fmt: skip
        self.n_components_ = candidates[winner]
        self.elbo_ = float(grid.rows.elbo[winner])
        self.estimate_ = closed_form(
            torch.tensor([self.elbo_], dtype=torch.float64), "lower", name="ELBO", target=settings.target
        )
        self.loadings_ = self.posterior_.loadings.cpu().numpy()
        norm = np.linalg.norm(self.loadings_, axis=0)
        self.components_ = (self.loadings_ / np.where(norm > 0, norm, 1)).T
        self.mean_ = offset + q.mean.cpu().numpy()
        self.noise_variance_ = 1 / q.precision
        self.converged_ = bool(grid.rows.converged[winner])
        self.n_iter_ = grid.rows.sweeps
        self._n_features_out = self.n_components_

    def _cells(self, X: Any) -> tuple[Any, Cells]:
        check_is_fitted(self)
        x = self._read(X, reset=False)
        return x, observe(less(x, self.mean_), self.device, empty=True)

    def transform(self, X: Any) -> np.ndarray:
        """E[z | x], (n, n_components_), in units of the prior N(0, 1); of the observed cells of each row."""
        cells = self._cells(X)[1]
        return self.posterior_.scores(cells)[0].cpu().numpy()

    def inverse_transform(self, X: Any) -> np.ndarray:
        """E[mu] + E[W] z for scores z, (n, d)."""
        check_is_fitted(self)
        return np.asarray(X, dtype=np.float64) @ self.loadings_.T + self.mean_

    def score_samples(self, X: Any) -> np.ndarray:
        """Log predictive density of every row in nats, (n,): plug-in, N(E[mu], E[W] E[W]' + sigma^2 I), of its observed cells."""
        cells = self._cells(X)[1]
        return log_density(cells, self.posterior_.loadings, self.posterior_.precision).cpu().numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`."""
        return float(self.score_samples(X).mean())

    def get_covariance(self) -> np.ndarray:
        """E[W] E[W]' + sigma^2 I, (d, d)."""
        check_is_fitted(self)
        return self.loadings_ @ self.loadings_.T + self.noise_variance_ * np.eye(len(self.loadings_))

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """Draws of x from the plug-in predictive, (n_samples, d); from ``random_state``."""
        check_is_fitted(self)
        rng = check_random_state(self.random_state)
        z = rng.standard_normal((n_samples, self.n_components_))
        noise = rng.standard_normal((n_samples, len(self.mean_)))
        return self.mean_ + z @ self.loadings_.T + math.sqrt(self.noise_variance_) * noise

    def impute(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """The table with missing cells at their predictive means, and predictive standard deviations (0 where observed)."""
        x, cells = self._cells(X)
        x = dense(x)
        mean, variance = (t.cpu().numpy() for t in self.posterior_.predict(cells))
        missing = np.isnan(x)
        return np.where(missing, self.mean_ + mean, x), np.where(missing, np.sqrt(variance), 0.0)

    def sample_missing(self, X: Any, n_draws: int = 1) -> np.ndarray:
        """Multiple imputation, (n_draws, n, d): each draw has parameters of its own from q, then scores, then cells."""
        x, cells = self._cells(X)
        x = dense(x)
        rng = check_random_state(self.random_state)
        tables = []
        loadings, precision, shift = self.posterior_.draw(n_draws, rng)
        for w, tau, mu in zip(loadings, precision, shift, strict=True):
            fixed = Posterior(w, torch.zeros_like(self.posterior_.loadings_cov), self.posterior_.column_pattern, mu,
                              torch.zeros_like(mu), float(tau), math.inf)  # fmt: skip
            a, cov = fixed.scores(observe(less(x, self.mean_ + mu.cpu().numpy()), self.device, empty=True))
            noise = torch.as_tensor(rng.standard_normal(a.shape), device=a.device)
            z = a + torch.einsum("nij,nj->ni", torch.linalg.cholesky(cov)[cells.row_pattern], noise)
            cell = (mu + z @ w.T).cpu().numpy() + rng.standard_normal(x.shape) / math.sqrt(float(tau))
            tables.append(np.where(np.isnan(x), self.mean_ + cell, x))
        return np.stack(tables)
