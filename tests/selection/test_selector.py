"""Selecting by the bound: exact Bayesian selection where bounds are exact, scikit-learn's contract, and what is refused."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.mixture import BayesianGaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from infimum.errors import UserError
from infimum.evidence import Estimate, closed_form
from infimum.selection import (
    EvidenceSelector,
    VariationalGaussianMixture,
    VariationalMultinomialMixture,
    VariationalPPCA,
    select,
)
from infimum.testing import BayesianLinearRegression
from selection.mixture_cases import clusters

quiet = pytest.mark.filterwarnings("ignore::UserWarning")


@quiet
@parametrize_with_checks([
    EvidenceSelector(VariationalGaussianMixture(n_init=1, random_state=0), {"n_components": [1, 2]}),
    EvidenceSelector(VariationalPPCA(mean="zero", prior="fixed"), {"n_components": [0, 1]}),
    EvidenceSelector(VariationalMultinomialMixture(3, n_init=1, random_state=0, max_iter=20), {"alpha": [0.9]}),
])  # fmt: skip
def test_scikit_learn(estimator, check):
    check(estimator)


class Polynomial:
    """Regression of a degree, whose bound is the exact evidence."""

    def __init__(self, degree: int) -> None:
        self.degree = degree

    def fit(self, data):
        x, y = (torch.as_tensor(part) for part in data)
        design = x[:, None] ** torch.arange(self.degree + 1)
        self.elbo = BayesianLinearRegression(design, 0.25, 0.5).log_evidence(y[None])[0].detach()


def curve() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.linspace(-1.5, 1.5, 40)
    return x, 1 - 2 * x + 1.5 * x**2 + 0.5 * rng.normal(size=40)


def test_exact_bounds_give_exact_bayesian_selection():
    log_prior = {degree: -(degree + 1) * math.log(2) for degree in range(5)}
    found = select({f"degree {d}": (Polynomial(d), w) for d, w in log_prior.items()}, curve())
    truth = softmax([float(found.models[f"degree {d}"].elbo) + w for d, w in log_prior.items()])
    assert found.name == "degree 2" and found.model.degree == 2
    np.testing.assert_allclose(list(found.model_posterior.values()), truth)
    assert found.table["rank"][2] == 1 and sorted(found.table["rank"]) == [1, 2, 3, 4, 5]
    lines = str(found).splitlines()
    assert lines[2].startswith("degree 2") and " 0.0000 " in lines[2] and len(lines) == 7


def test_ties_go_to_the_first():
    tied = select({"b": (Polynomial(2), -1.0), "a": (Polynomial(2), -1.0)}, curve())
    assert tied.name == "b" and tied.model_posterior == {"b": 0.5, "a": 0.5}


def test_grid_equals_the_mixtures_own_choice():
    x = clusters()
    own = VariationalGaussianMixture(max_components=4, random_state=0).fit(x)
    weights = -math.log(2) * np.arange(1, 5)
    grid = EvidenceSelector(
        VariationalGaussianMixture(random_state=0), {"n_components": [1, 2, 3, 4]}, log_prior_weights=weights, n_jobs=1
    ).fit(x)  # fmt: skip
    assert grid.best_params_ == {"n_components": 3} and grid.best_index_ == 2
    np.testing.assert_array_equal(grid.results_["criterion"], own.criterion_["criterion"])
    np.testing.assert_allclose(grid.model_posterior_, own.model_posterior_)
    assert grid.results_["param_n_components"] == [1, 2, 3, 4]
    assert (grid.predict(x) == own.predict(x)).all() and grid.score(x) == own.score(x)
    assert grid.predict_proba(x).shape == (180, 3) and grid.sample(2)[0].shape == (2, 2)
    assert grid.elbo_ == own.elbo_ and grid.estimate_.target == own.estimate_.target
    assert not hasattr(grid, "transform")


@quiet
def test_a_model_that_chose_by_itself_pays_for_it():
    x = clusters()
    model = VariationalGaussianMixture(max_components=4, random_state=0)
    grid = EvidenceSelector(model, {"covariance_type": ["full", "diag", "spherical"]}).fit(x)
    np.testing.assert_allclose(grid.results_["criterion"], grid.results_["elbo"] - 3 * math.log(2) - math.log(3))
    assert grid.best_params_ == {"covariance_type": "spherical"}  # the truth


def test_pipelines_whose_preparation_differs_are_refused():
    x = clusters() * [1, 20]
    pipe = make_pipeline(StandardScaler(), VariationalGaussianMixture(1, random_state=0))
    fine = EvidenceSelector(pipe, {"variationalgaussianmixture__n_components": [1, 3]}).fit(x)
    assert fine.best_params_ == {"variationalgaussianmixture__n_components": 3}
    assert fine.estimate_.side == "lower" and fine.predict(x).shape == (180,)
    with pytest.raises(UserError, match="differently prepared data"):
        EvidenceSelector(pipe, {"standardscaler__with_std": [True, False]}).fit(x)


def test_transformers_in_a_selector_transform():
    x = clusters()
    model = VariationalPPCA(mean="zero", prior="fixed", noise="known", noise_variance=1.0)
    grid = EvidenceSelector(model, {"n_components": [0, 1, 2]}).fit(x)
    z = grid.transform(x)
    assert z.shape == (180, grid.best_params_["n_components"])
    assert grid.inverse_transform(z).shape == x.shape and not hasattr(grid, "predict")


@dataclass
class Result:
    """What a fit returned."""

    estimate: Estimate | None = None
    elbo: float | torch.Tensor | None = None
    alpha: float = 1.0
    converged: bool = True
    constants_included: bool = True


class Given:
    """A model whose fit returns what it was given."""

    def __init__(self, **result) -> None:
        self.result = Result(**result)

    def fit(self, data):
        return self.result


def estimate(value=(-3.0, -4.0), stderr=0.0, keys=None, target="log p(x)", side="lower") -> Estimate:
    value = torch.tensor(value, dtype=torch.float64)
    return Estimate(value, torch.full_like(value, stderr), side, False, None, "ELBO", target, keys)


def run(*results, weights=None):
    weights = weights or [-2.0] * len(results)
    pairs = zip(results, weights, strict=True)
    return select({f"m{i}": (Given(**r), w) for i, (r, w) in enumerate(pairs)}, None)


def test_estimates_of_items_are_summed_with_their_errors():
    found = run({"estimate": estimate(stderr=0.3)}, {"estimate": estimate((-1.0, -1.0), stderr=0.1)})
    np.testing.assert_allclose(found.table["elbo"], [-7, -2])
    np.testing.assert_allclose(found.table["stderr"], [0.3 * math.sqrt(2), 0.1 * math.sqrt(2)])
    assert found.name == "m1"
    bits = run({"estimate": estimate().to_unit("bits")})
    assert bits.table["elbo"][0] == pytest.approx(-7)


def test_close_and_unsettled_models_are_told():
    with pytest.warns(UserWarning, match="leads m0 by 0.20 nats, less than two standard errors"):
        run({"estimate": estimate(stderr=0.2)}, {"estimate": estimate((-3.0, -3.8), stderr=0.2)})
    with pytest.warns(UserWarning, match="are left out of the choice: m0"):
        found = run({"elbo": -1.0, "converged": False}, {"elbo": -2.0})
    assert found.name == "m1" and found.model_posterior == {"m0": 0.0, "m1": 1.0}
    assert "not converged" in str(found)
    with pytest.warns(UserWarning, match="kept for want of others"):
        assert run({"elbo": -1.0, "converged": False}).name == "m0"


@pytest.mark.parametrize(("results", "match"), [
    (({"estimate": estimate()}, {"estimate": estimate(target="evidence")}), "bound different targets, 'log p.x.' and 'evidence'"),
    (({"estimate": estimate()}, {"estimate": estimate((-1.0,))}), "different items, 2 and 1"),
    (({"estimate": estimate(keys=torch.tensor([1, 2]))}, {"estimate": estimate(keys=torch.tensor([1, 3]))}), "different items"),
    (({"estimate": estimate()}, {"estimate": estimate(side="none")}), "m1 has a value of no side"),
    (({"estimate": estimate(side="upper")},), "m0 has an upper bound"),
    (({"elbo": 1.0}, {"elbo": 1.0, "alpha": 0.5}), "different targets, 'elbo, a=1' and 'elbo, a=0.5'"),
    (({"elbo": 1.0}, {"estimate": estimate()}), "different targets"),
    (({"elbo": 1.0, "constants_included": False},), "lacks constants"),
    (({"elbo": torch.zeros(2)},), "the bound of m0 is not a number"),
    (({"elbo": math.nan},), "the bound of m0 is nan"),
    (({},), "m0 .Result. has none of estimate_, estimate, elbo_, elbo after fit: use"),
])  # fmt: skip
def test_unlike_bounds_are_refused(results, match):
    with pytest.raises(UserError, match=match):
        run(*results)


def test_other_things_that_are_refused():
    x = clusters()
    with pytest.raises(UserError, match=r"different targets, .*a=0\.9.*a=0\.5"):
        EvidenceSelector(VariationalGaussianMixture(1), {"alpha": [0.9, 0.5]}).fit(x)
    with pytest.raises(UserError, match="no side"):
        EvidenceSelector(VariationalGaussianMixture(1), {"label_switching": [True, False]}).fit(x)
    with pytest.raises(UserError, match="lower_bound_ lacks constants: use from_sklearn"):
        EvidenceSelector(BayesianGaussianMixture(), {"n_components": [1, 2]}).fit(x)
    with pytest.raises(UserError, match="none of estimate_"):
        EvidenceSelector(KMeans(), {"n_clusters": [1, 2]}).fit(x)
    with pytest.raises(UserError, match=r"sum to 1\.5"):
        run({"elbo": 1.0}, {"elbo": 1.0}, weights=[0.0, math.log(0.5)])
    with pytest.raises(UserError, match="needs 2 finite numbers"):
        EvidenceSelector(VariationalGaussianMixture(1), {"n_components": [1, 2]}, log_prior_weights=[0.0]).fit(x)
    with pytest.raises(UserError, match="at least one model"):
        select({}, x)
    with pytest.raises(UserError, match="must be a pair"):
        select({"a": VariationalGaussianMixture(1)}, x)


class Supervised(BaseEstimator):
    """Regression with y, its evidence as a closed form."""

    def __init__(self, degree: int = 1) -> None:
        self.degree = degree

    def fit(self, X, y):
        model = Polynomial(self.degree)
        model.fit((X[:, 0], y))
        self.estimate_ = closed_form(model.elbo[None], target="log p(y|x)")
        return self


def test_supervised_estimators_see_y():
    x, y = curve()
    assert EvidenceSelector(Supervised(), {"degree": range(5)}).fit(x[:, None], y).best_params_ == {"degree": 2}
