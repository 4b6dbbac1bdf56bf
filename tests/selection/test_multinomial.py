"""VariationalMultinomialMixture: exact evidences, scikit-learn's contract, sparse counts."""

import itertools
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from scipy.special import gammaln
from scipy.stats import dirichlet_multinomial
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from infimum.errors import UserError
from infimum.selection import VariationalMultinomialMixture
from infimum.selection.mixture_ascent import ascend
from infimum.selection.multinomial import Counts, Multinomials
from selection.mixture_cases import enumerated

quiet = pytest.mark.filterwarnings("ignore::UserWarning")


@quiet
@parametrize_with_checks([
    VariationalMultinomialMixture(n_init=1, tol=1e-6), *(VariationalMultinomialMixture(k, n_init=1) for k in (1, 2, 4)),
])  # fmt: skip
def test_scikit_learn(estimator, check):
    check(estimator)


def counts(n: int = 120, d: int = 20, k: int = 3, total: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    phi = rng.dirichlet(np.full(d, 0.3), size=k)
    return np.stack([rng.multinomial(total, phi[i % k]) for i in range(n)])


def exact(x: np.ndarray, prior: float, alpha: float = 1.0) -> float:
    """log int prod_i Multinomial(x_i | phi)^alpha dDirichlet(phi)."""
    coefficient = (gammaln(x.sum(1) + 1) - gammaln(x + 1).sum(1)).sum()
    b, d = prior + alpha * x.sum(0), x.shape[1]
    return float(alpha * coefficient + gammaln(b).sum() - gammaln(b.sum()) + gammaln(d * prior) - d * gammaln(prior))


@pytest.mark.parametrize("alpha", [0.2, 0.9, 1.0])
def test_one_component_is_the_exact_evidence(alpha):
    x = counts()
    fit = VariationalMultinomialMixture(1, alpha=alpha, feature_concentration_prior=0.4).fit(x)
    assert fit.elbo_ == pytest.approx(exact(x, 0.4, alpha), rel=1e-12)
    row = x[:1]
    if alpha == 1:  # the exact evidence of one row is a Dirichlet-multinomial probability
        assert exact(row, 0.4) == pytest.approx(dirichlet_multinomial(np.full(20, 0.4), 40).logpmf(row[0]))


def test_below_the_enumerated_evidence_and_at_the_best_of_all_starts():
    x = counts(8, 5, 2, 15, seed=3)
    truth = enumerated(lambda rows: exact(x[rows], 1.0), 8, 1.0)
    fit = VariationalMultinomialMixture(2, alpha=1.0, random_state=0).fit(x)
    labels = torch.tensor(list(itertools.product(range(2), repeat=8)))
    every = ascend(
        Multinomials(1.0), Counts.of(x, "cpu"), labels, 2, alpha=1.0, prior=1.0, sweeps=3000, tolerance=1e-12
    )
    assert float(every.elbo.max()) < truth
    assert fit.elbo_ == pytest.approx(
        float(every.elbo.max()), abs=1e-4
    )  # one component stays empty: most starts miss it
    assert (every.elbo < every.elbo.max() - 0.5).double().mean() > 0.5


def test_of_clusters_far_apart_the_bound_loses_the_other_labelling():
    x = np.kron(np.eye(2, dtype=np.int64), np.full((4, 3), 10**6))
    truth = enumerated(lambda rows: exact(x[rows], 1.0), 8, 1.0)
    fit = VariationalMultinomialMixture(2, alpha=1.0, random_state=0, tol=1e-14).fit(x)
    assert fit.elbo_ - truth == pytest.approx(-math.log(2), abs=1e-6)


def test_only_counts_have_probabilities():
    x = counts(30)
    fit = VariationalMultinomialMixture(2, n_init=2, random_state=0)
    with pytest.raises(NotFittedError):
        fit.predict_proba(x)
    for whole in (x, sp.csr_matrix(x)):
        proba = fit.fit(whole).predict_proba(whole)
        np.testing.assert_allclose(proba.sum(1), 1)
        assert (proba.argmax(1) == fit.predict(whole)).all()
    for shares in (x / 3, sp.csr_matrix(x / 3)):
        assert not hasattr(fit.fit(shares), "predict_proba")
        assert fit.predict(shares).shape == (30,) and fit.estimate_.side == "none"


def test_choice_and_recovery():
    x = counts()
    fit = VariationalMultinomialMixture(max_components=6, random_state=0).fit(x)
    assert fit.n_components_ == 3
    assert adjusted_rand_score(np.arange(120) % 3, fit.predict(x)) == 1.0
    truth = np.stack([x[i::3].sum(0) / x[i::3].sum() for i in range(3)])
    match = np.abs(fit.probabilities_[:, None] - truth).sum(-1).min(1)
    assert match.max() < 0.02  # the prior's pull: 20 of 1 beside 1440 counts
    assert (fit.estimate_.side, fit.estimate_.target) == ("lower", "tempered evidence of the counts, a=0.9")


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_array, sp.coo_array])
def test_sparse_counts_are_dense_counts(kind):
    x = counts()
    dense, sparse = (
        VariationalMultinomialMixture(max_components=4, n_init=3, random_state=0).fit(z) for z in (x, kind(x))
    )
    np.testing.assert_allclose(sparse.criterion_["elbo"], dense.criterion_["elbo"], rtol=1e-9)
    np.testing.assert_allclose(sparse.score_samples(kind(x)), dense.score_samples(x), rtol=1e-6)
    np.testing.assert_allclose(sparse.predict_proba(kind(x)), dense.predict_proba(x), atol=1e-6)
    pair = Counts.of(kind(x).tocsr(), "cpu"), Counts.of(x, "cpu")
    weights = torch.rand(2, 3, 120, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pair[0].sums(weights), pair[1].sums(weights))
    torch.testing.assert_close(pair[0].coefficient, pair[1].coefficient)


def test_predictive_sums_to_one_and_samples_follow_it():
    x = counts(60, 3, 2, 6)
    fit = VariationalMultinomialMixture(2, random_state=0).fit(x)
    rows = np.array([(a, b, 6 - a - b) for a in range(7) for b in range(7 - a)])
    mass = np.exp(fit.score_samples(rows))
    assert mass.sum() == pytest.approx(1, abs=1e-12)
    drawn, labels = fit.sample(5000)
    assert (drawn.sum(1) == 6).all() and set(labels) == {0, 1}
    share = np.array([(drawn == row).all(1).mean() for row in rows])
    z = (share - mass) / np.sqrt(mass * (1 - mass) / 5000)
    assert np.abs(z[mass > 1e-3]).max() < 4.2  # false alarm below 1e-3 for 28 cells
    assert fit.sample(2, n_trials=11)[0].sum(1).tolist() == [11, 11]


def test_values_that_are_not_counts_bound_nothing():
    fit = VariationalMultinomialMixture(1).fit(counts() / 2 + 0.25)
    assert fit.estimate_.side == "none" and "not whole numbers" in str(fit.estimate_.mean())


def test_texts_frames_and_empty_rows():
    x = counts()
    texts = [" ".join(f"word{j} " * c for j, c in enumerate(row)) for row in x]
    pipe = make_pipeline(CountVectorizer(), VariationalMultinomialMixture(3, random_state=0)).fit(texts)
    assert adjusted_rand_score(np.arange(120) % 3, pipe.predict(texts)) == 1.0
    fit = VariationalMultinomialMixture(3, random_state=0).fit(x)
    names = [f"w{j}" for j in range(20)]
    for frame in (pd.DataFrame(x, columns=names), pl.DataFrame(x, schema=names)):
        assert VariationalMultinomialMixture(3, random_state=0).fit(frame).elbo_ == fit.elbo_
    empty = np.vstack([x, np.zeros((1, 20), dtype=x.dtype)])
    np.testing.assert_allclose(fit.predict_proba(empty)[-1], fit.weights_)
    assert fit.score_samples(empty)[-1] == pytest.approx(0, abs=1e-12)
    assert math.isfinite(VariationalMultinomialMixture(2, n_init=2, random_state=0).fit(empty).elbo_)


def test_bad_input():
    with pytest.raises(ValueError, match="Negative values"):
        VariationalMultinomialMixture().fit(counts() - 1)
    with pytest.raises(UserError, match="all counts are 0"):
        VariationalMultinomialMixture().fit(np.zeros((4, 3)))
    with pytest.raises(UserError, match="feature_concentration_prior must be a positive number"):
        VariationalMultinomialMixture(feature_concentration_prior=-1).fit(counts())
    with pytest.raises(UserError, match="n_trials must be"):
        VariationalMultinomialMixture(1).fit(counts()).sample(1, n_trials=0)
