"""The divergence of a batch's mixture: against quadrature in one dimension, and identities of mixtures in several."""

import math

import pytest
import torch
import torch.distributions as td

from evidence.support import z_score
from infimum.vae.regularisers.aggregate import aggregate_divergence, log_aggregate

close = torch.testing.assert_close


def batch(
    b: int, d: int, *, apart: float = 1.0, scale: float = 0.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    mean = apart * torch.randn(b, d, generator=g, dtype=torch.float64)
    return mean, scale + 0.3 * torch.randn(b, d, generator=g, dtype=torch.float64)


def drawn(mean: torch.Tensor, log_scale: torch.Tensor, k: int, seed: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return mean + log_scale.exp() * torch.randn(k, *mean.shape, generator=g, dtype=torch.float64)


def test_densities_are_those_of_torch():
    mean, log_scale = batch(5, 3)
    z = drawn(mean, log_scale, 2).flatten(0, 1)
    components = td.Independent(td.Normal(mean, log_scale.exp()), 1)
    mixture = td.MixtureSameFamily(td.Categorical(torch.ones(5, dtype=torch.float64)), components)
    joint, single = log_aggregate(z, mean, log_scale)
    close(joint, mixture.log_prob(z))
    one = td.MixtureSameFamily(
        td.Categorical(torch.ones(5, dtype=torch.float64)), td.Normal(mean[:, 1], log_scale[:, 1].exp())
    )
    close(single[:, 1], one.log_prob(z[:, 1]))


def test_one_dimension_by_quadrature():
    """Mean of 400 estimates of 50 draws an item (|z| < 5, false alarm 6e-7) against the integral of q log(q / p)."""
    mean, log_scale = batch(4, 1)
    grid = torch.linspace(-12, 12, 48_001, dtype=torch.float64)[:, None]
    log_q = log_aggregate(grid, mean, log_scale)[0]
    exact = torch.trapezoid(log_q.exp() * (log_q - td.Normal(0.0, 1.0).log_prob(grid)[:, 0]), grid[:, 0])
    for marginal in (False, True):
        found = [
            aggregate_divergence(mean, log_scale, drawn(mean, log_scale, 50, seed=r), marginal=marginal)
            for r in range(400)
        ]
        assert z_score(torch.stack(found), exact) < 5


def test_far_apart_the_mixture_loses_log_b_of_the_mean_divergence():
    mean, log_scale = batch(6, 3, apart=40.0, scale=-3.0)
    each = td.kl_divergence(td.Normal(mean, log_scale.exp()), td.Normal(0.0, 1.0)).sum(-1).mean()
    found = torch.stack([aggregate_divergence(mean, log_scale, drawn(mean, log_scale, 1, seed=r)) for r in range(500)])
    assert z_score(found, each - math.log(6)) < 5


def test_the_joint_divergence_exceeds_that_of_the_marginals():
    """Their difference is the total correlation, here of means on a line; with posteriors at the prior both are exactly 0."""
    line = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].expand(9, 3)
    log_scale = torch.full((9, 3), -1.0, dtype=torch.float64)
    z = drawn(line, log_scale, 4000)
    assert float(aggregate_divergence(line, log_scale, z)) > 1 + float(
        aggregate_divergence(line, log_scale, z, marginal=True)
    )
    zero = torch.zeros(7, 3, dtype=torch.float64, requires_grad=True)
    for marginal in (False, True):
        value = aggregate_divergence(
            zero, torch.zeros_like(zero), drawn(zero.detach(), zero.detach(), 3), marginal=marginal
        )
        assert float(value.detach()) == pytest.approx(0, abs=1e-15)
