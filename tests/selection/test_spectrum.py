"""Complete data: quadrature, closed forms, invariances, limits."""

import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from infimum.selection import PPCASettings
from infimum.selection.cells import observe
from infimum.selection.collapsed import collapsed_spectrum
from infimum.selection.grid import CellsGrid, SpectrumGrid
from infimum.selection.spectrum import component_gain, components, solve_spectrum
from selection.ppca_cases import FIXED, oracle_table, quadrature, table

TIGHT = {"sweeps": 5000, "tolerance": 1e-13}


def grid(x, q, settings, **options):
    return SpectrumGrid(torch.as_tensor(x), list(q), settings, **{**TIGHT, **options})


@pytest.mark.parametrize(
    ("alpha", "evidence", "surrogate", "tighter"),
    [(1.0, -69.4607, -71.3121, -70.60), (0.5, -35.3651, -37.0246, -36.29), (0.1, -7.4384, -8.4470, -7.63)],
)
def test_quadrature_evidence(alpha, evidence, surrogate, tighter):
    x, settings = oracle_table(), PPCASettings(alpha=alpha, **FIXED)
    exact = quadrature(x, alpha, 0.5, 1.0)
    assert exact == pytest.approx(evidence, abs=1e-4)
    found = grid(x, [1], settings)
    assert found.rows.elbo[0] == pytest.approx(surrogate, abs=1e-4)
    above = found.collapsed(0, 4000, np.random.default_rng(0))
    value, error = float(above.value), float(above.stderr)
    assert abs(value - tighter) < 4 * error + 0.06  # the published value is itself of Monte Carlo, given to 0.1
    assert found.rows.elbo[0] < value < exact
    # the orbit of q = 1 has two points; both corrected bounds stay below
    assert value + found.rows.orbit[0] < exact + 4 * error


def test_no_components_known_noise_closed_form():
    x = oracle_table()
    for alpha in (1.0, 0.5):
        exact = alpha * (-30 * math.log(2 * math.pi * 0.5) - (x**2).sum())
        assert grid(x, [0], PPCASettings(alpha=alpha, **FIXED)).rows.elbo[0] == pytest.approx(exact, rel=1e-13)
    assert grid(x, [0], PPCASettings(alpha=1.0, **FIXED)).rows.elbo[0] == pytest.approx(-67.70938, abs=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_no_components_gamma_noise_is_the_exact_evidence(alpha):
    """With q = 0 the Gamma factor is the exact posterior: int prod N(x; 0, 1/t)^alpha Gamma(t; a, b) dt in closed form."""
    x, a, b = table(), 2.0, 3.0
    half = alpha * x.size / 2
    exact = (
        -half * math.log(2 * math.pi) + a * math.log(b) - gammaln(a) + gammaln(a + half)
        - (a + half) * math.log(b + alpha * (x**2).sum() / 2)
    )  # fmt: skip
    settings = PPCASettings(alpha=alpha, prior="fixed", noise="gamma", noise_shape=a, noise_rate=b, mean="zero")
    assert grid(x, [0], settings).rows.elbo[0] == pytest.approx(exact, rel=1e-12)


def test_small_prior_variance_is_no_components():
    x = table()
    settings = PPCASettings(**{**FIXED, "prior_variance": 1e-10})
    found = grid(x, range(4), settings).rows.elbo
    np.testing.assert_allclose(found[1:], found[0], atol=1e-5)


@pytest.mark.parametrize("noise", ["known", "gamma", "point", "plugin"])
@pytest.mark.parametrize("prior", ["fixed", "shared", "ard"])
def test_bound_never_falls(noise, prior):
    settings = PPCASettings(alpha=0.7, prior=prior, noise=noise, noise_variance=1.3)
    history = solve_spectrum(torch.tensor([6.0, 3, 1.4, 1.1, 0.9, 0.7]).double(), 40, torch.arange(6), settings).history
    assert len(history) > 1
    assert bool((history.diff(dim=0) >= -1e-9 * history[1:].abs()).all())


@pytest.mark.parametrize("mean", ["zero", "center"])
@pytest.mark.parametrize("noise", ["known", "gamma", "point", "plugin"])
@pytest.mark.parametrize("prior", ["fixed", "shared", "ard"])
def test_equals_coordinate_ascent(noise, prior, mean):
    x = table(seed=3)
    x = x - x.mean(0) if mean == "center" else x
    settings = PPCASettings(alpha=0.8, prior=prior, noise=noise, noise_variance=1.1, mean=mean)
    numbers = [0, 2, 3]
    fast = grid(x, numbers, settings)
    slow = CellsGrid(observe(x), numbers, settings, sweeps=1500, tolerance=1e-11)
    np.testing.assert_allclose(slow.rows.elbo, fast.rows.elbo, rtol=1e-7)
    np.testing.assert_allclose(slow.rows.noise, fast.rows.noise, rtol=1e-4)
    for row in range(3):
        a, b = fast.posterior(row), slow.posterior(row)
        np.testing.assert_allclose(a.loadings @ a.loadings.T, b.loadings @ b.loadings.T, atol=2e-3)
    if prior != "ard":
        np.testing.assert_allclose(slow.rows.orbit[:2], fast.rows.orbit[:2], atol=1e-2)


def test_invariances():
    x, settings = table(seed=1), PPCASettings(mean="zero", noise="gamma", prior="shared")
    base = grid(x, range(5), settings).rows.elbo
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    order = np.random.default_rng(3).permutation(len(x))
    for other in (x @ turn, x[order], x[:, ::-1].copy()):
        np.testing.assert_allclose(grid(other, range(5), settings).rows.elbo, base, rtol=1e-10)


@pytest.mark.parametrize("copies", [2, 5])
def test_duplication(copies):
    """m copies at alpha / m are the same as one copy at alpha."""
    x = table()
    for noise in ("known", "gamma"):
        one, more = (
            grid(t, range(4), PPCASettings(alpha=a, prior="fixed", noise=noise, noise_variance=1.0, mean="zero"))
            for t, a in ((x, 1.0), (np.concatenate([x] * copies), 1.0 / copies))
        )
        np.testing.assert_allclose(more.rows.elbo, one.rows.elbo, rtol=1e-8)
        np.testing.assert_allclose(more.fit.spread, one.fit.spread, rtol=1e-6)


def test_more_columns_than_rows_by_the_gram_matrix():
    x = table(12, 40, 2, seed=4)
    settings = PPCASettings(prior="fixed", noise="known", noise_variance=1.0, mean="zero")
    wide = grid(x, range(6), settings)
    values = torch.linalg.eigvalsh(torch.as_tensor(x.T @ x / 12)).flip(0).clamp_min(0)
    direct = solve_spectrum(values, 12, torch.arange(6), settings, **TIGHT)
    np.testing.assert_allclose(wide.rows.elbo, direct.elbo, rtol=1e-10)
    m = wide.posterior(5).loadings
    np.testing.assert_allclose(m.T @ m, torch.diag(wide.fit.power[5, :5].sort(descending=True).values), atol=1e-8)


@pytest.mark.parametrize("prior", ["fixed", "ard"])
def test_component_is_the_best_of_a_search(prior):
    """The closed form against a search over norm and spread (and the prior variance, under ARD) from many starts."""
    from scipy.optimize import minimize

    n, d = 40, 6
    settings = PPCASettings(alpha=0.7, prior=prior)
    for lam in (0.4, 1.5, 4.0):
        noise, p0 = torch.tensor([[1.2]]).double(), torch.ones(1, 1).double()
        best = components(torch.tensor([[lam]]).double(), n, d, settings, noise, p0)[3]

        def loss(t, lam=lam, noise=noise, p0=p0):
            power, spread, p = (torch.tensor([[math.exp(v)]]).double() for v in t)
            p = p if prior == "ard" else p0
            return -float(component_gain(torch.tensor([[lam]]).double(), n, d, 0.7, noise, p, power, spread))

        found = max(-minimize(loss, s, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}).fun
                    for s in ([0, -3, 0], [1, -4, -1], [-6, -1, -2]))  # fmt: skip
        assert float(best) == pytest.approx(max(found, 0) if prior == "ard" else found, abs=1e-5)


def test_collapsed_from_eigenvalues_equals_that_from_rows():
    x = table(seed=5)
    settings = PPCASettings(alpha=0.7, prior="fixed", noise="gamma", mean="zero")
    fast = grid(x, [2], settings)
    slow = CellsGrid(observe(x), [2], settings, sweeps=4000, tolerance=1e-13)
    a = collapsed_spectrum(fast.fit, 0, fast.eigenvalues, len(x), settings, draws=2000, rng=np.random.default_rng(1))
    b = slow.collapsed(0, 2000, np.random.default_rng(2))
    z = float(a.value - b.value) / math.hypot(float(a.stderr), float(b.stderr))
    assert abs(z) < 4
    assert float(a.value) > fast.rows.elbo[0]
