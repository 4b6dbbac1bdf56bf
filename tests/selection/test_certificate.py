"""The oracle inequality: both sides over replicates, in a Gaussian and in a heavy-tailed world; Renyi's closed form."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, multivariate_t

from infimum.errors import UserError
from infimum.selection import VariationalPPCA, certify, renyi_gaussian

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LOADINGS = np.random.default_rng(0).normal(size=(6, 2))
COVARIANCE = LOADINGS @ LOADINGS.T + np.eye(6)


def estimator(**changes):
    return VariationalPPCA(**{"alpha": 0.5, "prior": "fixed", "noise": "known", "noise_variance": 1.0, "mean": "zero",
                              "random_state": 0, **changes})  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"noise": "gamma", "noise_shape": 1.0, "noise_rate": 1.0}])
def test_gaussian_world(changes):
    root = np.linalg.cholesky(COVARIANCE)
    world = multivariate_normal(np.zeros(6), COVARIANCE)
    found = certify(estimator(**changes), lambda rng: rng.normal(size=(100, 6)) @ root.T, world.logpdf, covariance=COVARIANCE,
                    replicates=50)  # fmt: skip
    slack, error = found.slack
    assert slack > 4 * error  # the mean of the right side exceeds that of the left beyond chance
    assert found.risk.mean() > 0.02
    assert found.limit.mean() < 1  # and says something: the world's own dimension is not reached by an empty bound
    assert str(found).startswith("risk")


def test_heavy_tailed_world():
    """P0 is multivariate t with 5 degrees of freedom: in no model of the grid; D_alpha by Monte Carlo."""
    world = multivariate_t(np.zeros(6), COVARIANCE * 3 / 5, df=5)
    found = certify(estimator(), lambda rng: world.rvs(100, random_state=rng), world.logpdf, replicates=50, draws=16)
    slack, error = found.slack
    assert slack > 4 * error
    assert found.risk.mean() > 0.02


def test_the_limit_is_that_of_the_data():
    """By its formula, from a fit of one's own."""
    rng = np.random.default_rng(5)
    tables = [rng.normal(size=(40, 6)) for _ in range(2)]
    given = iter(tables)
    world = multivariate_normal(np.zeros(6), np.eye(6))
    found = certify(estimator(), lambda _: next(given), world.logpdf, covariance=np.eye(6), replicates=2)
    for i, x in enumerate(tables):
        fit = estimator().fit(x)
        q = fit.n_components_
        criterion = fit.elbo_ - (q + 1) * math.log(2)
        assert found.limit[i] == pytest.approx((0.5 * world.logpdf(x).sum() - criterion) / (40 * 0.5), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_renyi_gaussian_against_monte_carlo(alpha):
    rng = np.random.default_rng(1)
    a, b = (np.eye(3) + (m := rng.normal(size=(3, 3)) / 2) @ m.T for _ in range(2))
    mean1, mean0 = rng.normal(size=3) / 2, rng.normal(size=3) / 2
    ours = float(renyi_gaussian(alpha, *map(torch.as_tensor, (mean1, a, mean0, b))))
    p, r = multivariate_normal(mean1, a), multivariate_normal(mean0, b)
    x = r.rvs(400000, random_state=rng)
    weights = np.exp(alpha * (p.logpdf(x) - r.logpdf(x)))
    z = (weights.mean() - math.exp((alpha - 1) * ours)) / (weights.std() / math.sqrt(len(x)))
    assert abs(z) < 4
    assert float(renyi_gaussian(alpha, *map(torch.as_tensor, (mean0, b, mean0, b)))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("changes", [{"alpha": 1.0}, {"noise": "point"}, {"noise": "plugin"}, {"prior": "shared"},
                                     {"prior": "ard"}, {"mean": "center"}, {"orbit": True}, {"noise": "gamma"}])  # fmt: skip
def test_modes_outside_the_theorem_are_refused(changes):
    with pytest.raises(UserError, match="the inequality"):
        certify(estimator(**changes), lambda rng: rng.normal(size=(20, 3)), lambda x: x.sum(1))


def test_few_replicates_are_refused():
    with pytest.raises(UserError, match="at least 2 replicates"):
        certify(estimator(), lambda rng: rng.normal(size=(20, 3)), lambda x: x.sum(1), replicates=1)
    with pytest.raises(UserError, match="alpha must lie"):
        renyi_gaussian(1.0, *(torch.zeros(2).double(), torch.eye(2).double()) * 2)
