"""Bessel functions of any order and argument, against mpmath's arbitrary precision; of large ones against an asymptotic series."""

import math

import mpmath
import pytest
import torch
from scipy import special

from infimum.distributions.bessel import bessel_ratio, log_bessel
from infimum.errors import UserError

DIMS = (2, 3, 4, 5, 16, 32, 33, 64, 66, 128, 256, 511, 512)


def exact(order: float, x: float) -> tuple[float, float]:
    """log(I_v x^-v e^-x) and I_{v+1} / I_v with 40 digits."""
    with mpmath.workdps(40):
        i, more = (mpmath.besseli(order + extra, mpmath.mpf(x), maxterms=10**7) for extra in (0, 1))
        return float(mpmath.log(i) - order * mpmath.log(x) - x), float(more / i)


@pytest.mark.parametrize("dim", DIMS)
def test_against_arbitrary_precision(dim):
    order = dim / 2 - 1
    x = torch.tensor([1e-8, 1e-3, 0.5, 1, 5, 13, 50, 200, 1e3, 1e4], dtype=torch.float64)
    logs, ratios = torch.tensor([exact(order, float(one)) for one in x], dtype=torch.float64).T
    torch.testing.assert_close(log_bessel(order, x), logs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bessel_ratio(order, x), ratios, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("x", [1e6, 1e9])
def test_large_arguments_by_hankels_expansion(dim, x):
    """log(I_v e^-x sqrt(2 pi x)) = log sum_k (-1)^k a_k / x^k (DLMF 10.40.1); the ratio from two orders, in 40 digits."""
    order = mpmath.mpf(dim) / 2 - 1

    def tail(v):
        term, total = mpmath.mpf(1), mpmath.mpf(1)
        for k in range(1, 40):
            term *= -(4 * v * v - (2 * k - 1) ** 2) / (k * 8 * x)
            total += term
        return total

    with mpmath.workdps(40):
        log = mpmath.log(tail(order)) - mpmath.log(2 * mpmath.pi * x) / 2 - order * mpmath.log(x)
        ratio = tail(order + 1) / tail(order)
    at = torch.tensor(x, dtype=torch.float64)
    assert float(log_bessel(float(order), at)) == pytest.approx(float(log), rel=1e-12)
    assert float(bessel_ratio(float(order), at)) == pytest.approx(float(ratio), rel=1e-12)


def test_at_zero():
    zero = torch.zeros((), dtype=torch.float64)
    for order in (0, 0.5, 15, 255):
        expected = -order * math.log(2) - math.lgamma(order + 1)
        assert float(log_bessel(order, zero)) == pytest.approx(expected, rel=1e-13, abs=1e-13)
        assert float(bessel_ratio(order, zero)) == 0


@pytest.mark.parametrize("order", [0.0, 0.5, 3.0, 40.0])
def test_derivatives(order):
    """Of the logarithm: r - 1 + v / x - v / x; of the ratio: by finite differences, and 1 / (2 v + 2) at 0."""
    x = torch.tensor([0.0, 0.3, 4.0, 60.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_bessel(order, x).sum(), x)
    torch.testing.assert_close(slope, bessel_ratio(order, x.detach()) - 1)
    (bend,) = torch.autograd.grad(bessel_ratio(order, x).sum(), x)
    assert float(bend[0]) == pytest.approx(1 / (2 * order + 2), rel=1e-12)
    inner = x.detach()[1:].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: bessel_ratio(order, t), inner, eps=1e-5, atol=1e-8)
    assert torch.autograd.gradgradcheck(lambda t: log_bessel(order, t), inner, eps=1e-5, atol=1e-7)


@pytest.mark.parametrize("dim", DIMS)
def test_the_slope_of_the_ratio_does_not_cancel(dim):
    """1 - r^2 - (2 v + 1) r / x with 80 digits; (D - 1) / (2 x^2) (1 - (D - 3) / (2 x) + ..) where x is far larger."""
    order = mpmath.mpf(dim) / 2 - 1
    x = torch.tensor([1e-6, 0.3, 5.0, 200.0, 1e4, 1e9], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(bessel_ratio(float(order), x).sum(), x)
    with mpmath.workdps(80):
        for one, slope in zip(x[:-1].tolist(), found.tolist(), strict=False):
            i, more = (mpmath.besseli(order + extra, mpmath.mpf(one), maxterms=10**7) for extra in (0, 1))
            exact = 1 - (more / i) ** 2 - (2 * order + 1) * more / i / one
            assert slope == pytest.approx(float(exact), rel=1e-9, abs=0)
    limit = (dim - 1) / 2e18 * (1 - (dim - 3) / 2e9)
    assert float(found[-1]) == pytest.approx(limit, rel=1e-9, abs=0)


def test_single_precision_is_computed_in_double():
    x = torch.tensor([0.5, 30.0, 3e4])
    torch.testing.assert_close(
        bessel_ratio(2.0, x).double(), (special.ive(3, x.double()) / special.ive(2, x.double())), rtol=1e-6, atol=0
    )


def test_refusals():
    with pytest.raises(UserError, match="order of a Bessel function must not be negative here, got -1"):
        bessel_ratio(-1, torch.ones(2))
    for bad in (-2.0, math.nan):
        with pytest.raises(UserError, match="arguments of at least 0 here, got"):
            log_bessel(1, torch.tensor([1.0, bad]))
