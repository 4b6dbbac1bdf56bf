"""BGPO, GDPO and VRPO against enumeration: 20-bgpo 6, 10-gdpo 6, 07-vrpo 6."""

import itertools
import math

import pytest
import torch

from alignment.worlds import fixture, mixture, model_of, table_of
from discrete.worlds import by_orders, joint_table, ones, random_table
from infimum.alignment import (
    BGPO,
    SPG,
    VRPO,
    GroupDiffusionPO,
    Score,
    bgpo_terms,
    boundary,
    elbo_of,
    exact_table,
    objective_backward,
    pairs_of,
    preference_loss,
    preference_score,
    quadrature_plan,
    score_variances,
    token_table,
)
from infimum.alignment import (
    table_of as scores_of,
)
from infimum.discrete import canvas_of
from infimum.errors import UserError
from infimum.evidence import Plan

ELBO = -3.2292308426711944
SETS = list(itertools.product(range(15), repeat=2))


def exact(model, n=4):
    return exact_table(model, model.encode(ones(n)))


# -- BGPO ------------------------------------------------------------------------------------------------------------


def differences():
    """d of every mask of the fixture, and its probability."""
    theta = exact(model_of(table_of(3, 5)))
    old = exact(mixture(table_of(3, 5), table_of(5, 3)))
    return (theta.terms - old.terms)[:, 0].detach(), theta.share[:, 0]


def test_boundary_of_the_fixture():
    d, share = differences()
    assert float(d.min()) == pytest.approx(-1.345888946484851, abs=1e-12)
    assert float(d.max()) == pytest.approx(0.2759714859478055, abs=1e-12)
    both = d[torch.tensor(SETS)].T
    weight = share[torch.tensor(SETS)].prod(1)
    for sign, value, bound in (
        (1.0, 0.904519987031468, 0.8680641658603273),
        (-1.0, -0.904519987031468, -0.9275955610216189),
    ):
        found = boundary(both, torch.full((len(SETS),), sign, dtype=torch.float64))
        assert float((weight * found.value).sum()) == pytest.approx(value, abs=1e-12)
        assert float((weight * found.bound).sum()) == pytest.approx(bound, abs=1e-12)
    mean = (share * d).sum()
    assert float(mean.exp()) == pytest.approx(0.8763972280573623, abs=1e-12)
    # unbiased for its own objective with any number of masks; the ratio itself is biased by about Var(d) / (2 n)
    one = bgpo_terms(d, torch.tensor(-1.0, dtype=torch.float64))
    assert float((share * one).sum()) == pytest.approx(-0.9275955610216187, abs=1e-12)
    spread = float((share * (d - mean).square()).sum())
    bias = float((weight * both.mean(0).exp()).sum() - mean.exp())
    assert bias == pytest.approx(float(mean.exp()) * spread / 4, rel=0.15)
    biases = []
    for n in (1, 2, 3, 4):
        sets = torch.cartesian_prod(*[torch.arange(15)] * n).view(-1, n)
        value = boundary(d[sets].T, torch.ones(len(sets), dtype=torch.float64)).value
        biases.append(n * float((share[sets].prod(1) * value).sum() - mean.exp()))
    assert biases[1] == pytest.approx(2 * bias, abs=1e-12) and max(biases) < 1.2 * min(biases)  # as 1 / n
    # below -1 the published exp(log(1 + d)) is NaN; the term is not
    assert float(d.min()) < -1 and bool(bgpo_terms(d, torch.tensor(1.0, dtype=torch.float64)).isfinite().all())
    assert math.isnan(float((1 + d.min()).log()))


@pytest.mark.parametrize("seed", range(10))
def test_boundary_is_never_above(seed):
    g = torch.Generator().manual_seed(seed)
    d = torch.randn(5, 200, generator=g, dtype=torch.float64)
    advantages = torch.randn(200, generator=g, dtype=torch.float64)
    found = boundary(d, advantages)
    assert bool((found.value - found.bound >= -1e-12).all())
    even = boundary(torch.full_like(d, 0.7), -advantages.abs())
    torch.testing.assert_close(even.value, even.bound, rtol=0, atol=1e-12)
    centred = boundary(d - d.mean(0), advantages.abs())
    torch.testing.assert_close(centred.value, centred.bound, rtol=0, atol=1e-12)
    # second order: A (mean d)^2 / 2, and |A| Var(d) / 2
    small = 1e-3 * d
    up, down = boundary(small, torch.ones(200).double()), boundary(small, -torch.ones(200).double())
    torch.testing.assert_close(up.value - up.bound, small.mean(0).square() / 2, rtol=0, atol=1e-8)
    torch.testing.assert_close(down.value - down.bound, small.var(0, unbiased=False) / 2, rtol=0, atol=1e-8)


@pytest.mark.parametrize("n_t", [1, 2, 5, 16])
def test_on_policy_the_bound_has_the_gradient_of_the_ratio(n_t):
    model = model_of(fixture())
    s = canvas_of(ones().expand(3, 4), 2, 2)
    advantages = torch.tensor([1.0, -0.7, 0.2], dtype=torch.float64)
    found = {}
    for engine in ("bgpo", "two_pass", "graph"):
        method = BGPO(n_t=n_t, engine=engine, ratio_norm="none")
        draws = method.plan.draws(torch.arange(3))
        model.zero_grad()
        objective_backward(model, s, draws, method, advantages, unit=3.0, rows=5)
        found[engine] = model.network.table.grad.clone()
    torch.testing.assert_close(found["bgpo"], found["graph"], rtol=0, atol=1e-15)
    torch.testing.assert_close(found["two_pass"], found["graph"], rtol=0, atol=1e-15)


# -- GDPO ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", range(1, 6))
def test_nodes_integrate_polynomials(points):
    rule = quadrature_plan("gauss", points).rule
    for k in range(2 * points):
        total = math.fsum(w * t**k for t, w in zip(rule.t, rule.weight, strict=True))
        assert total == pytest.approx(1 / (k + 1), abs=1e-12)
    assert quadrature_plan("gauss", 3).rule.t == pytest.approx((0.1127016654, 0.5, 0.8872983346), abs=1e-10)


def by_size(table):
    """Mean score of the masks of every number of tokens; index 0 is empty."""
    size, scores = table.scored.sum(-1)[:, 0], table.scores.sum(-1)[:, 0]
    n = int(size.max())
    return [0.0, *(float(scores[size == k].mean()) for k in range(1, n + 1))]


def quadrature(table, rule):
    """sum_n w_n f(t_n), f(t) = 1/t sum over k of C(n, k) t^k (1 - t)^(n - k) times the mean score."""
    mean = by_size(table)
    n = len(mean) - 1
    f = [sum(math.comb(n, k) * t ** (k - 1) * (1 - t) ** (n - k) * mean[k] for k in range(1, n + 1)) for t in rule.t]
    return math.fsum(w * v for w, v in zip(rule.weight, f, strict=True))


def test_quadrature_of_the_fixture():
    table = exact(model_of(fixture()))
    for points, value in ((1, -3.090906593080501), (2, ELBO), (3, ELBO)):
        assert quadrature(table, quadrature_plan("gauss", points).rule) == pytest.approx(value, abs=1e-12)
    simpson = quadrature(table, quadrature_plan("simpson-heuristic", 3).rule)
    assert simpson == pytest.approx(-3.2225371023893996, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [3, 5, 6])
def test_gauss_is_exact_from_half_the_length_on(seed, n):
    table = exact(model_of(random_table(n, seed)), n)
    truth = float(elbo_of(table))
    for points in range(1, 5):
        off = abs(quadrature(table, quadrature_plan("gauss", points).rule) - truth)
        assert off < 1e-10 if 2 * points >= n else off > 1e-6


def test_published_rounding_of_the_fixture():
    """Counts and weights of the production masks at the nodes, averaged over the sets of that size (10-gdpo 4.1)."""
    model = model_of(fixture())
    s, mean = model.encode(ones()), by_size(exact(model))
    official = {1: -2.5547, 2: -3.2424, 3: -3.6402, 4: -3.5263}
    corrected = {1: -2.5547, 2: -3.0694, 3: -3.0831, 4: -3.2212}
    for mask, expected in (("count_official", official), ("count_corrected", corrected)):
        for points, value in expected.items():
            method = GroupDiffusionPO(points=points, mask=mask)
            draws = method.plan.draws(torch.arange(1))
            masks = method.masks(model, s, draws)
            size = masks.scored.sum(-1)[:, 0]
            terms = masks.weight[:, 0] * torch.tensor(mean, dtype=torch.float64)[size]
            assert float((draws.log_share.exp()[:, 0] * terms).sum()) == pytest.approx(value, abs=5e-5)


def test_a_constant_predictor_is_exact():
    """Exact counts have no variance there; the rules differ in nothing."""
    model = model_of(torch.full((16, 4), 0.3, dtype=torch.float64))
    s = model.encode(ones().expand(50, 4))
    for rule, points in (("gauss", 3), ("midpoint", 4), ("mc", 2), ("simpson-heuristic", 3)):
        method = GroupDiffusionPO(rule=rule, points=points, mask="count_corrected")
        draws = method.plan.draws(torch.arange(50))
        value = elbo_of(token_table(model, s, draws, method.masks(model, s, draws)))
        torch.testing.assert_close(value, torch.full((50,), 4 * math.log(0.3), dtype=torch.float64), rtol=0, atol=1e-12)


def test_quadrature_draws_are_unbiased_for_their_rule():
    """Bernoulli masks through the production path, |z| < 4.5; variance of K masks a node is 1/K of that of one."""
    model = model_of(fixture())
    s = model.encode(ones().expand(30_000, 4))
    spread = {}
    for points, per_node, truth in ((1, 1, -3.090906593080501), (3, 1, ELBO), (3, 4, ELBO)):
        method = GroupDiffusionPO(points=points, per_node=per_node, mask="bernoulli")
        draws = method.plan.draws(torch.arange(30_000))
        with torch.no_grad():
            value = elbo_of(token_table(model, s, draws, method.masks(model, s, draws)))
        assert abs(float(value.mean()) - truth) < 4.5 * float(value.std()) / 30_000**0.5
        spread[points, per_node] = value.var(), (value - value.mean()).square().std() / 30_000**0.5
    (one, error), (four, small) = spread[3, 1], spread[3, 4]
    assert abs(float(one - 4 * four)) < 4.5 * float((error**2 + 16 * small**2) ** 0.5)


def test_ratio_and_clip():
    """theta = old: r = 1 to the bit and gradient A grad L / |y|; the clip stops where it must, and only there."""
    model = model_of(fixture())
    s = canvas_of(ones().expand(2, 4), 2, 2)
    advantages = torch.tensor([1.0, -1.0], dtype=torch.float64)
    for norm in ("length", "none"):
        method = GroupDiffusionPO(ratio_norm=norm, epsilon=0.2)
        draws = method.plan.draws(torch.arange(2))
        now = token_table(model, s, draws, method.masks(model, s, draws))
        assert method.report(now, now.detach())["ratio"].tolist() == [1.0, 1.0]
        loss = method.losses(now, now.detach(), None, advantages)
        (slope,) = torch.autograd.grad(loss.sum(), model.network.table, retain_graph=True)
        (plain,) = torch.autograd.grad(-(advantages * elbo_of(now) / 4).sum(), model.network.table)
        torch.testing.assert_close(slope, plain, rtol=0, atol=1e-15)
    method = GroupDiffusionPO(epsilon=0.2)
    for shift, advantage, live in ((1.0, 1.0, False), (1.0, -1.0, True), (-1.0, 1.0, True), (-1.0, -1.0, False)):
        now = token_table(model, s, draws, method.masks(model, s, draws))
        old = now.detach()._replace(scores=now.scores.detach() - shift * now.scored)
        loss = method.losses(now, old, None, torch.full((2,), advantage, dtype=torch.float64))
        (slope,) = torch.autograd.grad(loss.sum(), model.network.table)
        assert bool((slope != 0).any()) == live


def test_calls_of_an_update():
    """N = 3, K = 1: three network calls a completion."""
    model = model_of(fixture())
    s = canvas_of(ones().expand(5, 4), 2, 2)
    method = GroupDiffusionPO()
    before = model.network.calls
    objective_backward(model, s, method.plan.draws(torch.arange(5)), method, torch.ones(5).double(), unit=5.0)
    assert model.network.calls - before == 15


# -- VRPO ------------------------------------------------------------------------------------------------------------


def vrpo_world():
    """Chosen and rejected are 4 tokens each, told apart by a prompt token: tables T(3, 5, 0) and T(2, 3, 1)."""
    from alignment.pair_worlds import pair_model

    policy = pair_model(table_of(3, 5), table_of(2, 3, 1))
    reference = pair_model(
        0.9 * table_of(3, 5) + 0.1 * table_of(5, 3), 0.9 * table_of(2, 3, 1) + 0.1 * table_of(1, 4, 2)
    )
    return policy, reference


def pair_batch(n):
    tokens = torch.ones(n, 5, dtype=torch.long)
    target = torch.arange(5).expand(n, 5) > 0
    rejected = tokens.clone()
    rejected[:, 0] = 0
    return pairs_of({"tokens": tokens, "target": target}, {"tokens": rejected, "target": target})


def exact_pair(beta=0.2):
    """Terms of every mask: of the four likelihoods (15 each), and the probability of a mask."""
    tables = [
        table_of(3, 5), 0.9 * table_of(3, 5) + 0.1 * table_of(5, 3), table_of(2, 3, 1),
        0.9 * table_of(2, 3, 1) + 0.1 * table_of(1, 4, 2),
    ]  # fmt: skip
    found = [exact(model_of(t)) for t in tables]
    return [each.terms[:, 0].detach() for each in found], found[0].share[:, 0]


def test_scores_of_the_fixture():
    """The table of 07-vrpo 6 by enumeration of all pairs of masks, through the production loss."""
    terms, share = exact_pair()
    elbos = [float((share * t).sum()) for t in terms]
    expected = [-3.229230842671195, -3.097295008531522, -2.9742082764468973, -2.8842310587422566]
    assert elbos == pytest.approx(expected, abs=1e-12)
    w, r = (terms[0] - terms[1]), (terms[2] - terms[3])
    plain = VRPO(sft_weight=0.0, n_t=1)

    def loss(margin):
        policy = torch.stack((margin, torch.zeros_like(margin)), -1)[None]
        return preference_loss(
            Score(policy, torch.zeros_like(policy), torch.ones(1, 1).double(), torch.ones(len(margin)).double()), plain
        )

    truth = elbos[0] - elbos[1] - elbos[2] + elbos[3]
    assert 0.2 * truth == pytest.approx(-0.008391723287006415, abs=1e-12)
    exact_loss = float(loss(torch.tensor([truth], dtype=torch.float64)))
    assert exact_loss == pytest.approx(0.6973518448050856, abs=1e-12)
    margin = (w[:, None] - r[None]).flatten()
    weight = (share[:, None] * share[None]).flatten()
    variance = float((weight * (0.2 * margin - 0.2 * truth).square()).sum())
    assert variance == pytest.approx(0.008434717070805927, abs=1e-12)
    each = loss(margin)
    mean = float((weight * each).sum())
    assert mean == pytest.approx(0.6984042674307436, abs=1e-12)
    assert float((weight * (each - mean).square()).sum()) == pytest.approx(0.002216023362744568, abs=1e-12)
    # independent masks for policy and reference
    four = (terms[0][:, None, None, None] - terms[1][:, None, None] - terms[2][:, None] + terms[3]).flatten()
    weight4 = (share[:, None, None, None] * share[:, None, None] * share[:, None] * share).flatten()
    apart = float((weight4 * (0.2 * four - 0.2 * truth).square()).sum())
    assert apart == pytest.approx(0.2679884659523947, abs=1e-12)
    each = loss(four)
    mean4 = float((weight4 * each).sum())
    assert mean4 == pytest.approx(0.7296392516992569, abs=1e-12)
    assert float((weight4 * (each - mean4).square()).sum()) == pytest.approx(0.07269833692640981, abs=1e-12)

    def correlation(a, b):
        a, b = a - (share * a).sum(), b - (share * b).sum()
        return float((share * a * b).sum() / ((share * a * a).sum() * (share * b * b).sum()).sqrt())

    assert correlation(terms[0], terms[1]) == pytest.approx(0.9934798660521617, abs=1e-12)
    assert correlation(terms[2], terms[3]) == pytest.approx(0.9802393153337747, abs=1e-12)


def test_variances_by_spending():
    """The report against the exact table: V_t / n_t + V_y|t / (n_t n_y), 4.5 standard errors over 3,000 pairs."""
    policy, reference = vrpo_world()
    rows = score_variances(
        policy, reference, pair_batch(3000), repeats=16,
        spendings=((4, 1, True), (2, 2, True), (1, 4, True), (8, 1, True), (1, 1, True), (1, 1, False)),
    )  # fmt: skip
    expected = (
        0.0021086792677,
        0.0024693054927,
        0.0031905579426,
        0.0010543396338,
        0.008434717070805927,
        0.2679884659523947,
    )
    for row, value in zip(rows, expected, strict=True):
        assert abs(row.score - value) < 4.5 * row.score_stderr, row
    assert rows[3].score < rows[0].score < rows[1].score < rows[2].score < rows[4].score < rows[5].score
    assert rows[4].loss_mean == pytest.approx(0.6984042674307436, abs=2e-3)


def test_sharing_helps_only_where_estimates_agree():
    """The negative control: Var(a - b) = Var a + Var b - 2 Cov, and here the covariance is negative."""
    pi, r = (exact(model_of(t)) for t in (fixture(), fixture(5, 3)))
    share = pi.share[:, 0]

    def moments(values):
        mean = (share * values).sum()
        return float((share * (values - mean).square()).sum())

    a, b = pi.terms[:, 0], r.terms[:, 0]
    assert moments(a - b) == pytest.approx(6.2787, abs=5e-5)
    assert moments(a) + moments(b) == pytest.approx(5.0630, abs=5e-5)
    policy, reference = model_of(fixture()), model_of(fixture(5, 3))
    x = {"tokens": ones().expand(20_000, 4)}
    draws = Plan.iid(1).draws(torch.arange(20_000))
    for shared, truth in ((True, 2 * 6.2787), (False, 2 * 5.0630)):
        margin = preference_score(policy, reference, pairs_of(x, x), draws, share_noise=shared).margin
        error = (margin - margin.mean()).square().std() / 20_000**0.5
        assert abs(float(margin.var()) - truth) < 4.5 * float(error) + 1e-3


def test_same_model_has_a_score_of_zero_and_a_gradient():
    policy, _ = vrpo_world()
    pairs, draws = pair_batch(7), Plan.iid(3).draws(torch.arange(7))
    score = preference_score(policy, policy, pairs, draws)
    assert bool((score.margin == 0).all())
    assert preference_loss(score, VRPO(sft_weight=0.0)).tolist() == pytest.approx([math.log(2)] * 7, abs=1e-15)
    apart = preference_score(policy, policy, pairs, draws, share_noise=False)
    assert bool((apart.margin != 0).all())


def test_bias_and_variance_of_the_loss_are_bounded():
    """0 <= bias <= min(sqrt(Var s), Var s / 8), Var loss <= Var s, for 500 random worlds: all pairs of masks, their own loss."""
    method, share = VRPO(sft_weight=0.0), exact(model_of(random_table(3, 0)), 3).share[:, 0]
    weight = (share[:, None] * share[None]).flatten()
    first, second = (i.flatten() for i in torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij"))
    seen = []
    for seed in range(500):
        a, b, c, d = (exact(model_of(random_table(3, 10 * seed + i)), 3).terms[:, 0].detach() for i in range(4))
        # a pair for each pair of masks: chosen and rejected terms of policy and reference, shared between the two
        policy, reference = (torch.stack((x[first], y[second]), -1)[None] for x, y in ((a, c), (b, d)))
        score = Score(policy, reference, torch.ones(1, 1).double(), torch.full((49,), 3.0).double())
        s, loss = method.beta * score.margin, preference_loss(score, method)
        mean = (weight * s).sum()
        variance = float((weight * (s - mean).square()).sum())
        exactly = Score(
            policy[:, :1] * 0 + mean / method.beta * torch.tensor([1.0, 0.0]), reference[:, :1] * 0, *score[2:]
        )
        bias = float((weight * loss).sum() - preference_loss(exactly, method)[0])
        assert -1e-15 <= bias <= min(variance**0.5, variance / 8)
        assert float((weight * loss.square()).sum() - (weight * loss).sum().square()) <= variance
        seen.append(variance)
    assert max(seen) > 0.1


def test_one_token_and_consistent_tables_are_ordinary_dpo():
    """L = 1 has no variance; with conditionals of one joint the exact ELBO is log p, and so is every order."""
    one = torch.tensor([[0.5], [0.7]], dtype=torch.float64), torch.tensor([[0.5], [0.4]], dtype=torch.float64)
    x = {"tokens": ones(1).expand(6, 1)}
    draws = Plan.iid(1).draws(torch.arange(6))
    margin = preference_score(model_of(one[0]), model_of(one[1]), pairs_of(x, x), draws).rewards
    torch.testing.assert_close(margin, torch.full((6, 2), math.log(0.7 / 0.4), dtype=torch.float64), rtol=0, atol=1e-12)
    table, log_p = joint_table(4, 5)
    assert float(elbo_of(exact(model_of(table)))) == pytest.approx(log_p, abs=1e-12)
    assert by_orders(table)[0] == pytest.approx(log_p, abs=1e-12)


def test_other_losses():
    score = Score(
        torch.tensor([[[1.0, 0.4]]]).double(), torch.zeros(1, 1, 2).double(), torch.ones(1, 1).double(),
        torch.tensor([4.0]).double()
    )  # fmt: skip
    margin = float(score.margin)
    for loss, value in (("ipo", (margin - 2.5) ** 2), ("hinge", 1 - 0.2 * margin)):
        assert float(preference_loss(score, VRPO(loss_type=loss, sft_weight=0.0))) == pytest.approx(value, abs=1e-12)
    smooth = float(preference_loss(score, VRPO(label_smoothing=0.1, sft_weight=0.05)))
    sigmoid = 1 / (1 + math.exp(-0.2 * margin))
    expected = -0.9 * math.log(sigmoid) - 0.1 * math.log(1 - sigmoid) - 0.05 * float(score.chosen) / 4
    assert smooth == pytest.approx(expected, abs=1e-12)


# -- refusals --------------------------------------------------------------------------------------------------------


def test_refusals():
    for build, words in (
        (lambda: BGPO(n_t=0), "at least 1 mask"),
        (lambda: GroupDiffusionPO(beta=0.1), "no estimator"),
        (lambda: GroupDiffusionPO(epsilon=-1.0), "positive clip"),
        (lambda: quadrature_plan("simpson-heuristic", 2), "3 points"),
        (lambda: VRPO(beta=0.0), "positive strength"),
        (lambda: VRPO(n_t=0), "at least 1"),
        (lambda: VRPO(label_smoothing=0.7), "label_smoothing is 0"),
        (lambda: SPG(num_iterations=0), "num_iterations is 0"),
        (lambda: pairs_of({"tokens": ones().expand(2, 4)}, {"tokens": ones()}), "2 chosen and 1 rejected"),
    ):
        with pytest.raises(UserError, match=words):
            build()
    with pytest.warns(UserWarning, match="no lower bound"):
        BGPO(epsilon=0.2)
    with pytest.warns(UserWarning, match="vary less"):
        VRPO(n_t=2, n_y=2)
    with pytest.warns(UserWarning, match="far noisier"):
        VRPO(share_noise=False)
    model = model_of(fixture())
    s = model.encode(ones())
    method = GroupDiffusionPO()
    draws = method.plan.draws(torch.arange(1))
    other = scores_of(model, s, draws.fork("other"), method, 10)
    with pytest.raises(UserError, match="mixes masks"):
        objective_backward(model, s, draws, method, torch.ones(1).double(), unit=1.0, old=other)
    with pytest.raises(UserError, match="no sum over masks"):
        objective_backward(model, s, draws, method, torch.ones(1).double(), unit=1.0, engine="stream")
