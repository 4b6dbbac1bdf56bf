"""DiagonalMixture: density, samples, and gradients through samples."""

import pytest
import torch
from scipy.stats import chi2, kstest, norm
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from infimum.distributions import DiagonalMixture
from infimum.errors import UserError
from infimum.evidence import Plan, draw


def example(batch: int = 1, requires_grad: bool = False) -> DiagonalMixture:
    logits = torch.tensor([[0.3, -0.5, 1.0]], dtype=torch.float64)
    loc = torch.tensor([[[-1.0, 0.5], [1.5, -1.0], [0.2, 1.3]]], dtype=torch.float64)
    scale = torch.tensor([[[0.5, 0.8], [1.0, 0.4], [0.7, 0.6]]], dtype=torch.float64)
    parameters = [p.expand(batch, *p.shape[1:]).clone().requires_grad_(requires_grad) for p in (logits, loc, scale)]
    q = DiagonalMixture(*parameters)
    q.parameters = parameters
    return q


def grid(reach: float, points: int) -> tuple[torch.Tensor, float]:
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), float((axis[1] - axis[0]) ** 2)


def test_density_integrates_to_one_and_gives_the_moments():
    q = example()
    z, area = grid(9, 600)
    p = q.log_prob(z[:, None]).exp() * area
    torch.testing.assert_close(p.sum(), torch.tensor(1.0).double(), rtol=1e-10, atol=0)
    mean = (p * z).sum(0)
    torch.testing.assert_close(q.mean[0], mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(q.variance[0], (p * (z - mean) ** 2).sum(0), rtol=1e-9, atol=0)


def test_density_equals_torchs_mixture():
    q = example(4)
    same = MixtureSameFamily(Categorical(logits=q.logits), Independent(Normal(q.loc, q.scale), 1))
    z = torch.randn(5, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), same.log_prob(z))
    torch.testing.assert_close((q.component_log_prob(z) + q.logits).logsumexp(-1), same.log_prob(z))


@pytest.mark.parametrize("source", ["own", "keyed", "keyed as MixtureSameFamily"])
def test_samples_follow_the_density(source):
    """Kolmogorov-Smirnov on z_1 and chi-square on the components, false-alarm rate 1e-4 each, seed fixed."""
    n, q = 20_000, example()
    same = MixtureSameFamily(Categorical(logits=q.logits), Independent(Normal(q.loc, q.scale), 1))
    torch.manual_seed(0)
    draws = Plan.iid(n).draws(torch.arange(1), dtype=torch.float64)
    z = q.rsample((n,)) if source == "own" else draw(q if source == "keyed" else same, draws, "z")
    assert z.shape == (n, 1, 2)
    weight = q.logits[0].exp().numpy()
    for d in range(2):
        loc, scale = q.loc[0, :, d].numpy(), q.scale[0, :, d].numpy()
        result = kstest(z[:, 0, d].numpy(), lambda x, m=loc, s=scale: (weight * norm.cdf(x[:, None], m, s)).sum(-1))
        assert result.pvalue > 1e-4
    # the joint of both coordinates: counts in quadrants against the integral of the density
    cells, area = grid(9, 601)
    p = q.log_prob(cells[:, None]).exp()[:, 0] * area
    index = 2 * (cells[:, 0] > 0.0075) + (cells[:, 1] > 0.0075)  # half a grid step: cells lie on one side
    expected = n * torch.zeros(4).double().index_add(0, index, p)
    count = torch.bincount((2 * (z[:, 0, 0] > 0.015) + (z[:, 0, 1] > 0.015)), minlength=4)
    assert ((count - expected) ** 2 / expected).sum() < chi2.isf(1e-4, 3)


def test_stratified_lead_allocates_proportionally():
    q = DiagonalMixture(
        torch.tensor([[0.5, 0.3, 0.2]]).log(), 100.0 * torch.arange(3.0)[None, :, None], torch.ones(1, 3, 1)
    )
    z = draw(q, Plan.stratified(10).draws(torch.arange(1)), "z")
    assert torch.bincount((z / 100).round().long().flatten()).tolist() == [5, 3, 2]


def test_gradient_through_samples_is_that_of_the_expectation():
    """Implicit gradients of E[f(z)] in logits, loc and scale against a grid integral; |z| < 4.5 over 15 numbers."""
    q = example(requires_grad=True)

    def f(z):
        return torch.sin(z[..., 0] * 1.3) * z[..., 1] + 0.3 * z[..., 1] ** 2 - z[..., 0]

    z, area = grid(9, 500)
    exact = torch.autograd.grad((q.log_prob(z[:, None])[:, 0].exp() * f(z)).sum() * area, q.parameters)
    copies = 20_000
    many = example(copies, requires_grad=True)
    sample = draw(many, Plan.iid(1).draws(torch.arange(copies), dtype=torch.float64), "z")
    rough = torch.autograd.grad(f(sample).sum(), many.parameters)
    for truth, estimate in zip(exact, rough, strict=True):
        error = estimate.std(0) / copies**0.5
        assert ((estimate.mean(0) - truth[0]).abs() / error).max() < 4.5


def test_one_component_is_a_plain_gaussian():
    loc = torch.tensor([[[0.3, -2.0]]], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([[[0.5, 2.0]]], dtype=torch.float64, requires_grad=True)
    draws = Plan.iid(7).draws(torch.arange(1), dtype=torch.float64)
    z = draw(DiagonalMixture(torch.zeros(1, 1).double(), loc, scale), draws, "z")
    plain = draw(Independent(Normal(loc[:, 0], scale[:, 0]), 1), draws, "z")
    torch.testing.assert_close(z, plain)
    weight = torch.arange(14.0).reshape(7, 1, 2).double()
    for got, expected in zip(
        torch.autograd.grad((z * weight).sum(), (loc, scale)),
        torch.autograd.grad((plain * weight).sum(), (loc, scale)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_gradients_are_finite_far_between_components():
    loc = torch.tensor([[[-50.0], [50.0]]], requires_grad=True)
    scale = torch.full((1, 2, 1), 0.1, requires_grad=True)
    logits = torch.tensor([[0.0, -200.0]], requires_grad=True)
    z = draw(DiagonalMixture(logits, loc, scale), Plan.iid(50).draws(torch.arange(1)), "z")
    value = DiagonalMixture(logits, loc, scale).log_prob(torch.tensor([[[-1e4]], [[0.0]], [[1e4]]]))
    (z.sum() + value.sum()).backward()
    assert all(p.grad.isfinite().all() for p in (loc, scale, logits))


def test_shapes_expand_and_errors():
    q = example(3)
    assert (q.batch_shape, q.event_shape, q.components) == ((3,), (2,), 3)
    assert q.expand((4, 3)).log_prob(torch.zeros(4, 3, 2).double()).shape == (4, 3)
    assert q.sample((5,)).shape == (5, 3, 2)
    with pytest.raises(UserError, match="mixture parameters do not fit"):
        DiagonalMixture(torch.zeros(1, 2), torch.zeros(1, 3, 1), torch.ones(1, 3, 1))
    with pytest.raises(UserError, match=r"expected \(4,\): one mixture an item"):
        draw(q, Plan.iid(2).draws(torch.arange(4)), "z")
    bad = MixtureSameFamily(Categorical(torch.ones(2, 3)), Normal(torch.zeros(2, 3), torch.ones(2, 3)))
    with pytest.raises(UserError, match=r"need Independent\(Normal, 1\) components"):
        draw(bad, Plan.iid(2).draws(torch.arange(2)), "z")
