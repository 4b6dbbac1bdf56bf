"""DiscretizedLogistic: masses sum to one, stay finite, and match samples."""

import math

import pytest
import torch
from scipy.stats import chi2, logistic

from infimum.distributions import DiscretizedLogistic
from infimum.errors import UserError
from infimum.evidence import Plan, draw

LOCS = [-30.0, -1.0, -0.31, 0.0, 0.5, 1.0, 7.0]


def masses(q: DiscretizedLogistic) -> torch.Tensor:
    return q.log_prob(q.enumerate_support())


@pytest.mark.parametrize("levels", [2, 3, 16, 256])
@pytest.mark.parametrize("log_scale", [-35.0, -9.0, -3.0, -1.0, 2.0, 3.0, 20.0])
def test_masses_sum_to_one(levels, log_scale):
    loc = torch.tensor(LOCS, dtype=torch.float64)
    total = masses(DiscretizedLogistic(loc, torch.full_like(loc, log_scale), levels)).logsumexp(0)
    assert total.abs().max() < 1e-12


def test_masses_sum_to_one_in_float32():
    loc = torch.linspace(-1, 1, 101)[:, None]
    log_scale = torch.tensor([-30.0, -12.0, -7.0, -3.0, 0.0, 5.0])
    total = masses(DiscretizedLogistic(loc, log_scale, 256)).logsumexp(0)
    # edges are rounded at 2^-24 and 256 cells share them: 256 roundings at the most
    assert total.abs().max() < 256 * 2.0**-24


def test_mass_is_the_difference_of_distribution_functions():
    loc, scale, levels = 0.2, 0.15, 32
    q = DiscretizedLogistic(*torch.tensor([loc, math.log(scale)], dtype=torch.float64), levels)
    x = torch.arange(levels).double().numpy()
    upper = logistic.cdf((2 * x + 1) / (levels - 1) - 1, loc, scale)
    lower = logistic.cdf((2 * x - 1) / (levels - 1) - 1, loc, scale)
    upper[-1], lower[0] = 1, 0
    torch.testing.assert_close(masses(q).exp(), torch.from_numpy(upper - lower), rtol=1e-10, atol=1e-14)


def test_far_tails_keep_their_logarithm():
    """log(sigmoid(a) - sigmoid(b)) is a + log(1 - exp(b - a)) in the left tail, where float32 differences are 0."""
    q = DiscretizedLogistic(torch.tensor(1.0), torch.tensor(-7.0), 256)
    s = torch.tensor(-7.0).double().exp()
    a, b = ((2 * 10 + 1) / 255 - 1 - 1) / s, ((2 * 10 - 1) / 255 - 1 - 1) / s
    exact = a + torch.log1p(-torch.exp(b - a))
    torch.testing.assert_close(q.log_prob(torch.tensor(10.0)).double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loc", [-1e6, -1.0, 0.0, 1.0, 1e6])
@pytest.mark.parametrize("log_scale", [-1e3, -40.0, -20.0, 0.0, 20.0, 40.0, 1e3])
def test_values_and_gradients_are_finite_at_extremes(dtype, loc, log_scale):
    loc_, log_scale_ = (torch.tensor(v, dtype=dtype, requires_grad=True) for v in (loc, log_scale))
    value = masses(DiscretizedLogistic(loc_, log_scale_, 256))
    value.sum().backward()
    assert value.isfinite().all()
    assert loc_.grad.isfinite() and log_scale_.grad.isfinite()


def test_gradient():
    loc = torch.tensor([0.1, -0.9, 1.2], dtype=torch.float64, requires_grad=True)
    log_scale = torch.tensor([-2.0, -0.5, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, s: masses(DiscretizedLogistic(m, s, 9)), (loc, log_scale))


def test_mean_and_variance_by_enumeration():
    loc = torch.tensor(LOCS, dtype=torch.float64)[:, None]
    q = DiscretizedLogistic(loc, torch.tensor([-6.0, -1.0, 3.0], dtype=torch.float64), 40)
    p, x = masses(q).exp(), q.enumerate_support()
    mean = (p * x).sum(0)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.variance, (p * (x - mean) ** 2).sum(0), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("keyed", [False, True])
def test_samples_follow_the_masses(keyed):
    """Chi-square at a false-alarm rate of 1e-4, seed fixed."""
    n, levels = 20_000, 12
    q = DiscretizedLogistic(torch.tensor([0.3]), torch.tensor([-1.2]), levels)
    torch.manual_seed(0)
    x = draw(q, Plan.iid(n).draws(torch.arange(1)), "x") if keyed else q.sample((n,))
    assert x.shape == (n, 1)
    expected = n * masses(q).exp().flatten().double()
    count = torch.bincount(x.long().flatten(), minlength=levels)
    statistic = ((count - expected) ** 2 / expected).sum()
    assert statistic < chi2.isf(1e-4, levels - 1)


def test_shapes_and_expand():
    q = DiscretizedLogistic(torch.zeros(3, 1), torch.zeros(4), 8)
    assert q.batch_shape == (3, 4) and q.event_shape == ()
    assert q.expand((2, 3, 4)).log_prob(torch.zeros(2, 3, 4)).shape == (2, 3, 4)
    assert q.log_prob(torch.zeros(5, 3, 4, dtype=torch.int64)).shape == (5, 3, 4)
    assert q.enumerate_support(expand=False).shape == (8, 1, 1)


@pytest.mark.parametrize("bad", [-1.0, 8.0, 0.5])
def test_wrong_values_are_named(bad):
    with pytest.raises(UserError, match=rf"{bad:g} is not an integer in 0..7"):
        DiscretizedLogistic(torch.zeros(1), torch.zeros(1), 8).log_prob(torch.tensor([bad]))


def test_too_few_levels():
    with pytest.raises(UserError, match="levels=1"):
        DiscretizedLogistic(torch.zeros(1), torch.zeros(1), 1)
