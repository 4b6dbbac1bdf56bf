"""Variational multinomial mixtures of counts as a scikit-learn estimator; the evidence bound chooses the number of components."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data
from torch import Tensor

from infimum.errors import UserError
from infimum.selection.cells import csr
from infimum.selection.mixture_ascent import dirichlet_divergence, expected_log
from infimum.selection.mixture_base import MixtureEstimator, positive

__all__ = ["Counts", "Multinomials", "VariationalMultinomialMixture"]


@dataclass(frozen=True)
class Counts:
    """Rows of counts.

    Attributes:
        values: (n, d), dense or sparse CSR.
        transposed: (d, n), likewise.
        coefficient: log of the multinomial coefficient of every row.
    """

    values: Tensor
    transposed: Tensor
    coefficient: Float[Tensor, "n"]

    @staticmethod
    def of(x: Any, device: Any) -> "Counts":
        """From an array or a scipy sparse matrix."""
        if hasattr(x, "tocsr"):
            values, pair = x.tocsr(), (csr(x.tocsr(), device), csr(x.T.tocsr(), device))
            cells = torch.tensor(values.data, dtype=torch.float64, device=device)
            row = torch.as_tensor(np.repeat(np.arange(x.shape[0]), np.diff(values.indptr)), device=device)
            parts = cells.new_zeros(x.shape[0]).index_add(0, row, torch.lgamma(cells + 1))
            total = cells.new_zeros(x.shape[0]).index_add(0, row, cells)
            return Counts(*pair, torch.lgamma(total + 1) - parts)
        table = torch.tensor(x, dtype=torch.float64, device=device)
        return Counts(table, table.T, torch.lgamma(table.sum(1) + 1) - torch.lgamma(table + 1).sum(1))

    def dot(self, each: Float[Tensor, "R K d"]) -> Float[Tensor, "R K n"]:
        """sum_j each_j x_ij."""
        return (self.values @ each.flatten(0, 1).T).T.unflatten(0, each.shape[:2])

    def sums(self, weights: Float[Tensor, "R K n"]) -> Float[Tensor, "R K d"]:
        """sum_i w_i x_ij."""
        return (self.transposed @ weights.flatten(0, 1).T).T.unflatten(0, weights.shape[:2])


@dataclass(frozen=True)
class Multinomials:
    """Dirichlet-multinomial components: x_i ~ Multinomial(phi_k), phi_k ~ Dirichlet(prior, .., prior); a factor is (R, K, d)."""

    prior: float

    def update(self, rows: Counts, weights: Float[Tensor, "R K n"]) -> Float[Tensor, "R K d"]:
        """prior + sum_i r_ik x_i."""
        return self.prior + rows.sums(weights)

    def log_likelihood(self, rows: Counts, factor: Float[Tensor, "R K d"]) -> Float[Tensor, "R K n"]:
        """log coefficient + sum_j x_ij E log phi_kj."""
        return rows.coefficient + rows.dot(expected_log(factor))

    def divergence(self, factor: Float[Tensor, "R K d"]) -> Float[Tensor, "R"]:
        """KL of all Dirichlet factors."""
        return dirichlet_divergence(factor, self.prior).sum(-1)

    def log_predictive(self, rows: Counts, factor: Float[Tensor, "R K d"]) -> Float[Tensor, "R K n"]:
        """Dirichlet-multinomial probability of a row of counts given its total."""
        x = rows.values
        if x.is_sparse_csr:
            n = x.shape[0]
            row = torch.repeat_interleave(torch.arange(n, device=x.device), x.crow_indices().diff())
            column, counts = x.col_indices(), x.values()
            total = counts.new_zeros(n).index_add(0, row, counts)
        else:
            total = x.sum(1)
        values = []
        for b in factor.flatten(0, 1):
            if x.is_sparse_csr:
                each = torch.lgamma(b[column] + counts) - torch.lgamma(b[column])
                gain = counts.new_zeros(n).index_add(0, row, each)
            else:
                gain = (torch.lgamma(b + x) - torch.lgamma(b)).sum(1)
            values.append(gain + torch.lgamma(b.sum()) - torch.lgamma(b.sum() + total))
        return rows.coefficient + torch.stack(values).unflatten(0, factor.shape[:2])


def _counts(estimator: "VariationalMultinomialMixture") -> bool:
    """Whether it was fitted to counts, or not yet."""
    if not getattr(estimator, "_whole", True):
        raise AttributeError(
            f"predict_proba needs probabilities, and {estimator._obstacle()}: round them, or use predict"
        )
    return True


class VariationalMultinomialMixture(MixtureEstimator):
    """Mixture of multinomials fitted by its tempered evidence bound, which also chooses the number of components (1805.05054).

    Rows of counts x_i with given totals: x_i ~ sum_k p_k Multinomial(phi_k), p ~ Dirichlet(weight_concentration_prior, ..),
    phi_k ~ Dirichlet(feature_concentration_prior, ..). Criterion and choice as in `VariationalGaussianMixture`; the bound is
    of the probability of the counts, multinomial coefficients included. Counts may be sparse. Values that are not whole
    numbers are accepted (Gamma functions stand for factorials), but they have no probability: ``estimate_`` then has side
    "none", and there is no ``predict_proba``.

    Args:
        n_components: "evidence", or a number.
        max_components: largest number that is tried; None: 10, or the number of rows if that is less.
        alpha: temper of the likelihood, in (0, 1]; the oracle inequality needs alpha < 1.
        weight_concentration_prior: Dirichlet parameter of the weights.
        feature_concentration_prior: Dirichlet parameter of the components.
        model_prior: pi_K: "geometric" 2^-K, "uniform", or an array that is positive and sums to at most 1.
        label_switching: add log K! to the criterion and to ``estimate_``, which is then no strict bound; reported always.
        n_init: restarts, half from k-means and half from 1 to K rows drawn uniformly, fitted as one batch.
        max_iter: sweeps over all factors.
        tol: relative change of the bound at which a fit has settled.
        random_state: of the restarts and of samples.
        device: torch device.

    Attributes:
        probabilities_: E[phi], (K, d).
        feature_concentration_: of q, (K, d).
        n_components_, criterion_, elbo_, log_prior_weight_, estimate_, model_posterior_, weights_, weight_concentration_,
            converged_, n_iter_, n_features_in_, feature_names_in_: as in `VariationalGaussianMixture`.
    """

    _data = "counts"

    def __init__(
        self,
        n_components: Any = "evidence",
        *,
        max_components: Any = None,
        alpha: Any = 0.9,
        weight_concentration_prior: Any = 1.0,
        feature_concentration_prior: Any = 1.0,
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
        self.alpha = alpha
        self.weight_concentration_prior = weight_concentration_prior
        self.feature_concentration_prior = feature_concentration_prior
        self.model_prior = model_prior
        self.label_switching = label_switching
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags

    def _read(self, X: Any, *, reset: bool) -> Any:
        x = validate_data(
            self, X, reset=reset, accept_sparse="csr", dtype=np.float64, ensure_min_samples=2 if reset else 1
        )
        check_non_negative(x, f"{type(self).__name__} (counts)")
        return x

    def _check_settings(self) -> None:
        super()._check_settings()
        positive(feature_concentration_prior=self.feature_concentration_prior)

    def _prepare(self, x: Any) -> tuple[Multinomials, Any]:
        from sklearn.preprocessing import normalize

        total = float(x.sum())
        if total == 0:
            raise UserError(
                f"all counts are 0 in the {x.shape[0]} rows: there is nothing to learn from, check the columns"
            )
        cells = x.data if hasattr(x, "tocsr") else x
        self._whole = bool((cells == np.round(cells)).all())
        self._trials = max(round(total / x.shape[0]), 1)
        shares = normalize(x, norm="l1")
        return Multinomials(float(self.feature_concentration_prior)), shares.sqrt() if hasattr(
            shares, "tocsr") else np.sqrt(shares)  # fmt: skip

    def _obstacle(self) -> str:
        return super()._obstacle() or (
            "" if self._whole else "some counts are not whole numbers, so that they have no probability"
        )

    def _rows(self, x: Any) -> Counts:
        return Counts.of(x, self.device)

    def _keep(self) -> None:
        factor = self._factor[0]
        self.feature_concentration_ = factor.cpu().numpy()
        self.probabilities_ = (factor / factor.sum(-1, keepdim=True)).cpu().numpy()

    @available_if(_counts)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of every component under the predictive of `score_samples`, (n, n_components_); of fits to whole numbers."""
        return super().predict_proba(X)

    def sample(self, n_samples: int = 1, n_trials: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws from the predictive of `score_samples`: counts (n_samples, d) and their components; from ``random_state``.

        Args:
            n_samples: rows.
            n_trials: total of every row; None: mean total of the fitted rows, rounded.
        """
        check_is_fitted(self)
        rng = check_random_state(self.random_state)
        labels = self._draw_labels(n_samples, rng)
        trials = self._trials if n_trials is None else n_trials
        self._check_count("n_trials", trials, "a number of counts, 1 or more")
        gamma = rng.standard_gamma(self.feature_concentration_[labels])
        phi = gamma / gamma.sum(1, keepdims=True)
        return np.stack([rng.multinomial(trials, p) for p in phi]), labels
