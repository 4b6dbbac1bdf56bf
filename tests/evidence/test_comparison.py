"""`compare`: a verdict needs a lower limit of one above an upper limit of the other."""

import dataclasses
import math

import pytest
import torch

from infimum.errors import UserError
from infimum.evidence import (
    Bracket,
    Estimate,
    Plan,
    asymptotic_limit,
    certified_limit,
    closed_form,
    compare,
    cubo,
    elbo,
    evaluate,
    iw_eubo,
    iwae,
    weigh,
)
from infimum.testing import LinearGaussian

KEYS = torch.arange(60)


def world(noise: float, **proposal: float) -> LinearGaussian:
    torch.manual_seed(0)
    return LinearGaussian(torch.randn(6, 3), torch.zeros(6), torch.full((6,), noise), **proposal).eval()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return world(0.5).simulate(60, seed=1)[1]


def estimate(model: LinearGaussian, x: torch.Tensor, k: int = 2000, bound: object = iwae) -> Estimate:
    return evaluate(model, x, Plan.iid(k), bound, keys=KEYS)


def test_exact_sides_are_certified(x: torch.Tensor) -> None:
    a, b = (closed_form(world(noise).log_evidence(x).detach()) for noise in (0.5, 0.8))
    truth = float((a.value - b.value).mean())
    assert compare(a, b).answer == ("better" if truth > 0 else "worse")
    assert compare(a, b).certified
    assert compare(b, a).answer == ("worse" if truth > 0 else "better")
    assert compare(a, a).answer == "undecided"


def test_certified_bracket_against_certified_bracket(x: torch.Tensor) -> None:
    """Brackets whose certified limits do not overlap give a certified verdict, in agreement with the exact evidence."""
    brackets = []
    for noise in (0.5, 3.0):
        model = world(noise, shift=0.2, stretch=1.1)
        plan = Plan(levels=200)
        draws = plan.draws(KEYS, seed=3, salt="upper", dtype=torch.float64)
        posterior = model.posterior_sample(x, Plan.iid(1).draws(KEYS, seed=4, dtype=torch.float64))
        with torch.no_grad():
            upper = iw_eubo(weigh(model, x, draws, latents=posterior))
        brackets.append(Bracket(estimate(model, x), upper))
    exact = [float(world(noise).log_evidence(x).detach().mean()) for noise in (0.5, 3.0)]
    assert exact[0] - exact[1] > 0.5
    verdict = compare(*brackets)
    assert verdict.answer == "better"
    assert verdict.certified


def test_reliable_weights_decide_without_certificate(x: torch.Tensor) -> None:
    """Two importance-weighted estimates with light tails: right answer, and said to rest on the Monte Carlo interval."""
    a, b = (estimate(world(noise, stretch=1.2), x) for noise in (0.5, 0.8))
    verdict = compare(a, b)
    assert verdict.answer == "better"
    assert not verdict.certified
    assert "Monte Carlo interval" in verdict.reason


def test_limits_of_the_mean(x: torch.Tensor) -> None:
    """Certified: that of `mean`, on its own side only. Asymptotic: normal quantiles around the mean, bias added above."""
    model = world(0.5, stretch=1.2)
    a = estimate(model, x)
    assert certified_limit(a, "lower", 0.01) == a.mean(0.01).certificate
    assert certified_limit(a, "upper", 0.01) == math.inf
    exact = closed_form(model.log_evidence(x).detach())
    for side in ("lower", "upper"):
        assert certified_limit(exact, side, 0.01) == pytest.approx(float(exact.value.mean()))
    width = 2.3263478740408408 * float(a.stderr.square().sum().sqrt()) / 60
    low, high = asymptotic_limit(a, "lower", 0.01), asymptotic_limit(a, "upper", 0.01)
    assert (low.basis, high.basis) == ("Monte Carlo interval", "Monte Carlo interval")
    assert low.value == pytest.approx(float(a.value.mean()) - width, rel=1e-12)
    assert high.value == pytest.approx(float((a.value + a.stderr.square() / 2).mean()) + width, rel=1e-12)
    assert low.value < float(exact.value.mean()) < high.value
    heavy = asymptotic_limit(estimate(world(0.5, shift=2.0, stretch=0.3), x, 200), "upper", 0.01)
    assert heavy.value == math.inf and "Pareto k" in heavy.basis
    below = asymptotic_limit(estimate(model, x, 10, elbo), "lower", 0.01)
    assert below.value == -math.inf and below.basis == "the distance of ELBO from the target is unknown"


def test_wrong_answers_are_rare() -> None:
    """Two models with the same evidence: over 400 pairs the share of decided ones is at most delta = 0.2.

    False-alarm rate: at most 80 of 400 are expected, 5 binomial standard deviations are 40 more.
    """
    model = world(0.5, shift=0.3, stretch=1.3)
    x = model.simulate(40, seed=1)[1]
    decided = 0
    for seed in range(400):
        with torch.no_grad():
            a, b = (evaluate(model, x, Plan.iid(100), keys=torch.arange(40), seed=2 * seed + i) for i in (0, 1))
        decided += compare(a, b, delta=0.2).answer != "undecided"
    assert decided <= 80 + 40


def test_heavy_tails_on_the_upper_side_are_undecided(x: torch.Tensor) -> None:
    """The worse model's bound may be low only because its proposal is bad: no verdict, whatever the gap."""
    good, bad = estimate(world(0.5, stretch=1.2), x, 200), estimate(world(0.5, shift=2.0, stretch=0.3), x, 200)
    assert float((good.value - bad.value).mean()) > 0.5  # the same model!
    verdict = compare(good, bad)
    assert verdict.answer == "undecided"
    assert "Pareto k" in verdict.reason


def test_unreliable_items_count_at_the_ceiling(x: torch.Tensor) -> None:
    """One item of the trailer with a bad tail is counted at the most its evidence can be."""
    good, weak = estimate(world(0.5, stretch=1.2), x), estimate(world(3.0, stretch=1.2), x)
    k = weak.diagnostics["pareto_k"].clone()
    k[0] = 2.0
    broken = dataclasses.replace(weak, diagnostics={**weak.diagnostics, "pareto_k": k})
    assert compare(good, broken).answer == "undecided"
    capped = dataclasses.replace(broken, ceiling=0.0)
    verdict = compare(good, capped)
    assert verdict.answer == "better"
    upper = float(verdict.reason.split("at most ")[1].split()[0])
    value = torch.where(k > 0.7, 0.0, weak.value + weak.stderr.square() / 2)
    width = 2.241403 * float(weak.stderr[1:].square().sum().sqrt()) / 60
    # delta / 4 = 0.0125 for each of four limits: the 98.75% point
    assert upper == pytest.approx(float(value.mean()) + width, abs=1e-3)


def test_bounds_of_unknown_distance_are_undecided(x: torch.Tensor) -> None:
    for bound in (elbo, cubo):
        a, b = (estimate(world(noise, stretch=1.2), x, bound=bound) for noise in (0.5, 3.0))
        verdict = compare(a, b)
        assert verdict.answer == "undecided"
        assert "no sign" in verdict.reason


def test_refusals(x: torch.Tensor) -> None:
    a = closed_form(torch.zeros(3), keys=torch.arange(3))
    with pytest.raises(UserError, match="different targets"):
        compare(a, closed_form(torch.zeros(3), target="log p(y|x)"))
    with pytest.raises(UserError, match="different items"):
        compare(a, closed_form(torch.zeros(3), keys=torch.arange(1, 4)))
    with pytest.raises(UserError, match="3 and 4 items"):
        compare(a, closed_form(torch.zeros(4)))
    with pytest.raises(UserError, match="different units"):
        compare(a, a.to_unit("bits"))


def test_units_do_not_change_the_answer(x: torch.Tensor) -> None:
    a, b = (estimate(world(noise, stretch=1.2), x) for noise in (0.5, 0.8))
    assert compare(a, b).answer == compare(a.to_unit("bits/dim", 6), b.to_unit("bits/dim", 6)).answer == "better"
    assert a.to_unit("bits").mean().certificate == pytest.approx(a.mean().certificate / math.log(2))
