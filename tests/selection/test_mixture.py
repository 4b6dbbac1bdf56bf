"""VariationalGaussianMixture: scikit-learn's contract, the choice, predictive quantities, warnings and errors."""

import math
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.integrate import trapezoid
from scipy.stats import kstest, t
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from infimum.errors import UserError
from infimum.selection import VariationalGaussianMixture
from selection.mixture_cases import KINDS, clusters, enumerated, exact

quiet = pytest.mark.filterwarnings("ignore::UserWarning")


@quiet
@parametrize_with_checks([
    VariationalGaussianMixture(max_components=3, n_init=2, random_state=0),
    VariationalGaussianMixture(2, covariance_type="diag", n_init=1, alpha=1.0),
    VariationalGaussianMixture(2, covariance_type="spherical", n_init=1, label_switching=True),
    VariationalGaussianMixture(2, covariance_type="known", covariance=1.0, n_init=1),
])  # fmt: skip
def test_scikit_learn(estimator, check):
    check(estimator)


def known(kind: str) -> dict:
    return {"covariance_type": kind, "covariance": 1.0 if kind == "known" else None, "random_state": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_three_clusters(kind):
    x = clusters()
    fit = VariationalGaussianMixture(max_components=6, **known(kind)).fit(x)
    assert fit.n_components_ == 3
    assert adjusted_rand_score(np.repeat(np.arange(3), 60), fit.predict(x)) > 0.97
    c = fit.criterion_
    np.testing.assert_allclose(c["penalty"], math.log(2) * np.arange(1, 7))
    np.testing.assert_allclose(c["criterion"], c["elbo"] - c["penalty"])
    np.testing.assert_allclose(fit.model_posterior_, np.exp(c["criterion"] - np.logaddexp.reduce(c["criterion"])))
    assert (c["restarts_agreeing"] >= 1).all() and c["restarts_agreeing"][0] == 1
    assert fit.estimate_.target == "tempered evidence of the data set, a=0.9"
    assert (fit.estimate_.side, float(fit.estimate_.stderr[0]), float(fit.estimate_.value[0])) == (
        "lower",
        0.0,
        fit.elbo_,
    )
    alone = VariationalGaussianMixture(3, **known(kind)).fit(x)
    assert alone.elbo_ == fit.elbo_ and (alone.means_ == fit.means_).all()
    assert alone.log_prior_weight_ == 0.0 and fit.log_prior_weight_ == pytest.approx(-3 * math.log(2))


def test_default_prior_and_enumeration():
    x = clusters((4, 4), seed=1)
    fit = VariationalGaussianMixture(2, alpha=1.0, random_state=0).fit(x)
    truth = enumerated(lambda rows: exact("full", fit._components, x[rows]), 8, 1.0)
    assert truth - 4 < fit.elbo_ < truth
    one = VariationalGaussianMixture(1, alpha=0.5).fit(x)
    np.testing.assert_allclose(one._components.scale0.numpy(), np.cov(x.T, bias=True))
    assert one.elbo_ == pytest.approx(exact("full", one._components, x, 0.5), rel=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_rows_and_rotation_of_axes(kind):
    x = clusters((30, 30), apart=4.0)
    fit = VariationalGaussianMixture(2, **known(kind)).fit(x)
    order = np.random.default_rng(0).permutation(len(x))
    other = VariationalGaussianMixture(2, **known(kind)).fit(x[order])
    assert other.elbo_ == pytest.approx(fit.elbo_, rel=1e-7)
    if kind != "diag":
        c, s = math.cos(0.6), math.sin(0.6)
        turned = VariationalGaussianMixture(2, **known(kind)).fit(x @ np.array([[c, s], [-s, c]]))
        assert turned.elbo_ == pytest.approx(fit.elbo_, rel=1e-7)


def test_scale_of_columns_moves_the_bound_by_its_jacobian():
    x = clusters((30, 30), apart=4.0)
    for kind in ("full", "diag"):
        fits = [
            VariationalGaussianMixture(2, covariance_type=kind, alpha=0.7, random_state=0).fit(z)
            for z in (x, x * [10, 0.1])
        ]
        assert fits[0].elbo_ == pytest.approx(fits[1].elbo_, rel=1e-7)  # det = 1
        other = VariationalGaussianMixture(2, covariance_type=kind, alpha=0.7, random_state=0).fit(x * [3, 1] + 1e4)
        assert other.elbo_ == pytest.approx(fits[0].elbo_ - 0.7 * 60 * math.log(3), rel=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_predictive_is_a_density_and_samples_follow_it(kind):
    x = np.concatenate([clusters((30,), seed=1)[:, :1], clusters((20,), seed=2)[:, :1] + 5])
    fit = VariationalGaussianMixture(2, **known(kind)).fit(x)
    grid = np.sinh(np.linspace(-14, 14, 40001))[:, None] + 2  # tails of Student's t
    assert trapezoid(np.exp(fit.score_samples(grid)), grid[:, 0]) == pytest.approx(1, abs=1e-6)
    cdf = np.concatenate([[0], np.cumsum(np.diff(grid[:, 0]) * np.exp(fit.score_samples((grid[1:] + grid[:-1]) / 2)))])
    drawn, labels = fit.sample(4000)
    assert kstest(drawn[:, 0], lambda v: np.interp(v, grid[:, 0], cdf)).pvalue > 1e-4
    assert labels.shape == (4000,) and (np.sort(np.unique(labels)) == [0, 1]).all()
    share = (labels == 0).mean()
    assert abs(share - fit.weights_[0]) < 4 * math.sqrt(fit.weights_[0] * fit.weights_[1] / 4000)
    proba = fit.predict_proba(x)
    np.testing.assert_allclose(proba.sum(1), 1)
    assert (proba.argmax(1) == fit.predict(x)).all() and fit.score(x) == pytest.approx(fit.score_samples(x).mean())


def test_samples_in_two_dimensions_have_the_predictive_score():
    """E log p under the predictive, two ways: draws against a sum over a fine lattice."""
    x = clusters((25, 25), apart=3.0, seed=8)
    for kind in ("full", "spherical"):
        fit = VariationalGaussianMixture(2, **known(kind)).fit(x)
        axis = np.sinh(np.linspace(-6.5, 6.5, 601))
        cell = np.gradient(axis)
        points = np.stack(np.meshgrid(axis + 1.5, axis, indexing="ij"), -1).reshape(-1, 2)
        log = fit.score_samples(points)
        mass = np.exp(log) * np.outer(cell, cell).ravel()
        assert mass.sum() == pytest.approx(1, abs=2e-3)
        scores = fit.score_samples(fit.sample(4000)[0])
        assert abs(scores.mean() - (mass @ log) / mass.sum()) < 4.5 * scores.std() / math.sqrt(4000) + 5e-3


def test_predictive_of_one_component_is_students_t():
    x = clusters((12,), seed=1)[:, :1]
    fit = VariationalGaussianMixture(1).fit(x)
    dof, beta = 1 + 0.9 * 12, 0.01 + 0.9 * 12
    scale = float(fit.covariances_[0, 0, 0]) * (1 + 1 / beta)
    np.testing.assert_allclose(fit.score_samples(x), t(dof, x.mean(), math.sqrt(scale)).logpdf(x[:, 0]), rtol=1e-10)
    assert fit.degrees_of_freedom_[0] == pytest.approx(dof) and fit.mean_precision_[0] == pytest.approx(beta)


def test_label_switching_is_no_strict_bound():
    x = clusters()
    plain, switched = (
        VariationalGaussianMixture(max_components=4, label_switching=on, random_state=0).fit(x) for on in (0, 1)
    )
    np.testing.assert_allclose(switched.criterion_["criterion"] - plain.criterion_["criterion"], np.log([1, 2, 6, 24]))
    assert switched.estimate_.side == "none" and not switched.estimate_.certified
    assert float(switched.estimate_.value[0]) == pytest.approx(switched.elbo_ + math.log(6))
    assert "log K!" in str(switched.estimate_.mean())


def test_frames_pipelines_and_pickles():
    x = clusters((20, 20))
    fit = VariationalGaussianMixture(2, random_state=0).fit(x)
    for frame in (pd.DataFrame(x, columns=["a", "b"]), pl.DataFrame(x, schema=["a", "b"])):
        framed = VariationalGaussianMixture(2, random_state=0).fit(frame)
        assert framed.elbo_ == fit.elbo_ and framed.feature_names_in_.tolist() == ["a", "b"]
        assert (framed.predict(frame) == fit.predict(x)).all()
    pipe = make_pipeline(StandardScaler(), VariationalGaussianMixture(2, random_state=0)).fit(x)
    assert pipe.predict(x).shape == (40,) and np.isfinite(pipe.score(x))
    again = pickle.loads(pickle.dumps(fit))
    assert (again.score_samples(x) == fit.score_samples(x)).all()


def test_warnings_and_unsettled_fits():
    x = clusters()
    with pytest.warns(UserWarning, match="edge of the grid, 2 components"):
        VariationalGaussianMixture(max_components=2, random_state=0).fit(x)
    with pytest.warns(
        ConvergenceWarning, match=r"with \[2, 3\] components had not settled after max_iter=3 .*left out"
    ):
        fit = VariationalGaussianMixture(max_components=3, max_iter=3, random_state=0, tol=1e-14).fit(x)
    assert fit.n_components_ == 1 and fit.model_posterior_.tolist() == [1, 0, 0]
    with pytest.warns(ConvergenceWarning, match="kept for want of another"):
        VariationalGaussianMixture(3, max_iter=1).fit(x)


@pytest.mark.parametrize(("settings", "match"), [
    ({"alpha": 0.0}, r"alpha must lie in \(0, 1\]"),
    ({"alpha": "x"}, r"alpha must lie in \(0, 1\]"),
    ({"n_components": 0}, "n_components must be 'evidence' or a number of components"),
    ({"n_components": "auto"}, "n_components must be 'evidence' or"),
    ({"n_components": 41}, "n_components=41 is more than there are rows, n_samples=40"),
    ({"max_components": 2.5}, "max_components must be None or"),
    ({"covariance_type": "tied"}, "covariance_type must be one of full, diag, spherical, known"),
    ({"covariance_type": "known"}, "give the covariance"),
    ({"covariance": 1.0}, "covariance goes with covariance_type='known'"),
    ({"covariance_type": "known", "covariance": [[1, 2], [2, 1]]}, "positive definite"),
    ({"covariance_prior": [1.0, 2.0, 3.0]}, r"symmetric \(2, 2\) matrix"),
    ({"covariance_prior": -1.0, "covariance_type": "spherical"}, "covariance_prior must be a positive number"),
    ({"degrees_of_freedom_prior": 1.0}, "degrees_of_freedom_prior must be above 1"),
    ({"mean_prior": [0.0]}, "mean_prior must be 2 finite numbers"),
    ({"mean_precision_prior": 0}, "mean_precision_prior must be a positive number"),
    ({"weight_concentration_prior": math.nan}, "weight_concentration_prior must be a positive number"),
    ({"n_init": 0}, "n_init must be a number, 1 or more"),
    ({"tol": 0}, "tol must be a positive number"),
    ({"model_prior": [0.5, 0.6], "max_components": 2}, "sum to at most 1"),
])  # fmt: skip
def test_bad_settings(settings, match):
    with pytest.raises(UserError, match=match):
        VariationalGaussianMixture(**settings).fit(clusters((20, 20)))


def test_bad_data():
    x = clusters((20, 20))
    with pytest.raises(UserError, match="column 2 is constant"):
        VariationalGaussianMixture().fit(np.column_stack([x, np.ones(40)]))
    with pytest.raises(UserError, match="column c is constant"):
        VariationalGaussianMixture(covariance_type="diag").fit(pd.DataFrame({"b": x[:, 0], "c": 1.0}))
    with pytest.raises(UserError, match="singular"):
        VariationalGaussianMixture().fit(np.column_stack([x, x.sum(1)]))
    with pytest.raises(UserError, match="no column varies"):
        VariationalGaussianMixture(covariance_type="spherical").fit(np.ones((5, 2)))
    with pytest.raises(ValueError, match="NaN"):
        VariationalGaussianMixture().fit(np.where(x > 5, np.nan, x))
    with pytest.raises(NotFittedError):
        VariationalGaussianMixture().predict(x)
    with pytest.raises(UserError, match="n_samples must be"):
        VariationalGaussianMixture(2).fit(x).sample(0)
    given = VariationalGaussianMixture(2, covariance_prior=np.eye(3), n_init=1).fit(np.column_stack([x, np.ones(40)]))
    assert np.isfinite(given.elbo_)
