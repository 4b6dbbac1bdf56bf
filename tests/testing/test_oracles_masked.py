"""The masked table: published exact values, enumeration, and production estimators by z-test."""

import itertools
import math

import pytest
import torch

from infimum.evidence import Plan, exhaustive, path_terms, weigh
from infimum.testing import MaskedTable, TinyMasked, UnrolledMasked
from testing.oracle_cases import joint_table, rand

close = torch.testing.assert_close
ZERO = torch.zeros(1, 4, dtype=torch.int64)
ELBO, LOG_P = -3.2292308426711944, -2.6230524671563527


def random_table(length: int, vocabulary: int) -> MaskedTable:
    return MaskedTable(rand((vocabulary + 1) ** length, length, vocabulary))


def test_published_values_of_the_fixture():
    table = MaskedTable.fixture()
    assert table.log_evidence(ZERO).item() == pytest.approx(LOG_P, abs=1e-12)
    assert table.elbo(ZERO).item() == pytest.approx(ELBO, abs=1e-12)
    assert MaskedTable.fixture(reference=True).elbo(ZERO).item() == pytest.approx(-3.4082827089626107, abs=1e-12)
    assert table(ZERO, torch.ones_like(ZERO, dtype=torch.bool)).sum().item() == pytest.approx(
        -4.2234216044972435, abs=1e-12
    )
    model = UnrolledMasked(table)
    log_p = model.log_given_order(ZERO, model.support(ZERO))
    assert log_p.var(unbiased=False).item() == pytest.approx(1.4376166216779929, abs=1e-12)
    identity = torch.arange(4).expand(1, 1, 4)
    assert model.log_given_order(ZERO, identity).item() == pytest.approx(-3.7534179752515073, abs=1e-12)


@pytest.mark.parametrize(("nodes", "value"), [(1, -3.090906593080501), (2, ELBO), (3, ELBO)])
def test_gauss_nodes_on_the_exact_level_mean(nodes, value):
    rule = Plan.gauss(nodes).rule
    f = MaskedTable.fixture().level_mean(ZERO, torch.tensor(rule.t, dtype=torch.float64))[:, 0]
    assert (torch.tensor(rule.weight, dtype=torch.float64) @ f).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("length", "vocabulary"), [(2, 2), (3, 3), (4, 2), (5, 2)])
def test_recursion_and_subset_sum_equal_the_enumeration_of_orders(length, vocabulary):
    """log p and ELBO from all L! orders, each unrolled token by token in plain Python."""
    table = random_table(length, vocabulary)
    x = torch.randint(vocabulary, (3, length), generator=torch.Generator().manual_seed(0))
    logs = table.logits.log_softmax(-1)
    for item in x:
        scores = []
        for order in itertools.permutations(range(length)):
            canvas, score = [vocabulary] * length, 0.0
            for i in order:
                row = sum(c * (vocabulary + 1) ** j for j, c in enumerate(canvas))
                score += logs[row, i, item[i]].item()
                canvas[i] = int(item[i])
            scores.append(score)
        scores = torch.tensor(scores, dtype=torch.float64)
        assert table.log_evidence(item[None]).item() == pytest.approx(
            (scores.logsumexp(0) - math.log(len(scores))).item()
        )
        assert table.elbo(item[None]).item() == pytest.approx(scores.mean().item())
    every = torch.cartesian_prod(*[torch.arange(vocabulary)] * length)
    close(table.log_evidence(every).exp().sum(), torch.tensor(1.0).double())
    assert (table.elbo(every) < table.log_evidence(every)).all()


def test_true_conditionals_make_the_bound_tight():
    joint = joint_table(4, 3)
    table = MaskedTable.from_joint(joint)
    x = torch.cartesian_prod(*[torch.arange(3)] * 4)
    close(table.log_evidence(x), joint.flatten().log(), rtol=0, atol=1e-12)
    close(table.elbo(x), joint.flatten().log(), rtol=0, atol=1e-12)
    perturbed = MaskedTable.from_joint(joint, noise=0.3)
    assert (perturbed.log_evidence(x) - perturbed.elbo(x)).min() > 1e-4


@pytest.mark.parametrize("form", ["l", "t"])
def test_terms_estimate_the_elbo(form):
    """Mean of 40,000 terms of an item within 5 stderr; the t-form has a finite variance on a stratified lead only."""
    model = TinyMasked(random_table(4, 3), form)
    x = torch.randint(3, (3, 4), generator=torch.Generator().manual_seed(1))
    plan = Plan.iid(40_000) if form == "l" else Plan.gauss(2, per_level=10, replicates=2000)
    with torch.no_grad():
        t = path_terms(model, x, plan.draws(torch.arange(3)))
    assert not t.biased
    level = t.value.reshape(-1, plan.block, 3)
    share = plan.draws(torch.arange(3)).log_share.exp().reshape(-1, plan.block, 1)
    replicate = (level * share).sum(1) / share.sum(1)
    error = replicate.std(0) / replicate.shape[0] ** 0.5
    assert ((replicate.mean(0) - model.elbo(x)).abs() / error).max() < 5


def test_variance_of_one_term_is_the_published_one():
    """l-form on the fixture: total 3.1959, from the level 0.4131, from the mask 2.7828; exact by enumeration."""
    table = MaskedTable.fixture()
    masks, log_p = table._subsets(ZERO)
    score = (log_p[:, 0] * masks).sum(-1)
    terms = [4 / n * score[masks.sum(-1) == n] for n in range(1, 5)]
    means = torch.stack([t.mean() for t in terms])
    level, mask = means.var(unbiased=False), torch.stack([t.var(unbiased=False) for t in terms]).mean()
    assert level.item() == pytest.approx(0.4131251603994225, abs=1e-12)
    assert mask.item() == pytest.approx(2.7828217538127333, abs=1e-12)
    with torch.no_grad():
        value = path_terms(TinyMasked(table), ZERO, Plan.iid(100_000).draws(torch.arange(1))).value[:, 0]
    square = (value - ELBO) ** 2
    assert abs((square.mean() - 3.195946914212156) / (square.std() / 100_000**0.5)) < 5


def test_one_node_is_marked_biased_and_is_off_by_the_exact_amount():
    model = TinyMasked(MaskedTable.fixture(), "t")
    plan = Plan.gauss(1, per_level=1, replicates=100_000)
    with torch.no_grad():
        t = path_terms(model, ZERO, plan.draws(torch.arange(1)))
    assert t.biased
    error = t.value.std() / 100_000**0.5
    assert abs((t.value.mean() + 3.090906593080501) / error) < 5
    assert abs((t.value.mean() - ELBO) / error) > 5
    assert model.lead_degree(ZERO) == 3 and TinyMasked(MaskedTable.fixture()).lead_degree(ZERO) is None


def test_antithetic_masks_have_complementary_sizes():
    model = TinyMasked(random_table(4, 2))
    masked, _ = model.masks(Plan.antithetic(200).draws(torch.arange(2)))
    size = masked.sum(-1)
    assert (size[::2] + size[1::2] == 5).all()


def test_unrolled_orders_are_importance_weights():
    """E exp(log_w) = p(x): exactly over all orders, and |z| < 5 for 40,000 random orders."""
    model = UnrolledMasked(MaskedTable.fixture())
    z = model.support(ZERO)
    table = exhaustive(model.log_joint(ZERO, z), model.log_proposal(ZERO, z))
    assert table.log_joint is None or table.log_joint.shape == (24, 1)
    assert model.log_joint(ZERO, z).logsumexp(0).item() == pytest.approx(LOG_P, abs=1e-12)
    with torch.no_grad():
        w = weigh(model, ZERO, Plan.iid(40_000).draws(torch.arange(1)))
    p = w.log_w[:, 0].exp()
    assert w.unbiased
    assert abs((p.mean() - math.exp(LOG_P)) / (p.std() / 40_000**0.5)) < 5
