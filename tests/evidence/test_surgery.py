"""ELBO surgery: the identity, its parts against closed forms, active units."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from evidence.support import close, unchecked  # noqa: F401
from infimum.errors import UserError
from infimum.evidence import active_units, elbo_surgery
from testing.oracle_cases import rand

PRIOR = Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1)


def posterior(n: int, spread: float = 1.0):
    return Independent(Normal(spread * rand(n, 3), (0.3 * rand(n, 3)).exp() * 0.6), 1)


def test_identity():
    """00-bounds 3.9 [checked]: mean KL = I_q + TC + sum_d KL(q(z_d), p(z_d)); exact for the same draws, 0 <= I_q <= log n."""
    q = posterior(40)
    parts = elbo_surgery(q, PRIOR, torch.arange(40), draws=200)
    total = parts.mutual_information + parts.total_correlation + parts.dimension_wise.sum()
    close(parts.divergence, total, rtol=0, atol=1e-10)
    exact = kl_divergence(q, PRIOR).mean()
    assert abs(parts.divergence - exact) < 5 * parts.stderr[0]
    assert 0 < parts.mutual_information < math.log(40) and parts.total_correlation > 0
    assert (parts.dimension_wise > 0).all()


def test_parts_on_one_item():
    """n = 1: no information, no correlation, the divergence dimension by dimension in closed form."""
    q = posterior(1)
    parts = elbo_surgery(q, PRIOR, torch.arange(1), draws=20_000)
    assert parts.mutual_information == 0 and abs(parts.total_correlation) < 1e-12
    exact = kl_divergence(q.base_dist, PRIOR.base_dist)[0]
    assert abs(parts.dimension_wise.sum() - exact.sum()) < 5 * parts.stderr[3]


def test_parts_of_well_separated_items():
    """Posteriors that do not overlap: I_q saturates at log n (4.11); a diagonal arrangement has TC = (D - 1) log n."""
    centres = 50.0 * torch.arange(8).double()[:, None].expand(8, 3)
    parts = elbo_surgery(Independent(Normal(centres, 1.0), 1), PRIOR, torch.arange(8), draws=50)
    assert float(parts.mutual_information) == pytest.approx(math.log(8), abs=1e-9)
    assert float(parts.total_correlation) == pytest.approx(2 * math.log(8), abs=1e-9)


def test_total_correlation_of_a_gaussian_aggregate():
    """Means drawn from a correlated Gaussian: the aggregate tends to N(0, S + I v), whose TC is -1/2 log det of its correlation."""
    n = 2000
    covariance = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(n, 3, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    parts = elbo_surgery(Independent(Normal(means, 0.7), 1), PRIOR, torch.arange(n))
    total = covariance + 0.49 * torch.eye(3)
    d = total.diagonal().rsqrt()
    truth = -0.5 * (d[:, None] * total * d).logdet()
    # The finite n moves the aggregate by O(1/n) a dimension, beside the Monte Carlo error.
    assert abs(float(parts.total_correlation - truth)) < 5 * float(parts.stderr[2]) + 0.02
    information = 0.5 * (total / 0.49).logdet()
    assert abs(float(parts.mutual_information - information)) < 5 * float(parts.stderr[1]) + 0.05


def test_rows_change_nothing():
    q, keys = posterior(30), torch.arange(30)
    whole = elbo_surgery(q, PRIOR, keys, draws=3)
    for rows in (1, 7, 90):
        again = elbo_surgery(q, PRIOR, keys, draws=3, rows=rows)
        for a, b in zip(whole, again, strict=True):
            close(a, b, rtol=0, atol=1e-12)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    turned = elbo_surgery(Independent(Normal(q.mean[order], q.stddev[order]), 1), PRIOR, keys[order], draws=3)
    for a, b in zip(whole, turned, strict=True):
        close(a, b, rtol=0, atol=1e-12)


def test_information_near_zero_comes_out_on_both_sides():
    """4.11: "Negative MI estimates are ordinary noise when the true MI is ~0"."""
    q = Independent(Normal(0.01 * rand(20, 3), 1.0), 1)
    signs = {float(elbo_surgery(q, PRIOR, torch.arange(20), seed=s).mutual_information) > 0 for s in range(20)}
    assert signs == {True, False}


def test_refusal(unchecked):  # noqa: F811
    with pytest.raises(UserError, match=r"needs a posterior of batch \(n,\) and event \(D,\), got \(4, 3\) and \(\)"):
        elbo_surgery(Normal(torch.zeros(4, 3), 1.0), PRIOR, torch.arange(4))


def test_active_units():
    """Var_x E[z_d | x] > 0.01 (1509.00519, section 5.3)."""
    mean = rand(500, 4) * torch.tensor([1.0, 0.05, 0.11, 0.0])
    assert active_units(mean).tolist() == [True, False, True, False]
    assert active_units(mean, 0.001).tolist() == [True, True, True, False]
