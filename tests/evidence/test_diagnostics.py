"""Pareto k, smoothing, effective sample size: exact tails, a plain numpy implementation, degenerate input."""

import math

import numpy as np
import pytest
import torch

from evidence.support import close, draws
from infimum.evidence import (
    LogWeights,
    effective_sample_size,
    harmonic,
    iw_eubo,
    iwae,
    pareto_k,
    pareto_threshold,
    psis,
    weigh,
)
from infimum.evidence.diagnostics import fit_pareto, tail_size
from infimum.testing import LinearGaussian, exact_bounds
from testing.oracle_cases import rand


def numpy_psis(log_w: np.ndarray) -> tuple[float, np.ndarray]:
    """k-hat and smoothed log-weights of one column, the formulas of 00-bounds 3.7 one after the other."""
    s = len(log_w)
    m = math.ceil(min(0.2 * s, 3 * math.sqrt(s)))
    order = np.argsort(log_w)
    peak = log_w[order[-1]]
    ratio = np.exp(log_w - peak)
    tail = order[-m:]
    cutoff = ratio[order[-m - 1]]
    x = ratio[tail] - cutoff
    grid = 30 + math.floor(math.sqrt(m))
    j = np.arange(1, grid + 1)
    theta = 1 / x[-1] + (1 - np.sqrt(grid / (j - 0.5))) / (3 * x[math.floor(m / 4 + 0.5) - 1])
    k = np.array([np.mean(np.log(1 - t * x)) for t in theta])
    loglik = m * (np.log(-theta / k) - k - 1)
    weight = np.array([1 / np.sum(np.exp(loglik - one)) for one in loglik])
    mean = np.sum(theta * weight)
    k = np.mean(np.log(1 - mean * x))
    sigma = -k / mean
    k = (m * k + 10 * 0.5) / (m + 10)
    level = (np.arange(1, m + 1) - 0.5) / m
    smooth = log_w.copy()
    smooth[tail] = np.minimum(np.log(cutoff + sigma * ((1 - level) ** -k - 1) / k), 0) + peak
    return k, smooth


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("draws_", [25, 100, 1000])
def test_pareto_k_and_smoothing_equal_the_plain_formulas(scale, draws_):
    log_w = scale * rand(draws_, 6) - 500
    got, smooth = pareto_k(log_w), psis(log_w)
    for b in range(6):
        k, expected = numpy_psis(log_w[:, b].numpy())
        assert float(got[b]) == pytest.approx(k, abs=1e-10)
        close(smooth[:, b], torch.from_numpy(expected), rtol=0, atol=1e-9)
    assert (smooth <= log_w.amax(0)).all()  # truncated at the largest raw weight
    assert (smooth != log_w).sum(0).max() <= tail_size(draws_)


@pytest.mark.parametrize("r", [0.5, 0.6, 0.8])
def test_pareto_k_of_a_narrow_gaussian_is_one_minus_r_squared(r):
    """T13 [oracle]: scalar Gaussian target, q r times as wide: k = 1 - r^2, within +-0.1 at S = 1e5."""
    model = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1), stretch=r)
    with torch.no_grad():
        w = weigh(model, torch.full((10, 1), 1.2).double(), draws(100_000, 10), rows=10**6)
    k = pareto_k(w.log_w)
    assert abs(float(k.mean()) - (1 - r**2)) < 0.1
    assert (k - (1 - r**2)).abs().max() < 0.15


def test_wide_proposals_have_bounded_weights():
    """r >= 1: k-hat below 0, and the evidence needs few draws."""
    model = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1), stretch=1.5)
    with torch.no_grad():
        w = weigh(model, torch.full((10, 1), 1.2).double(), draws(10_000, 10), rows=10**6)
    assert (pareto_k(w.log_w) < 0.05).all()


def test_fit_recovers_a_generalised_pareto_distribution():
    """Quantiles of a GPD with known shape and scale: k within the prior's pull, sigma within 5%."""
    level = (torch.arange(1, 3001, dtype=torch.float64)[:, None] - 0.5) / 3000
    for k in (-0.3, 0.2, 0.7):
        fit = fit_pareto(2 * torch.expm1(-k * torch.log1p(-level)) / k)
        assert float(fit.k) == pytest.approx((3000 * k + 5) / 3010, abs=0.02)
        assert float(fit.sigma) == pytest.approx(2, rel=0.05)


def test_sizes_and_thresholds():
    """3.7: M = ceil(min(0.2 S, 3 sqrt S)); reliable below min(1 - 1/log10 S, 0.7)."""
    assert [tail_size(s) for s in (25, 100, 225, 1000, 10_000)] == [5, 20, 45, 95, 300]
    assert pareto_threshold(100) == pytest.approx(0.5) and pareto_threshold(10**6) == 0.7
    assert pareto_threshold(1) == -math.inf


def test_degenerate_columns():
    """3.7: "all weights equal -> constant weights; S < 25 -> not computed"; smoothing never makes a NaN."""
    assert pareto_k(rand(24, 3)).isnan().all() and torch.equal(psis(rand(24, 3)), rand(24, 3))
    assert not pareto_k(rand(25, 3)).isnan().any()
    assert pareto_k(torch.zeros(100, 0)).shape == (0,)
    log_w = rand(100, 5)
    log_w[:, 0] = 3.0
    log_w[:, 1] = -math.inf
    log_w[1:, 2] = -math.inf
    log_w[7, 3] = 800.0
    k = pareto_k(log_w)
    assert (
        k[0] == -math.inf and k[1:4].isnan().all() and k[4].isfinite()
    )  # too few distinct weights have no tail to fit
    assert not psis(log_w).isnan().any() and torch.equal(psis(log_w)[:, :2], log_w[:, :2])
    few = torch.full((100, 1), -math.inf).double()
    few[:3] = rand(3, 1)
    assert pareto_k(few).isnan() and not psis(few).isnan().any()
    assert (psis(few)[3:] == -math.inf).all()
    assert (pareto_k(1e-14 * rand(100, 1)) == -math.inf).all()


def test_effective_sample_size():
    """1 / sum w~^2: K for equal weights, 1 for one, 0 for none."""
    log_w = torch.stack((torch.zeros(8), torch.full((8,), -math.inf), torch.zeros(8)), -1).double()
    log_w[1:, 2] = -math.inf
    close(effective_sample_size(log_w), torch.tensor([8.0, 0.0, 1.0]).double())
    weight = rand(9, 4).softmax(0)
    close(effective_sample_size(weight.log() - 1000), 1 / weight.square().sum(0))


def test_effective_sample_size_links_to_the_chi_square_divergence():
    """3.7: "ESS/K -> 1/(1+gamma2) = exp(-2 (CUBO_2 - log p))", both in closed form."""
    model = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1), shift=0.4, stretch=1.2)
    x = torch.full((1, 1), 1.2).double()
    exact = exact_bounds(model, x)
    limit = 1 / (1 + exact.gamma2())
    close(limit, (-2 * (exact.cubo(2) - exact.log_evidence)).exp())
    with torch.no_grad():
        w = weigh(model, x.expand(50, 1), draws(20_000, 50), rows=10**6)
    share = effective_sample_size(w.log_w) / 20_000
    assert abs(float(share.mean() - limit.detach())) < 5 * float(share.std()) / 50**0.5 + 1e-4  # bias O(1/K)


def test_diagnostics_travel_with_the_estimate():
    w = LogWeights(rand(100, 4))
    found = iwae(w).diagnostics
    close(found["pareto_k"], pareto_k(w.log_w))
    close(found["ess"], effective_sample_size(w.log_w))
    close(found["max_weight"], w.log_w.softmax(0).amax(0))


def test_the_tail_is_that_of_what_is_averaged():
    """A bound from posterior draws averages 1/w: its Pareto k is that of 1/w; a replicate of both kinds has none to fit."""
    log_w = rand(400, 3).double()
    upper = harmonic(LogWeights(log_w, source="posterior")).diagnostics
    lower = iwae(LogWeights(log_w)).diagnostics
    torch.testing.assert_close(upper["pareto_k"], pareto_k(-log_w))
    torch.testing.assert_close(lower["pareto_k"], pareto_k(log_w))
    assert not torch.allclose(upper["pareto_k"], lower["pareto_k"])
    assert iw_eubo(LogWeights(log_w, source="mixed")).diagnostics == {}
