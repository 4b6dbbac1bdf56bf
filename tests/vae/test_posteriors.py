"""Posterior families in two dimensions, against integrals on a grid."""

import inspect

import pytest
import torch

from infimum.errors import UserError
from infimum.evidence import draw
from infimum.evidence._tree import leaves, map_tree
from infimum.vae.posteriors import Diagonal, Flow, FullCovariance, Mixture, gaussian_divergence, posterior_of
from vae.vae_cases import draws

FAMILIES = {
    "diagonal": lambda: Diagonal(2),
    "full": lambda: FullCovariance(2),
    "mixture": lambda: Mixture(2, 3),
    "flow": lambda: Flow(2, 2, 8),
}
LIMIT = 5.5  # two-sided, 4e-8 a test
REACH, POINTS = 9.0, 450  # cells of 0.04, so that whole numbers are edges of cells


def family(name: str):
    torch.manual_seed(5)
    return FAMILIES[name]().double()


def parameters(name: str) -> torch.Tensor:
    """Encoder outputs of one item, moderate scales."""
    noise = torch.randn(1, family(name).inputs, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return 0.3 * noise


def grid_density(model, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (G, G, 2) and q there times the area of a cell."""
    step = 2 * REACH / POINTS
    axis = -REACH + step * (torch.arange(POINTS).double() + 0.5)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    log_q = model(model.split(h)).log_prob(z.reshape(-1, 1, 2)).reshape(POINTS, POINTS)
    return z, log_q.exp() * step**2


@pytest.mark.parametrize("name", FAMILIES)
def test_density_integrates_to_one(name):
    _, mass = grid_density(family(name), parameters(name))
    assert float(mass.sum().detach()) == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_fall_where_the_density_is(name):
    """Frequencies of 64 cells against the integral over each, |z| < 5.5 where 20 draws are expected."""
    model, n = family(name), 20000
    with torch.no_grad():
        z = draw(model(model.split(parameters(name))), draws(n, 1), "z")[:, 0]
        points, mass = grid_density(model, parameters(name))
    edges = torch.linspace(-3, 3, 7, dtype=torch.float64)

    def cell(points: torch.Tensor) -> torch.Tensor:
        row, column = torch.bucketize(points.contiguous(), edges).unbind(-1)
        return 8 * row + column

    expected = torch.zeros(64).double().index_add(0, cell(points).flatten(), mass.flatten())
    seen = torch.bincount(cell(z), minlength=64) / n
    large = expected * n > 20
    error = (expected * (1 - expected) / n).sqrt()
    assert int(large.sum()) >= 6
    assert float(((seen - expected).abs() / error)[large].max()) < LIMIT


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_through_draws_is_that_of_the_integral(name):
    """d/dh of E[tanh(z_1 + z_1 z_2 / 2)] by draws and by the grid: every encoder output, |t| < 6.5 over 64 blocks."""
    model = family(name)

    def f(z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z[..., 0] + 0.5 * z[..., 0] * z[..., 1])

    h = parameters(name).requires_grad_()
    points, mass = grid_density(model, h)
    exact = torch.autograd.grad((f(points) * mass).sum(), h)[0][0]
    rows = []
    for block in range(64):
        q = model(map_tree(lambda t: t.expand(40, *t.shape[1:]), model.split(h)))
        value = f(draw(q, draws(10, 40, first=40 * block), "z")).mean()
        rows.append(torch.autograd.grad(value, h)[0][0])
    each = torch.stack(rows)
    t = (each.mean(0) - exact).abs() / (each.std(0) / 8 + 2e-5)
    assert float(each.mean(0).abs().max()) > 0.05
    assert float(t.max()) < 6.5


@pytest.mark.parametrize("name", ["diagonal", "full", "mixture"])
def test_centre_is_the_mean(name):
    model, h = family(name), parameters(name)
    points, mass = grid_density(model, h)
    mean = (points * mass[..., None]).sum((0, 1))
    torch.testing.assert_close(model.centre(model.split(h))[0], mean, rtol=0, atol=2e-4)


def test_centre_of_a_flow_is_the_image_of_the_base_mean():
    model, h = family("flow"), parameters("flow")
    q = model(model.split(h))
    back = q.transforms[0].inv(model.centre(model.split(h)))
    torch.testing.assert_close(q.base_dist.transform(back), torch.zeros(1, 2).double(), rtol=0, atol=1e-6)


def test_divergence_is_that_of_torch():
    mean, log_scale = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).double().unbind(0)
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(normal(mean, log_scale.exp()), normal(0.0 * mean, 1.0 + 0.0 * mean))
    torch.testing.assert_close(gaussian_divergence(mean, log_scale), exact)


@pytest.mark.parametrize("name", FAMILIES)
def test_extreme_encoders_give_finite_densities(name):
    """Log scales of +-1000 are clamped: densities and gradients stay finite."""
    model = family(name)
    h = (2000 * parameters(name)).requires_grad_()
    q = model(model.split(h))
    z = draw(q, draws(5, 1), "z")
    log_q = q.log_prob(z)
    assert bool(torch.isfinite(log_q).all())
    log_q.sum().backward()
    assert bool(torch.isfinite(h.grad).all())


def test_parameters_have_the_items_first():
    for name in FAMILIES:
        model = family(name)
        assert all(part.shape[0] == 3 for part in leaves(model.split(parameters(name).expand(3, -1))))


def test_refusals():
    with pytest.raises(UserError, match="at least 2 components, got 1"):
        Mixture(2, 1)
    with pytest.raises(UserError, match="at least 2 latent dimensions, got 1: use posterior 'mixture'"):
        Flow(1, 2, 8)
    with pytest.raises(UserError, match="no posterior 'cauchy': choose diagonal, full, mixture or flow"):
        inspect.unwrap(posterior_of)("cauchy", 2, 4, 2, 8)  # past the tests' own check of types
