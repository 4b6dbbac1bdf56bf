"""Families and their density gaps: closed forms, quadrature, naive formulas. z-tests: false alarm 1e-6 each (|z| < 4.9)."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from infimum.distributions.bessel import bessel_ratio
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.vae.posteriors import gaussian_divergence
from infimum.vae.regularisers import aggregate
from infimum.vae.text.families import BatchNormGaussian, DeltaGaussian, GaussianFamily, delta_roots
from infimum.vae.text.sphere import SphereFamily

Z = 4.9


def batch(n: int = 8, d: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return mean, 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64) - 0.5


def latents(family, s, m: int = 16, seed: int = 0) -> torch.Tensor:
    return family.sample(s, Plan.iid(m).draws(torch.arange(len(s[0])), seed=seed, dtype=torch.float64))


def z_of(values: torch.Tensor, truth: float) -> float:
    return abs(float((values.mean() - truth) / (values.std() / math.sqrt(len(values)))))


def test_one_dimension_agrees_with_quadrature() -> None:
    """E R = int q_B log(q_B / p); marginal and joint are the same thing."""
    family, s = GaussianFamily(1), batch(4, 1)

    def q(t: float) -> float:
        return float(
            np.mean([math.exp(-0.5 * ((t - m) / v) ** 2) / v for m, v in zip(s[0], s[1].exp(), strict=True)])
        ) / math.sqrt(2 * math.pi)

    truth = integrate.quad(lambda t: q(t) * (math.log(q(t)) + 0.5 * t * t + 0.5 * math.log(2 * math.pi)), -12, 12)[0]
    values = torch.stack([family.gap(s, latents(family, s, 200, seed)) for seed in range(40)])
    assert z_of(values, truth) < Z
    joint = family.gap(s, latents(family, s), marginal=False)
    torch.testing.assert_close(joint, family.gap(s, latents(family, s)))


@pytest.mark.parametrize("marginal", [True, False])
def test_one_posterior_a_mixture_is_the_ordinary_divergence(marginal: bool) -> None:
    """Value and gradient with respect to the means, in expectation."""
    family, (mean, log_scale) = GaussianFamily(3), batch()
    mean.requires_grad_(True)
    truth = gaussian_divergence(mean, log_scale).sum(-1).mean()
    (slope,) = torch.autograd.grad(truth, mean)
    values, slopes = [], []
    for seed in range(300):
        value = family.gap(
            (mean, log_scale), latents(family, (mean, log_scale), 4, seed), aggregate=1, marginal=marginal
        )
        values.append(value.detach())
        slopes.append(torch.autograd.grad(value, mean)[0])
    assert z_of(torch.stack(values), float(truth.detach())) < Z
    each = torch.stack(slopes)
    assert float(((each.mean(0) - slope) / (each.std(0) / math.sqrt(300))).abs().max()) < 5.5  # the largest of 24


def test_posteriors_like_the_prior_cost_nothing() -> None:
    """Value 0 for any draws, as the log-densities are identical; gradient 0 in expectation, by 400 seeds."""
    family = GaussianFamily(3)
    s = tuple(torch.zeros(8, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for marginal in (True, False):
        slopes = []
        for seed in range(400):
            value = family.gap(s, latents(family, s, 2, seed), marginal=marginal)
            assert abs(float(value.detach())) < 1e-14
            slopes.append(torch.cat(torch.autograd.grad(value, s)))
        each = torch.stack(slopes)
        assert float((each.mean(0) / (each.std(0) / 20)).abs().max()) < 5.5  # the largest of 48


def test_far_apart_pairs_lose_their_information_from_the_loss() -> None:
    """Means +-a with small scales: I = log 2, so the joint gap is the mean divergence less log 2."""
    family = GaussianFamily(2)
    s = (torch.tensor([[3.0, 3.0], [-3.0, -3.0]]).double(), torch.full((2, 2), -4.0).double())
    z = latents(family, s, 2000)
    own = family.log_prob(s, z).mean() - family.log_prior(z).mean()
    gap = family.gap(s, z, marginal=False)
    torch.testing.assert_close(gap, own - math.log(2), atol=1e-9, rtol=0)
    torch.testing.assert_close(family.gap(s, z), own - 2 * math.log(2), atol=1e-9, rtol=0)


def test_joint_is_at_least_marginal_and_information_at_most_its_cap() -> None:
    family, s = GaussianFamily(3), batch(8)
    z = latents(family, s, 4000)
    joint, marginal = (float(family.gap(s, z, marginal=m)) for m in (False, True))
    mean = float(family.divergence(s).mean())
    assert joint > marginal + 0.1
    assert 0 < mean - joint < math.log(8) and mean - joint < mean - marginal < 3 * math.log(8)


def test_order_and_chunks() -> None:
    family, s = GaussianFamily(3), batch()
    z, turn = latents(family, s), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    whole = family.gap(s, z)
    torch.testing.assert_close(family.gap([t[turn] for t in s], z[:, turn]), whole)
    parts = [family.gap([t[i : i + 4] for t in s], z[:, i : i + 4]) for i in (0, 4)]
    torch.testing.assert_close(family.gap(s, z, aggregate=4), torch.stack(parts).mean())
    assert float((family.gap(s, z, aggregate=4) - whole).abs()) > 0.1
    with pytest.raises(UserError, match="a batch of 8 does not divide into parts of 3"):
        family.gap(s, z, aggregate=3)


def test_large_batches_are_worked_off_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    family, (mean, log_scale) = GaussianFamily(3), batch()
    mean.requires_grad_(True)
    z = latents(family, (mean, log_scale))

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        value = family.gap((mean, log_scale), z, aggregate=4)
        return value.detach(), torch.autograd.grad(value, mean, retain_graph=True)[0]

    at_once = both()
    monkeypatch.setattr(aggregate, "LARGEST", 100)
    for a, b in zip(at_once, both(), strict=True):
        torch.testing.assert_close(a, b)


def test_delta_keeps_every_dimension_away_from_the_prior() -> None:
    for root in delta_roots(0.15):
        assert math.log(root) - root + 1.3 == pytest.approx(0, abs=1e-12)
    family = DeltaGaussian(4, 0.15)
    s = family.split(10 * torch.randn(5000, 8, generator=torch.Generator().manual_seed(0)).double())
    each = gaussian_divergence(*s)
    assert float(each.min()) > 0.15 and float(each.min()) < 0.151


def test_batch_norm_keeps_means_apart() -> None:
    family = BatchNormGaussian(4, 0.6).train()
    mean, log_scale = family.split(0.3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + 5)
    torch.testing.assert_close(mean.var(0, correction=0), torch.full((4,), 0.36), atol=1e-3, rtol=0)
    assert float(gaussian_divergence(mean, log_scale).sum(-1).mean()) >= 4 * 0.36 / 2 - 1e-3
    assert not family.norm.weight.requires_grad and family.norm.bias.requires_grad
    with pytest.raises(UserError, match="batch norm of one item"):
        family.split(torch.zeros(1, 8))


@pytest.mark.parametrize(("kappa", "nats"), [(13, 2.1726), (25, 5.7554), (50, 12.2534), (100, 20.7585), (200, 30.3733)])
def test_the_divergence_on_the_sphere(kappa: float, nats: float) -> None:
    """Known figures, and quadrature over the cosine."""
    got = SphereFamily(32, kappa).constant_divergence
    assert got == pytest.approx(nats, abs=5e-5)

    def density(w: float) -> float:
        return math.exp(kappa * (w - 1)) * (1 - w * w) ** 14.5

    mass = integrate.quad(density, -1, 1, epsabs=0, epsrel=1e-12, points=[0.3, 0.7])[0]
    mean = integrate.quad(lambda w: w * density(w), -1, 1, epsabs=0, epsrel=1e-12, points=[0.3, 0.7])[0] / mass
    area = integrate.quad(lambda w: (1 - w * w) ** 14.5, -1, 1)[0]  # of the uniform distribution's cosine
    assert got == pytest.approx(kappa * mean - (math.log(mass) + kappa) + math.log(area), abs=1e-8)


@pytest.mark.parametrize(("dim", "kappa"), [(2, 3.0), (3, 5.0), (32, 13.0), (16, 200.0)])
def test_draws_on_the_sphere(dim: int, kappa: float) -> None:
    """Unit length; mean and mean square of the cosine by the Bessel ratio A: E w = A, E w^2 = 1 - (D - 1) A / kappa."""
    family, n = SphereFamily(dim, kappa), 40_000
    mu = torch.nn.functional.normalize(torch.arange(1.0, dim + 1).double(), dim=0)
    s = (mu.expand(n, dim),)
    z = latents(family, s, 1)[0]
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(n).double())
    w = z @ mu
    ratio = float(bessel_ratio(dim / 2 - 1, torch.tensor(kappa, dtype=torch.float64)))
    assert z_of(w, ratio) < Z and z_of(w.square(), 1 - (dim - 1) * ratio / kappa) < Z
    across = (z - w[:, None] * mu).mean(0) / (z.std(0) / math.sqrt(n))
    assert float(across.abs().max()) < 5.5
    # E exp(-log q) over draws is the area of the sphere
    if kappa <= 5:  # of finite variance in practice
        inverse = (family.log_uniform - family.log_prob((mu[None],), z[:, None])[:, 0]).exp()
        assert z_of(inverse, 1.0) < Z


def test_on_the_sphere_the_gap_is_the_divergence_less_the_information() -> None:
    family = SphereFamily(8, 20.0)
    directions = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).double()
    s = family.split(directions)
    z = latents(family, s, 4000)
    log_q = family.log_prob(s, z.flatten(0, 1)[:, None]).logsumexp(1) - math.log(16)
    information = (family.log_prob(s, z).flatten() - log_q).mean()
    gap = family.gap(s, z)
    torch.testing.assert_close(gap, family.log_prob(s, z).mean() - family.log_uniform - information)
    assert float(gap + information) == pytest.approx(family.constant_divergence, abs=0.02)
    assert 0 < float(information) < math.log(16)
