"""Annealing on oracles with every kernel, forward and in reverse; certificates; bidirectional Monte Carlo brackets."""

import math

import pytest
import torch

from evidence.support import close, draws, unchecked, z_score  # noqa: F401
from infimum.errors import UserError
from infimum.evidence import (
    Annealing,
    LatentModel,
    Plan,
    ais,
    bdmc,
    eubo,
    evaluate,
    gibbs,
    harmonic,
    hmc,
    iw_eubo,
    iwae,
    mala,
    metropolis,
    sigmoid_betas,
    tune,
)
from infimum.testing import LinearGaussian, QuadratureProduct, SigmoidBeliefNet
from testing.oracle_cases import rand, spd

N = 4000
# q is a little wider than the posterior, so that both w and 1/w have a variance
OFF = {"shift": 0.5, "stretch": 1.15}
ORACLES = {
    "linear-Gaussian": LinearGaussian(rand(4, 2), rand(4), spd(4), **OFF),
    "quadrature in two dimensions": QuadratureProduct(2, **OFF),
    "belief net": SigmoidBeliefNet(rand(6), rand(5, 6), rand(5), proposal="marginals", shift=0.4, stretch=1.5),
}
KERNELS = {"metropolis": metropolis(1.0), "mala": mala(0.8), "hmc": hmc(0.4, 4), "gibbs": gibbs()}
PAIRS = [(o, k) for o in ORACLES for k in KERNELS if (o == "belief net") == (k == "gibbs")]


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """torch's own checks of every distribution's arguments cost more than these small models."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    yield
    torch.distributions.Distribution.set_default_validate_args(before)


def one(model) -> tuple[torch.Tensor, torch.Tensor]:
    """One simulated item, whose N chains are N independent copies of an estimate, and its evidence."""
    x = model.simulate(1, 4)[1]
    return x, model.log_evidence(x)[0].detach()


@pytest.mark.parametrize(("oracle", "kernel"), PAIRS)
def test_annealed_weights_are_unbiased_on_both_sides(oracle, kernel):
    """T6: E p^/p = 1 forward and E p/p^ = 1 in reverse (|z| < 5), over 4,000 chains on 5 temperatures; the means on their sides."""
    model = ORACLES[oracle]
    x, truth = one(model)
    betas = sigmoid_betas(5)
    forward = ais(model, x, draws(N, 1), betas, KERNELS[kernel])
    reverse = ais(model, x, draws(N, 1, 1), betas, KERNELS[kernel], latents=model.posterior_sample(x, draws(N, 1, 2)))
    assert z_score((forward.log_w[:, 0] - truth).exp(), 1.0) < 5
    assert z_score((truth - reverse.log_w[:, 0]).exp(), 1.0) < 5
    assert float(forward.log_w.mean()) < float(truth) < float(reverse.log_w.mean())


def test_tuned_paths_are_unbiased_too():
    """Steps and an adaptive schedule from a pilot on draws of its own, then frozen."""
    model = ORACLES["quadrature in two dimensions"]
    x, truth = one(model)
    part = draws(N, 1)
    path = tune(model, x, draws(16, 1), sigmoid_betas(6), hmc(0.2, 4), adaptive=True)
    assert z_score((ais(model, x, part, path.betas, path.kernels).log_w[:, 0] - truth).exp(), 1.0) < 5


def test_moving_before_weighing_is_caught():
    """The demand has power: with every move made at the temperature before its weight, E p^/p is off by far."""
    model = ORACLES["quadrature in two dimensions"]
    x, truth = one(model)
    betas = sigmoid_betas(5)

    def early(z, log_pi, draws, stream):
        """A kernel that is invariant for another density: the posterior itself, at every temperature."""
        return KERNELS["hmc"](z, lambda v: model.log_joint(x[: v.shape[1]], v), draws, stream)

    w = ais(model, x, draws(N, 1), betas, early)
    assert z_score((w.log_w[:, 0] - truth).exp(), 1.0) > 5


@pytest.mark.parametrize("oracle", ["linear-Gaussian", "belief net"])
def test_certificates_fail_no_more_often_than_they_may(oracle):
    """T5: 2,000 data sets of one item, delta = .2, two temperatures from a poor proposal: each side at most 20%, up to 5 s.d."""
    far = {"linear-Gaussian": {"shift": 3.0, "stretch": 0.5}, "belief net": {"shift": 2.0, "stretch": 1.0}}[oracle]
    model = (
        LinearGaussian(rand(4, 2), rand(4), spd(4), **far)
        if oracle == "linear-Gaussian"
        else SigmoidBeliefNet(rand(6), 2 * rand(5, 6), rand(5), proposal="marginals", **far)
    )
    n, delta = 2000, 0.2
    z, x = model.simulate(n, 3)
    kernel = gibbs() if oracle == "belief net" else metropolis(0.5)
    truth = model.log_evidence(x).detach()
    lower = iwae(ais(model, x, draws(2, n), [0, 0.5, 1], kernel)).value + math.log(delta)
    upper = harmonic(ais(model, x, draws(2, n, 1), [0, 0.5, 1], kernel, latents=z)).value - math.log(delta)
    allowed = delta + 5 * math.sqrt(delta * (1 - delta) / n)
    assert float((lower > truth).double().mean()) <= allowed
    assert float((upper < truth).double().mean()) <= allowed


@pytest.mark.parametrize("oracle", ORACLES)
def test_brackets_hold_the_exact_evidence(oracle):
    """Certified lower <= exact <= certified upper on 200 simulated items (delta = 1e-3 over both sides), closer than without
    annealing."""
    model = ORACLES[oracle].eval()
    z, x = model.simulate(200, 7)
    part = Plan.iid(8).draws(torch.arange(200))
    kernel = gibbs() if oracle == "belief net" else hmc(0.2, 4)
    path = tune(model, x, part, sigmoid_betas(8), kernel)
    both = bdmc(model, (z, x), path, chains=8, seed=7)
    mean, truth = both.mean(1e-3), float(model.log_evidence(x).mean().detach())
    assert mean.lower.certificate < truth < mean.upper.certificate
    apart = bdmc(model, (z, x), Annealing((0.0, 1.0), ()), chains=8, seed=7)
    assert 0 < float(both.gap.mean()) < float(apart.gap.mean())
    assert (both.lower.side, both.upper.side, both.upper.unbiased_for) == ("lower", "upper", "inverse evidence")
    assert math.isnan(mean.upper.stderr) and mean.lower.stderr > 0  # the chains of an item share its posterior draw
    again = bdmc(model, 200, path, chains=8, seed=7, rows=100)
    close(again.lower.value, both.lower.value)
    close(again.upper.value, both.upper.value)


def test_posterior_draws_of_their_own_give_the_upper_side_an_error():
    model = ORACLES["linear-Gaussian"].eval()
    x = model.simulate(50, 1)[1]
    own = model.posterior_sample(x, Plan.iid(8).draws(torch.arange(50), seed=9, dtype=torch.float64))
    path = tune(model, x, Plan.iid(8).draws(torch.arange(50)), sigmoid_betas(6), hmc(0.2, 4))
    both = bdmc(model, (own, x), path, chains=8)
    truth = model.log_evidence(x).detach()
    error = both.upper.mean().stderr
    assert abs(both.upper.mean().value - float(truth.mean())) < 5 * error


class Line(LatentModel):
    """z ~ N(0, 1), x | z ~ N(z, 1), from the proposal N(-3, .6^2)."""

    def encode(self, x):
        return torch.full_like(x[:, 0], -3.0)

    def posterior(self, s):
        return torch.distributions.Normal(s, 0.6)

    def log_joint(self, x, z):
        return torch.distributions.Normal(0.0, 1.0).log_prob(z) + torch.distributions.Normal(z, 1.0).log_prob(x[:, 0])


def test_the_default_path_and_the_gap_that_more_temperatures_close():
    """The default of 100 temperatures against 3, on 100 items; the exact evidence is N(x; 0, 2)."""
    model, part = Line().eval(), draws(1, 100, 5)
    z = part.normal("prior")
    x = (z + part.normal("x"))[0][:, None]
    seen = []
    default = bdmc(model, (z, x), chains=2, progress=seen.append)
    few = bdmc(model, (z, x), tune(model, x, draws(2, 100), sigmoid_betas(3), hmc(0.2, 4)), chains=2)
    exact = float(torch.distributions.Normal(0.0, 2**0.5).log_prob(x).mean())
    for both in (default, few):
        assert both.lower.mean(1e-3).certificate < exact < both.upper.mean(1e-3).certificate
    assert 0 < float(default.gap.mean()) < 0.5 * float(few.gap.mean())
    assert seen == sorted(seen) and seen[-1] == 2 * 2 * 100 * 100


def test_both_upper_bounds_hold_beside_each_other():
    """Annealing in reverse and the importance-weighted upper bound, from the same posterior draws, bracket the same number."""
    model = ORACLES["linear-Gaussian"].eval()
    z, x = model.simulate(500, 2)
    truth = float(model.log_evidence(x).mean().detach())
    weighted = evaluate(model, x, Plan(levels=20), iw_eubo, latents=z).mean(1e-3)
    path = tune(model, x, Plan.iid(4).draws(torch.arange(500)), sigmoid_betas(8), mala())
    annealed = bdmc(model, (z, x), path, chains=4).upper.mean(1e-3)
    single = evaluate(model, x, Plan.iid(1), eubo, latents=z).mean(1e-3)
    for upper in (weighted, annealed, single):
        assert truth < upper.certificate
    assert annealed.value < single.value


def test_refusals(unchecked):  # noqa: F811
    model = ORACLES["linear-Gaussian"]
    with pytest.raises(UserError, match="in train mode"):
        bdmc(model.train(), 5)
    model.eval()
    with pytest.raises(UserError, match="at least 1 item to simulate, got 0"):
        bdmc(model, 0)

    with pytest.raises(UserError, match=r"a Line has no simulate\(n, seed\)"):
        bdmc(Line().eval(), 3)
    z, x = model.simulate(3, 0)
    with pytest.raises(UserError, match=r"latents must be \(16, 3, ...\) or \(1, 3, ...\)"):
        bdmc(model, (z.expand(2, -1, -1), x), Annealing((0.0, 1.0), ()))
