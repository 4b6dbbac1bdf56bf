"""The pilot: acceptance rates reached and frozen, constant conditional effective sample size, independence of the run."""

import itertools
import math

import pytest
import torch

from evidence.support import LocalNormal, close, draws
from infimum.errors import UserError
from infimum.evidence import (
    Annealing,
    Plan,
    ais,
    gibbs,
    hmc,
    iwae,
    linear_betas,
    mala,
    metropolis,
    sigmoid_betas,
    tune,
)
from infimum.evidence.anneal import Bridge
from infimum.testing import LinearGaussian, QuadratureProduct, SigmoidBeliefNet
from testing.oracle_cases import rand, spd

MODEL = LinearGaussian(3 * rand(6, 4), rand(6), 0.3 * spd(6), proposal="prior")
X = MODEL.simulate(32, 1)[1]
BETAS = sigmoid_betas(12)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """torch's own checks of every distribution's arguments cost more than these small models."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    yield
    torch.distributions.Distribution.set_default_validate_args(before)


def test_schedules_are_their_equations():
    def s(a: float) -> float:
        return 1 / (1 + math.exp(-a))

    close(linear_betas(4), [0.0, 0.25, 0.5, 0.75, 1.0])
    close(sigmoid_betas(8), [(s(4 * (2 * t / 8 - 1)) - s(-4)) / (s(4) - s(-4)) for t in range(9)])
    assert sigmoid_betas(1) == [0, 1] and sigmoid_betas(7)[0] == 0 and sigmoid_betas(7)[-1] == 1
    with pytest.raises(UserError, match="at least 1 temperature after 0, got 0"):
        linear_betas(0)


@pytest.mark.parametrize(
    "kernel", [hmc(3.0, 4), hmc(1e-3, 4), mala(5.0), metropolis(20.0)], ids=lambda k: f"{k.name} {k.step}"
)
def test_frozen_kernels_accept_at_their_target(kernel):
    """From steps that are far too large or too small, on draws that the pilot has not seen.

    Measured on exact draws of every intermediate density, which is normal here with precision I + beta W^T Psi^-1 W.
    """
    betas = sigmoid_betas(20)
    path = tune(MODEL, X, draws(16, 32), betas, kernel)
    part, rates = draws(64, 32), []
    with torch.no_grad():
        bridge = Bridge(MODEL, X, MODEL.encode(X))
        projected = torch.linalg.solve(MODEL.noise, MODEL.weight)
        for t, frozen in enumerate(path.kernels):
            beta = betas[t + 1]
            precision = torch.eye(4).double() + beta * MODEL.weight.T @ projected
            mean = torch.linalg.solve(precision, beta * ((X - MODEL.bias) @ projected).T).T
            scale = torch.linalg.cholesky(torch.linalg.inv(precision))
            z = mean + part.normal(f"exact/{t}", 4) @ scale.T
            rates.append(float(frozen.attempt(z, bridge.density(beta), part, f"check/{t}")[1].mean()))
    rates = torch.tensor(rates)
    assert float((rates - kernel.target).abs().max()) < 0.15
    assert abs(float(rates.mean()) - kernel.target) < 0.05
    assert len(path.acceptance) == len(path.kernels) == 19 and path.betas == tuple(betas)


def test_kernels_without_a_step_are_left_alone():
    model = SigmoidBeliefNet(rand(4), rand(5, 4), rand(5), proposal="prior")
    kernel = gibbs()
    path = tune(model, model.simulate(5, 0)[1], draws(4, 5), BETAS, kernel)
    assert path == Annealing(tuple(BETAS), (kernel,) * 11)


def test_an_adaptive_schedule_has_a_constant_conditional_ess():
    """z ~ N(0, 1), x | z ~ N(z, .03^2), q = prior: between the temperatures found, 1 - CESS in closed form differs by less
    than a factor of three, on a linear schedule by more than a hundred."""

    model = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.full((1,), 0.03**2), proposal="prior")
    x = torch.full((64, 1), 0.5).double()
    path = tune(model, x, draws(16, 64), linear_betas(12), hmc(0.2, 4), adaptive=True, items=64)
    assert len(path.betas) == 13 and path.betas[0] == 0 and path.betas[-1] == 1

    def log_z(beta: float) -> float:
        """log of the integral of q(z) p(x|z)^beta, closed form."""
        v = 0.03**2
        constant = -0.5 * beta * math.log(2 * math.pi * v) + 0.5 * math.log(2 * math.pi * v / beta) if beta else 0.0
        return constant + (-0.5 * math.log(2 * math.pi * (1 + v / beta)) - 0.125 / (1 + v / beta) if beta else 0.0)

    def lost(betas) -> torch.Tensor:
        """-log CESS / K of every step: log E w^2 - 2 log E w under the density at its beginning."""
        return torch.tensor([log_z(2 * b - a) + log_z(a) - 2 * log_z(b) for a, b in itertools.pairwise(betas)])

    adaptive, linear = lost(path.betas), lost(linear_betas(12))
    assert float(linear.max() / linear.min()) > 100
    assert float(adaptive.max()) < float(linear.max()) / 3
    assert float(adaptive.max() / adaptive.min()) < 3


def test_the_pilot_does_not_touch_the_weighted_run():
    """A pilot is pure in (seed, items) and its numbers are a fork: the weights are those of the frozen path written by hand."""
    part, betas = draws(8, 32), sigmoid_betas(5)
    path = tune(MODEL, X, part, betas, metropolis(), adaptive=True)
    again = tune(MODEL, X, part, betas, metropolis(), adaptive=True)
    other = tune(MODEL, X, draws(8, 32, seed=1), betas, metropolis(), adaptive=True)
    assert path.betas == again.betas != other.betas
    assert [k.step for k in path.kernels] == [k.step for k in again.kernels] != [k.step for k in other.kernels]
    salts = []

    class Listening(LinearGaussian):
        def sample(self, s, draws):
            salts.append(draws.salt)
            return super().sample(s, draws)

    model = Listening(3 * rand(6, 4), rand(6), 0.3 * spd(6), proposal="prior")
    tune(model, X, part, betas, metropolis(), adaptive=True)
    assert salts == [*(f"{part.salt}/pilot/schedule/{i}" for i in range(5)), f"{part.salt}/pilot"]
    by_hand = [metropolis(k.step) for k in path.kernels]
    close(ais(MODEL, X, part, path.betas, path.kernels).log_w, ais(MODEL, X, part, path.betas, by_hand).log_w)


def test_tuned_annealing_beats_the_proposal_and_an_untuned_step():
    part = draws(8, 32)
    path = tune(MODEL, X, part, BETAS, hmc(0.2, 4))
    truth = MODEL.log_evidence(X).detach()
    gap = [
        float((iwae(ais(MODEL, X, part, betas, kernels)).value - truth).mean())
        for betas, kernels in (([0, 1], hmc()), (BETAS, hmc(2.0, 4)), (path.betas, path.kernels))
    ]
    assert gap[0] < gap[2] < 0 and gap[1] < gap[2]


def test_a_pilot_of_one_chain_cannot_adapt():
    model = QuadratureProduct(2)
    x = model.simulate(3, 0)[1]
    with pytest.raises(UserError, match="at least 2 chains an item in its pilot, got 1"):
        tune(model, x, Plan.iid(1).draws(torch.arange(3)), BETAS, hmc(), adaptive=True)


def test_discrete_latents_are_refused_by_continuous_kernels():
    model = SigmoidBeliefNet(rand(4), rand(5, 4), rand(5), proposal="prior")
    with pytest.raises(UserError, match="hmc moves continuous latents, and this model's are discrete: use the gibbs"):
        tune(model, model.simulate(5, 0)[1], draws(4, 5), BETAS, hmc())


def test_nested_latents_are_refused():
    class Pair(LocalNormal):
        def sample(self, s, draws):
            z = super().sample(s, draws)
            return z, z

    m = Pair(3)
    with pytest.raises(UserError, match="annealing moves one tensor of latents, and this model's latents are a tuple"):
        ais(m, m.x, draws(2, 3), BETAS, hmc())
    with pytest.raises(UserError, match="one for each of the 11 inner temperatures, got 2"):
        ais(m, m.x, draws(2, 3), BETAS, [hmc(), hmc()])
