"""Likelihoods: masses and densities of total one, means that are their means, samples that are their samples."""

import inspect

import pytest
import torch

from infimum.errors import UserError
from infimum.vae.likelihoods import likelihood_of
from vae.vae_cases import draws, z_score

LEVELS = {"bernoulli": 2, "categorical": 5, "discretised-logistic": 7}
DIMS = 3
LIMIT = 5.5  # two-sided, 4e-8 a test


def outputs(name: str, k: int = 1, b: int = 4) -> torch.Tensor:
    per_dim = likelihood_of(name, DIMS, LEVELS.get(name)).outputs
    noise = torch.randn(1, b, DIMS * per_dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (1.5 * noise).expand(k, -1, -1)


def masses(name: str) -> torch.Tensor:
    """P(x_d = level), (level, item, dimension)."""
    like = likelihood_of(name, DIMS, LEVELS[name])
    out = outputs(name)
    return torch.stack([like.log_prob(torch.full((4, DIMS), float(v)), out)[0] for v in range(LEVELS[name])]).exp()


@pytest.mark.parametrize("name", LEVELS)
def test_masses_sum_to_one_and_give_the_mean(name):
    p = masses(name)
    torch.testing.assert_close(p.sum(0), torch.ones(4, DIMS).double(), rtol=0, atol=1e-12)
    value = torch.arange(LEVELS[name]).double()
    like = likelihood_of(name, DIMS, LEVELS[name])
    torch.testing.assert_close(like.mean(outputs(name))[0], torch.einsum("v,vbd->bd", value, p), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LEVELS)
def test_samples_have_these_masses(name):
    """Frequencies of all levels against their masses, |z| < 5.5 each."""
    x = likelihood_of(name, DIMS, LEVELS[name]).sample(outputs(name, 4000), draws(4000, 4))
    seen = torch.stack([(x == v).double() for v in range(LEVELS[name])], 1)
    p = masses(name)
    error = (p * (1 - p) / 4000).sqrt()
    assert float(((seen.mean(0) - p).abs() / error).max()) < LIMIT
    assert torch.equal(seen.sum(1), torch.ones_like(seen[:, 0]))


def test_gaussian_integrates_to_one_and_samples_its_moments():
    like = likelihood_of("gaussian", DIMS, None).double()
    with torch.no_grad():
        like.log_scale.copy_(torch.tensor([-1.0, 0.3, 0.8]))
    out = outputs("gaussian")
    grid = torch.linspace(-40, 40, 20001, dtype=torch.float64)
    density = like.log_prob(grid[:, None].expand(-1, DIMS), out[:, :1].expand(1, len(grid), -1))[0].exp()
    torch.testing.assert_close(torch.trapezoid(density, grid, dim=0), torch.ones(DIMS).double(), rtol=0, atol=1e-9)
    x = like.sample(out.expand(4000, -1, -1), draws(4000, 4)).detach()
    assert z_score(x, like.mean(out)[0]) < LIMIT
    assert z_score((x - out).square(), (2 * like.log_scale.detach()).exp().expand(4, -1)) < LIMIT


def test_integers_are_scaled_to_the_unit_interval():
    like = likelihood_of("categorical", DIMS, 5)
    torch.testing.assert_close(like.scaled(torch.tensor([[0.0, 2.0, 4.0]])), torch.tensor([[-1.0, 0.0, 1.0]]))


@pytest.mark.parametrize(
    ("name", "levels", "message"),
    [
        ("poisson", None, "no likelihood 'poisson'"),
        ("categorical", None, "give levels, at least 2, got None"),
        ("discretised-logistic", 1, "give levels, at least 2, got 1"),
    ],
)
def test_refusals(name, levels, message):
    with pytest.raises(UserError, match=message):
        inspect.unwrap(likelihood_of)(name, DIMS, levels)  # past the tests' own check of types
