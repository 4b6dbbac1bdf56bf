"""Closed-form bounds against integrals on a grid, and the published numbers of the worked examples."""

import math

import pytest
import torch

from infimum.errors import UserError
from infimum.evidence import Plan, weigh
from infimum.testing import LinearGaussian, exact_bounds, gamma2_example, gaussian_power_moment, one_dimensional
from testing.oracle_cases import rand, spd

close = torch.testing.assert_close


def two_dimensional() -> tuple[LinearGaussian, torch.Tensor]:
    """Correlated posterior, and the prior as a proposal that is wider than it."""
    model = LinearGaussian(rand(3, 2), rand(3), spd(3), proposal="prior", shift=0.3, stretch=1.1)
    return model, model.simulate(2)[1]


def on_grid(model: LinearGaussian, x: torch.Tensor, function) -> torch.Tensor:
    """Integral of function(log q, log p(x, z)) over z."""
    d = model.latent_dim
    axis = torch.linspace(-9, 9, 361 if d == 2 else 20_001, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * d).reshape(-1, 1, d).expand(-1, x.shape[0], -1)
    with torch.no_grad():
        log_q, log_joint = model.log_proposal(model.encode(x), z), model.log_joint(x, z)
    return function(log_q, log_joint).sum(0) * (axis[1] - axis[0]) ** d


@pytest.fixture(params=[one_dimensional, gamma2_example, two_dimensional])
def case(request):
    model, x = request.param()
    return model, x, exact_bounds(model, x)


def test_bounds_are_their_integrals(case):
    model, x, exact = case
    close(on_grid(model, x, lambda q, p: p.exp()).log(), exact.log_evidence)
    close(on_grid(model, x, lambda q, p: q.exp() * (p - q)), exact.elbo())
    post = lambda q, p: (p - exact.log_evidence).exp() * (p - q)  # noqa: E731
    close(on_grid(model, x, post), exact.eubo())
    for n in (2, 1.5, 0.5, -0.2):
        value = on_grid(model, x, lambda q, p, n=n: (n * p + (1 - n) * q).exp()).log()
        close(value, exact.log_moment(n))
        close(value / n, exact.cubo(n))
        close(value / n, exact.renyi(1 - n))
    mu = exact.log_evidence.exp()
    central = lambda q, p: q.exp() * ((p - q).exp() - mu) ** 3  # noqa: E731
    close(on_grid(model, x, central) / mu**3, exact.mu3())
    close(on_grid(model, x, lambda q, p: q.exp() * ((p - q).exp() - mu) ** 2) / mu**2, exact.gamma2())
    for beta in (0.0, 0.3, 1.0):
        log_pi = lambda q, p, beta=beta: ((1 - beta) * q + beta * p).exp()  # noqa: E731
        mean = on_grid(model, x, lambda q, p, f=log_pi: f(q, p) * (p - q)) / on_grid(model, x, log_pi)
        close(mean, exact.tvo_integrand(beta))


def test_thermodynamic_integral_is_the_evidence(case):
    """The integral of the TVO integrand over beta; Simpson's rule on 201 points."""
    exact = case[2]
    values = torch.stack([exact.tvo_integrand(i / 200) for i in range(201)])
    weight = torch.ones(201).double()
    weight[1:-1:2], weight[2:-1:2] = 4, 2
    close(weight @ values / 600, exact.log_evidence, rtol=0, atol=1e-8)
    assert (values.diff(dim=0) > 0).all()


def test_renyi_bounds_decrease_in_alpha_through_the_evidence(case):
    exact = case[2]
    values = torch.stack([exact.renyi(a) for a in (-1, -0.5, 0, 0.5, 0.9, 0.999999, 1.1)])
    assert (values.diff(dim=0) < 0).all()
    close(values[2], exact.log_evidence)
    close(values[5], exact.elbo(), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="its limit is the ELBO"):
        exact.renyi(1)


@pytest.mark.parametrize(("stretch", "n", "finite"), [(0.6, 2.0, False), (0.6, 1.3, True), (0.8, 2.0, True)])
def test_moments_stop_where_the_tail_says(stretch, n, finite):
    """P = n - (n-1)/stretch^2 posterior precisions is positive iff stretch^2 > 1 - 1/n."""
    model = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1), stretch=stretch)
    exact = exact_bounds(model, torch.tensor([[0.3]]).double())
    assert (exact.log_moment(n) < math.inf).all() == finite
    if finite:
        value = on_grid(model, torch.tensor([[0.3]]).double(), lambda q, p: (n * p + (1 - n) * q).exp())
        close(value.log(), exact.log_moment(n), rtol=1e-6, atol=0)


def test_formula_of_the_paper_term_by_term():
    """The moment as written: with P, h and c, for one item in two dimensions."""
    model, x = two_dimensional()
    e = exact_bounds(model, x)
    n, lam, q_inv = 2.0, e.post_precision, torch.linalg.inv(e.q_cov)
    p = n * lam + (1 - n) * q_inv
    dot = lambda a, m, b: torch.einsum("bi,bij,bj->b", a, m, b)  # noqa: E731
    h = n * torch.einsum("bij,bj->bi", lam, e.post_mean) + (1 - n) * torch.einsum("bij,bj->bi", q_inv, e.q_mean)
    c = -n / 2 * dot(e.post_mean, lam, e.post_mean) - (1 - n) / 2 * dot(e.q_mean, q_inv, e.q_mean)
    expected = n * e.log_evidence + n / 2 * lam.logdet() + (1 - n) / 2 * q_inv.logdet() - p.logdet() / 2
    expected = expected + dot(h, torch.linalg.inv(p), h) / 2 + c
    got = gaussian_power_moment(n, e.q_mean, e.q_cov, e.post_mean, e.post_precision, e.log_evidence)
    close(got, expected)


def test_exact_posterior_makes_every_bound_tight():
    model, x = LinearGaussian(rand(3, 2), rand(3), spd(3)), rand(4, 3)
    e = exact_bounds(model, x)
    for value in (e.elbo(), e.eubo(), e.cubo(2), e.renyi(-3), e.renyi(0.5), e.iwae_expansion(1)):
        close(value, e.log_evidence)
    close(e.gamma2(), torch.zeros(4).double(), rtol=0, atol=1e-10)


def test_published_numbers_of_the_one_dimensional_example():
    """log p, EUBO gap and the two Riemann sums of the TVO on a 6-point grid, to the digits that were published."""
    model, x = one_dimensional()
    close(model.posterior(model.encode(x)).mean, torch.tensor([[0.1]]).double())
    close(model.posterior(model.encode(x)).variance, torch.tensor([[-0.4]]).double().exp())
    e = exact_bounds(model, x)
    assert e.log_evidence.item() == pytest.approx(-1.62551, abs=5e-6)
    # KL(N(0.1, v), N(0.6, 1/2)) by the textbook formula; the published gap .2755 is a simulation of it
    v = math.exp(-0.4)
    assert (e.log_evidence - e.elbo()).item() == pytest.approx(v - 0.5 + 0.25 - 0.5 * math.log(2 * v), rel=1e-12)
    assert (e.eubo() - e.log_evidence).item() == pytest.approx(0.2059, abs=1.5e-4)
    values = [(e.tvo_integrand(i / 5) - e.log_evidence).item() for i in range(6)]
    assert sum(values[:5]) / 5 == pytest.approx(-0.0494, abs=5e-5)
    assert sum(values[1:]) / 5 == pytest.approx(0.0466, abs=5e-5)


def test_published_numbers_of_the_gamma2_example():
    """gamma2 = 1.681 and the first- and second-order biases of L_8 and L_32."""
    e = exact_bounds(*gamma2_example())
    assert e.gamma2().item() == pytest.approx(1.681, abs=5e-5)
    for k, first, second in ((8, -0.1051, -0.1202), (32, -0.0263, -0.0272)):
        assert -e.gamma2().item() / (2 * k) == pytest.approx(first, abs=5e-5)
        assert (e.iwae_expansion(k) - e.log_evidence).item() == pytest.approx(second, abs=5.5e-5)


def test_expansion_predicts_the_bias_of_iwae():
    """E[L_64] by simulation (20,000 copies) against the expansion; the next term is of order 1/64^3; |z| < 5."""
    model, x = gamma2_example()
    e, k, copies = exact_bounds(model, x), 64, 20_000
    with torch.no_grad():
        log_w = weigh(model, x.expand(copies, 1), Plan.iid(k).draws(torch.arange(copies))).log_w
    bound = log_w.logsumexp(0) - math.log(k)
    error = bound.std() / copies**0.5
    assert abs((bound.mean() - e.iwae_expansion(k)) / error) < 5
    assert abs((bound.mean() - e.log_evidence) / error) > 10


def test_closed_forms_are_differentiable():
    model, x = two_dimensional()
    e = exact_bounds(model, x)
    (e.elbo() + e.cubo(2) + e.renyi(0.5)).sum().backward()
    up, down = (exact_bounds(_with_shift(model, s), x).elbo().sum() for s in (1e-5, -1e-5))
    model.zero_grad()
    exact_bounds(model, x).elbo().sum().backward()
    close(model.shift.grad, ((up - down) / 2e-5).detach(), rtol=1e-7, atol=1e-9)


def _with_shift(model: LinearGaussian, change: float) -> LinearGaussian:
    return LinearGaussian(
        model.weight.detach(),
        model.bias.detach(),
        model.noise.detach(),
        proposal="prior",
        shift=model.shift.item() + change,
        stretch=1.1,
    )
