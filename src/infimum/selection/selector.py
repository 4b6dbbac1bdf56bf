"""Choosing between any models that have an evidence bound: over a grid of parameters, or by name (1810.11859)."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.model_selection import ParameterGrid
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from infimum.errors import UserError
from infimum.selection.selector_bounds import decide, log_weights, read_bound

__all__ = ["EvidenceSelector", "Selection", "select"]


@dataclass(frozen=True)
class Selection:
    """The model chosen by `select`, and all others.

    Attributes:
        name: of the chosen model.
        model: its fit.
        models: all fits by name.
        table: arrays, an entry a model in the order of ``models``: "elbo", "stderr", "log_prior_weight", "criterion" (their sum),
            "converged", "posterior", "rank".
        target: what the bounds bound.
    """

    name: str
    model: Any
    models: dict[str, Any]
    table: dict[str, np.ndarray]
    target: str

    @property
    def model_posterior(self) -> dict[str, float]:
        """Softmax of the criterion, by name."""
        return dict(zip(self.models, self.table["posterior"].tolist(), strict=True))

    def __str__(self) -> str:
        width = max(len(name) for name in self.models)
        top, names = self.table["criterion"][list(self.models).index(self.name)], list(self.models)
        lines = [f"{self.target} [nats]", f"{'model':{width}}  {'criterion':>14}  {'behind':>10}  {'posterior':>9}"]
        for row in np.argsort(self.table["rank"]):
            value, note = self.table["criterion"][row], "" if self.table["converged"][row] else "  not converged"
            share = self.table["posterior"][row]
            lines.append(f"{names[row]:{width}}  {value:14.4f}  {top - value:10.4f}  {share:9.4f}{note}")
        return "\n".join(lines)


def select(models: Mapping[str, Any], data: Any) -> Selection:
    """Fit every model to the data and choose by bound + log of its prior weight; ties to the first.

    Args:
        models: name: (model, log prior weight). A model has ``fit(data)``; the fitted model, or what ``fit`` returns, carries the
            bound of the whole data set with all constants: ``estimate_`` or ``estimate`` (an Estimate), ``elbo_`` or ``elbo``.
            Estimators of scikit-learn's kind are cloned first.
        data: what ``fit`` takes.

    Raises:
        UserError: no models; weights that sum to more than 1; bounds of unlike targets, data or alpha.
    """
    if not models:
        raise UserError("select needs at least one model, got none: pass {name: (model, log_prior_weight)}")
    for name, pair in models.items():
        if not isinstance(pair, tuple) or len(pair) != 2 or not hasattr(pair[0], "fit"):
            raise UserError(f"the entry {name!r} must be a pair (model with fit, log_prior_weight), got {pair!r}")
    weights = log_weights([weight for _, weight in models.values()], len(models))
    fits, bounds = {}, []
    for name, (model, _) in models.items():
        one = clone(model) if isinstance(model, BaseEstimator) else model
        returned = one.fit(data)
        fits[name] = one if returned is None else returned
        bounds.append(read_bound(fits[name], name, data))
    decision = decide(bounds, weights)
    name = bounds[decision.best].name
    return Selection(name, fits[name], fits, decision.table, bounds[0].target)


def _has(method: str) -> Any:
    def check(selector: "EvidenceSelector") -> bool:
        getattr(getattr(selector, "best_estimator_", selector.estimator), method)
        return True

    return available_if(check)


def _fit(estimator: Any, X: Any, y: Any) -> Any:
    return estimator.fit(X) if y is None else estimator.fit(X, y)


class EvidenceSelector(MetaEstimatorMixin, BaseEstimator):
    """Grid search that scores by the evidence bound of the training data: no folds, and no held-out data (1810.11859).

    Each setting of the grid is fitted once to all rows; the highest bound - log(1 / weight) wins, ties to the first of the
    grid. The bounds must answer the same question: settings that change the data (a scaler in a pipeline) or alpha are refused.

    Args:
        estimator: estimator, or pipeline that ends in one, which carries ``estimate_`` (an `infimum.evidence.Estimate`) or
            ``elbo_`` after ``fit``. One that has chosen among models by itself adds its ``log_prior_weight_``.
        param_grid: as in `sklearn.model_selection.GridSearchCV`.
        log_prior_weights: log pi of every setting, in the order of `sklearn.model_selection.ParameterGrid`; the weights sum to at
            most 1; None: uniform.
        n_jobs: settings fitted at a time, as in scikit-learn.

    Attributes:
        best_estimator_, best_params_, best_index_: the choice; ``best_estimator_`` was fitted to all rows.
        results_: dict of lists and arrays, an entry a setting, in nats of the data set: "params", "param_<name>", "elbo", "stderr",
            "log_prior_weight", "criterion", "converged", "posterior", "rank".
        model_posterior_: softmax of the criterion.
        elbo_, estimate_, log_prior_weight_, converged_: of the choice; ``estimate_`` where it has one.
        n_features_in_, feature_names_in_: of the choice.
    """

    def __init__(self, estimator: Any, param_grid: Any, *, log_prior_weights: Any = None, n_jobs: Any = None) -> None:
        self.estimator = estimator
        self.param_grid = param_grid
        self.log_prior_weights = log_prior_weights
        self.n_jobs = n_jobs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        for name in (
            "estimator_type",
            "classifier_tags",
            "regressor_tags",
            "transformer_tags",
            "input_tags",
            "target_tags",
        ):
            setattr(tags, name, deepcopy(getattr(inner, name)))
        return tags

    def fit(self, X: Any, y: Any = None) -> "EvidenceSelector":
        """Fit every setting and keep the best.

        Raises:
            UserError: no bound; bounds of unlike targets, data or alpha; weights that sum to more than 1.
        """
        settings = list(ParameterGrid(self.param_grid))
        weights = log_weights(self.log_prior_weights, len(settings))
        fits = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit)(clone(self.estimator).set_params(**clone(params, safe=False)), X, y) for params in settings
        )
        bounds = [read_bound(fit, str(params), X) for fit, params in zip(fits, settings, strict=True)]
        decision = decide(bounds, weights)
        self.best_index_ = decision.best
        self.best_estimator_, self.best_params_ = fits[decision.best], settings[decision.best]
        names = sorted({name for params in settings for name in params})
        columns = {f"param_{name}": [params.get(name) for params in settings] for name in names}
        self.results_ = {"params": settings, **columns, **decision.table}
        self.model_posterior_ = decision.table["posterior"]
        self.elbo_ = bounds[decision.best].value
        last = self.best_estimator_[-1] if hasattr(self.best_estimator_, "named_steps") else self.best_estimator_
        if hasattr(last, "estimate_"):
            self.estimate_ = last.estimate_
        self.log_prior_weight_ = float(decision.table["log_prior_weight"][decision.best])
        self.converged_ = bool(decision.table["converged"][decision.best])
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.best_estimator_, name):
                setattr(self, name, getattr(self.best_estimator_, name))
        return self

    def _best(self) -> Any:
        check_is_fitted(self)
        return self.best_estimator_

    @_has("predict")
    def predict(self, X: Any) -> Any:
        """``best_estimator_.predict``."""
        return self._best().predict(X)

    @_has("predict_proba")
    def predict_proba(self, X: Any) -> Any:
        """``best_estimator_.predict_proba``."""
        return self._best().predict_proba(X)

    @_has("transform")
    def transform(self, X: Any) -> Any:
        """``best_estimator_.transform``."""
        return self._best().transform(X)

    @_has("transform")
    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """`fit`, then `transform` of the same rows."""
        return self.fit(X, y).transform(X)

    @_has("inverse_transform")
    def inverse_transform(self, X: Any) -> Any:
        """``best_estimator_.inverse_transform``."""
        return self._best().inverse_transform(X)

    @_has("score_samples")
    def score_samples(self, X: Any) -> Any:
        """``best_estimator_.score_samples``."""
        return self._best().score_samples(X)

    @_has("score")
    def score(self, X: Any, y: Any = None) -> float:
        """``best_estimator_.score``."""
        return self._best().score(X) if y is None else self._best().score(X, y)

    @_has("sample")
    def sample(self, n_samples: int = 1) -> Any:
        """``best_estimator_.sample``."""
        return self._best().sample(n_samples)

    @_has("get_feature_names_out")
    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """``best_estimator_.get_feature_names_out``."""
        return self._best().get_feature_names_out(input_features)
