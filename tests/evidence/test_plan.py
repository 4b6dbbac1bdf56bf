"""Plans: every coordinate uniform, E p^/p = 1, and the variances that a plan is chosen for.

z-tests use a fixed seed and |z| < 5: false alarm below 1e-5 each.
"""

import math

import pytest
import torch
from torch import nn

from evidence.support import close, draws, z_score
from infimum.errors import UserError
from infimum.evidence import LogWeights, Nodes, PathModel, Plan, Sobol, elbo, iwae, path_terms, two_pass_backward, weigh
from infimum.testing import GaussianMixture, LinearGaussian, MaskedTable, TinyMasked, UnrolledMasked
from testing.oracle_cases import rand, spd

RANDOM = {
    "iid": Plan.iid(8),
    "antithetic": Plan.antithetic(8),
    "stratified": Plan.stratified(4, per_level=2),
    "lattice": Plan.lattice(4, per_level=2),
    "sobol": Plan.sobol(8),
    "sobol stream": Plan(levels=8, noise=Sobol("z")),
    "nested": Plan(levels=2, per_level=4),
    "spread": Plan(levels=2, lead="stratified", per_level=4, spread=4),
    "antithetic strata": Plan(levels=2, per_level=4, lead="stratified", noise="antithetic"),
}
ZERO = torch.zeros(1, 4, dtype=torch.int64)
ELBO, LOG_P = -3.2292308426711944, -2.6230524671563527


@pytest.mark.parametrize("name", RANDOM)
def test_every_coordinate_is_uniform(name):
    """Each draw's noise, and the lead averaged over the set, is uniform: first two moments over 20,000 items, |z| < 5; and a
    KS distance below 2.5 / sqrt(n) (7e-6) for each draw of one coordinate.
    """
    n = 20_000
    part = draws(RANDOM[name], n)
    u, z, t = part.uniform("u", 2), part.normal("z", 2), part.lead()
    for values, moments in ((u, (1 / 2, 1 / 3)), (z, (0.0, 1.0))):
        for order, moment in enumerate(moments, 1):
            assert z_score((values**order).movedim(1, 0), moment) < 5
    # Neighbouring keys share a rotation under spread: groups are what is independent.
    groups = t.mean(0).reshape(-1, part.plan.spread).mean(1)
    squares = t.square().mean(0).reshape(-1, part.plan.spread).mean(1)
    if groups.std() > 1e-9:
        assert z_score(groups[:, None], 1 / 2) < 5
    assert z_score(squares[:, None], 1 / 3) < 5
    rank = torch.arange(n, dtype=torch.float64)
    for values in (*u[..., 1], *torch.special.ndtr(z[..., 1])):
        values = values.sort().values
        assert float(torch.maximum((rank + 1) / n - values, values - rank / n).max()) * n**0.5 < 2.5


@pytest.mark.parametrize("name", RANDOM)
def test_weights_are_unbiased_under_every_plan(name):
    """T6, ENGINE 12: E p^/p = 1 for each plan, at 5 standard errors, for a Gaussian and for a mixture that reads the lead."""
    n = 8000
    cases = (
        (LinearGaussian(rand(4, 2), rand(4), spd(4), shift=0.4, stretch=1.2), rand(1, 4)),
        (GaussianMixture(rand(3), rand(3, 2), torch.stack([spd(2)] * 3), proposal="prior"), rand(1, 2)),
    )
    for model, x in cases:
        x = x.expand(n, -1)
        with torch.no_grad():
            w = weigh(model, x, draws(RANDOM[name], n), rows=10**6)
            ratio = (iwae(w).value - model.log_evidence(x[:1])).exp()
        ratio = ratio.reshape(-1, RANDOM[name].spread).mean(1, keepdim=True)
        assert z_score(ratio, 1.0) < 5


def test_quadrature_is_exact_on_polynomials():
    """Gauss-Legendre: degree below 2N exactly, and not at 2N."""
    for n in (1, 2, 3, 7):
        part = draws(Plan.gauss(n), 1)
        t, share = part.lead()[:, 0], part.log_share.exp()[:, 0]
        for degree in range(2 * n):
            assert float(share @ t**degree) == pytest.approx(1 / (degree + 1), abs=1e-14)
        assert abs(float(share @ t ** (2 * n)) - 1 / (2 * n + 1)) > 1e-9
    part = draws(Plan.nodes((0.25, 0.5, 1 - 1e-9), (0.5, 0.25, 0.25), replicates=2, per_level=2), 1)
    assert float((part.lead()[:, 0] * part.log_share.exp()[:, 0]).sum()) == pytest.approx(0.5 * 0.25 + 0.125 + 0.25)
    assert part.biased and float(part.log_share.exp().sum()) == pytest.approx(1.0)


def test_shares_of_every_plan_sum_to_one():
    for plan in (*RANDOM.values(), Plan.gauss(3, 2, 2), Plan.nodes((0.2, 0.6), (0.3, 0.7), replicates=3)):
        part = draws(plan, 2)
        assert float(part.log_share.logsumexp(0)) == pytest.approx(0.0, abs=1e-12)
        assert part.biased == plan.deterministic_lead
        if not plan.deterministic_lead:
            close(part.log_share, torch.full((plan.k, 1), -math.log(plan.k)).double())


# -- the masked fixture --------------------------------------------------------------------------------------------------


def masked(form: str, plan: Plan, b: int = 4000, seed: int = 0):
    model = TinyMasked(MaskedTable.fixture(), form)
    with torch.no_grad():
        return path_terms(model, ZERO.expand(b, -1), draws(plan, b, seed), rows=10**6)


def test_quadrature_biases_of_the_masked_fixture():
    """ENGINE 3 [m]: "t-form on the fixture: N = 2 unbiased, N = 1 off by 4.8 standard errors and reported as none"."""
    two = elbo(masked("t", Plan.gauss(2, per_level=4)))
    assert (two.side, two.unbiased_for) == ("lower", "elbo")
    assert z_score(two.value, ELBO) < 5
    one = elbo(masked("t", Plan.gauss(1, per_level=8)))
    assert (one.side, one.unbiased_for) == ("none", None)
    assert z_score(one.value, ELBO) > 4.8
    assert z_score(one.value, -3.090906593080501) < 5  # one node: f(1/2)
    assert "quadrature" in one.mean().obstacle
    unknown = elbo(masked("l", Plan.gauss(2, per_level=4)))  # no degree is claimed for the l-form
    assert unknown.side == "none"
    by_hand = Plan.nodes(Nodes.gauss(2).t, Nodes.gauss(2).weight, per_level=4)
    assert elbo(masked("t", by_hand)).side == "none"  # the user's own rule: its degree is not known


def test_unrolled_orders_are_certified_weights_for_text():
    """ENGINE 1 [m]: one model fills both tables; the unrolled one is certified (z = -1.7 against the exact log p)."""
    model = UnrolledMasked(MaskedTable.fixture())
    with torch.no_grad():
        w = weigh(model, ZERO.expand(4000, -1), draws(8, 4000), rows=10**6)
    estimate = iwae(w)
    assert estimate.certified and z_score((estimate.value - LOG_P).exp(), 1.0) < 5
    assert ELBO < float(estimate.value.mean()) < LOG_P
    assert not elbo(masked("l", Plan.iid(2), b=2)).certified


class Preference(nn.Module):
    """VRPO's fixture (07 section 6): s = 0.2 ((theta_w - ref_w) - (theta_l - ref_l)) of l-form terms, look-ups in tables."""

    def __init__(self) -> None:
        super().__init__()
        masks = (torch.arange(16)[:, None] >> torch.arange(4) & 1).bool()
        weight = torch.tensor([0, *[4 / int(m.sum()) for m in masks[1:]]], dtype=torch.float64)

        def table(a, b, c):
            i, code = torch.arange(4), torch.arange(16)[:, None]
            return (1 + (a * i + b * code + c) % 7).double() / 8

        def terms(p):
            return weight * (p.log() * masks).sum(-1)  # (16,)

        theta = {"w": table(3, 5, 0), "l": table(2, 3, 1)}
        other = {"w": table(5, 3, 0), "l": table(1, 4, 2)}
        self.theta = {y: terms(p) for y, p in theta.items()}
        self.ref = {y: terms(0.9 * theta[y] + 0.1 * other[y]) for y in theta}

    @staticmethod
    def codes(part) -> torch.Tensor:
        size = 1 + (part.lead() * 4).long()
        return (part.subset("mask", size, 4) * 2 ** torch.arange(4)).sum(-1)

    def score(self, part, shared: bool = True) -> torch.Tensor:
        total = torch.zeros(part.shape[1], dtype=torch.float64)
        for y, sign in (("w", 1), ("l", -1)):
            own = part.fork(y)
            theta = own.average(self.theta[y][self.codes(own)])
            ref = own.average(self.ref[y][self.codes(own if shared else own.fork("ref"))])
            total = total + sign * 0.2 * (theta - ref)
        return total


VRPO = {(4, 1): 0.0021086792677, (2, 2): 0.0024693054927, (1, 4): 0.0031905579426, (8, 1): 0.0010543396338}


@pytest.mark.parametrize("allocation", VRPO, ids=str)
def test_allocation_table_of_vrpo(allocation):
    """ENGINE 3 [m]: (4,1) (2,2) (1,4) (8,1): .00213 / .00249 / .00320 / .00107, exact .00211 / .00247 / .00319 / .00105;
    V_t/n_t + V_y|t/(n_t n_y). Levels x masks nesting is levels=n_t, per_level=n_y.
    """
    levels, per_level = allocation
    s = Preference().score(draws(Plan(levels=levels, per_level=per_level), 40_000))
    assert z_score(s[:, None], -0.008391723287006415) < 5
    assert z_score((s - s.mean()).square()[:, None], VRPO[allocation]) < 5


def test_shared_and_independent_draws_of_vrpo():
    """ENGINE 4 [m]: shared / independent variance .00842 / .2689, exact .00843 / .2680."""
    model, part = Preference(), draws(1, 40_000)
    for shared, exact in ((True, 0.008434717070805927), (False, 0.2679884659523947)):
        s = model.score(part, shared)
        assert z_score(s[:, None], -0.008391723287006415) < 5
        assert z_score((s - s.mean()).square()[:, None], exact) < 5
        loss = -torch.nn.functional.logsigmoid(s)
        assert z_score(loss[:, None], 0.6984042674307436 if shared else 0.7296392516992569) < 5


# -- what plans are chosen for -----------------------------------------------------------------------------------------


def test_stratified_mixtures_close_part_of_the_gap():
    """ENGINE 3 [m]: stratified lead through the inverse CDF: E p^ = p holds, and the gap fell from -.0039 (i.i.d.) to -.0016
    at K = 10 (a mixture of its own). Here: the gap falls, E p^/p = 1 for both; and a sum over components stays lower.
    """
    model = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1))
    x = torch.full((20_000, 1), 1.2).double()
    log_pi = torch.tensor([0.15, 0.25, 0.6]).double().log()
    mean, sd = torch.tensor([-0.2, 0.6, 1.4]).double(), torch.tensor([0.6, 0.5, 0.6]).double()
    gap = {}
    for name, plan in (("iid", Plan.iid(10)), ("stratified", Plan.stratified(10))):
        part = draws(plan, 20_000)
        c = part.choose(log_pi.expand(20_000, 3))
        z = mean[c] + sd[c] * part.normal("z")
        log_q = (log_pi + torch.distributions.Normal(mean, sd).log_prob(z[..., None])).logsumexp(-1)
        with torch.no_grad():
            value = iwae(LogWeights(model.log_joint(x, z[..., None]) - log_q, draws=part)).value - model.log_evidence(x)
        assert z_score(value.exp()[:, None], 1.0) < 5
        gap[name] = value
    assert gap["iid"].mean() < gap["stratified"].mean() < 0
    assert z_score((gap["stratified"] - gap["iid"])[:, None]) > 5


def test_sobol_reduces_the_error_of_the_evidence():
    """ENGINE 3 [m]: 8-d Gaussian, K = 64: s.d. of p^/p .110 -> .040 (proposal of its own). Here the same order, and
    unbiased; 00-bounds 3.2: RQMC's s.d. falls faster than K^-1/2.
    """
    model = LinearGaussian(0.5 * rand(10, 8), rand(10), torch.ones(10), shift=0.1, stretch=1.1)
    x = rand(1, 10).expand(3000, -1)
    sd = {}
    with torch.no_grad():
        truth = model.log_evidence(x[:1])
        for name, plan in (("iid", Plan.iid(64)), ("sobol 64", Plan.sobol(64)), ("sobol 256", Plan.sobol(256))):
            ratio = (iwae(weigh(model, x, draws(plan, 3000), rows=10**6)).value - truth).exp()
            assert z_score(ratio[:, None], 1.0) < 5
            sd[name] = float(ratio.std())
    assert sd["sobol 64"] < 0.6 * sd["iid"]
    assert sd["sobol 256"] < 0.4 * sd["sobol 64"]  # K^-1/2 would be 0.5


def test_sobol_points_are_balanced_after_scramble_and_shift():
    """Every dyadic cell of width 1/K holds one point in each coordinate; boxes of pairs of neighbouring dimensions are filled
    as a net fills them; items are independent.
    """
    part = draws(Plan.sobol(64), 5)
    u = part.uniform("z", 40)
    cells = (u * 64).long().sort(0).values
    assert torch.equal(cells, torch.arange(64)[:, None, None].expand_as(cells))
    boxes = (u[..., 0] * 8).long() * 8 + (u[..., 1] * 8).long()
    assert torch.equal(boxes.sort(0).values, torch.arange(64)[:, None].expand(64, 5))
    two = draws(Plan.sobol(16), 20_000).uniform("z", 1)[..., 0]
    assert abs(float(torch.corrcoef(torch.stack((two[3, ::2], two[3, 1::2])))[0, 1])) < 5 / 10_000**0.5


def test_sobol_of_one_stream_leaves_the_others_random():
    plan = Plan(levels=16, noise=Sobol("z"))
    part, plain = draws(plan, 3), draws(Plan(levels=16), 3)
    assert torch.equal(part.uniform("other", 2), plain.uniform("other", 2))
    assert not torch.equal(part.uniform("z", 2), plain.uniform("z", 2))
    assert torch.equal((part.uniform("z", 2) * 16).long().sort(0).values[:, 0, 0], torch.arange(16))


def test_spread_tiles_the_lead_over_a_global_batch():
    """ENGINE 3 [m]: B = 64, batch-mean s.d. of a smooth f: 5.9e-2 -> 1.7e-3, per-position bias |z| < 1.8 (f of its own); each
    time still uniform on its own; the times of a batch are a function of the keys alone.
    """
    batches = 2000
    keys = 64 * batches
    plain, spread = draws(Plan(), keys).lead(), draws(Plan(spread=64), keys).lead()
    lattice = draws(Plan(lead="lattice", spread=64), keys).lead()

    def f(t):
        return (3 * t).exp() / 12

    truth = (math.exp(3) - 1) / 36
    means = {
        n: f(t).reshape(batches, 64).mean(1) for n, t in (("plain", plain), ("spread", spread), ("lattice", lattice))
    }
    assert means["plain"].std() / means["spread"].std() > 20
    assert 5 < means["plain"].std() / means["lattice"].std() < 10  # one shift: (f(1) - f(0)) / 64 / sqrt(12)
    for t in (spread, lattice):
        assert z_score(f(t).reshape(batches, 64).mean(1, keepdim=True), truth) < 5
        assert z_score(f(t).reshape(batches, 64), truth) < 5  # each position of the batch
        cells = (t.reshape(batches, 64) * 64).long().sort(1).values
        assert torch.equal(cells, torch.arange(64).expand(batches, 64))
    part = draws(Plan(spread=64), keys).take(torch.arange(100, 130))
    assert torch.equal(part.lead(), spread[:, 100:130])


@pytest.mark.parametrize("dim", [1, 64, 784])
def test_batch_loss_variance_of_an_ideal_denoiser(dim):
    """ENGINE 3 [m]: noise of an ideal denoiser on Gaussian data, B = 64: the variance of the batch loss fell by 1.1x / 8x /
    101x in 1 / 64 / 784 dimensions (its schedule is not given). Here f(t) |eps|^2: the same shape, exact variance by hand.

    Loss (1/B) sum f(t) |eps|^2, f(t) = exp(t): i.i.d. variance (E f^2 (d^2 + 2 d) - (E f)^2 d^2) / B; tiled times leave about
    E f^2 2 d / B. The ratio is 1 + d Var f / (2 E f^2).
    """
    batches = 1500
    keys = 64 * batches
    generator = torch.Generator().manual_seed(dim)
    energy = 2 * torch._standard_gamma(torch.full((keys,), dim / 2).double(), generator=generator)
    loss = {
        n: (draws(p, keys).lead()[0].exp() * energy).reshape(batches, 64).mean(1)
        for n, p in (("iid", Plan()), ("tiled", Plan(spread=64)))
    }
    mean, square = math.e - 1, (math.e**2 - 1) / 2
    iid = (square * (dim**2 + 2 * dim) - mean**2 * dim**2) / 64
    tiled = square * 2 * dim / 64
    assert z_score((loss["iid"] - mean * dim).square()[:, None], iid) < 5
    # Cells of width 1/64 keep (f' / 64)^2 / 12 of the variance of f: below 1e-4 of the rest, here a percent of tolerance.
    left = (loss["tiled"] - mean * dim).square()
    assert abs(float(left.mean()) / tiled - 1) < 5 * float(left.std()) / batches**0.5 / tiled + 0.01
    assert iid / tiled == pytest.approx(1 + dim * (square - mean**2) / (2 * square))


def test_gradient_accumulation_and_ranks_change_nothing():
    """ENGINE 3: the value is a pure function of the key: a batch of 64 in micro-batches of 16 on 2 ranks has the same gradient."""

    class Path(PathModel):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3).double())

        def constant(self, x, s):
            return torch.zeros(len(x)).double()

        def terms(self, x, s, part):
            return -((part.lead()[..., None] * self.w + part.normal("z", 3) - x) ** 2).sum(-1)

    model, x, plan = Path(), rand(64, 3), Plan(spread=64)
    elbo(path_terms(model, x, draws(plan, 64))).value.sum().backward()
    whole = model.w.grad.clone()
    model.zero_grad()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for part in order.split(16):
        elbo(path_terms(model, x[part], draws(plan, 64).take(part))).value.sum().backward()
    close(model.w.grad, whole, rtol=1e-13, atol=0)
    model.zero_grad()
    value = two_pass_backward(lambda part: model.terms(x, x, part), draws(plan, 64), lambda s: s.mean(0).sum(), rows=64)
    close(model.w.grad, whole, rtol=1e-13, atol=0)
    assert value.isfinite()


# -- refusals ------------------------------------------------------------------------------------------------------------


def test_plan_counts():
    plan = Plan(replicates=3, levels=4, per_level=5)
    assert (plan.k, plan.block) == (60, 20)
    assert [
        p.k for p in (Plan.iid(7), Plan.antithetic(6), Plan.stratified(3, 2, 4), Plan.gauss(3, 2), Plan.sobol(8, 2))
    ] == [7, 6, 24, 6, 16]
    assert Plan.iid(3).independent and Plan(levels=4).independent and Plan.stratified(1, replicates=3).independent
    for dependent in (Plan.antithetic(2), Plan.stratified(2), Plan.sobol(2), Plan(per_level=2)):
        assert not dependent.independent


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plan.iid(0), "replicates >= 1, a whole number, got 0"),
        (lambda: Plan(levels=-1), "levels >= 1, a whole number, got -1"),
        (lambda: Plan(per_level=True), "per_level >= 1, a whole number, got True"),
        (lambda: Plan.antithetic(5), "k must be even, got 5"),
        (lambda: Plan(noise="antithetic"), "per_level must be even, got 1"),
        (lambda: Plan.gauss(2).__class__(levels=2, lead="gauss", spread=4), "spread=4 tiles a random lead"),
        (lambda: Nodes((0.5,), (0.5, 0.5)), "got 1 points, 2 weights"),
        (lambda: Nodes((), ()), "as many weights as points"),
        (lambda: Nodes((0.0, 0.5), (0.5, 0.5)), "points inside"),
        (lambda: Nodes((0.2, 0.5), (0.5, 0.6)), "sum to 1, got a sum of 1.1"),
        (lambda: Nodes((0.2, 0.5), (1.5, -0.5)), "positive weights"),
        (lambda: Plan(levels=3, lead=Nodes((0.5,), (1.0,))), "the rule has 1 nodes"),
        (lambda: Plan(per_level=2, lead=Nodes((0.5,), (1.0,)), noise="antithetic"), "need not be closed under"),
    ],
)
def test_budgets_that_cannot_be_spent(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(("name", "value"), [("lead", "sobol"), ("noise", "gauss")])
def test_unknown_words(name, value, request):
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    request.addfinalizer(lambda: config.update("jaxtyping_disable", False))
    with pytest.raises(UserError, match=f"{name} is 'random'.*got '{value}'"):
        Plan(**{name: value})


def test_sobol_limits():
    """00-bounds 9: "RQMC with more than 21,201 dims or K not a power of two -> error/warn"."""
    with pytest.warns(UserWarning, match="balanced for powers of two, got 6 draws"):
        plan = Plan.sobol(6)
    assert plan.k == 6
    with pytest.raises(UserError, match="at most 21201 dimensions, stream 'z' asks for 21202"):
        draws(Plan.sobol(2), 1).normal("z", 21_202)
