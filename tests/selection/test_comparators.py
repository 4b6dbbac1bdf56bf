"""Comparators against scikit-learn, against formulas written out, and on tables whose answer is known."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.decomposition import PCA
from sklearn.decomposition._pca import _assess_dimension
from sklearn.model_selection import KFold

from infimum.errors import UserError
from infimum.selection import VariationalPPCA, compare_criteria
from infimum.selection.comparators import cross_validated, held_out_cells, information, minka, parallel_analysis
from selection.ppca_cases import table

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def standardised(load):
    x = load().data
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.parametrize(
    "x",
    [table(60, 5, 2), table(200, 12, 4, seed=1), standardised(load_wine), standardised(load_breast_cancer)],
    ids=["small", "larger", "wine", "breast cancer"],
)
def test_minka_is_that_of_scikit_learn(x):
    n, d = x.shape
    values = minka(x, np.arange(d))
    assert np.isnan(values[0])
    assert int(np.nanargmax(values)) == PCA("mle", svd_solver="full").fit(x).n_components_
    spectrum = PCA(svd_solver="full").fit(x).explained_variance_
    np.testing.assert_allclose(values[1:], [_assess_dimension(spectrum, k, n) for k in range(1, d)], rtol=1e-10)


def likelihood(train, test, q):
    """PPCA by maximum likelihood, with a covariance matrix that is built."""
    mean = train.mean(0)
    values, axes = np.linalg.eigh((train - mean).T @ (train - mean) / len(train))
    values, axes = values[::-1], axes[:, ::-1]
    noise = values[q:].mean()
    covariance = (axes[:, :q] * (values[:q] - noise)) @ axes[:, :q].T + noise * np.eye(len(mean))
    return multivariate_normal(mean, covariance).logpdf(test)


def test_information_criteria_are_penalised_likelihoods():
    x = table()
    for price in (math.log(60) / 2, 1.0):
        expected = [likelihood(x, x, q).sum() - price * (5 * q - q * (q - 1) / 2 + 1 + 5) for q in range(5)]
        np.testing.assert_allclose(information(x, np.arange(5), price), expected, rtol=1e-12)
    assert np.isnan(information(x, np.array([5]), 1.0)).all()


def test_cross_validation_of_all_numbers_at_once():
    x = table()
    expected = np.zeros(5)
    for train, test in KFold(5, shuffle=True, random_state=3).split(x):
        expected += [likelihood(x[train], x[test], q).sum() for q in range(5)]
    np.testing.assert_allclose(cross_validated(x, np.arange(5), seed=3), expected / 60, rtol=1e-10)


def test_parallel_analysis_sees_what_is_there_and_not_what_is_not():
    assert (parallel_analysis(table(500, 8, 2, seed=1))[:3] > 0).tolist() == [True, True, False]
    noise = np.random.default_rng(0).normal(size=(300, 6))
    noise[:, 0] *= 10  # a loud column is no component: correlations do not see it
    assert parallel_analysis(noise, correlation=True)[0] < 0.1


def test_held_out_cells_prefer_the_truth():
    x = table(150, 8, 2, seed=2, missing=0.1)
    scores = held_out_cells(x, np.arange(4), estimator=VariationalPPCA(random_state=0))
    assert scores[2] > scores[1] > scores[0]
    assert scores[3] < scores[2] + 0.01


def test_one_call():
    x = table(200, 8, 2, seed=1)
    found = compare_criteria(x, max_components=5)
    assert set(found.scores) == {"evidence", "bic", "aic", "minka", "parallel", "cv"}
    assert all(len(s) == 6 for s in found.scores.values())
    assert found.choice["evidence"] == found.choice["bic"] == found.choice["minka"] == 2
    again = compare_criteria(x, max_components=5)
    assert again.choice == found.choice
    x[0, 0] = np.nan
    assert set(compare_criteria(x, max_components=2).scores) == {"evidence", "cells"}
    with pytest.raises(UserError, match="'bic' needs a complete table"):
        compare_criteria(x, methods=["bic"])
    with pytest.raises(UserError, match="methods are"):
        compare_criteria(x, methods=["guess"])
    with pytest.raises(UserError, match="max_components must lie"):
        compare_criteria(x, max_components=8)
