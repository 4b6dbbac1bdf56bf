"""Every oracle against identities that hold for all of them, and against a second formula for its evidence."""

import itertools

import pytest
import scipy.stats
import torch
from scipy.integrate import quad
from torch.distributions import MultivariateNormal, Poisson

from infimum.errors import UserError
from infimum.evidence import Plan, exhaustive, weigh
from infimum.testing import (
    GammaPoisson,
    LinearGaussian,
    MaskedTable,
    QuadratureProduct,
    SigmoidBeliefNet,
    UnrolledMasked,
)
from testing.oracle_cases import CASES, INEXACT, joint_table, rand

ALL = CASES | INEXACT
close = torch.testing.assert_close


def draws(k: int, b: int, seed: int = 0):
    return Plan.iid(k).draws(torch.arange(b), seed=seed, dtype=torch.float64)


def z_score(values: torch.Tensor, truth: float | torch.Tensor) -> float:
    """Largest |mean - truth| / stderr over the items; values (K, ...)."""
    values = values.detach()
    error = values.std(0) / values.shape[0] ** 0.5
    return float(((values.mean(0) - truth).abs() / error).max())


@pytest.mark.parametrize("name", CASES)
def test_weights_are_constant_under_the_exact_posterior(name):
    """log p(x, z) - log p(z|x) = log p(x) at every z: Bayes' rule ties joint, posterior and evidence together."""
    model = CASES[name]()
    _, x = model.simulate(6, seed=1)
    w = weigh(model, x, draws(5, 6))
    close(w.log_w, model.log_evidence(x).expand(5, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize("name", ALL)
def test_distorted_proposals_have_unbiased_weights(name, start):
    """E_q[w] = p(x), |z| < 5 over 4 items."""
    model = ALL[name](proposal=start, shift=0.3, stretch=1.3)
    _, x = model.simulate(4, seed=2)
    with torch.no_grad():
        w = weigh(model, x, draws(4000, 4))
        ratio = (w.log_w - model.log_evidence(x)).exp()
    assert ratio.std(0).min() > 0.01  # the proposal really is distorted
    assert z_score(ratio, 1.0) < 5


@pytest.mark.parametrize("name", ALL)
def test_posterior_draws_come_from_the_posterior(name):
    """E_posterior[q/p(z|x)] = 1 and E_posterior[1/w] = 1/p(x) for narrow q on both sides of the mean; |z| < 5."""
    for shift in (-0.7, 0.7):
        model = ALL[name](shift=shift, stretch=0.9)
        _, x = model.simulate(4, seed=3)
        with torch.no_grad():
            z = model.posterior_sample(x, draws(4000, 4))
            w = weigh(model, x, draws(4000, 4), latents=z)
            ratio = (model.log_evidence(x) - w.log_w).exp()
        assert z_score(ratio, 1.0) < 5


@pytest.mark.parametrize("name", ALL)
def test_simulated_latents_are_posterior_draws_of_their_data(name):
    """E[q(z|x)/p(z|x)] = 1 over the joint, one draw an item; |z| < 5. Pure in (seed, item)."""
    model = ALL[name](shift=0.5, stretch=0.9)
    n = 400 if name == "quadrature" else 4000
    z, x = model.simulate(n, seed=4)
    with torch.no_grad():
        w = weigh(model, x, draws(1, n), latents=z)
        ratio = (model.log_evidence(x) - w.log_w[0]).exp()
    assert z_score(ratio, 1.0) < 5
    again, fewer = model.simulate(7, seed=4)
    assert torch.equal(again, z[:, :7]) and torch.equal(fewer, x[:7])


@pytest.mark.parametrize("name", ALL)
def test_streams_of_proposal_and_posterior_differ(name):
    """Mixed bounds need a posterior draw that is independent of the proposal's draws."""
    model = ALL[name]()
    _, x = model.simulate(20, seed=5)
    shared = draws(50, 20)
    with torch.no_grad():
        proposed, exact = model.sample(model.encode(x), shared), model.posterior_sample(x, shared)
    a, b = (v.double().reshape(50, 20, -1)[..., 0] for v in (proposed, exact))
    a, b = (v - v.mean(0) for v in (a, b))
    correlation = (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
    assert abs(float(correlation)) < 5 / 1000**0.5


DISCRETE = {
    "beta_bernoulli": (ALL["beta_bernoulli"], [list(v) for v in itertools.product([0.0, 1.0], repeat=5)]),
    "dirichlet_multinomial": (
        ALL["dirichlet_multinomial"],
        [[float(a), float(b), 6.0 - a - b] for a in range(7) for b in range(7 - a)],
    ),
    "belief_net": (ALL["belief_net"], [list(v) for v in itertools.product([0.0, 1.0], repeat=5)]),
    "hidden_markov": (ALL["hidden_markov"], [list(v) for v in itertools.product([0, 1], repeat=4)]),
    "unrolled": (ALL["unrolled"], [list(v) for v in itertools.product([0, 1], repeat=4)]),
    "quadrature": (ALL["quadrature"], [list(v) for v in itertools.product([0.0, 1.0], repeat=2)]),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_data_sum_to_one_and_are_simulated_at_those_rates(name):
    """sum over x of p(x) = 1; chi-square of 20,000 simulated items at a false-alarm rate of 1e-4."""
    make, values = DISCRETE[name]
    model, x = make(), torch.tensor(values)
    x = x.double() if x.is_floating_point() else x
    p = model.log_evidence(x).exp().detach()
    close(p.sum(), torch.tensor(1.0).double(), rtol=1e-12, atol=0)
    _, seen = model.simulate(20_000, seed=6)
    count = (seen[:, None] == x).all(-1).sum(0)
    assert count.sum() == 20_000
    assert ((count - 20_000 * p) ** 2 / (20_000 * p)).sum() < scipy.stats.chi2.isf(1e-4, len(values) - 1)


@pytest.mark.parametrize("name", ["mixture", "belief_net", "unrolled"])
def test_enumerated_latents_give_the_evidence(name):
    model = ALL[name](shift=0.4, stretch=1.5)
    _, x = model.simulate(5)
    z = model.support(x)
    log_joint, log_q = model.log_joint(x, z), model.log_proposal(model.encode(x), z)
    close(log_joint.logsumexp(0), model.log_evidence(x), rtol=0, atol=1e-11)
    close(log_q.logsumexp(0), torch.zeros(5).double(), rtol=0, atol=1e-11)
    assert exhaustive(log_joint, log_q).source == "exhaustive"
    close(model.exact_posterior(x).logits, (log_joint - model.log_evidence(x)).T, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["posterior", "marginals", "prior"])
def test_belief_net_proposals_normalise_and_weigh_right(kind):
    model = SigmoidBeliefNet(rand(4), rand(5, 4), rand(5), proposal=kind, shift=0.2, stretch=1.2)
    _, x = model.simulate(3)
    s = model.encode(x)
    close(model.log_proposal(s, model.support(x)).logsumexp(0), torch.zeros(3).double(), rtol=0, atol=1e-11)
    with torch.no_grad():
        ratio = (weigh(model, x, draws(4000, 3)).log_w - model.log_evidence(x)).exp()
    assert z_score(ratio, 1.0) < 5
    if kind != "posterior":
        z = model.sample(s, draws(3, 3))
        close(model.log_proposal(s, z), model.posterior(s).log_prob(z))


def test_gaussian_evidence_is_scipys():
    for name in ("linear_gaussian", "ppca", "factor_analysis"):
        model = ALL[name]()
        _, x = model.simulate(4)
        noise = model.noise if model.noise.ndim == 2 else model.noise.diag()
        cov = (model.weight @ model.weight.T + noise).detach().numpy()
        expected = scipy.stats.multivariate_normal(model.bias.detach().numpy(), cov).logpdf(x.numpy())
        close(model.log_evidence(x), torch.from_numpy(expected))
    model = ALL["regression"]()
    _, y = model.simulate(4)
    design = model.weight.detach().numpy()
    cov = 0.5 * torch.eye(6).numpy() + design @ design.T / 2.0
    close(model.log_evidence(y), torch.from_numpy(scipy.stats.multivariate_normal(None, cov).logpdf(y.numpy())))


def test_regression_weights_are_bishops_posterior():
    """Bishop (2006) 3.53-3.54: S^-1 = alpha I + beta Phi^T Phi, m = beta S Phi^T y."""
    model = ALL["regression"]()
    _, y = model.simulate(4)
    design = model.weight.detach()
    cov = torch.linalg.inv(2.0 * torch.eye(2).double() + design.T @ design / 0.5)
    close(model.exact_posterior(y).covariance_matrix[0], cov)
    close(model.exact_posterior(y).mean, (cov @ design.T @ y.T / 0.5).T)


def test_linear_gaussian_data_are_simulated_with_the_marginal():
    """Whitened squares are chi-square: the mean of x^T C^-1 x and of each whitened coordinate's square; |z| < 5."""
    model = ALL["linear_gaussian"]()
    _, x = model.simulate(20_000, seed=7)
    cov = model.weight @ model.weight.T + model.noise
    white = torch.linalg.solve(torch.linalg.cholesky(cov), (x - model.bias).T).T
    second = torch.einsum("ni,nj->nij", white, white)
    assert z_score(second, torch.eye(4).double()) < 5
    assert z_score(white, torch.zeros(4).double()) < 5


def test_mixture_evidence_is_scipys_sum():
    model = ALL["mixture"]()
    _, x = model.simulate(5)
    pi = model.log_pi.softmax(0).detach().numpy()
    parts = [
        p * scipy.stats.multivariate_normal(m.numpy(), c.numpy()).pdf(x.numpy())
        for p, m, c in zip(pi, model.means.detach(), model.covs.detach(), strict=True)
    ]
    close(model.log_evidence(x).exp(), torch.from_numpy(sum(parts)))


def test_gamma_poisson_is_negative_binomial():
    model = GammaPoisson(1.7, 0.8)
    x = torch.arange(12.0).double()[:, None]
    expected = scipy.stats.nbinom(1.7, 0.8 / 1.8).pmf(x.flatten().numpy())
    close(model.log_evidence(x).exp(), torch.from_numpy(expected))
    two = ALL["gamma_poisson"]()
    pairs = torch.tensor([[0.0, 3.0], [2.0, 2.0]]).double()
    for pair, value in zip(pairs, two.log_evidence(pairs), strict=True):
        integral = quad(
            lambda z, pair=pair: (
                scipy.stats.gamma(1.7, scale=1 / 0.8).pdf(z) * scipy.stats.poisson(z).pmf(pair.numpy()).prod()
            ),
            0,
            60,
            epsabs=1e-12,
        )[0]
        assert value.exp().item() == pytest.approx(integral, rel=1e-7)


def test_gamma_poisson_data_are_simulated_at_those_rates():
    """Chi-square of 20,000 items over 0..14 and the rest, false-alarm rate 1e-4."""
    _, x = GammaPoisson(1.7, 0.8).simulate(20_000, seed=8)
    p = scipy.stats.nbinom(1.7, 0.8 / 1.8).pmf(range(15))
    expected = 20_000 * torch.tensor([*p, 1 - p.sum()])
    count = torch.bincount(x.flatten().long().clamp_max(15), minlength=16)
    assert ((count - expected) ** 2 / expected).sum() < scipy.stats.chi2.isf(1e-4, 15)


def test_beta_and_dirichlet_evidence_are_scipys():
    model = ALL["beta_bernoulli"]()
    x = torch.tensor([[1.0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).double()
    ones = x.sum(-1).numpy()
    log_p = scipy.stats.betabinom(5, 1.5, 2.5).logpmf(ones) - [scipy.special.gammaln(6)] * 2
    log_p += scipy.special.gammaln(ones + 1) + scipy.special.gammaln(6 - ones)  # one sequence instead of a count
    close(model.log_evidence(x), torch.from_numpy(log_p))
    model = ALL["dirichlet_multinomial"]()
    x = torch.tensor([[1.0, 2.0, 3.0], [6.0, 0.0, 0.0]]).double()
    expected = scipy.stats.dirichlet_multinomial(model.alpha.detach().numpy(), 6).logpmf(x.numpy())
    close(model.log_evidence(x), torch.from_numpy(expected))


def test_forward_algorithm_is_the_sum_over_paths():
    model = ALL["hidden_markov"]()
    x = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]])
    paths = torch.cartesian_prod(*[torch.arange(3)] * 4)[:, None].expand(-1, 2, -1)
    log_joint = model.log_joint(x, paths)
    close(log_joint.logsumexp(0), model.log_evidence(x), rtol=0, atol=1e-12)
    weight = log_joint.softmax(0)
    enumerated = torch.einsum("cb,cbts->bts", weight, torch.nn.functional.one_hot(paths, 3).double())
    close(model.marginals(x), enumerated)


def test_kalman_filter_is_the_dense_gaussian():
    model = ALL["ssm"]()
    _, x = model.simulate(4)
    a, c = model.transition.detach(), model.emission.detach()
    mean, cov = [model.start_mean.detach()], [model.start_cov.detach()]
    for _ in range(2):
        mean.append(a @ mean[-1])
        cov.append(a @ cov[-1] @ a.T + model.process.detach())
    power = torch.linalg.matrix_power
    rows = [
        torch.cat([c @ (power(a, i - j) @ cov[j] if i >= j else cov[i] @ power(a, j - i).T) @ c.T for j in range(3)], 1)
        for i in range(3)
    ]
    dense = torch.cat(rows) + torch.block_diag(*[model.noise.detach()] * 3)
    expected = MultivariateNormal(torch.cat([c @ m for m in mean]), dense).log_prob(x.flatten(1))
    close(model.log_evidence(x), expected)


def test_quadrature_is_scipys_integral():
    for likelihood, values in ((None, [0.0, 1.0]), (lambda z: Poisson(z.exp()), [0.0, 7.0])):
        model = QuadratureProduct(2, likelihood)
        x = torch.tensor([values]).double()
        total = 0.0
        for v in values:
            if likelihood is None:
                mass = lambda z, v=v: 1 / (1 + torch.tensor(-2.0 * z * (2 * v - 1)).exp().item())  # noqa: E731
            else:
                mass = lambda z, v=v: scipy.stats.poisson.pmf(v, torch.tensor(z).exp().item())  # noqa: E731
            integrand = lambda z, mass=mass: torch.tensor(-z * z / 2).exp().item() / 6.283185307179586**0.5 * mass(z)  # noqa: E731
            total += torch.tensor(quad(integrand, -10, 10, epsabs=1e-13)[0]).log().item()
        assert model.log_evidence(x).item() == pytest.approx(total, rel=1e-7)


def test_quadrature_posterior_draws_follow_its_distribution_function():
    """Kolmogorov-Smirnov against a finer grid, false-alarm rate 1e-4."""
    model = QuadratureProduct(1, lambda z: Poisson(z.exp()))
    z = model.posterior_sample(torch.tensor([[3.0]]).double(), draws(20_000, 1)).flatten().numpy()
    fine = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    density = (-(fine**2) / 2 + 3 * fine - fine.exp()).softmax(0).numpy()
    cdf = density.cumsum()
    assert (
        scipy.stats.kstest(z, lambda v: torch.from_numpy(cdf)[torch.from_numpy(fine.numpy().searchsorted(v))].numpy())[
            1
        ]
        > 1e-4
    )


def test_gradients_reach_the_model_and_the_proposal():
    """d log p / d parameters by autograd equals finite differences, and the weights depend on shift and stretch."""
    model = ALL["linear_gaussian"](shift=0.2, stretch=1.1)
    _, x = model.simulate(2)
    weigh(model, x, draws(3, 2)).log_w.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.shift.grad != 0 and model.stretch.grad != 0


def test_what_users_are_told():
    with pytest.raises(UserError, match=r"15 binary latents have 2\^15 states: enumeration stops at 14"):
        SigmoidBeliefNet(torch.zeros(15), torch.zeros(2, 15), torch.zeros(2))
    with pytest.raises(UserError, match="stretch=0"):
        LinearGaussian.ppca(torch.ones(2, 1), 1.0, stretch=0.0)
    with pytest.raises(UserError, match="Psi must be a positive"):
        LinearGaussian.ppca(torch.ones(2, 1), -1.0)
    model = GammaPoisson(1.0, 1.0, shift=-9)
    with pytest.raises(UserError, match="shift=-9 moves the mean of a Gamma proposal below 0"):
        model.encode(torch.ones(1, 1).double())
    with pytest.raises(UserError, match="HiddenMarkov has no torch distribution as posterior"):
        ALL["hidden_markov"]().exact_posterior(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(UserError, match="expected 81 rows"):
        MaskedTable(torch.zeros(80, 4, 2))
    assert UnrolledMasked(MaskedTable.from_joint(joint_table(3, 3))).orders.shape == (6, 3)
