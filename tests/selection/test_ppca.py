"""The estimator: scikit-learn's contract, inputs, predictive quantities, warnings and errors."""

import math
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from infimum.errors import UserError
from infimum.selection import PPCASettings, VariationalPPCA
from infimum.selection.settings import model_weights
from infimum.testing import BayesianLinearRegression
from selection.ppca_cases import table

quiet = pytest.mark.filterwarnings("ignore::UserWarning")


@quiet
@parametrize_with_checks([
    VariationalPPCA(random_state=0), VariationalPPCA(1, alpha=1.0), VariationalPPCA(1, mean="vb", prior="ard", random_state=0),
])  # fmt: skip
def test_scikit_learn(estimator, check):
    check(estimator)


@quiet
def test_criterion_and_choice():
    x = table(200, 8, 2, seed=1)
    fit = VariationalPPCA(random_state=0).fit(x)
    c = fit.criterion_
    assert fit.n_components_ == 2
    np.testing.assert_allclose(c["penalty"], math.log(2) * np.arange(1, 9))
    np.testing.assert_allclose(c["criterion"], c["elbo"] - c["penalty"])
    weights = np.exp(c["criterion"] - np.logaddexp.reduce(c["criterion"]))
    np.testing.assert_allclose(fit.model_posterior_, weights, atol=1e-12)
    assert fit.elbo_ == c["elbo"][2] == float(fit.estimate_.value)
    assert fit.estimate_.side == "lower" and fit.estimate_.target == PPCASettings().target
    corrected = VariationalPPCA(orbit=True, random_state=0).fit(x).criterion_
    np.testing.assert_allclose(corrected["criterion"], c["criterion"] + c["orbit"])
    assert (np.diff(c["orbit"][:3]) > 0).all() and c["orbit"][0] == 0


@quiet
def test_full_mask_equals_complete_and_shift_changes_nothing():
    x = table(60, 5, 2)
    stored = sp.csr_matrix((x.ravel(), np.tile(np.arange(5), 60), np.arange(0, 301, 5)), shape=(60, 5))
    fast = VariationalPPCA(max_components=3, random_state=0).fit(x)
    slow = VariationalPPCA(max_components=3, random_state=0, tol=1e-12).fit(stored)
    np.testing.assert_allclose(slow.criterion_["elbo"], fast.criterion_["elbo"], rtol=1e-8)
    np.testing.assert_allclose(slow.get_covariance(), fast.get_covariance(), atol=1e-3)
    holed = x.copy()
    holed[3, 2] = np.nan
    for t in (x, holed):
        base, moved = (VariationalPPCA(2, random_state=0).fit(t + shift) for shift in (0, 1e4))
        assert moved.elbo_ == pytest.approx(base.elbo_, rel=1e-8)
        np.testing.assert_allclose(moved.mean_, base.mean_ + 1e4, atol=1e-5)


@quiet
def test_rows_and_columns_in_another_order():
    x = table(50, 5, 2, missing=0.2)
    base = VariationalPPCA(2, tol=1e-12).fit(x)
    order = np.random.default_rng(0).permutation(50)
    for other in (x[order], x[:, ::-1]):
        assert VariationalPPCA(2, tol=1e-12).fit(other).elbo_ == pytest.approx(base.elbo_, rel=1e-8)


@quiet
def test_predictive_densities_and_covariance():
    x = table(80, 5, 2, missing=0.2)
    fit = VariationalPPCA(2).fit(x)
    covariance = fit.get_covariance()
    for row, score in zip(x, fit.score_samples(x), strict=True):
        seen = ~np.isnan(row)
        exact = multivariate_normal(fit.mean_[seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen])
        assert score == pytest.approx(float(exact), rel=1e-9)
    assert fit.score(x) == pytest.approx(fit.score_samples(x).mean())
    np.testing.assert_allclose(np.linalg.norm(fit.components_, axis=1), 1)
    np.testing.assert_allclose(fit.components_ @ fit.components_.T, np.eye(2), atol=1e-10)
    np.testing.assert_allclose(fit.components_ * np.linalg.norm(fit.loadings_, axis=0)[:, None], fit.loadings_.T)
    draws = fit.set_params(random_state=0).sample(200000)
    error = np.abs(np.cov(draws.T) - covariance) / np.sqrt(
        (covariance**2 + np.outer(*[np.diag(covariance)] * 2)) / 200000
    )
    assert error.max() < 5
    empty = np.full((1, 5), np.nan)
    assert fit.score_samples(empty)[0] == 0 and not fit.transform(empty).any()


@quiet
def test_imputation_is_calibrated():
    """Hidden cells fall into the predictive: z has variance 1. Multiple imputation has the same mean and spread."""
    full = table(600, 8, 2, seed=4)
    hidden = np.random.default_rng(1).random(full.shape) < 0.2
    x = np.where(hidden, np.nan, full)
    fit = VariationalPPCA(random_state=0).fit(x)
    filled, sd = fit.impute(x)
    np.testing.assert_array_equal(filled[~hidden], full[~hidden])
    assert not sd[~hidden].any()
    z = (full[hidden] - filled[hidden]) / sd[hidden]
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert abs((z**2).mean() - 1) < 4 * math.sqrt(2 / len(z))
    assert (filled[hidden] - full[hidden]).std() < 0.8 * full[hidden].std()
    tables = fit.sample_missing(x, 300)
    drawn = (tables[:, hidden] - filled[hidden]) / sd[hidden]
    assert abs((drawn**2).mean() - 1) < 0.02
    assert np.array_equal(tables[:, ~hidden], np.broadcast_to(full[~hidden], (300, (~hidden).sum())))


@quiet
def test_frames_and_pipelines():
    x = table(60, 4, 2)
    names = ["a", "b", "c", "d"]
    base = VariationalPPCA(2).fit(x)
    for frame in (pd.DataFrame(x, columns=names), pl.DataFrame(x, schema=names)):
        fit = VariationalPPCA(2).fit(frame)
        assert fit.elbo_ == base.elbo_
        assert list(fit.feature_names_in_) == names
    assert list(fit.get_feature_names_out()) == ["variationalppca0", "variationalppca1"]
    out = VariationalPPCA(2).set_output(transform="pandas").fit_transform(pd.DataFrame(x, columns=names))
    assert list(out.columns) == ["variationalppca0", "variationalppca1"]
    pipe = make_pipeline(StandardScaler(), VariationalPPCA(2)).fit(x)
    back = pipe.inverse_transform(pipe.transform(x))
    assert ((back - x) ** 2).mean() < x.var(0).mean()
    missing = pd.DataFrame(x, columns=names)
    missing.iloc[0, 0] = None
    assert VariationalPPCA(1).fit(missing).n_features_in_ == 4


def test_bound_that_is_exact_selects_as_exact_bayes():
    """Regression of degree K with the exact posterior as factor: the tempered ELBO is the log evidence of the tempered model."""
    grid = torch.linspace(-1, 1, 25, dtype=torch.float64)
    y = (
        0.5
        - 2 * grid
        + 3 * grid**2
        + 0.3 * torch.randn(25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    for alpha in (1.0, 0.5):
        bounds, evidences = [], []
        for degree in range(6):
            phi = torch.stack([grid**k for k in range(degree + 1)], 1)
            # tempered Gaussian likelihood: N(y; ., v)^alpha is N(y; ., v / alpha) times a constant
            model = BayesianLinearRegression(phi, 0.09 / alpha, 1.0)
            constant = 25 / 2 * ((1 - alpha) * math.log(2 * math.pi * 0.09) - math.log(alpha))
            evidences.append(float(model.log_evidence(y[None])) + constant)
            precision = torch.eye(degree + 1) + alpha / 0.09 * phi.T @ phi
            cov = torch.linalg.inv(precision)
            mean = cov @ phi.T @ y * alpha / 0.09
            fit = (
                -25 / 2 * math.log(2 * math.pi * 0.09)
                - ((y - phi @ mean).square().sum() + (phi @ cov @ phi.T).trace()) / 0.18
            )
            divergence = (cov.trace() + mean @ mean - degree - 1 - torch.logdet(cov)) / 2
            bounds.append(float(alpha * fit - divergence))
        np.testing.assert_allclose(bounds, evidences, atol=1e-8)
        weights = model_weights("geometric", 6)
        assert np.argmax(bounds + weights) == np.argmax(evidences + weights) == 2


def test_model_weights():
    np.testing.assert_allclose(np.exp(model_weights("geometric", 3)), [0.5, 0.25, 0.125])
    np.testing.assert_allclose(np.exp(model_weights("uniform", 4)), 0.25)
    np.testing.assert_allclose(np.exp(model_weights([0.2, 0.3], 2)), [0.2, 0.3])
    for bad, text in (
        ([0.7, 0.7], "sum to at most 1"),
        ([0.0, 0.5], "positive"),
        ([0.5], "one weight for each"),
        ("flat", "must be"),
    ):
        with pytest.raises(UserError, match=text):
            model_weights(bad, 2)


@quiet
def test_uniform_prior_ties_go_to_the_smallest():
    noise = np.random.default_rng(3).normal(size=(100, 5))
    fit = VariationalPPCA(model_prior="uniform", random_state=0).fit(noise)
    assert fit.n_components_ == 0  # the shared prior variance falls to 0, and all models with it become q = 0
    assert fit.transform(noise).shape == (100, 0)


def test_warnings():
    x = table(100, 6, 3, seed=1)
    with pytest.warns(UserWarning, match="edge of the grid, 1 component:"):
        VariationalPPCA(max_components=1, random_state=0).fit(x)
    with pytest.warns(ConvergenceWarning, match="had not settled after max_iter=2"):
        fit = VariationalPPCA(2, max_iter=2, tol=1e-15).fit(x)
    assert not fit.converged_ and not fit.criterion_["converged"][0]
    flat = x.copy()
    flat[:, 4] = 1.0
    with pytest.warns(UserWarning, match="column 4 is constant"):
        VariationalPPCA(2).fit(flat)
    flat[:, 3] = -2.0
    with pytest.warns(UserWarning, match="columns 3, 4 are constant, which a known noise rules out: drop them"):
        VariationalPPCA(2, noise="known", noise_variance=1.0).fit(flat)
    exact = np.random.default_rng(0).normal(size=(50, 2)) @ np.random.default_rng(1).normal(size=(2, 5))
    with pytest.warns(UserWarning, match="hit its floor"):
        VariationalPPCA(2, noise="point").fit(exact)
    with pytest.warns(UserWarning, match="best two criteria differ by"):
        VariationalPPCA(random_state=0).fit(table(25, 6, 2, seed=6))


@quiet
def test_fits_that_have_not_settled_are_left_out():
    x = table(100, 6, 3, seed=1)
    fit = VariationalPPCA(noise="point", max_iter=12, random_state=0).fit(x)
    settled = fit.criterion_["converged"]
    assert 0 < settled.sum() < len(settled)
    assert settled[fit.criterion_["n_components"] == fit.n_components_].all()
    assert not fit.model_posterior_[~settled].any()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": 0.0}, "alpha must lie in"),
        ({"alpha": 1.5}, "the guarantee needs alpha < 1"),
        ({"noise": "known"}, "needs a positive noise_variance"),
        ({"n_components": 5}, "no residual degrees of freedom .* use noise='known' or at most 4"),
        ({"max_components": 9}, "no residual degrees of freedom"),
        ({"n_components": -1}, "0 or more"),
        ({"n_components": "best"}, "must be 'evidence' or a number"),
        ({"n_components": None}, "must be 'evidence' or a number"),
        ({"noise_rate": 0.0}, "noise_rate must be a positive number"),
        ({"max_components": "many"}, "max_components must be"),
        ({"max_iter": 0}, "must be positive"),
        ({"model_prior": [0.5, 0.6, 0.1, 0.1, 0.1]}, "sum to at most 1"),
    ],
)
def test_settings_that_are_refused(options, text):
    with pytest.raises(UserError, match=text):
        VariationalPPCA(**options).fit(table())


@quiet
@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("prior", ["shared", "ard"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_units_do_not_decide(missing, prior, scale):
    """Other units move every bound by the Jacobian, a log s for each observed cell."""
    x = table(60, 5, 2, missing=missing)
    base, other = (
        VariationalPPCA(prior=prior, tol=1e-11, max_components=3, random_state=0).fit(t) for t in (x, scale * x)
    )
    moved = base.criterion_["elbo"] - 0.9 * np.isfinite(x).sum() * math.log(scale)
    np.testing.assert_allclose(other.criterion_["elbo"], moved, rtol=1e-6)
    assert other.n_components_ == base.n_components_
    np.testing.assert_allclose(other.noise_variance_, base.noise_variance_ * scale**2, rtol=1e-3)
    rate = 1e-3 * np.nanvar(x, axis=0).mean()
    given = VariationalPPCA(prior=prior, tol=1e-11, max_components=3, noise_rate=rate, random_state=0).fit(x)
    np.testing.assert_allclose(given.criterion_["elbo"], base.criterion_["elbo"], rtol=1e-12)


@quiet
def test_constant_columns_support_no_component():
    """With as many components as columns vary, the noise of the constant ones would make the likelihood unbounded."""
    x = np.column_stack([table(60, 4, 2), np.full(60, 3.0)])
    holed = x.copy()
    holed[0, 0] = np.nan
    for t in (x, holed):
        fit = VariationalPPCA(random_state=0).fit(t)
        assert fit.criterion_["n_components"].tolist() == [0, 1, 2, 3]
        assert fit.n_components_ == 2
        with pytest.raises(UserError, match="n_features=5, 1 of them constant: use noise='known' or at most 3"):
            VariationalPPCA(4).fit(t)
    about_zero = VariationalPPCA(mean="zero", random_state=0).fit(x)  # there the constant is an axis of its own
    assert about_zero.criterion_["n_components"].tolist() == [0, 1, 2, 3, 4]


def test_noise_that_the_prior_decides_is_told():
    x = np.column_stack([(t := table(60, 4, 2)), t[:, 0] - t[:, 1]])
    with pytest.warns(UserWarning, match="with 4 components the prior of the noise .* sums of others"):
        VariationalPPCA(random_state=0).fit(x)
    x[0, 0] = np.nan
    with pytest.warns(UserWarning, match="with 4 components the prior of the noise"):
        VariationalPPCA(4, tol=1e-6).fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VariationalPPCA(2).fit(x)


@quiet
def test_tables_that_are_refused():
    x = table()
    with pytest.raises(UserError, match="no bound is a finite number"):
        VariationalPPCA().fit(1e-160 * x)
    with pytest.raises(UserError, match="no column varies"):
        VariationalPPCA().fit(np.ones((10, 3)))
    with pytest.raises(ValueError, match="1 sample"):
        VariationalPPCA().fit(x[:1])
    for bad, text in ((np.inf, "infinity"), ("text", "could not convert string to float")):
        other = x.astype(object)
        other[2, 2] = bad
        with pytest.raises(ValueError, match=text):
            VariationalPPCA().fit(other)
    other = x.copy()
    other[7] = np.nan
    with pytest.raises(UserError, match="row 7 has no observed value"):
        VariationalPPCA().fit(other)
    known = VariationalPPCA(5, noise="known", noise_variance=1.0, prior="fixed").fit(x)
    assert known.transform(x).shape == (60, 5)
