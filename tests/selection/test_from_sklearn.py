"""scikit-learn's bound with its constants put back, against the bound of the native mixture at the same optimum."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from infimum.errors import UserError
from infimum.selection import VariationalGaussianMixture, from_sklearn, select
from infimum.selection.mixture_ascent import step
from selection.mixture_cases import clusters, exact


def fitted(x: np.ndarray, k: int, **settings) -> BayesianGaussianMixture:
    options = {"covariance_type": "full", "weight_concentration_prior_type": "dirichlet_distribution", "reg_covar": 0.0,
               "weight_concentration_prior": 0.8, "mean_precision_prior": 0.05, "degrees_of_freedom_prior": 3.5,
               "max_iter": 5000, "tol": 1e-11, "n_init": 3, "random_state": 0}  # fmt: skip
    return BayesianGaussianMixture(n_components=k, **{**options, **settings}).fit(x)


def native(bgm: BayesianGaussianMixture, x: np.ndarray) -> VariationalGaussianMixture:
    """The same priors."""
    model = VariationalGaussianMixture(
        1, alpha=1.0, weight_concentration_prior=bgm.weight_concentration_prior_, mean_prior=bgm.mean_prior_,
        mean_precision_prior=bgm.mean_precision_prior_, degrees_of_freedom_prior=bgm.degrees_of_freedom_prior_,
        covariance_prior=bgm.covariance_prior_, random_state=0, max_components=6,
    )  # fmt: skip
    return model.fit(x)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_equals_the_native_bound_at_the_same_optimum(k):
    x = clusters((20, 15, 25), apart=3.0)
    bgm = fitted(x, k)
    model = native(bgm, x)
    r = torch.tensor(bgm.predict_proba(x).T[None])
    at = step(model._components, model._rows(x), r, alpha=1.0, prior=bgm.weight_concentration_prior_)
    assert from_sklearn(bgm, x).elbo == pytest.approx(float(at.elbo), abs=1e-6)
    np.testing.assert_allclose(model._components.covariances(at.factor)[0], bgm.covariances_, rtol=1e-4)


def test_one_component_is_the_exact_evidence():
    x = clusters((12, 9), seed=4)
    bgm = fitted(x, 1)
    repaired = from_sklearn(bgm, x)
    assert repaired.elbo == pytest.approx(exact("full", native(bgm, x)._components, x), rel=1e-10)
    assert repaired.elbo == repaired.lower_bound + repaired.constants and repaired.converged
    assert repaired.estimate.target == native(bgm, x).estimate_.target


def test_the_raw_bound_changes_its_mind_with_the_unit_and_the_repaired_one_does_not():
    """Issue 19074: a smaller unit makes every further component look better to the raw bound; the repaired one moves by n d log."""
    x, scale = clusters(), 0.05
    peaks, repaired = {}, {}
    for unit in (1.0, scale):
        fits = [
            fitted(unit * x, k, weight_concentration_prior=1.0, mean_precision_prior=0.01, tol=1e-8)
            for k in range(1, 7)
        ]
        peaks[unit] = int(np.argmax([fit.lower_bound_ for fit in fits])) + 1
        repaired[unit] = np.array([from_sklearn(fit, unit * x).elbo for fit in fits])
        assert np.argmax(repaired[unit]) + 1 == 3
    assert peaks[scale] > 3
    jacobian = -x.size * np.log(scale)
    np.testing.assert_allclose(repaired[scale][:3], repaired[1.0][:3] + jacobian, rtol=1e-7)
    model = native(fits[0], unit * x).set_params(n_components="evidence").fit(unit * x)
    np.testing.assert_allclose(repaired[scale][:3], model.criterion_["elbo"][:3], atol=1e-4)
    assert (model.criterion_["elbo"] >= repaired[scale] - 1e-4).all()  # ten restarts against three


class Fixed:
    """A model that was fitted elsewhere."""

    def __init__(self, result) -> None:
        self.result = result

    def fit(self, data):
        return self.result


def test_repaired_bounds_can_be_selected():
    x = clusters()
    models = {f"K={k}": (Fixed(from_sklearn(fitted(x, k, tol=1e-6), x)), -k * np.log(2)) for k in (1, 2, 3, 4)}
    assert select(models, x).name == "K=3"


@pytest.mark.parametrize(("settings", "match"), [
    ({"covariance_type": "diag"}, "covariance_type='full' only"),
    ({"weight_concentration_prior_type": "dirichlet_process"}, "weight_concentration_prior_type='dirichlet_distribution' only"),
    ({"reg_covar": 1e-6}, "reg_covar=0 only"),
])  # fmt: skip
def test_refuses_what_the_formula_does_not_cover(settings, match):
    x = clusters((20, 20))
    with pytest.raises(UserError, match=match):
        from_sklearn(fitted(x, 2, tol=1e-3, **settings), x)


def test_refuses_other_things():
    x = clusters((20, 20))
    with pytest.raises(UserError, match="takes a BayesianGaussianMixture, got GaussianMixture"):
        from_sklearn(GaussianMixture().fit(x), x)
    bgm = fitted(x, 2, tol=1e-3)
    with pytest.raises(UserError, match="X has 30 rows, the mixture was fitted to 40"):
        from_sklearn(bgm, x[:30])
    with pytest.raises(UserError, match="fitted to 2 columns"):
        from_sklearn(bgm, x[:, :1])
    with pytest.raises(NotFittedError):
        from_sklearn(BayesianGaussianMixture(reg_covar=0, weight_concentration_prior_type="dirichlet_distribution"), x)
