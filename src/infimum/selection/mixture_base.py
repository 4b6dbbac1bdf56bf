"""What the mixture estimators share: the grid over numbers of components, the choice, and what follows from the winner."""

import math
import warnings
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from infimum.errors import UserError
from infimum.evidence import Estimate
from infimum.selection.mixture_ascent import Ascent, Components, ascend
from infimum.selection.restarts import start_labels
from infimum.selection.settings import model_weights

__all__ = ["MixtureEstimator", "positive"]

_GRID = 10  # components tried where max_components is None


def positive(**values: Any) -> None:
    """Refuse what is not a positive finite number.

    Raises:
        UserError: the first that is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
            raise UserError(f"{name} must be a positive number, got {value!r}")


class MixtureEstimator(DensityMixin, BaseEstimator):
    """A mixture fitted by its tempered evidence bound (1810.11859, 1805.05054); subclasses bring data and components."""

    n_components: Any
    max_components: Any
    model_prior: Any
    label_switching: Any
    alpha: Any
    weight_concentration_prior: Any
    n_init: Any
    max_iter: Any
    tol: Any
    random_state: Any
    device: Any

    _components: Any
    _data = "data set"

    def _read(self, X: Any, *, reset: bool) -> Any:
        """X, checked as scikit-learn does."""
        raise NotImplementedError

    def _prepare(self, x: Any) -> tuple[Components, Any]:
        """The components' family with its prior, and features whose distances start the ascent."""
        raise NotImplementedError

    def _rows(self, x: Any) -> Any:
        """The data in the form of the components' family."""
        raise NotImplementedError

    def _keep(self) -> None:
        """Set the attributes that describe components."""
        raise NotImplementedError

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit every number of components and keep the best.

        Raises:
            UserError: settings out of range, more components than rows, data that the prior cannot stand on.
        """
        self._check_settings()
        x = self._read(X, reset=True)
        candidates = self._candidates(x.shape[0])
        self._components, features = self._prepare(x)
        rows = self._rows(x)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        fits = [self._ascend(rows, features, count, seed) for count in candidates]
        winner = self._choose(fits, candidates)
        best = fits[winner]
        self.n_components_ = candidates[winner]
        self._concentration, self._factor = best.best.concentration, best.best.factor
        self.weights_ = (self._concentration / self._concentration.sum(-1, keepdim=True))[0].cpu().numpy()
        self.weight_concentration_ = self._concentration[0].cpu().numpy()
        self.converged_, self.n_iter_ = best.converged, best.sweeps
        self._keep()
        self._doubts(candidates, x.shape[0])
        return self

    def _ascend(self, rows: Any, features: Any, count: int, seed: int) -> Ascent:
        # the draws depend on the number of components alone, so that a grid and a single fit agree
        restarts = 1 if count == 1 else int(self.n_init)
        labels = start_labels(features, count, restarts, np.random.default_rng([seed, count]))
        return ascend(
            self._components, rows, torch.as_tensor(labels, device=self.device), count, alpha=self.alpha,
            prior=float(self.weight_concentration_prior), sweeps=int(self.max_iter), tolerance=self.tol,
        )  # fmt: skip

    def _check_settings(self) -> None:
        if not isinstance(self.alpha, Real) or not 0 < float(self.alpha) <= 1:
            raise UserError(f"alpha must lie in (0, 1], the guarantee needs alpha < 1: got {self.alpha!r}")
        positive(weight_concentration_prior=self.weight_concentration_prior, tol=self.tol)
        for name in ("n_init", "max_iter"):
            self._check_count(name, getattr(self, name), "a number, 1 or more")

    @staticmethod
    def _check_count(name: str, value: Any, expected: str) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise UserError(f"{name} must be {expected}, got {value!r}")

    def _selecting(self) -> bool:
        return isinstance(self.n_components, str) and self.n_components == "evidence"

    def _candidates(self, n: int) -> list[int]:
        name = "max_components" if self._selecting() else "n_components"
        value = getattr(self, name)
        if name == "max_components" and value is None:
            return list(range(1, min(_GRID, n) + 1))
        other = "None or " if name == "max_components" else "'evidence' or "
        self._check_count(name, value, f"{other}a number of components, 1 or more")
        if value > n:
            raise UserError(f"{name}={value} is more than there are rows, n_samples={n}: use at most {n}")
        return list(range(1, value + 1)) if self._selecting() else [int(value)]

    def _choose(self, fits: list[Ascent], candidates: list[int]) -> int:
        elbo = np.array([float(fit.best.elbo[0]) for fit in fits])
        converged = np.array([fit.converged for fit in fits])
        labels = np.array([math.lgamma(count + 1) for count in candidates])
        weights = model_weights(self.model_prior, len(candidates)) if self._selecting() else np.zeros(1)
        criterion = elbo + weights + (labels if self.label_switching else 0)
        usable = np.where(converged, criterion, -np.inf) if converged.any() else criterion
        best = usable.max()
        winner = int(np.argmax(usable >= best - 1e-10 * abs(best)))  # equal up to rounding: the smallest
        posterior = np.exp(usable - best)
        self.model_posterior_ = posterior / posterior.sum()
        self.criterion_ = {
            "n_components": np.array(candidates), "elbo": elbo, "penalty": -weights, "label_switching": labels,
            "criterion": criterion, "converged": converged, "restarts_agreeing": np.array([_agreeing(fit) for fit in fits]),
            "posterior": self.model_posterior_,
        }  # fmt: skip
        self.elbo_ = float(elbo[winner])
        self.log_prior_weight_ = float(weights[winner])
        self.estimate_ = self._estimate(self.elbo_, labels[winner])
        return winner

    def _estimate(self, elbo: float, correction: float) -> Estimate:
        kind = "tempered evidence" if self.alpha < 1 else "evidence"
        value = torch.tensor([elbo + (correction if self.label_switching else 0)], dtype=torch.float64)
        obstacle = self._obstacle()
        return Estimate(
            value, torch.zeros(1, dtype=torch.float64), "none" if obstacle else "lower", not obstacle,
            None if obstacle else "elbo", "ELBO + log K!" if self.label_switching else "ELBO",
            f"{kind} of the {self._data}, a={self.alpha:g}", copies=math.inf, obstacle=obstacle,
        )  # fmt: skip

    def _obstacle(self) -> str:
        """Why the value bounds nothing, or an empty sentence."""
        return "ELBO + log K! is a bound only where components do not overlap" if self.label_switching else ""

    def _doubts(self, candidates: list[int], n: int) -> None:
        table = self.criterion_
        bad = table["n_components"][~table["converged"]].tolist()
        if bad:
            what = "was kept for want of another" if not self.converged_ else "is left out of the choice"
            text = f"the bound with {bad} components had not settled after max_iter={self.max_iter} sweeps and {what}"
            warnings.warn(f"{text}: raise max_iter or tol", ConvergenceWarning, stacklevel=3)
        if self._selecting() and 1 < candidates[-1] == self.n_components_ < n:
            text = f"the maximum lies at the edge of the grid, {self.n_components_} components: raise max_components"
            warnings.warn(text, UserWarning, stacklevel=3)

    def _joint(self, X: Any) -> torch.Tensor:
        """log E[p_k] + log p(x_i | component k, data), (K, n)."""
        check_is_fitted(self)
        rows = self._rows(self._read(X, reset=False))
        weights = self._concentration / self._concentration.sum(-1, keepdim=True)
        return (self._components.log_predictive(rows, self._factor) + weights.log()[..., None])[0]

    def score_samples(self, X: Any) -> np.ndarray:
        """Exact log predictive density of every row under q in nats, (n,): all parameters are integrated out.

        Neither the plug-in density, which ignores what is not known of the parameters, nor E log p(x | theta), which is no
        log density (scikit-learn issue 10148).
        """
        return self._joint(X).logsumexp(0).cpu().numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`."""
        return float(self.score_samples(X).mean())

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of every component under the predictive of `score_samples`, (n, n_components_)."""
        return self._joint(X).softmax(0).T.cpu().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Most probable component of every row, (n,)."""
        return self._joint(X).argmax(0).cpu().numpy()

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """`fit`, then `predict` of the same rows."""
        return self.fit(X).predict(X)

    def _draw_labels(self, n_samples: int, rng: np.random.RandomState) -> np.ndarray:
        self._check_count("n_samples", n_samples, "a number of rows, 1 or more")
        return rng.choice(self.n_components_, size=n_samples, p=self.weights_)


def _agreeing(fit: Ascent) -> int:
    """Restarts that ended within 0.01 nats of the best: 1 says that a better optimum may have been missed."""
    return int((fit.elbo >= fit.elbo.max() - 0.01).sum())
