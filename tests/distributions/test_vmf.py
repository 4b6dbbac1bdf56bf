"""Von Mises-Fisher: density, divergence and angle against closed forms and quadrature; draws and their gradients."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import kl_divergence

from evidence.support import unchecked, z_score  # noqa: F401
from infimum.distributions import HypersphericalUniform, VonMisesFisher
from infimum.distributions.vmf import angle_icdf, log_area
from infimum.errors import UserError
from infimum.evidence import Plan, draw

KAPPAS = (0.0, 0.1, 3.0, 50.0, 2000.0)


def pole(dim: int, kappa, dtype=torch.float64) -> VonMisesFisher:
    kappa = torch.as_tensor(kappa, dtype=dtype)
    loc = torch.zeros(*kappa.shape, dim, dtype=dtype)
    loc[..., 0] = 1
    return VonMisesFisher(loc, kappa)


def integral(dim: int, kappa: float, f=lambda t: 1.0, upto: float = math.pi) -> float:
    """Of f times the density over the angle, the area of the parallels included."""
    q = pole(dim, kappa)
    peak = float(q._log_peak())
    rim = log_area(dim - 1) if dim > 2 else math.log(2)
    width = min(math.pi, 12 * math.sqrt(dim / max(kappa, 1e-9)))

    def density(t):
        if dim > 2 and not 0 < t < math.pi:
            return 0.0
        return f(t) * math.exp(
            peak + rim - 2 * kappa * math.sin(t / 2) ** 2 + (dim - 2) * (math.log(math.sin(t)) if dim > 2 else 0)
        )

    points = sorted({min(width * share, upto) for share in (0, 0.02, 0.1, 0.3, 0.6, 1)} | {upto})
    return sum(
        integrate.quad(density, a, b, epsabs=1e-14, epsrel=1e-12, limit=400)[0] for a, b in itertools.pairwise(points)
    )


@pytest.mark.parametrize("dim", [2, 3, 4, 7, 32, 128])
@pytest.mark.parametrize("kappa", KAPPAS)
def test_the_density_integrates_to_one_and_has_its_mean(dim, kappa):
    assert integral(dim, kappa) == pytest.approx(1, abs=1e-9)
    assert integral(dim, kappa, math.cos) == pytest.approx(float(pole(dim, kappa).resultant), abs=1e-9)


def test_closed_form_in_three_dimensions():
    """C_3 = kappa / (4 pi sinh kappa), A_3 = coth kappa - 1 / kappa."""
    kappa = torch.tensor([0.5, 2.0, 30.0], dtype=torch.float64)
    q = pole(3, kappa)
    expected = kappa.log() - math.log(4 * math.pi) - kappa.sinh().log()
    torch.testing.assert_close(q.log_normaliser(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(q.resultant, 1 / kappa.tanh() - 1 / kappa, rtol=1e-12, atol=1e-12)


def test_divergence_to_uniform():
    """In 32 dimensions by 40 digits of mpmath; everywhere quadrature of the log-ratio; 0 at concentration 0."""
    kappa = [13.0, 25, 50, 100, 200]
    with mpmath.workdps(40):
        bessel = [[mpmath.besseli(15 + extra, k) for extra in (0, 1)] for k in kappa]
        constants = [15 * mpmath.log(k) - mpmath.log(i) for k, (i, _) in zip(kappa, bessel, strict=True)]
        uniform = 15 * mpmath.log(2) + mpmath.loggamma(16)
        exact_32 = [float(k * more / i + c - uniform) for k, (i, more), c in zip(kappa, bessel, constants, strict=True)]
    found = kl_divergence(pole(32, kappa), HypersphericalUniform(32))
    torch.testing.assert_close(found, torch.tensor(exact_32, dtype=torch.float64), rtol=1e-11, atol=0)
    torch.testing.assert_close(found[:4], torch.tensor([2.1726, 5.7554, 12.2534, 20.7585]).double(), rtol=0, atol=6e-5)
    for dim in (2, 5, 32):
        for kappa in (0.0, 4.0, 300.0):
            one = pole(dim, kappa)
            peak = float(one._log_peak()) + log_area(dim)
            exact = integral(dim, kappa, lambda t, k=kappa, p=peak: p - 2 * k * math.sin(t / 2) ** 2)
            assert float(kl_divergence(one, HypersphericalUniform(dim))) == pytest.approx(exact, abs=1e-9)


def test_divergence_of_two():
    """By 200,000 draws, |z| < 5 (false alarm 6e-7), and 0 to itself."""
    torch.manual_seed(0)
    loc = torch.nn.functional.normalize(torch.randn(2, 5, dtype=torch.float64), dim=-1)
    p, q = VonMisesFisher(loc[0], torch.tensor(7.0).double()), VonMisesFisher(loc[1], torch.tensor(3.0).double())
    z = p.rsample((200_000,))
    assert z_score(p.log_prob(z) - q.log_prob(z), kl_divergence(p, q)) < 5
    assert float(kl_divergence(p, p)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 4, 33, 512])
@pytest.mark.parametrize("kappa", [0.0, 0.01, 5.0, 200.0, 1e6])
def test_the_angle_is_the_inverse_of_its_distribution_function(dim, kappa):
    """Quadrature up to the angle gives u back, far into both tails; it increases with u."""
    u = torch.tensor([1e-12, 1e-4, 0.2, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)
    t = angle_icdf(dim, torch.tensor(kappa, dtype=torch.float64), u)
    assert bool((t.diff() > 0).all()) and float(t[0]) > 0 and float(t[-1]) < math.pi
    if kappa <= 200 and dim <= 33:
        for one, angle in zip(u.tolist(), t.tolist(), strict=True):
            assert integral(dim, kappa, upto=angle) == pytest.approx(one, rel=1e-7, abs=1e-11)
    if (
        kappa == 1e6
    ):  # a chi distribution in the limit, kappa t^2 with D - 1 degrees of freedom, up to terms of order D^2 / kappa
        limit = stats.chi2(dim - 1).ppf(u.numpy())
        np.testing.assert_allclose(1e6 * t.numpy() ** 2, limit, rtol=3e-3 if dim > 100 else 1e-4)


def test_closed_form_of_the_angle_in_three_dimensions():
    u, kappa = torch.linspace(0.01, 0.99, 9, dtype=torch.float64), 4.0
    expected = 1 + np.log(1 - u.numpy() + u.numpy() * math.exp(-2 * kappa)) / kappa
    np.testing.assert_allclose(angle_icdf(3, torch.tensor(kappa).double(), u).cos().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 17])
def test_the_angle_is_differentiable_in_the_concentration(dim):
    """Finite differences, for one concentration an item and one of all."""
    u = torch.rand(3, 4, generator=torch.Generator().manual_seed(dim), dtype=torch.float64)
    kappa = torch.tensor([0.2, 3.0, 40.0, 500.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: angle_icdf(dim, k, u), kappa, eps=1e-5, atol=1e-7)
    one = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: angle_icdf(dim, k, u), one, eps=1e-5, atol=1e-7)
    assert torch.autograd.gradcheck(lambda k: angle_icdf(dim, k.expand(4), u), one, eps=1e-5, atol=1e-7)


@pytest.mark.parametrize("dim", [2, 3, 20])
def test_keyed_draws(dim):
    """Unit vectors with the right mean (|z| < 5 for every coordinate) that depend on the item's key alone."""
    g = torch.Generator().manual_seed(1)
    loc = torch.nn.functional.normalize(torch.randn(3, dim, generator=g, dtype=torch.float64), dim=-1)
    q = VonMisesFisher(loc, torch.tensor([0.0, 4.0, 90.0], dtype=torch.float64))
    draws = Plan.iid(40_000).draws(torch.tensor([5, 6, 7]))
    z = draw(q, draws, "z")
    torch.testing.assert_close(z.norm(dim=-1), torch.ones_like(z[..., 0]))
    assert z_score(z.flatten(1), q.mean.flatten()) < 5
    last = VonMisesFisher(loc[2:], torch.tensor([90.0], dtype=torch.float64))
    alone = draw(last, Plan.iid(40_000).draws(torch.tensor([7])), "z")
    torch.testing.assert_close(alone[:, 0], z[:, 2], rtol=0, atol=1e-12)
    same = VonMisesFisher(loc, torch.tensor(4.0, dtype=torch.float64))
    torch.testing.assert_close(draw(same, draws, "z")[:, 1], z[:, 1], rtol=0, atol=1e-12)


def test_gradients_of_an_expectation():
    """d/d loc and d/d kappa of E[(a . z)^2] against its closed form by finite differences of it (|z| < 5)."""
    g = torch.Generator().manual_seed(2)
    dim, a = 6, torch.randn(6, generator=g, dtype=torch.float64)
    raw = torch.randn(1, dim, generator=g, dtype=torch.float64)

    def exact(raw: torch.Tensor, kappa: torch.Tensor) -> torch.Tensor:
        """E[z z'] = (A / kappa) I + (1 - D A / kappa) mu mu'."""
        mu = torch.nn.functional.normalize(raw, dim=-1)[0]
        share = pole(dim, kappa).resultant / kappa
        return share * a.square().sum() + (1 - dim * share) * (a @ mu) ** 2

    leaf = (raw.clone().requires_grad_(), torch.tensor(8.0, dtype=torch.float64, requires_grad=True))
    expected = torch.autograd.grad(exact(*leaf), leaf)
    found: list[list[torch.Tensor]] = [[], []]
    for r in range(60):
        q = VonMisesFisher(torch.nn.functional.normalize(leaf[0], dim=-1), leaf[1].expand(1))
        value = (draw(q, Plan.iid(2000).draws(torch.tensor([r])), "z") @ a).square().mean()
        for store, part in zip(found, torch.autograd.grad(value, leaf), strict=True):
            store.append(part.flatten())
    for each, want in zip(found, expected, strict=True):
        assert z_score(torch.stack(each), want.flatten()) < 5


def test_the_density_is_differentiable():
    loc = torch.nn.functional.normalize(
        torch.randn(2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64), dim=-1
    )
    z = torch.nn.functional.normalize(torch.ones(4, dtype=torch.float64), dim=-1)
    kappa = torch.tensor([0.7, 60.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: VonMisesFisher(loc, k).log_prob(z), kappa)
    assert torch.autograd.gradcheck(lambda k: kl_divergence(VonMisesFisher(loc, k), HypersphericalUniform(4)), kappa)


def test_uniform():
    q = HypersphericalUniform(5)
    z = draw(q, Plan.iid(20_000).draws(torch.arange(2)), "z").double()
    assert z_score(z[:, 0].square(), torch.full((5,), 0.2)) < 5
    assert float(q.log_prob(z[0, 0])) == pytest.approx(-math.log(8 * math.pi**2 / 3))
    torch.testing.assert_close(pole(5, 0.0).log_prob(z[:3, 0]), q.log_prob(z[:3, 0]))


def test_refusals(unchecked):  # noqa: F811
    unit = torch.eye(3)
    with pytest.raises(UserError, match="unit vectors, got one of length 2: divide by the length"):
        VonMisesFisher(2 * unit, torch.ones(3))
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(UserError, match=f"a finite number of at least 0, got {bad:g}"):
            VonMisesFisher(unit, torch.tensor([1.0, bad, 1]))
    with pytest.raises(UserError, match="at least 2 dimensions, got directions of 1"):
        VonMisesFisher(torch.ones(2, 1), torch.ones(2))
    with pytest.raises(UserError, match="at least 2 dimensions, got 1"):
        HypersphericalUniform(1)
    with pytest.raises(UserError, match="one for each item"):
        draw(VonMisesFisher(unit, torch.ones(3)), Plan.iid(2).draws(torch.arange(4)), "z")
