"""Bounds and surrogates on predictors whose every number is known: 06-spg, sections 3 and 6; 00-masked-diffusion, section 6."""

import itertools
import math

import pytest
import torch

from alignment.worlds import table_of
from discrete.worlds import by_orders, fixture, joint_table, model_of, ones, random_table
from infimum.alignment import (
    SPG,
    Reinforce,
    TokenTable,
    all_masks,
    answered,
    block_masks,
    elbo_of,
    eubo_of,
    exact_table,
    mixed,
    optimal_mix,
    perturbed,
    sandwich,
    token_means,
    token_table,
)
from infimum.discrete import canvas_of, exact_elbo, exact_log_likelihood
from infimum.errors import UserError
from infimum.evidence import Plan

LOG_P, ELBO = -2.6230524671563527, -3.2292308426711944
EUBO = {
    1: -2.6339207033884513, 1.5: -2.396075511118382, 2: -2.2013356302132365, 3: -1.9147154352946139, 4: -1.7188953805767326,
}  # fmt: skip
BLOCK = {1: -2.719344207720969, 1.5: -2.5220051809978523, 2: -2.3712297841722925, 4: -2.0197080301773527}


def exact(table, block=None):
    model = model_of(table)
    return exact_table(model, model.encode(ones(table.shape[1])), block)


def test_the_fixture_exactly():
    table = exact(fixture())
    assert float(elbo_of(table)) == pytest.approx(ELBO, abs=1e-12)
    for beta, value in EUBO.items():
        assert float(eubo_of(table, float(beta))) == pytest.approx(value, abs=1e-12)
    blocks = exact(fixture(), 2)
    assert float(elbo_of(blocks)) == pytest.approx(-3.2708775272297137, abs=1e-12)
    for beta, value in BLOCK.items():
        assert float(eubo_of(blocks, float(beta))) == pytest.approx(value, abs=1e-12)
    # the surrogate of order 1 is below log p: it is no upper bound, and does not say so
    assert EUBO[1] < LOG_P < EUBO[4]
    assert not sandwich(table, 1.5).certified and sandwich(table, 4.0).certified
    assert float(sandwich(table, 1.5, certified=True).eubo) == pytest.approx(EUBO[4], abs=1e-12)


def test_one_call_for_all_masked():
    model = model_of(fixture())
    s = model.encode(ones())
    draws = Plan.iid(1).draws(torch.arange(1))
    table = token_table(model, s, draws, block_masks(s, draws, "all"))
    assert float(elbo_of(table)) == pytest.approx(-4.2234216044972435, abs=1e-12)


def test_two_tokens_have_closed_forms():
    """06-spg 6.2, and the counter-example of 3.2; gradients too."""
    a, b = torch.tensor([0.9, 0.1], dtype=torch.float64), torch.tensor([0.1, 0.9], dtype=torch.float64)
    probabilities = torch.tensor(
        [[0.5, 0.5], [0.1, 0.5], [0.5, 0.9], [0.9, 0.1]], dtype=torch.float64
    )  # sets {}, {1}, {2}, {1, 2}
    model = model_of(probabilities)
    table = exact_table(model, model.encode(ones(2)))
    log_p = float(exact_log_likelihood(model, ones(2)).value)
    assert log_p == pytest.approx(math.log((0.9 * 0.9 + 0.1 * 0.1) / 2), abs=1e-12)
    for beta in (1.0, 1.5, 2.0):
        value = eubo_of(table, beta)
        assert float(value) == pytest.approx(float((((a**beta + b**beta) / 2).log() / beta).sum()), abs=1e-12)
        (slope,) = torch.autograd.grad(value.sum(), model.network.table, retain_graph=True)
        assert slope[3].tolist() == pytest.approx((a ** (beta - 1) / (a**beta + b**beta)).tolist(), abs=1e-12)
    assert float(eubo_of(table, 2.0)) == pytest.approx(log_p, abs=1e-12)
    assert float(eubo_of(table, 1.0)) == pytest.approx(-1.3863, abs=5e-5) and log_p == pytest.approx(-0.8916, abs=5e-5)
    # for two tokens and order 1 the gap has a closed form
    other = torch.tensor([[0.5, 0.5], [0.3, 0.5], [0.5, 0.6], [0.7, 0.2]], dtype=torch.float64)
    p = math.exp(float(exact_log_likelihood(model_of(other), ones(2)).value))
    assert math.exp(float(eubo_of(exact(other), 1.0))) - p == pytest.approx((0.7 - 0.3) * (0.2 - 0.6) / 4, abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_order_of_the_bounds_on_any_table(seed):
    """ELBO <= log p, ELBO <= surrogate for every order, growing with it; the certified one above log p whatever the table."""
    n = 2 + seed % 4
    probabilities = random_table(n, seed)
    table, log_p = exact(probabilities), by_orders(probabilities)[0]
    values = [float(eubo_of(table, beta)) for beta in (1.0, 1.3, 2.0, 4.0, 9.0)]
    assert float(elbo_of(table)) <= min(log_p, values[0]) + 1e-12
    assert values == sorted(values)
    assert float(eubo_of(table, 1.0, certified=True)) >= log_p - 1e-12
    joint, log_joint = joint_table(n, seed)
    assert float(eubo_of(exact(joint), 1.0)) >= log_joint - 1e-12
    assert float(elbo_of(exact(joint))) == pytest.approx(log_joint, abs=1e-12)


def test_the_estimator_is_biased_and_consistent():
    """E over m independent masks, by all 15^m of them; the mean of the logarithm of a mean is too low for covered tokens."""
    whole = exact(fixture())
    share, beta, truth = whole.share[:, 0], 1.5, EUBO[1.5]
    expected = []
    for m in (1, 2, 3):
        index = torch.tensor(list(itertools.product(range(15), repeat=m))).T  # (m, 15^m)
        table = TokenTable(
            whole.scores[index, 0], whole.scored[index, 0], whole.weight[index, 0],
            torch.full((m, 1), 1 / m).double(), torch.full((index.shape[1],), 4),
        )  # fmt: skip
        expected.append(float((share[index].prod(0) * eubo_of(table, beta)).sum()))
    # two errors of opposite sign: the logarithm of a mean is too low, tokens that are left out count 0, which is too high. The
    # value falls while tokens get covered and rises from there: the error is not monotone in m, and vanishes like 1 / m
    model = model_of(fixture())
    s = canvas_of(ones().expand(20_000, 4), 2, 2)
    errors = {}
    for m in (1, 2, 3, 30, 60, 120):
        draws = Plan.iid(m).draws(torch.arange(20_000))
        with torch.no_grad():
            values = eubo_of(token_table(model, s, draws, model.masks(s, draws)), beta)
        mean, stderr = float(values.mean()), float(values.std()) / 20_000**0.5
        if m < 4:
            assert abs(mean - expected[m - 1]) < 4.5 * stderr  # the enumeration, false alarm 7e-6
        errors[m] = (mean - truth, stderr)
    assert all(error < -4.5 * stderr for error, stderr in (errors[2], errors[3], errors[30], errors[120]))
    for m in (30, 60):
        assert errors[m][0] / errors[2 * m][0] == pytest.approx(2, abs=0.35)


@pytest.mark.parametrize("beta", [1.0, 1.5, 4.0])
def test_gradient_is_a_weighted_sum_of_scores(beta):
    """sum rho grad log a, rho = w 1 a^beta / its sum over masks; the mixture is affine in omega, value and gradient."""
    model = model_of(fixture())
    table = exact_table(model, model.encode(ones()))
    share = (table.share * table.weight)[..., None]
    power = torch.where(table.scored, share * table.scores.exp() ** beta, 0.0).detach()
    rho = power / power.sum(0)

    def slope(value):
        return torch.autograd.grad(value, model.network.table, retain_graph=True)[0]

    upper = eubo_of(table, beta)
    torch.testing.assert_close(slope(upper.sum()), slope((rho * table.scores).sum()), rtol=0, atol=1e-12)
    lower = elbo_of(table)
    for omega in (0.0, 0.3, 1.0):
        both = mixed(lower, upper, omega)
        expected = omega * slope(upper.sum()) + (1 - omega) * slope(lower.sum())
        torch.testing.assert_close(slope(both.sum()), expected, rtol=0, atol=1e-12)


def test_optimal_mixture_varies_least():
    """Gradients for all pairs of masks of a policy with two parameters a token: the variance at omega* is the smallest."""
    model = model_of(fixture())
    whole = exact_table(model, model.encode(ones()))
    pairs = list(itertools.product(range(15), repeat=2))
    lower, upper, share = [], [], []
    for pair in pairs:
        at = list(pair)
        table = TokenTable(
            whole.scores[at], whole.scored[at], whole.weight[at], torch.full((2, 1), 0.5).double(), whole.lengths
        )
        for value, found in ((elbo_of(table), lower), (eubo_of(table, 1.5), upper)):
            found.append(torch.autograd.grad(value.sum(), model.network.table, retain_graph=True)[0].flatten())
        share.append(round(float(whole.share[at, 0].prod()) * 1e6))
    times = torch.tensor(share)  # probabilities as multiplicities, to a millionth
    low, up = (torch.stack(each).repeat_interleave(times // 100, 0) for each in (lower, upper))
    omega = optimal_mix(low, up)

    def spread(weight):
        return (weight * up + (1 - weight) * low).var(0, unbiased=False)

    best = spread(omega)
    for other in (0.0, 0.5, 1.0):
        assert bool((best <= spread(torch.full_like(omega, other)) + 1e-12).all())
    assert float((spread(torch.zeros_like(omega)) / best.clamp_min(1e-30))[best > 0].max()) > 1.01


def test_block_masks():
    """Earlier blocks clean, later ones masked; a uniform block; every level in it; the end of the text hidden and unscored."""
    tokens = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1]])
    target = torch.arange(9)[None] >= 2  # 7 tokens: blocks of 3, 3 and 1
    s = canvas_of({"tokens": tokens, "target": target}, 2, 2)
    draws = Plan.iid(30_000).draws(torch.arange(1))
    masks = block_masks(s, draws, "block", 3)
    block = (torch.where(masks.scored, s.rank, -1).amax(-1) // 3)[:, 0]
    counts = torch.bincount(block, minlength=3).double()
    assert float(((counts - 10_000).square() / 10_000).sum()) < 23.0  # chi-square, 2 degrees: false alarm 1e-5
    for b in range(3):
        mine = masks.masked[block == b, 0]
        assert not mine[:, : 2 + 3 * b].any() and bool(mine[:, 2 + 3 * (b + 1) :].all())
        level = masks.scored[block == b, 0].sum(-1)
        size = 3 if b < 2 else 1
        expected = len(level) / size
        found = torch.bincount(level, minlength=size + 1)[1:].double()
        assert float(((found - expected).square() / expected).sum()) < 28.0
        weight = masks.weight[block == b, 0]
        torch.testing.assert_close(weight, 3 * size / level.double())
    # unbiased for the bound of the block order, |z| < 4.5: 7 tokens need a table of their own
    model = model_of(random_table(7, 3), block_length=3)
    x = ones(7)
    s = model.encode(x)
    with torch.no_grad():
        terms = token_table(model, s, draws, block_masks(s, draws, "block", 3)).terms[:, 0]
    truth = float(exact_elbo(model, x).value)
    assert abs(float(terms.mean()) - truth) < 4.5 * float(terms.std()) / 30_000**0.5
    with torch.no_grad():
        whole = token_table(model, s, draws, block_masks(s, draws, "block_all", 3))
    assert bool(
        (whole.scored.sum(-1) == torch.tensor([3, 3, 1])[torch.where(whole.scored, s.rank, -1).amax(-1) // 3]).all()
    )


def test_behind_the_end_and_prompts():
    tokens = torch.tensor([[0, 1, 1, 3, 0, 3], [0, 1, 1, 0, 0, 0], [0, 3, 1, 1, 1, 1]])
    s = canvas_of({"tokens": tokens, "target": torch.arange(6)[None].expand(3, 6) >= 1}, 4, 4)
    done = answered(s, tokens, end=3, mask_id=4)
    assert done.lengths.tolist() == [3, 5, 1]
    assert done.tokens.tolist() == [[0, 1, 1, 3, 4, 4], [0, 1, 1, 0, 0, 0], [0, 3, 4, 4, 4, 4]]
    assert done.target.sum(1).tolist() == [3, 5, 1] and bool(done.present.all())
    assert answered(s, tokens, end=3, mask_id=4, hide=False).lengths.tolist() == [5, 5, 5]
    draws = Plan.iid(4000).draws(torch.arange(3))
    masks = perturbed(done, draws, block_masks(done, draws, "random"), 0.15)
    hidden = masks.masked[..., 0].double().mean()  # the prompt
    assert abs(float(hidden) - 0.15) < 4.5 * (0.15 * 0.85 / 12_000) ** 0.5
    assert not bool((masks.scored & ~done.target).any()) and not bool(masks.scored[:, 2, 2:].any())
    plain = block_masks(done, draws, "random")
    assert not bool(plain.masked[..., 0].any()) and perturbed(done, draws, plain, 0.0) is plain


def test_official_estimates_are_means_over_masked_tokens():
    """By hand on three masks, later blocks scored too; and not what the bound says."""
    model = model_of(fixture())
    s = model.encode(ones())
    draws = Plan.iid(3).draws(torch.arange(1))
    method = SPG(flavour="official", block_length=2, num_masks=3)
    masks = method.masks(model, s, draws)
    assert torch.equal(masks.scored, masks.masked)
    table = token_table(model, s, draws, masks)
    log_a = [
        [(float(fixture()[sum(2**j for j in m), i].log()), i) for i in m]
        for m in (row.nonzero()[:, 0].tolist() for row in masks.masked[:, 0])
    ]
    by_hand = sum(sum(v for v, _ in row) / len(row) for row in log_a) / 3 * 4
    assert float(token_means(table)) == pytest.approx(by_hand, abs=1e-12)
    e = [sum(4 / len(row) * math.exp(1.5 * v) for row in log_a for v, j in row if j == i) / 3 for i in range(4)]
    covered = [each for each in e if each]
    upper = sum(math.log(each) for each in covered) / len(covered) / 1.5 * 4
    assert float(token_means(table, 1.5)) == pytest.approx(upper, abs=1e-12)


def test_negative_completions():
    """06-spg 6.7, 6.8: "zero" has no gradient from them, "elbo" is REINFORCE, equal rewards change nothing."""
    model = model_of(fixture())
    s = canvas_of(ones().expand(2, 4), 2, 2)
    draws = Plan.iid(2).draws(torch.arange(2))
    advantages = torch.tensor([0.5, -0.5], dtype=torch.float64)

    def loss(method, advantages=advantages):
        table = token_table(model, s, draws, method.masks(model, s, draws))
        return method.losses(table, table.detach(), None, advantages)

    assert float(loss(SPG(negative="zero", masking="random"))[1]) == 0
    same = loss(SPG(negative="elbo", masking="random")), loss(Reinforce(num_masks=2))
    torch.testing.assert_close(*same, rtol=0, atol=0)
    for negative in ("mix", "eubo", "elbo", "zero"):
        method = SPG(negative=negative, block_length=2)
        assert float(loss(method, torch.zeros(2).double()).abs().sum()) == 0
        torch.testing.assert_close(loss(method, 3 * advantages), 3 * loss(method), rtol=0, atol=1e-14)
    lower, upper = SPG(negative="mix", mix_weight=0.25).estimates(exact(fixture()))
    assert float(lower) == pytest.approx(ELBO, abs=1e-12)
    assert float(upper) == pytest.approx(0.25 * EUBO[1.5] + 0.75 * ELBO, abs=1e-12)


def test_uncovered_tokens_have_no_gradient_and_no_nan():
    model = model_of(fixture())
    s = model.encode(ones())
    draws = Plan.iid(1).draws(torch.arange(1))
    masks = model.masks(s, draws)
    few = torch.tensor([[[False, True, False, False]]])
    table = token_table(
        model, s, draws, masks._replace(masked=few, scored=few, weight=torch.full((1, 1), 4.0).double())
    )
    value = eubo_of(table, 1.5)
    (slope,) = torch.autograd.grad(value.sum(), model.network.table)
    assert bool(slope.isfinite().all()) and int((slope != 0).sum()) == 1
    assert float(sandwich(table, 1.5).uncovered) == 0.75


def test_refusals():
    table = exact(fixture())
    with pytest.raises(UserError, match="Renyi order"):
        eubo_of(table, 0.5)
    with pytest.raises(UserError, match="Renyi order"):
        SPG(eubo_beta=0.9)
    with pytest.raises(UserError, match="mix_weight is 1"):
        SPG(mix_weight=1.5)
    with pytest.raises(UserError, match="mix_weight"):
        mixed(elbo_of(table), elbo_of(table), -0.1)
    with pytest.raises(UserError, match="num_masks=1"):
        SPG(masking="all")
    with pytest.raises(UserError, match="at least 1 token"):
        block_masks(canvas_of(ones(), 2, 2), Plan.iid(1).draws(torch.arange(1)), "block", 0)
    with pytest.raises(UserError, match="share of 2"):
        perturbed(
            canvas_of(ones(), 2, 2), Plan.iid(1).draws(torch.arange(1)), all_masks(canvas_of(ones(), 2, 2))[0], 2.0
        )
    with pytest.raises(UserError, match="one length"):
        all_masks(canvas_of(ones(13), 2, 2))
    with pytest.warns(UserWarning, match="one mask"):
        SPG(num_masks=1)
    with pytest.warns(UserWarning, match="best mask"):
        SPG(eubo_beta=8.0)


@pytest.mark.parametrize(
    ("table", "total", "level"),
    [((3, 5), 3.195946914212156, 0.4131251603994225), ((5, 3), 1.8670803189144287, 0.6764884088296843)],
)
def test_variances_of_counts_are_those_of_all_masks(table, total, level):
    """Of policy and reference table: the term's variance, and that of its mean given the number of masks, to 1e-12."""
    found = exact_table(model_of(table_of(*table)), canvas_of(torch.ones(1, 4, dtype=torch.long), 2, 2))
    term, share, size = found.terms[:, 0].detach(), found.share[:, 0], found.scored[:, 0].sum(-1)
    mean = (share * term).sum()
    assert float((share * (term - mean).square()).sum()) == pytest.approx(total, abs=1e-12)
    given = torch.stack([(share * term)[size == k].sum() / share[size == k].sum() for k in range(1, 5)])
    assert float((given - mean).square().mean()) == pytest.approx(level, abs=1e-12)


def test_variances_of_times_grow_without_limit():
    """Published means and variances for floors of .1 to .0001: about ten more a decade, from all masks and 400 times a decade."""
    found = exact_table(model_of(fixture()), canvas_of(torch.ones(1, 4, dtype=torch.long), 2, 2))
    score, size = found.scores[:, 0].sum(-1).detach(), found.scored[:, 0].sum(-1).double()
    seen = []
    for floor, mean, variance in (
        (1e-1, -3.2810, 7.16),
        (1e-2, -3.2337, 16.1),
        (1e-3, -3.2297, 26.3),
        (1e-4, -3.2293, 36.6),
    ):
        edge = torch.linspace(math.log(floor), 0, 1 + 400 * round(-math.log10(floor)), dtype=torch.float64)
        node = (edge[1:] + edge[:-1]) / 2
        t, width = node.exp()[:, None], (edge.diff() * node.exp())[:, None] / (1 - floor)
        chance = width * t**size * (1 - t) ** (4 - size)
        first, second = ((chance * (score / t) ** power).sum() for power in (1, 2))
        seen.append(float(second - first.square()))
        assert float(first) == pytest.approx(mean, abs=6e-5) and seen[-1] == pytest.approx(variance, rel=4e-3)
    assert all(9 < b - a < 11 for a, b in itertools.pairwise(seen[1:]))
