"""Masked diffusion on predictors whose every number is known (00-masked-diffusion, section 6)."""

import itertools
import math

import pytest
import torch

from discrete.worlds import by_orders, fixture, joint_table, model_of, ones, random_table
from infimum.discrete import (
    MaskedDiffusion,
    MaskedDiffusionConfig,
    RandomOrders,
    completions,
    exact_elbo,
    exact_log_likelihood,
)
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate, iwae, path_terms, weigh
from infimum.testing import check_model

LOG_P, ELBO = -2.6230524671563527, -3.2292308426711944


def z(estimate, truth):
    return abs(float((estimate.value - truth) / estimate.stderr))


def test_the_fixture_exactly():
    """Random order, blocks, one block for each token, and one block for all."""
    for block, log_p, bound in (
        (None, LOG_P, ELBO),
        (2, -2.474221749687984, -3.2708775272297137),
        (1, -3.7534179752515073, -3.7534179752515073),
        (4, LOG_P, ELBO),
        (9, LOG_P, ELBO),
    ):
        model = model_of(fixture(), block_length=block)
        exact, lower = exact_log_likelihood(model, ones()), exact_elbo(model, ones())
        assert float(exact.value) == pytest.approx(log_p, abs=1e-12)
        assert float(lower.value) == pytest.approx(bound, abs=1e-12)
        assert (exact.side, lower.side) == ("exact", "lower") and exact.target == lower.target == model.target
    assert float(exact_elbo(model_of(fixture(5, 3)), ones()).value) == pytest.approx(-3.4082827089626107, abs=1e-12)
    assert by_orders(fixture()) == pytest.approx((LOG_P, ELBO, 1.4376166216779929), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "block"), [(5, None), (5, 2), (3, 3)])
def test_sums_are_those_over_orders(seed, n, block):
    table = random_table(n, seed)
    model = model_of(table, block_length=block)
    log_p, bound, _ = by_orders(table, block)
    assert float(exact_log_likelihood(model, ones(n), rows=7).value) == pytest.approx(log_p, abs=1e-12)
    assert float(exact_elbo(model, ones(n), rows=7).value) == pytest.approx(bound, abs=1e-12)
    assert bound <= log_p


def test_the_elbo_is_below_for_a_thousand_tables():
    """Jensen over orders; strictly, for no random table is a joint's."""
    gaps = []
    with torch.no_grad():
        for seed in range(1000):
            model = model_of(random_table(3, 1000 + seed))
            gaps.append(float(exact_log_likelihood(model, ones(3)).value - exact_elbo(model, ones(3)).value))
    assert min(gaps) > 0 and max(gaps) > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_conditionals_of_one_joint_have_no_gap(seed):
    table, log_p = joint_table(5, seed)
    model = model_of(table)
    assert float(exact_log_likelihood(model, ones(5)).value) == pytest.approx(log_p, abs=1e-12)
    assert float(exact_elbo(model, ones(5)).value) == pytest.approx(log_p, abs=1e-12)
    weights = weigh(RandomOrders(model), ones(5), Plan.iid(6).draws(torch.arange(1)))
    assert weights.log_w.std() < 1e-12 and float(weights.log_w[0, 0]) == pytest.approx(log_p, abs=1e-12)


@pytest.mark.parametrize("block", [None, 2, 3])
@pytest.mark.parametrize(
    ("form", "plan"),
    [
        ("count", Plan.iid(20_000)),
        ("count", Plan.stratified(40, replicates=500)),
        ("count", Plan.antithetic(20_000)),
        ("complement", Plan.antithetic(20_000)),
        ("complement", Plan.iid(20_000)),
    ],
)
def test_terms_are_unbiased(form, plan, block):
    """Against all masks, |z| < 4.5 (false alarm 7e-6 each); with a given token and padding around the sequence."""
    torch.manual_seed(0)
    model = model_of(fixture(), form=form, block_length=block)
    truth = float(exact_elbo(model, ones()).value)
    x = {"tokens": torch.tensor([[0, 1, 1, 1, 1, 1]]), "target": torch.tensor([[0, 0, 1, 1, 1, 1]]).bool()}
    x["present"] = torch.tensor([[0, 1, 1, 1, 1, 1]]).bool()
    estimate = elbo(path_terms(model, x, plan.draws(torch.arange(1))))
    assert z(estimate, truth) < 4.5 and estimate.side == "lower"
    assert estimate.value.item() == pytest.approx(
        elbo(path_terms(model, ones(), plan.draws(torch.arange(1)))).value.item(), abs=1e-12
    )


def test_variances_of_the_fixture():
    """One draw by count: total, of the level alone, of the masks alone; 4.5 standard errors of a variance."""
    model = model_of(fixture())
    draws = Plan(replicates=40_000, levels=1, per_level=2).draws(torch.arange(1))
    value = path_terms(model, ones(), draws).value[:, 0].view(-1, 2)
    pair = value - ELBO
    level = pair[:, 0] * pair[:, 1]
    assert abs(float(level.mean() - 0.4131251603994225)) < 4.5 * float(level.std()) / 200
    square = pair.square().mean(1)
    assert abs(float(square.mean() - 3.195946914212156)) < 4.5 * float(square.std()) / 200


def test_terms_by_time_are_unbiased_and_their_floor_is_not():
    """The published bias and variance with a floor; Gauss' rule is exact from 2 nodes on; below it has no side."""
    for floor, mean, variance in ((0.1, -3.2810, 7.16), (0.01, -3.2337, 16.1)):
        model = model_of(fixture(), form="time", floor=floor)
        terms = path_terms(model, ones(), Plan.iid(200_000).draws(torch.arange(1)))
        found = elbo(terms)
        assert z(found, mean) < 4.5 and found.side == "none"
        square = (terms.value - mean).square()
        assert abs(float(square.mean() - variance)) < 4.5 * float(square.std()) / 200_000**0.5 + 0.05
    with pytest.warns(UserWarning, match="infinite variance"):
        model = model_of(fixture(), form="time")
    for nodes, truth in ((1, -3.090906593080501), (2, ELBO), (3, ELBO)):
        plan = Plan.gauss(nodes, per_level=1, replicates=30_000)
        found = elbo(path_terms(model, ones(), plan.draws(torch.arange(1))))
        assert z(found, truth) < 4.5 and found.side == ("none" if nodes == 1 else "lower")


def test_masks_have_their_counts_and_complements():
    """Exactly l tokens, each with probability l / L; E[weight 1(masked)] = 1; antithetic twins complete one another."""
    model = model_of(fixture(n=5))
    s = model.encode(ones(5).repeat(3, 1))
    masks = model.masks(s, Plan.iid(20_000).draws(torch.arange(3)))
    size = masks.masked.sum(-1)
    assert set(size.unique().tolist()) == {1, 2, 3, 4, 5}
    torch.testing.assert_close(masks.weight, 5 / size.double())
    share = (masks.weight[..., None] * masks.scored).flatten(0, 1)
    assert bool(((share.mean(0) - 1).abs() < 4.5 * share.std(0) / 60_000**0.5).all())
    for count in range(1, 6):
        part = masks.masked[size == count].double()
        assert bool(((part.mean(0) - count / 5).abs() < 4.5 * 0.5 / len(part) ** 0.5 + 1e-12).all())
    twins = model_of(fixture(n=5), form="complement").masks(s, Plan.antithetic(200).draws(torch.arange(3))).masked
    assert bool((twins[0::2] ^ twins[1::2]).all())


def test_blocks_hide_all_that_follows():
    model = model_of(fixture(n=5), block_length=2)
    masks = model.masks(model.encode(ones(5)), Plan.iid(4000).draws(torch.arange(1)))
    belongs = torch.tensor([0, 0, 1, 1, 2])
    for masked, scored in zip(masks.masked[:, 0], masks.scored[:, 0], strict=True):
        (block,) = set(belongs[scored].tolist())
        assert masked[belongs > block].all() and not masked[belongs < block].any()
        assert torch.equal(masked & (belongs == block), scored)
    chosen = torch.bincount((masks.scored[:, 0].long() * (belongs + 1)).amax(1) - 1, minlength=3).double() / 4000
    assert bool(((chosen - torch.tensor([0.4, 0.4, 0.2])).abs() < 4.5 * 0.5 / 4000**0.5).all())


@pytest.mark.parametrize("block", [None, 2])
def test_orders_are_importance_weights(block):
    """E exp(log w) = p with |z| < 4.5; the ELBO of orders is that of masks; bounds lie in order; certificates hold."""
    model = model_of(fixture(), block_length=block)
    log_p, bound, _ = by_orders(fixture(), block)
    unrolled = RandomOrders(model, rows=1000)
    weights = weigh(unrolled, ones(), Plan.iid(4000).draws(torch.arange(1)))
    w = weights.log_w.exp()
    assert abs(float(w.mean() - math.exp(log_p))) < 4.5 * float(w.std()) / 4000**0.5
    assert z(elbo(weights), bound) < 4.5 and weights.target == model.target
    tight = evaluate(unrolled, ones().repeat(50, 1), Plan.iid(32), iwae, keys=torch.arange(50)).mean()
    assert bound < tight.value < log_p + 4 * tight.stderr and tight.certificate < log_p


def test_every_order_is_as_likely_and_each_step_sees_what_it_should():
    """All 24 orders with frequency 1 / 24 (chi-square, 23 degrees, p = 1e-6), and each weight that of its order."""
    table = fixture()
    unrolled = RandomOrders(model_of(table))
    s = unrolled.encode(ones())
    times = unrolled.sample(s, Plan.iid(12_000).draws(torch.arange(1)))
    weights = unrolled.log_joint(ones(), times)[:, 0]
    seen = {}
    for order, weight in zip(times[:, 0].argsort(-1).tolist(), weights.tolist(), strict=True):
        seen.setdefault(tuple(order), []).append(weight)
    assert len(seen) == 24
    for order in itertools.permutations(range(4)):
        masked, total = {0, 1, 2, 3}, 0.0
        for i in order:
            total += float(table[sum(2**j for j in masked), i].log())
            masked.remove(i)
        assert max(abs(w - total) for w in seen[order]) < 1e-12
    assert sum((len(w) - 500) ** 2 / 500 for w in seen.values()) < 74


def test_ragged_rows_with_prompts_are_those_alone():
    """Real transformer: padding on both sides and the other items of a batch change nothing."""
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(vocabulary=7, width=16, heads=2)).eval()
    prompts, answers = [[1, 2, 3], [4], [5, 6, 0, 1, 2]], [[3, 4], [5, 5, 6, 1], [0]]
    batch = completions(prompts, answers, pad_id=0)
    keys = torch.arange(3)
    plan = Plan.iid(8)
    together = path_terms(model, batch, plan.draws(keys)).value
    orders = weigh(RandomOrders(model), batch, plan.draws(keys)).log_w
    for i in range(3):
        alone = completions([prompts[i]], [answers[i]], pad_id=3)
        torch.testing.assert_close(together[:, [i]], path_terms(model, alone, plan.draws(keys[[i]])).value)
        torch.testing.assert_close(
            orders[:, [i]], weigh(RandomOrders(model, rows=3), alone, plan.draws(keys[[i]])).log_w
        )
    exact = exact_log_likelihood(model, batch).value
    single = exact_log_likelihood(model, completions(prompts[1:2], answers[1:2], pad_id=0)).value
    torch.testing.assert_close(exact[[1]], single, rtol=1e-6, atol=1e-6)


def test_a_network_is_a_distribution():
    """Probabilities of all sequences add up to one, and the ELBO of each is below."""
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(vocabulary=3, mask_id=1, width=8, heads=1, blocks=1)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.5)
        x = torch.tensor(list(itertools.product((0, 2), repeat=4)))
        log_p, lower = exact_log_likelihood(model, x).value, exact_elbo(model, x).value
    assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-12)
    assert bool((lower <= log_p).all()) and float((log_p - lower).max()) > 1e-3


def test_only_scored_positions_go_through_the_head_in_parts(monkeypatch):
    """Values and gradients are those of all logits at once."""
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(vocabulary=11, width=16, heads=2)).double()
    x = torch.randint(0, 11, (4, 6))
    draws = Plan.iid(3).draws(torch.arange(4))
    s = model.encode(x)
    masks = model.masks(s, draws)
    whole = torch.where(masks.masked, 11, x).flatten(0, 1)
    log_p = model.network(whole)[..., :11].log_softmax(-1).view(3, 4, 6, 11)
    want = (log_p.gather(-1, x.expand(3, 4, 6)[..., None])[..., 0] * masks.scored).sum(-1) * masks.weight
    gradients = torch.autograd.grad(want.sum(), list(model.parameters()))
    for largest in (2**24, 24):
        monkeypatch.setattr("infimum.discrete.masked.LARGEST", largest)
        got = model.terms(x, s, draws)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        for one, other in zip(torch.autograd.grad(got.sum(), list(model.parameters())), gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_shifted_logits_come_from_the_position_before():
    torch.manual_seed(0)
    config = MaskedDiffusionConfig(vocabulary=5, width=8, heads=1, logit_shift=1)
    model = MaskedDiffusion(config)
    x = torch.randint(0, 5, (2, 4))
    at, present = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]]).bool(), torch.ones(2, 4, dtype=torch.bool)
    logits = model.network(x)[..., :5]
    want = torch.stack([logits[0, 0], logits[0, 1], logits[0, 2], logits[1, 0]])
    torch.testing.assert_close(model.logits(x, present, at), want)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.ones(4, dtype=torch.long), "tokens \\(B, L\\)"),
        (torch.full((1, 3), 0.5), "whole numbers"),
        (torch.tensor([[1, 3, 0]]), "token 3 is not in the vocabulary"),
        (torch.tensor([[1, -1, 0]]), "token -1"),
        ({"tokens": ones(), "target": torch.zeros(1, 4).bool()}, "no target position"),
        ({"tokens": ones(), "target": torch.zeros(1, 3).bool()}, "shape of tokens"),
        (
            {"tokens": ones(), "target": torch.ones(1, 4).bool(), "present": torch.tensor([[0, 1, 1, 1]]).bool()},
            "part of",
        ),
        ({"tokens": ones(), "labels": ones()}, "target and present"),
    ],
)
def test_what_is_no_batch_is_refused(x, words):
    with pytest.raises(UserError, match=words):
        model_of(fixture()).encode(x)


def test_refusals():
    for options, words in (
        ({"mask_id": 5}, "mask id 5"), ({"floor": 0.1}, "floor"), ({"block_length": 0}, "block_length"),
        ({"logit_shift": 2}, "logit_shift"), ({"vocabulary": 0}, "vocabulary is 0"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            MaskedDiffusionConfig(**{"vocabulary": 3} | options)
    inside = MaskedDiffusion(MaskedDiffusionConfig(vocabulary=3, mask_id=2, width=8, heads=1))
    with pytest.raises(UserError, match="the mask, token 2, stands among the data of item 0"):
        inside.encode(torch.tensor([[0, 2]]))
    with pytest.raises(UserError, match=r"2\^15 network calls"):
        exact_elbo(model_of(fixture()), ones(15))
    for prompts, answers, words in (
        ([[1]], [[]], "answer 0 is empty"),
        ([], [], "at least one"),
        ([[1]], 0, "0 positions"),
    ):
        with pytest.raises(UserError, match=words):
            completions(prompts, answers, pad_id=0)


class Known(MaskedDiffusion):
    """With its evidence."""

    def log_evidence(self, x):
        return exact_log_likelihood(self, x)


@pytest.mark.parametrize("block", [None, 2])
def test_both_pass_the_conformance_suite(block):
    torch.manual_seed(0)
    model = Known(MaskedDiffusionConfig(vocabulary=3, width=8, heads=1, blocks=1, block_length=block)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    x = torch.randint(0, 3, (3, 4))
    assert check_model(model, x)["below the evidence"].passed
    assert check_model(model.unrolled(), x)["bounds in order"].passed
