"""Products of experts and latent families against densities on a grid and quadrature."""

import itertools

import pytest
import torch

from infimum.vae.multimodal.experts import FAMILIES, product_of_experts
from infimum.vae.multimodal.subsets import subset_members

close = torch.testing.assert_close


def experts(b: int = 4, m: int = 3, d: int = 2):
    random = torch.Generator().manual_seed(0)
    mean = torch.randn(b, m, d, generator=random, dtype=torch.float64)
    return mean, 2 * torch.randn(b, m, d, generator=random, dtype=torch.float64)


def test_products_are_those_of_densities_on_a_grid():
    mean, log_var = experts(d=1)
    members = subset_members(("a", "b", "c"), "all")
    got, spread = product_of_experts(mean, log_var, members)
    z = torch.linspace(-60, 60, 60001, dtype=torch.float64)
    for s, row in enumerate(members):
        each = torch.distributions.Normal(mean[:, row, 0], (0.5 * log_var[:, row, 0]).exp()).log_prob(z[:, None, None])
        density = (each.sum(-1) - each.sum(-1).amax(0)).exp()
        density = density / torch.trapezoid(density, z, dim=0)
        first = torch.trapezoid(density * z[:, None], z, dim=0)
        second = torch.trapezoid(density * (z[:, None] - first) ** 2, z, dim=0)
        close(got[:, s, 0], first, rtol=0, atol=1e-6)
        close(spread[:, s, 0].exp(), second, rtol=1e-5, atol=1e-7)


def test_order_and_experts_without_a_say():
    mean, log_var = experts()
    every = torch.ones(1, 3, dtype=torch.bool)
    whole = product_of_experts(mean, log_var, every)
    for order in itertools.permutations(range(3)):
        close(product_of_experts(mean[:, order], log_var[:, order], every), whole)
    close((-whole[1]).exp(), (-log_var).exp().sum(1, keepdim=True))  # precisions add
    wider = (
        torch.cat((mean, torch.randn_like(mean[:, :1])), 1),
        torch.cat((log_var, torch.full_like(log_var[:, :1], torch.inf)), 1),
    )
    close(product_of_experts(*wider, torch.ones(1, 4, dtype=torch.bool)), whole)
    # one mask for all items, or one for each
    members = subset_members(("a", "b", "c"), "all")
    close(product_of_experts(mean, log_var, members.expand(4, -1, -1)), product_of_experts(mean, log_var, members))


def test_extreme_precisions_and_no_expert_at_all_stay_finite():
    mean, log_var = torch.ones(1, 2, 1), torch.tensor([[[-20.0], [20.0]]])
    members = subset_members(("a", "b"), "all")
    got, spread = product_of_experts(mean, log_var, members)
    close(spread[0, :, 0], torch.tensor([-20.0, 20.0, -20.0]))
    log_var = torch.tensor([[[0.0], [torch.inf]]], requires_grad=True)
    got, spread = product_of_experts(mean, log_var, members)
    assert bool(got.isfinite().all()) and bool(spread.isfinite().all())
    got.sum().backward()
    assert float(log_var.grad[0, 0]) == 0  # nan would poison the batch


@pytest.mark.parametrize("name", FAMILIES)
def test_divergence_is_that_of_quadrature(name):
    family = FAMILIES[name]
    mean, log_scale, prior = (
        torch.tensor([0.7, -2.0]).double(),
        torch.tensor([-0.5, 0.4]).double(),
        torch.tensor([0.3, -0.2]).double(),
    )
    z = torch.linspace(-60, 60, 480001, dtype=torch.float64)[:, None]
    log_q = family.log_prob((z - mean) / log_scale.exp()) - log_scale
    log_p = family.log_prob(z / prior.exp()) - prior
    close(torch.trapezoid(log_q.exp(), z, dim=0), torch.ones(2).double(), rtol=0, atol=1e-7)
    expected = torch.trapezoid(log_q.exp() * (log_q - log_p), z, dim=0)
    close(family.divergence(mean, log_scale, prior), expected, rtol=0, atol=1e-6)


def test_scales_of_laplace_have_mean_one():
    h = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    close(FAMILIES["laplace"].log_scale(h).exp().mean(-1), torch.ones(5), rtol=0, atol=1e-5)
