"""ELBO surgery (Hoffman & Johnson 2016): the identity, closed forms, active units."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from infimum.errors import UserError
from infimum.evidence import active_units, elbo_surgery

PRIOR = Independent(Normal(torch.zeros(3, dtype=torch.float64), 1.0), 1)


def posterior(n: int, spread: float, seed: int = 0) -> Independent:
    g = torch.Generator().manual_seed(seed)
    mean = spread * torch.randn(n, 3, generator=g, dtype=torch.float64)
    mean[:, 2] = 0.0
    scale = torch.rand(n, 3, generator=g, dtype=torch.float64) + 0.3
    return Independent(Normal(mean, scale), 1)


def test_the_parts_add_up() -> None:
    """3.9 [checked]: mean KL = I + TC + sum of dimension-wise KLs. Draw by draw the four integrands add up, so exactly."""
    parts = elbo_surgery(posterior(40, 1.5), PRIOR, torch.arange(40), draws=20)
    total = parts.mutual_information + parts.total_correlation + parts.dimension_wise.sum()
    assert float(parts.divergence - total) == pytest.approx(0.0, abs=1e-12)


def test_divergence_is_the_closed_form() -> None:
    q = posterior(40, 1.5)
    mean, scale = q.base_dist.loc, q.base_dist.scale
    exact = (0.5 * (mean.square() + scale.square() - 1) - scale.log()).sum(-1).mean()
    parts = elbo_surgery(q, PRIOR, torch.arange(40), draws=500)
    assert abs(float((parts.divergence - exact) / parts.stderr[0])) < 5  # false alarm 6e-7


def test_mutual_information_of_far_items_is_log_n() -> None:
    """Posteriors that do not overlap identify the item: I = log n, its largest value."""
    mean = 100.0 * torch.arange(30, dtype=torch.float64)[:, None].expand(30, 3)
    parts = elbo_surgery(Independent(Normal(mean, 1.0), 1), PRIOR, torch.arange(30), draws=3)
    assert float(parts.mutual_information) == pytest.approx(math.log(30), abs=1e-9)


def test_equal_posteriors_carry_no_information() -> None:
    """All posteriors equal to N(0, 2): I = TC = 0 exactly, the divergence is the dimension-wise KL."""
    q = Independent(Normal(torch.zeros(20, 3, dtype=torch.float64), 2.0), 1)
    parts = elbo_surgery(q, PRIOR, torch.arange(20), draws=400)
    assert float(parts.mutual_information) == pytest.approx(0.0, abs=1e-12)
    assert float(parts.total_correlation) == pytest.approx(0.0, abs=1e-12)
    exact = 3 * (0.5 * (4 - 1) - math.log(2))
    assert abs(float((parts.dimension_wise.sum() - exact) / parts.stderr[3])) < 5


def test_total_correlation_against_quadrature() -> None:
    """Two items at (1, 1) and (-1, -1): TC of the two-component mixture by a 2-D grid."""
    mean = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    q = Independent(Normal(mean, 0.6), 1)
    prior = Independent(Normal(torch.zeros(2, dtype=torch.float64), 1.0), 1)
    line = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    joint = (q.log_prob(grid[..., None, :]).logsumexp(-1) - math.log(2)).exp()
    one = (Normal(mean[:, 0], 0.6).log_prob(line[:, None]).logsumexp(-1) - math.log(2)).exp()
    exact = float((joint * (joint.log() - one.log()[:, None] - one.log())).sum() * (12 / 1200) ** 2)
    parts = elbo_surgery(q, prior, torch.arange(2), draws=20_000)
    assert abs(float((parts.total_correlation - exact) / parts.stderr[2])) < 5


def test_rows_change_nothing() -> None:
    a, b = (elbo_surgery(posterior(30, 1.0), PRIOR, torch.arange(30), rows=rows) for rows in (7, 512))
    assert torch.allclose(a.dimension_wise, b.dimension_wise, rtol=0, atol=1e-12)
    assert torch.equal(a.stderr, b.stderr) or torch.allclose(a.stderr, b.stderr, rtol=1e-12)


def test_active_units() -> None:
    """Var of the posterior mean over items, against the threshold 0.01 of 1509.00519."""
    mean = torch.stack((torch.linspace(-1, 1, 50), torch.zeros(50), 0.01 * torch.linspace(-1, 1, 50)), -1)
    assert active_units(mean).tolist() == [True, False, False]
    assert active_units(mean, threshold=1e-6).tolist() == [True, False, True]


def test_refuses_a_posterior_without_event_axis() -> None:
    flat = Independent(Normal(torch.zeros(4, 3), 1.0), 0)
    with pytest.raises(UserError, match=r"batch \(n,\) and event \(D,\)"):
        elbo_surgery(flat, PRIOR, torch.arange(4))
