"""Keyed draws of Gamma families and of flows."""

import subprocess
import sys

import pytest
import torch
from scipy.stats import beta, gamma, kstest
from torch.distributions import Beta, Dirichlet, Gamma

import infimum.distributions  # noqa: F401  teaches `draw` these families
from infimum.evidence import Plan, draw

import zuko  # isort: skip  after infimum, which keeps torch argument checks on


def draws(k: int, b: int = 1):
    return Plan.iid(k).draws(torch.arange(b), dtype=torch.float64)


@pytest.mark.parametrize("concentration", [0.2, 1.0, 7.5])
def test_gamma_beta_dirichlet_follow_their_distribution_functions(concentration):
    """Kolmogorov-Smirnov at a false-alarm rate of 1e-4, seed fixed."""
    a, b = torch.tensor([concentration]).double(), torch.tensor([2.0]).double()
    z = draw(Gamma(a, b), draws(5000), "z")
    assert kstest(z.flatten().numpy(), gamma(concentration, scale=0.5).cdf).pvalue > 1e-4
    z = draw(Beta(a, b), draws(5000), "z")
    assert kstest(z.flatten().numpy(), beta(concentration, 2.0).cdf).pvalue > 1e-4
    z = draw(Dirichlet(torch.tensor([[concentration, 1.5, 0.5]]).double()), draws(5000), "z")
    assert kstest(z[:, 0, 0].numpy(), beta(concentration, 2.0).cdf).pvalue > 1e-4
    torch.testing.assert_close(z.sum(-1), torch.ones(5000, 1).double())


def test_gamma_gradient_is_that_of_the_quantile():
    """With u fixed, the gradient of a draw is the derivative of the quantile function."""
    a = torch.tensor([0.7, 2.0, 30.0], dtype=torch.float64, requires_grad=True)
    fixed = draws(4, 3)
    z = draw(Gamma(a, torch.ones(3).double()), fixed, "z")
    (got,) = torch.autograd.grad(z.sum(), a)
    step = 1e-5
    up, down = (draw(Gamma(a.detach() + s, torch.ones(3).double()), fixed, "z") for s in (step, -step))
    torch.testing.assert_close(got, ((up - down) / (2 * step)).sum(0), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("context", [0, 2])
def test_flow_draws_invert_the_flow(context):
    torch.manual_seed(0)
    flow = zuko.flows.MAF(3, context, transforms=2, hidden_features=(8,)).double()
    q = flow(torch.randn(5, 2).double()) if context else flow()
    fixed = draws(4, 5)
    z = draw(q, fixed, "z")
    assert z.shape == (4, 5, 3)
    torch.testing.assert_close(q.transform(z), fixed.normal("z", 3), rtol=1e-6, atol=1e-8)
    z.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in flow.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in flow.parameters())


def test_flow_importance_weights_are_unbiased():
    """E_q[N(z) / q(z)] = 1 for a random flow; |z| < 4.5, seed fixed."""
    torch.manual_seed(1)
    q = zuko.flows.MAF(2, transforms=2, hidden_features=(8,)).double()()
    with torch.no_grad():
        z = draw(q, draws(20_000), "z")[:, 0]
        target = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2).double(), 0.6), 1)
        weight = (target.log_prob(z) - q.log_prob(z)).exp()
    assert abs(float((weight.mean() - 1) / (weight.std() / 20_000**0.5))) < 4.5


def test_importing_leaves_torchs_argument_checks_on():
    code = (
        "import infimum.distributions, torch.distributions as td; raise SystemExit(not td.Distribution._validate_args)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
