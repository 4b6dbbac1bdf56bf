"""Probabilities of subsets against enumeration, and noises against their moments (17 section 6, oracles 7 to 9)."""

import itertools
import math

import pytest
import torch

from infimum.diffusion.mulan import KHot, chosen, gumbel, log_count, log_ordered, log_subset, sum_of_gamma
from infimum.diffusion.mulan.latents import GaussianLatent, OneHot, latent_of
from infimum.errors import UserError
from infimum.evidence import Plan

M, K = 6, 3
SUBSETS = torch.tensor(
    [[float(i in s) for i in range(M)] for s in itertools.combinations(range(M), K)], dtype=torch.float64
)


def logits(seed=0, scale=1.5):
    return scale * torch.randn(M, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_orders(one, hard):
    """log q(S) as the sum over its orders of drawing without replacement."""
    p, total = one.softmax(0), 0.0
    for order in itertools.permutations(hard.nonzero()[:, 0].tolist()):
        left, product = torch.ones(M, dtype=torch.bool), 1.0
        for i in order:
            product = product * p[i] / p[left].sum()
            left = left & (torch.arange(M) != i)
        total = total + product
    return total.log()


def exact_divergence(one):
    """KL(q(S) to uniform) by enumeration, differentiable."""
    log_q = torch.stack([by_orders(one, s) for s in SUBSETS])
    return (log_q.exp() * (log_q + log_count(M, K))).sum()


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0, 12.0])
def test_the_quadrature_is_the_sum_over_orders(scale):
    one = logits(scale=scale)
    log_q = log_subset(one.expand(20, M), SUBSETS)
    exact = torch.stack([by_orders(one, s) for s in SUBSETS])
    assert torch.allclose(log_q, exact, atol=1e-8, rtol=0)
    assert float(log_q.detach().exp().sum()) == pytest.approx(1, abs=1e-9)


def test_logits_that_are_far_apart_have_finite_probabilities_and_gradients():
    one = torch.tensor([40.0, 0, -40, 20, -20, 5], dtype=torch.float64, requires_grad=True)
    log_q = log_subset(one.expand(20, M), SUBSETS)
    assert torch.isfinite(log_q).all() and float(log_q.detach().exp().sum()) == pytest.approx(1, abs=1e-9)
    log_q.sum().backward()
    assert torch.isfinite(one.grad).all()


def sampled(divergence, one, k=20_000, seed=0):
    latent = KHot(M, K, "gumbel", divergence)
    return latent.sample(one[None], Plan.iid(k).draws(torch.tensor([0]), seed=seed))


@pytest.mark.parametrize("divergence", ["subset", "ordered"])
def test_sampled_divergences_are_unbiased_and_so_are_their_gradients(divergence):
    """Value and gradient against enumeration; seven numbers, false alarm below 1e-3 in all."""
    one = logits(1).requires_grad_()
    if divergence == "subset":
        exact = exact_divergence(one)
    else:
        orders = list(itertools.permutations(range(M), K))
        place = torch.stack(
            [torch.tensor([float(M - o.index(i)) if i in o else 0.0 for i in range(M)]) for o in orders]
        )
        log_q = log_ordered(one.expand(len(orders), M), place.double(), K)
        exact = (log_q.exp() * (log_q + math.log(len(orders)))).sum()
    (wanted,) = torch.autograd.grad(exact, one)
    free = one.detach().expand(20_000, M).clone().requires_grad_()
    latent = KHot(M, K, "gumbel", divergence)
    _, value = latent.sample(free, Plan.iid(1).draws(torch.arange(20_000), seed=3))
    z = (value.mean() - exact).detach() / (value.std() / len(free) ** 0.5)
    assert abs(float(z)) < 4
    (each,) = torch.autograd.grad(value.sum(), free)
    z = (each.mean(0) - wanted) / (each.std(0) / len(free) ** 0.5)
    assert float(z.abs().max()) < 4
    assert float(wanted.norm()) > 10 * float((each.std(0) / len(free) ** 0.5).norm())  # the test has power


def test_ordered_is_above_and_a_single_draw_below():
    """Exact subset divergence, the ordered one, and the published code's categorical one, for random logits."""
    for seed in range(10):
        one = logits(seed)
        exact = float(exact_divergence(one))
        _, ordered = sampled("ordered", one)
        _, single = sampled("categorical", one, k=1)
        assert float(single) < exact < float(ordered.mean()) < exact + math.log(math.factorial(K)) + 0.1
    assert 1.2 < exact / float(single) < 3


def test_a_latent_that_tells_all_costs_the_log_of_the_count():
    """Twenty items, a subset for each: log 20 nats; the published divergence says log 2."""
    told = 60 * SUBSETS
    draws = Plan.iid(1).draws(torch.arange(20))
    assert torch.allclose(KHot(M, K).sample(told, draws)[1], torch.tensor(math.log(20), dtype=torch.float64))
    single = KHot(M, K, divergence="categorical")
    assert torch.allclose(single.sample(told, draws)[1], torch.tensor(math.log(2), dtype=torch.float64))
    assert "no side" not in single.surrogate and "divergence 'subset'" in single.surrogate
    assert KHot(M, K).surrogate == ""


def test_samples_have_k_ones_and_all_logits_get_gradients():
    one = logits(2).float().requires_grad_()
    c, _ = KHot(M, K).sample(one[None], Plan.iid(50).draws(torch.tensor([0])))
    assert set(c.detach().unique().tolist()) == {0.0, 1.0}
    assert torch.equal(c.detach().sum(-1), torch.full((50, 1), float(K)))
    (gradient,) = torch.autograd.grad((c * torch.arange(1.0, 7.0)).sum(), one)
    assert bool((gradient != 0).all())


def test_noises_have_their_spread():
    """Variance of the sum of Gamma(1/k, k/i): k sum 1/i^2; of the published one: sum i^2 / k^3. Four standard errors."""
    u = torch.rand(200_000, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k, tau = 15, 10.0
    exact = tau / k * math.sqrt(k * sum(1 / i**2 for i in range(1, 11)))
    official = tau / k * math.sqrt(sum(i**2 for i in range(1, 11)) / k**3)
    assert (round(exact, 2), round(official, 2)) == (3.21, 0.23)
    for noise, wanted in (
        (sum_of_gamma(u, k, tau), exact),
        (sum_of_gamma(u, k, tau, official=True), official),
        (gumbel(u[:, 0]), math.pi / 6**0.5),
    ):
        square = (noise - noise.mean()).square()
        assert abs(float(square.mean() - wanted**2)) < 4 * float(square.std()) / len(square) ** 0.5
    assert k**0.5 * exact == pytest.approx(tau * math.pi / 6**0.5, rel=0.03)  # k of them are all but Gumbel(0, tau)


def test_the_prior_is_uniform_over_subsets():
    c = KHot(M, K).prior(Plan.iid(20_000).draws(torch.tensor([0])))[:, 0]
    counts = (c.double() @ SUBSETS.T == K).sum(0).double()
    chi_2 = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_2 < 43.8  # 0.1% of chi-square with 19 degrees of freedom
    assert torch.equal(counts.sum(), torch.tensor(20_000.0, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["k-hot", "one-hot", "gaussian"])
def test_importance_weights_of_latents_average_to_one(kind):
    """E_q[p(c) / q(c | x)] = 1. Four standard errors."""
    latent = latent_of(kind, M, K, "gumbel", "subset")
    s = torch.cat((logits(3, 0.5), torch.full((M,), 1.5, dtype=torch.float64)))[None, : latent.numbers]
    c, divergence = latent.sample(s, Plan.iid(20_000).draws(torch.tensor([0])))
    log_p, log_q = latent.log_prior(c), latent.log_q(s, c)
    w = (log_p - log_q).exp()
    assert abs(float(w.mean() - 1)) < 4 * float(w.std()) / 20_000**0.5
    gap = log_q - log_p - divergence
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 20_000**0.5 + 1e-9


def test_the_temperature_of_a_one_hot_latent_falls_in_training():
    latent = OneHot(4, cooling=0.1)
    s, draws = torch.zeros(1, 4), Plan.iid(1).draws(torch.tensor([0]))
    s.requires_grad_()
    scales = []
    for step in (1, 2, 3):
        perturbed = (gumbel(draws.uniform("c", 4).double()) + s.detach()).float()
        c = latent.sample(s, draws)[0]
        assert float(latent.steps) == step
        soft = (perturbed * math.exp(0.1 * step)).softmax(-1)[0, 0]  # of temperature exp(-0.1 step)
        wanted = math.exp(0.1 * step) * (torch.diag(soft) - torch.outer(soft, soft))[0]
        torch.testing.assert_close(torch.autograd.grad(c[0, 0, 0], s)[0][0], wanted, rtol=1e-4, atol=1e-6)
        scales.append(float(wanted.abs().max()))
    assert len(set(scales)) == 3
    latent.eval().sample(s, draws)
    assert float(latent.steps) == 3


@pytest.mark.parametrize(("size", "active"), [(6, 3), (50, 15), (500, 100), (1000, 200)])
def test_subsets_of_equal_logits_are_equally_likely(size, active):
    """-log C(m, k), whichever members."""
    hard = chosen(torch.randn(3, size, generator=torch.Generator().manual_seed(0)), active)
    found = log_subset(torch.zeros(3, size), hard)
    assert float((found + log_count(size, active)).abs().max()) < 1e-9


def test_a_gaussian_latent_keeps_its_variance_in_bounds():
    wild = torch.tensor([[0.0, -1e4]])
    assert torch.isfinite(GaussianLatent(1).sample(wild, Plan.iid(3).draws(torch.tensor([0])))[1]).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: KHot(4, 4), "1 <= active < size"),
        (lambda: KHot(4, 0), "1 <= active < size"),
        (lambda: KHot(1, 1), "1 <= active < size"),
        (lambda: KHot(4, 2, "sog"), "use divergence 'deterministic'"),
        (lambda: OneHot(1), "at least 2"),
        (lambda: GaussianLatent(0), "at least 1"),
    ],
)
def test_latents_that_do_not_exist_are_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_a_subset_under_sums_of_gamma_has_no_known_probability():
    latent = KHot(4, 2, "sog", "deterministic")
    c, divergence = latent.sample(torch.zeros(1, 4), Plan.iid(2).draws(torch.tensor([0])))
    assert torch.allclose(divergence, torch.tensor(math.log(6)).double())
    with pytest.raises(UserError, match="is not known"):
        latent.log_q(torch.zeros(1, 4), c)


def test_no_noise_chooses_the_largest():
    latent = KHot(M, K, "none", "deterministic")
    one = logits(4)
    c, _ = latent.sample(one[None], Plan.iid(2).draws(torch.tensor([0])))
    assert torch.equal(c[1, 0], chosen(one, K))
    assert torch.equal(latent.log_q(one[None], c), torch.zeros(2, 1, dtype=torch.float64))
