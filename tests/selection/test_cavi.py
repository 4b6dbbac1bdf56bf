"""Coordinate ascent: every sub-step, missing and sparse cells, the mean's factor, and what annealing says."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from infimum.errors import UserError
from infimum.evidence import LatentModel, Plan, ais, hmc, sigmoid_betas
from infimum.selection import PPCASettings, orbit
from infimum.selection.cavi import (
    ascend,
    rotate,
    start,
    update_loadings,
    update_mean,
    update_noise,
    update_prior,
    update_scores,
)
from infimum.selection.cells import observe
from infimum.selection.grid import CellsGrid
from infimum.selection.posterior import log_density
from selection.ppca_cases import table, value


def sparse(x: np.ndarray) -> sp.csr_matrix:
    """Every cell that is not NaN is stored, zeros too."""
    row, column = np.nonzero(~np.isnan(x))
    return sp.csr_matrix((x[row, column], (row, column)), shape=x.shape)


STEPS = {
    "scores": lambda s, c, t, f: update_scores(s, c),
    "loadings": lambda s, c, t, f: update_loadings(s, c, t.alpha),
    "prior": lambda s, c, t, f: update_prior(s, c, t),
    "rotate": lambda s, c, t, f: (rotate(s, c, t), update_prior(s, c, t)),
    "mean": lambda s, c, t, f: update_mean(s, c, t),
    "noise": update_noise,
}


@pytest.mark.parametrize("mean", ["center", "vb"])
@pytest.mark.parametrize("noise", ["known", "gamma", "point"])
@pytest.mark.parametrize("prior", ["fixed", "shared", "ard"])
@pytest.mark.parametrize("kind", ["complete", "missing", "sparse"])
def test_no_step_lowers_the_bound(kind, prior, noise, mean):
    x = table(40, 5, 2, missing=0.0 if kind == "complete" else 0.3) + 0.7
    settings = PPCASettings(alpha=0.6, prior=prior, noise=noise, noise_variance=1.2, mean=mean, mean_variance=2.0)
    cells = observe(sparse(x) if kind == "sparse" else x)
    torch.manual_seed(0)
    state = start(cells, 3, settings, 1.0, torch.randn(5, 3, dtype=torch.float64))
    for step in STEPS.values():  # all factors exist
        step(state, cells, settings, 1e-9)
    raised = 0
    for _ in range(6):
        for name, step in STEPS.items():
            before = value(state, cells, settings)
            step(state, cells, settings, 1e-9)
            after = value(state, cells, settings)
            assert after >= before - 1e-9 * abs(before), name
            raised += after > before
    assert raised > 6


@pytest.mark.parametrize("prior", ["fixed", "shared", "ard"])
def test_sparse_and_dense_are_the_same(prior):
    x = table(40, 5, 2, missing=0.3)
    x[3, 1] = 0.0  # a stored zero is an observed zero
    settings = PPCASettings(prior=prior)
    dense, other = (
        CellsGrid(observe(t), [1, 2], settings, sweeps=400, tolerance=1e-10) for t in (x, sparse(x))
    )  # fmt: skip
    np.testing.assert_allclose(other.rows.elbo, dense.rows.elbo, rtol=1e-8)


def test_one_bound_of_all_patterns():
    """Rows observed in blocks: the missing-cell path on a block pattern adds up what the formula says row by row."""
    x = table(30, 4, 1, missing=0.3, seed=2)
    cells = observe(x)
    w = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = torch.tensor([0.3, -1, 0.2, 2.0]).double()
    ours = log_density(cells, w, 1 / 0.7, mean)
    for i, row in enumerate(x):
        seen = torch.as_tensor(~np.isnan(row))
        cov = w[seen] @ w[seen].T + 0.7 * torch.eye(int(seen.sum()), dtype=torch.float64)
        exact = torch.distributions.MultivariateNormal(mean[seen], cov).log_prob(torch.as_tensor(row)[seen])
        assert float(ours[i]) == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_mean_factor_without_components_is_the_exact_evidence(alpha):
    """q = 0, known noise: mu is conjugate, with missing cells too."""
    x = table(20, 3, 1, missing=0.3) + 1
    settings = PPCASettings(alpha=alpha, prior="fixed", noise="known", noise_variance=0.8, mean="vb", mean_variance=1.7)
    cells = observe(x)
    state = start(cells, 0, settings, 1.0, torch.zeros(3, 0, dtype=torch.float64))
    ours = ascend(state, cells, settings, floor=1e-9)
    exact = 0.0
    for column in x.T:
        y = column[~np.isnan(column)]
        a, m = alpha / 0.8, len(y)
        precision = 1 / 1.7 + a * m
        exact += (
            -alpha * m / 2 * math.log(2 * math.pi * 0.8) - a * (y**2).sum() / 2 - math.log(1.7 * precision) / 2
            + (a * y.sum()) ** 2 / (2 * precision)
        )  # fmt: skip
    assert ours == pytest.approx(exact, rel=1e-12)


class Loadings(LatentModel):
    """W of a PPCA as the latent of one item, a data set; the likelihood tempered."""

    def __init__(self, cells, alpha, precision, prior, mean, scale):
        super().__init__()
        self.cells, self.alpha, self.precision, self.prior = cells, alpha, precision, prior
        self.mean, self.scale = mean, scale

    def encode(self, x):
        return x

    def posterior(self, s):
        return torch.distributions.Independent(torch.distributions.Normal(self.mean[None], self.scale), 2)

    def log_joint(self, x, z):
        """One pattern of rows: complete data."""
        w, q = z[:, 0], z.shape[-1]
        gram = torch.eye(q, dtype=torch.float64) + self.precision * w.transpose(1, 2) @ w
        t = x[0]
        pull = t @ w
        n, d = t.shape
        quad = self.precision * t.square().sum() - self.precision**2 * (
            pull * torch.linalg.solve(gram, pull.transpose(1, 2)).transpose(1, 2)
        ).sum((1, 2))
        logs = n * d * math.log(self.precision / (2 * math.pi)) - n * torch.linalg.slogdet(gram)[1] - quad
        prior = torch.distributions.Normal(0.0, math.sqrt(self.prior)).log_prob(z).sum((2, 3))
        return self.alpha * logs[:, None] / 2 + prior


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_surrogate_below_collapsed_below_annealing(alpha):
    x = table(40, 4, 2, seed=7)
    settings = PPCASettings(alpha=alpha, prior="fixed", noise="known", noise_variance=1.0, mean="zero")
    cells = observe(x)
    grid = CellsGrid(cells, [2], settings, sweeps=4000, tolerance=1e-12)
    surrogate, q = grid.rows.elbo[0], grid.posterior(0)
    tight = grid.collapsed(0, 2000, np.random.default_rng(0))
    z = torch.zeros(4, 2, dtype=torch.float64)
    model = Loadings(
        cells, alpha, 1.0, 1.0, z, torch.ones(4, 2, dtype=torch.float64)
    )  # starts at the prior: all of the orbit
    draws = Plan.iid(256).draws(torch.tensor([1]), seed=0, dtype=torch.float64)
    weights = ais(model, torch.as_tensor(x)[None], draws, sigmoid_betas(60), hmc(0.12, 8)).log_w[:, 0]
    low = float(weights.logsumexp(0)) - math.log(256)
    error = float((weights - low).exp().std()) / 16
    assert error < 0.2
    assert surrogate < float(tight.value)
    assert float(tight.value) < low + 4 * math.hypot(error, float(tight.stderr))
    g = orbit.exact(q.loadings, q.loadings_cov, q.column_pattern, rng=np.random.default_rng(1))
    corrected = float(tight.value) + float(g.value)
    assert float(g.value) > 1
    assert corrected < low + 4 * (error + float(tight.stderr) + float(g.stderr))
    assert low - corrected < 3  # most of the distance was the orbit


def test_refusals():
    x = table(10, 3, 1)
    x[4] = np.nan
    with pytest.raises(UserError, match="row 4 has no observed value"):
        observe(x)
    x = table(10, 3, 1)
    x[:, 2] = np.nan
    with pytest.raises(UserError, match="column 2 has no observed value"):
        observe(x)
    x = table(10, 3, 1)
    x[0, 0] = np.inf
    with pytest.raises(UserError, match="infinite"):
        observe(x)
