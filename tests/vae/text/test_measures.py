"""What is measured of the latents: units, information, holes. z-tests: false alarm 1e-6 each (|z| < 4.9)."""

import math
import warnings

import pytest
import torch
from scipy import integrate
from torch.distributions import Independent, Normal

from evidence.support import z_score
from infimum.evidence import Plan, active_units, elbo_surgery
from infimum.vae.text import TextVAE, consistent_sphere_units, consistent_units, latent_report
from infimum.vae.text.families import GaussianFamily
from infimum.vae.text.measures import log_mixture
from infimum.vae.text.sphere import SphereFamily
from infimum.vae.text.units import log_sphere_marginal
from vae.text.cases import small

Z = 4.9


def items(n: int = 96, **kind) -> tuple[TextVAE, torch.Tensor]:
    model = small(**kind)
    return model, model.simulate(n, seed=5)[1]


@pytest.mark.parametrize(
    ("mean", "log_scale", "consistent"),
    [(0.0, 0.0, True), (1.0, math.log(0.1), True), (2.0, math.log(0.1), False)],
    ids=["like the prior", "means of N(0, 1)", "means of N(0, 4)"],
)
def test_consistent_units_of_known_aggregates(mean: float, log_scale: float, consistent: bool) -> None:
    means = mean * torch.randn(10_000, 3, generator=torch.Generator().manual_seed(0))
    each = consistent_units(means, torch.full_like(means, log_scale))
    assert int(active_units(means).sum()) == (3 if mean else 0)
    assert bool(((each < 0.03) == consistent).all())
    if mean == 0:
        assert float(each.abs().max()) < 1e-12
    if mean == 2:  # KL(N(0, 1) to N(0, 4.01)) = log s + 1 / (2 s^2) - 1/2
        torch.testing.assert_close(
            each, torch.full((3,), 0.5 * math.log(4.01) + 1 / 8.02 - 0.5).double(), atol=0.02, rtol=0
        )


@pytest.mark.parametrize("kind", [{}, {"posterior": "vmf", "kappa": 8.0}], ids=str)
def test_a_report_of_the_latents(kind: dict) -> None:
    """Against sums over all pairs, by hand; information is below its cap, and the hole is not negative but for noise."""
    model, x = items(150, **kind)
    keys = torch.arange(150)
    report = latent_report(model, x, keys, seed=3)
    with torch.no_grad():
        s = model.encode(x)
        z = model.sample(s, Plan.iid(1).draws(keys, seed=3, salt="latents"))[0]
        pairs = torch.stack([model.log_proposal(tuple(t[i : i + 1] for t in s), z[:, None])[:, 0] for i in range(150)])
        mine = pairs.diagonal().double() - (pairs.double().logsumexp(0) - math.log(150))
        assert report.information == pytest.approx(float(mine.mean()), abs=1e-4)
        torch.testing.assert_close(log_mixture(model.family, s, z, rows=7), log_mixture(model.family, s, z))
    assert report.cap == math.log(150) and report.information < report.cap
    assert report.divergence == pytest.approx(float(model.family.divergence(s).mean()))
    assert report.hole > 0 and report.active == int((s[0].var(0) > 0.01).sum()) > 0
    # by the same draws: log q_i / p = log q_i / q_N + log q_N / p
    own = float((model.log_proposal(s, z[None]) - model.log_prior(z[None])).detach().mean())
    assert report.information + report.outside == pytest.approx(own, abs=1e-4)
    units = model.family.unit_divergences(s)
    assert report.consistent_at == tuple(int((units < t).sum()) for t in (0.01, 0.03, 0.05, 0.1))
    assert report.consistent == report.consistent_at[1]


def test_the_joint_hole_sees_what_single_dimensions_do_not() -> None:
    """Means on the diagonal: both dimensions are consistent, and the plane is not covered."""
    means = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 2)
    scales = torch.full_like(means, math.log(0.2))
    assert bool((consistent_units(means, scales) < 0.03).all())
    family = GaussianFamily(2)
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    assert float((family.log_prior(z).double() - log_mixture(family, (means, scales), z)).mean()) > 1


def test_the_parts_of_the_report_agree_with_the_surgery_of_the_divergence() -> None:
    """mean KL = MI + TC + sum_d KL_d over 120 posteriors, 1e5 draws: `elbo_surgery`, and one draw each of 40 reports."""
    model, x = items(120)
    keys = torch.arange(120)
    with torch.no_grad():
        mean, log_scale = model.encode(x)
    posterior = Independent(Normal(mean.double(), log_scale.double().exp()), 1)
    prior = Independent(Normal(torch.zeros(3).double(), 1.0), 1)
    parts = elbo_surgery(posterior, prior, keys, draws=840)
    truth = float(model.family.divergence((mean, log_scale)).mean())
    total = float(parts.mutual_information + parts.total_correlation + parts.dimension_wise.sum())
    assert abs(total - truth) < Z * float(parts.stderr[0])
    reports = [latent_report(model, x, keys, seed=seed, holes=8) for seed in range(40)]
    for name, want in (("information", parts.mutual_information), ("outside", truth - parts.mutual_information)):
        found = torch.tensor([getattr(report, name) for report in reports], dtype=torch.float64)
        # the surgery's own error is a thirtieth of that of the mean of these
        assert z_score(found, float(want)) < Z + 0.2
    assert float(parts.total_correlation) > 0
    assert all(report.information <= report.cap for report in reports)


def test_information_and_both_divergences_in_one_dimension_by_quadrature() -> None:
    """MI = h(q_N) - mean h(q_i), KL(q_N to p), KL(p to q_N) = the divergence of the only unit."""
    model, x = items(110, latent=1)
    keys = torch.arange(110)
    with torch.no_grad():
        s = model.encode(x)
    mean, log_scale = (t[:, 0].double() for t in s)
    t = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    log_q = Normal(mean, log_scale.exp()).log_prob(t[:, None]).logsumexp(1) - math.log(110)
    log_p = Normal(0.0, 1.0).log_prob(t)
    mixed = -torch.trapezoid(log_q.exp() * log_q, t)
    own = (0.5 * math.log(2 * math.pi * math.e) + log_scale).mean()
    reports = [latent_report(model, x, keys, seed=seed, holes=500) for seed in range(60)]
    for name, want in (
        ("information", mixed - own),
        ("outside", torch.trapezoid(log_q.exp() * (log_q - log_p), t)),
        ("hole", torch.trapezoid(log_p.exp() * (log_p - log_q), t)),
    ):
        found = torch.tensor([getattr(report, name) for report in reports], dtype=torch.float64)
        assert z_score(found, want) < Z, name
    hole = torch.trapezoid(log_p.exp() * (log_p - log_q), t)
    torch.testing.assert_close(consistent_units(*s)[0], hole, rtol=1e-6, atol=1e-9)


def test_few_sentences_are_warned_of_once() -> None:
    model, x = items(100)
    with pytest.warns(UserWarning, match=r"information of 20 sentences is capped at log 20 = 3\.00 nats") as told:
        latent_report(model, x[:20], torch.arange(20), holes=8)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latent_report(model, x, torch.arange(100), holes=8)


@pytest.mark.parametrize(("dim", "kappa"), [(2, 3.0), (3, 5.0), (4, 40.0), (16, 13.0), (32, 200.0)])
def test_marginals_on_the_sphere(dim: int, kappa: float) -> None:
    """They integrate to 1 for any direction, and have the moments of draws: 40,000 of them."""
    family, half = SphereFamily(dim, kappa), (dim - 3) / 2
    mu = torch.nn.functional.normalize(torch.arange(1.0, dim + 1).double(), dim=0)
    c = mu[-1]

    def q(angle: float) -> float:  # t = cos(angle), which takes the ends of dim 2 away
        t = torch.tensor(math.cos(angle), dtype=torch.float64)
        uniform = math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2) - 0.5 * math.log(math.pi)
        return math.exp(float(log_sphere_marginal(t, c, kappa, dim)) + uniform) * math.sin(angle) ** (2 * half + 1)

    peak = [math.acos(float(c))]
    mass, first, second = (
        integrate.quad(lambda a, k=k: q(a) * math.cos(a) ** k, 0, math.pi, points=peak, epsabs=1e-11)[0]
        for k in (0, 1, 2)
    )
    assert mass == pytest.approx(1, abs=1e-8)
    draws = Plan.iid(1).draws(torch.arange(40_000), seed=0, dtype=torch.float64)
    z = family.sample((mu.expand(40_000, dim),), draws)[0][:, -1]
    assert z_score(z, first) < Z and z_score(z.square(), second) < Z


def test_a_marginal_in_three_dimensions_by_its_closed_form() -> None:
    """mu_d = 1: kappa exp(kappa t) / (2 sinh kappa), against the uniform 1/2."""
    t = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    got = log_sphere_marginal(t, torch.tensor(1.0, dtype=torch.float64), 5.0, 3)
    torch.testing.assert_close(got, math.log(5 / math.sinh(5)) + 5 * t, rtol=1e-9, atol=1e-9)


def test_consistent_units_of_known_aggregates_on_the_sphere() -> None:
    """Directions all over it: consistent. All at the pole: not, by the quadrature of a rule of other nodes; only across it."""
    g = torch.Generator().manual_seed(0)
    everywhere = torch.nn.functional.normalize(torch.randn(4000, 8, generator=g), dim=-1)
    assert float(consistent_sphere_units(everywhere, 20.0).max()) < 0.01
    pole = torch.eye(8)[:1].expand(50, 8)
    units = consistent_sphere_units(pole, 20.0)
    assert bool((units > 0.1).all())

    def gap(c: float) -> float:
        def term(t: float) -> float:
            ratio = log_sphere_marginal(torch.tensor(t).double(), torch.tensor(c).double(), 20.0, 8)
            return -((1 - t * t) ** 2.5) * float(ratio)

        return integrate.quad(term, -1, 1, epsabs=1e-11)[0] / integrate.quad(lambda t: (1 - t * t) ** 2.5, -1, 1)[0]

    assert float(units[0]) == pytest.approx(gap(1.0), rel=1e-8) and float(units[3]) == pytest.approx(gap(0.0), rel=1e-8)
