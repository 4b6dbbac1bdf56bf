"""multivae models: their joint evidence bracketed and held against the closed form, and what their own estimate does instead."""

import math

import pytest
import torch

from conformance.support import SIGMAS, assert_truth_inside, example, z_of_mean_one
from infimum.evidence import Plan
from infimum.testing import check_model

multivae_model = example("multivae_model")
KINDS = list(multivae_model.KINDS)
ITEMS = 90


@pytest.fixture(scope="module")
def models():
    return {kind: multivae_model.trained(kind) for kind in KINDS}


def levels(model, x, draws=3000):
    """log c_m(x) for every component m alone: mean over its draws of the weights under the mixture, (M, B).

    With z from component m and the mixture's density below, E w = p(x) c_m(x): the c_m average to one over m, and no number
    of draws brings a single one of them to one.
    """
    with torch.no_grad():
        mean, scale = model.encode(x)
        found = []
        for m in range(mean.shape[1]):
            alone = Plan.iid(draws).draws(torch.arange(ITEMS), seed=m, salt="levels")
            z = mean[:, m] + scale[:, m] * alone.normal("z", mean.shape[-1])
            log_w = model.log_joint(x, z) - model.log_proposal((mean, scale), z)
            found.append(log_w.double().logsumexp(0) - math.log(draws))
        return torch.stack(found) - model.log_evidence(x)


@torch.no_grad()
def own(model, x, draws, seed):
    """Error of multivae's own mean of log p(x), nats an item."""
    return multivae_model.own_estimate(model, x, draws, seed) - float(model.log_evidence(x).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_the_wrap_keeps_the_contract(models, kind):
    model = models[kind]
    report = check_model(model, model.simulate(5)[1])
    report.raise_if_failed()
    assert report["joint"].passed
    assert report["evidence"].passed


@pytest.mark.parametrize("kind", KINDS)
def test_the_bracket_holds_the_exact_evidence(models, kind):
    found, truth = multivae_model.bracket(models[kind], items=1000, draws=200)
    assert_truth_inside(found, truth)


def test_the_estimate_of_a_product_is_right(models):
    """MVAE's compute_joint_nll is unbiased for p(x), item by item (5 standard errors)."""
    model = models["MVAE"]
    x = model.simulate(ITEMS, 1)[1]
    single = [{name: part[i : i + 1] for name, part in x.items()} for i in range(ITEMS)]
    errors = torch.tensor([own(model, item, 100, seed) for seed, item in enumerate(single)])
    assert z_of_mean_one(errors) < SIGMAS


@pytest.mark.parametrize("kind", ["MMVAE", "MoPoE"])
def test_components_alone_average_to_the_evidence(models, kind):
    """mean_m c_m = 1 for every item: the wrap's weights agree with the closed form component by component."""
    x = models[kind].simulate(ITEMS, 1)[1]
    log_c = levels(models[kind], x)
    assert z_of_mean_one(log_c.exp().mean(0).log()) < SIGMAS


def test_the_estimate_of_a_mixture_of_experts_hangs_on_one_coin(models):
    """MMVAE's compute_joint_nll takes one expert for all draws of a batch: it converges to two numbers, neither log p(x)."""
    model = models["MMVAE"]
    x = model.simulate(ITEMS, 1)[1]
    coins = levels(model, x).mean(1)
    assert float(coins.abs().min()) > 0.1, coins  # nats an item, for either expert
    for draws in (1000, 4000):
        errors = torch.tensor([own(model, x, draws, seed) for seed in range(8)], dtype=torch.float64)
        nearest = (errors[:, None] - coins).abs().argmin(1)
        assert nearest.unique().tolist() == [0, 1]
        assert float((errors - coins[nearest]).abs().max()) < 0.1 * float((coins[0] - coins[1]).abs())


def test_the_estimate_of_a_mixture_of_products_hangs_on_the_place_in_the_batch(models):
    """MoPoE's compute_joint_nll gives item i the component i // (N / 3) alone: the order of the batch changes the answer."""
    model = models["MoPoE"]
    x = model.simulate(ITEMS, 1)[1]
    log_c = levels(model, x)
    third = ITEMS // 3
    scores = {"as it came": torch.arange(ITEMS), "sorted": log_c[0].argsort(), "reversed": log_c[0].argsort().flip(0)}
    seen = {}
    for name, order in scores.items():
        predicted = torch.cat([log_c[m, order[m * third : (m + 1) * third]] for m in range(3)]).mean()
        ordered = {modality: part[order] for modality, part in x.items()}
        errors = torch.tensor([own(model, ordered, 3000, seed) for seed in range(5)], dtype=torch.float64)
        seen[name] = float(errors.mean())
        # levels() and compute_joint_nll take as many draws: both errors have the spread that is seen over seeds.
        noise = errors.std() * math.sqrt(1 + 1 / len(errors))
        assert float((errors.mean() - predicted).abs()) < 7 * float(noise), name  # t, 4 degrees: 1 in 500, a fixed seed
    assert seen["reversed"] - seen["sorted"] > 0.1, seen
