"""Evidence of some modalities given others: intervals against the closed form."""

import math

import pytest
import torch

from infimum.errors import UserError
from infimum.evidence import Bracket, Plan
from infimum.vae.multimodal import conditional_evidence, evidence_of, mmvae, mopoe, mvae
from vae.multimodal.cases import linear_parts, orthogonal_world, with_best_single, with_exact_product

WORLD = orthogonal_world()
MODELS = {
    "mvae": lambda: with_exact_product(WORLD, mvae(linear_parts(WORLD), latent=2)),
    "mmvae": lambda: with_best_single(WORLD, mmvae(linear_parts(WORLD), latent=2)),
    "mopoe": lambda: with_exact_product(WORLD, mopoe(linear_parts(WORLD), latent=2)),
}


def exact(x, given, target) -> float:
    both, alone = ({n: x[n] for n in names} for names in ((*given, *target), given))
    return float((WORLD.log_evidence(both) - WORLD.log_evidence(alone)).mean())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("given", "target"), [(("m0",), ("m1",)), (("m0", "m2"), ("m1",)), (("m1",), ("m0", "m2"))])
def test_certified_intervals_hold_the_exact_value(name, given, target):
    """With posterior draws all four limits are certificates; they fail together with probability 1e-6 at most."""
    z, x = WORLD.simulate(400, seed=7)
    found = conditional_evidence(MODELS[name](), x, given, target, plan=Plan.iid(100), latents=z, delta=1e-6)
    truth = exact(x, given, target)
    assert found.certified and found.basis == "certified"
    assert found.low <= truth <= found.high
    assert found.high - found.low < 0.5
    assert found.target == f"log p({', '.join(target)} | {', '.join(given)})"
    assert str(found).endswith("(certified)")
    assert isinstance(found.joint, Bracket) and isinstance(found.given, Bracket)
    joint, alone = (
        [side.mean(1e-6 / 4).certificate for side in (b.lower, b.upper)] for b in (found.joint, found.given)
    )
    assert (found.low, found.high) == pytest.approx((joint[0] - alone[1], joint[1] - alone[0]))


def test_without_posterior_draws_the_upper_limits_say_what_they_rest_on():
    _, x = WORLD.simulate(300, seed=8)
    found = conditional_evidence(MODELS["mopoe"](), x, ("m0",), plan=Plan.iid(800), seed=1, delta=1e-4)
    assert found.target == "log p(m1, m2 | m0)"
    assert not found.certified
    truth = exact(x, ("m0",), ("m1", "m2"))
    if math.isfinite(found.low):
        assert found.low <= truth <= found.high and "Monte Carlo interval" in found.basis
    else:
        assert "Pareto k" in found.basis
    assert (
        abs(found.value - truth) < 6 * found.stderr + 0.02
    )  # the biases of both logarithms are below a hundredth of a nat


def test_two_lower_bounds_alone_give_no_interval():
    """Few draws of a poor proposal: the difference has a value and no limits."""
    _, x = WORLD.simulate(30, seed=9)
    found = conditional_evidence(MODELS["mmvae"](), x, ("m0",), plan=Plan.iid(4))
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert not found.certified and "certified" not in str(found)


def test_rows_at_a_time_change_nothing():
    _, x = WORLD.simulate(7, seed=11)
    few, many = (conditional_evidence(MODELS["mopoe"](), x, ("m0",), plan=Plan.iid(9), rows=r) for r in (5, 2000))
    assert (few.value, few.low, few.high) == pytest.approx((many.value, many.low, many.high), rel=1e-12)


def test_evidence_of_some_modalities():
    _, x = WORLD.simulate(50, seed=10)
    model = MODELS["mvae"]()
    estimate = evidence_of(model, x, ("m0", "m2"), plan=Plan.iid(3))
    assert estimate.target == "log p(m0, m2)" and evidence_of(model, x, plan=Plan.iid(3)).target == "log p(x)"
    torch.testing.assert_close(estimate.value, WORLD.log_evidence({n: x[n] for n in ("m0", "m2")}))  # exact experts
    mask = torch.tensor([[True, False, True]]).expand(50, -1)
    masked = evidence_of(model, (x, mask), plan=Plan.iid(3))
    torch.testing.assert_close(masked.value, estimate.value)


def test_refusals():
    model = MODELS["mvae"]()
    _, x = WORLD.simulate(5)
    with pytest.raises(UserError, match="'m0' is both given and a target: name each modality once"):
        conditional_evidence(model, x, ("m0",), ("m0", "m1"))
    with pytest.raises(UserError, match="nothing is given: name some of m0, m1, m2"):
        conditional_evidence(model, x, ())
    for target in (None, ()):
        with pytest.raises(UserError, match="nothing is left to tell: m0, m1, m2 are given"):
            conditional_evidence(model, x, ("m0", "m1", "m2"), target)
    for given, target in ((("m0", "m0"), None), (("m0",), ("m1", "m1"))):
        with pytest.raises(UserError, match=r"'m[01]' is named twice: name each modality once"):
            conditional_evidence(model, x, given, target)
    with pytest.raises(UserError, match="'m9' is no modality: the model has m0, m1, m2"):
        conditional_evidence(model, x, ("m9",))
    with pytest.raises(UserError, match="the items lack the modality 'm1': they have m0, m2"):
        conditional_evidence(model, {n: x[n] for n in ("m0", "m2")}, ("m0",), ("m1",))
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[2, 1] = False
    with pytest.raises(UserError, match="some items lack one of m0, m1: choose the items that have them"):
        conditional_evidence(model, (x, mask), ("m0",), ("m1",))
