"""Draws: purity, independence, exact subsets, choices; and latents made from distributions."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.distributions as td

from evidence.support import close, draws, unchecked, z_score  # noqa: F401
from infimum.errors import UserError
from infimum.evidence import Plan, Sobol, draw
from infimum.evidence.random import row_keys, uniforms, words

PLANS = {
    "iid": Plan.iid(24),
    "antithetic": Plan.antithetic(24),
    "stratified": Plan.stratified(4, per_level=3, replicates=2),
    "lattice": Plan.lattice(8, replicates=3),
    "sobol": Plan.sobol(8, replicates=3),
    "sobol stream": Plan(replicates=3, levels=8, noise=Sobol("z")),
    "gauss": Plan.gauss(4, per_level=2, replicates=3),
    "nodes": Plan.nodes((0.2, 0.7), (0.4, 0.6), per_level=4, replicates=3),
    "spread": Plan(replicates=24, spread=4),
    "spread lattice": Plan(replicates=2, levels=12, lead="lattice", spread=4),
    "antithetic strata": Plan(replicates=2, levels=3, per_level=4, lead="stratified", noise="antithetic"),
    "antithetic gauss": Plan(replicates=2, levels=3, per_level=4, lead="gauss", noise="antithetic"),
}


def numbers(part) -> dict[str, torch.Tensor]:
    size = torch.full(part.shape, 3)
    return {
        "lead": part.lead(),
        "uniform": part.uniform("u", 5),
        "normal": part.normal("z", 2, 3),
        "seeds": part.seeds("s"),
        "choose": part.choose(torch.zeros(part.shape[1], 3)),
        "subset": part.subset("mask", size, 7),
        "share": part.log_share.expand(part.shape),
    }


@pytest.mark.parametrize("name", PLANS)
def test_draws_are_pure_in_seed_item_and_k(name):
    """T14, ENGINE 4 [m]: "Re-batching, permuting and chunking gave a difference of exactly 0"."""
    keys = torch.tensor([5, 6, 7, 100, -3, 2**40])
    part = PLANS[name].draws(keys, seed=3, salt="eval")
    whole = numbers(part)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    for key, values in numbers(part.take(order)).items():
        assert torch.equal(values, whole[key][:, order]), key
    for key, values in numbers(PLANS[name].draws(keys[order], seed=3, salt="eval")).items():
        assert torch.equal(values, whole[key][:, order]), key
    for b in range(6):
        for key, values in numbers(part.take(torch.tensor([b]))).items():
            assert torch.equal(values, whole[key][:, b : b + 1]), key
    for rows in (1, 13, 50, 10**6):
        pieces = [numbers(chunk) for chunk in part.chunks(rows)]
        for key, values in whole.items():
            assert torch.equal(torch.cat([piece[key] for piece in pieces]), values), key
    for key, values in numbers(part[5:17][2:9]).items():
        assert torch.equal(values, whole[key][7:14]), key
    again = numbers(part)
    assert all(torch.equal(again[key], whole[key]) for key in whole)  # asking twice


@pytest.mark.parametrize("name", PLANS)
def test_padding_changes_no_ones_noise(name):
    """ENGINE 2: "a longer event extends a shorter one": in the last axis, and in the first of a one-axis event."""
    part = draws(PLANS[name], 3)
    for dtype in (torch.float32, torch.float64):
        part = dataclasses.replace(part, dtype=dtype)
        for make in (part.uniform, part.normal):
            assert torch.equal(make("z", 9)[..., :4], make("z", 4))
    where = torch.zeros(3, 9, dtype=torch.bool)
    where[:, :5] = True
    size = torch.full(part.shape, 2)
    assert torch.equal(part.subset("m", size, 9, where)[..., :5], part.subset("m", size, 5))


@pytest.mark.parametrize("name", PLANS)
def test_everything_that_should_differ_differs(name):
    """Seed, salt, fork, stream, item and draw each change the numbers (twins and quadrature leads excepted)."""
    plan, keys = PLANS[name], torch.arange(4)
    base = plan.draws(keys, seed=1, salt="eval")
    u = base.uniform("u", 4)
    others = [
        plan.draws(keys, seed=1 + 2**32, salt="eval"),
        plan.draws(keys, seed=1, salt="train"),
        base.fork("chosen"),
        base.fork("chosen").fork("chosen"),
        base.fork("rejected"),
        plan.draws(keys + 4, seed=1, salt="eval"),
    ]
    seen = [u, base.uniform("v", 4), *(o.uniform("u", 4) for o in others)]
    for i, a in enumerate(seen):
        for b in seen[:i]:
            assert not torch.equal(a, b) and (a == b).double().mean() < 0.01
    if not plan.deterministic_lead:
        leads = [base.lead(), *(o.lead() for o in others)]
        assert all(not torch.equal(a, b) for i, a in enumerate(leads) for b in leads[:i])
    assert u.flatten(0, 1).unique(dim=0).shape[0] == 24 * 4


def test_no_stream_of_a_model_is_the_lead():
    """The lead has a name that no model would use: a stream called "lead" is independent of it."""
    part = draws(Plan.iid(50), 20)
    for name in ("lead", "lead/turn", "z/shift"):
        u = part.uniform(name)
        assert (
            not torch.equal(u, part.lead())
            and abs(float(torch.corrcoef(torch.stack((u.flatten(), part.lead().flatten())))[0, 1])) < 0.16
        )
    sobol = draws(Plan.sobol(16), 20)
    assert not torch.equal(sobol.uniform("z", 1), sobol.uniform("z/shift", 1))


def test_shared_draws_are_the_same_object_and_forks_are_independent():
    """ENGINE 4: sharing = the same numbers; fork: correlation of 20,000 pairs within 5/sqrt(n)."""
    part = draws(1, 20_000)
    a, b = part.normal("z")[0], part.fork("other").normal("z")[0]
    assert abs(float(torch.corrcoef(torch.stack((a, b)))[0, 1])) < 5 / 20_000**0.5
    assert torch.equal(a, draws(1, 20_000).normal("z")[0])


def test_antithetic_twins_reflect_everything():
    """ENGINE 3: "u -> 1-u, z -> -z, lead -> 1-lead", exactly."""
    part = draws(Plan.antithetic(10), 6)
    u, z, t = part.uniform("u", 3), part.normal("z", 3), part.lead()
    assert torch.equal(u[1::2], 1 - u[::2]) and torch.equal(z[1::2], -z[::2]) and torch.equal(t[1::2], 1 - t[::2])
    assert torch.equal(part[1:2].normal("z", 3), -z[:1])  # a twin alone is still the twin


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_reflected_uniforms_stay_inside(dtype):
    """1 - u rounds to 1 for u below half an eps: twins are kept inside (0, 1) too."""
    part = Plan.antithetic(2).draws(torch.arange(4000), dtype=dtype)
    if dtype == torch.float32:  # a row whose uniform is below 2^-25, found by search over the first 2^27 items
        part = Plan.antithetic(2).draws(torch.tensor([SMALL_ITEM]), dtype=dtype)
        assert part.uniform("u")[0] < 2**-25
    u = part.uniform("u")
    assert (u > 0).all() and (u < 1).all()


SMALL_ITEM = 16_084_179


def test_complement_masks():
    """ENGINE 3 [m]: for exact-count masks with l = floor(u (L+1)) "the twin *is* the complement mask"."""
    length = 7
    part = draws(Plan.antithetic(200), 5)
    size = (part.lead() * (length + 1)).long()
    mask = part.subset("mask", size, length)
    assert torch.equal(mask[1::2], ~mask[::2])
    where = torch.rand(5, length, generator=torch.Generator().manual_seed(0)) < 0.7
    size = (part.lead() * (where.sum(-1) + 1)).long()
    mask = part.subset("mask", size, length, where)
    assert torch.equal(mask[1::2], ~mask[::2] & where)


def test_bernoulli_twins_are_disarm_partners():
    """ENGINE 3 [m]: b = 1[1-u < sigmoid(a)], b' = 1[u < sigmoid(a)] for the same u."""
    a = torch.linspace(-3, 3, 6).expand(4, 6)
    part = draws(Plan.antithetic(50), 4, dtype=torch.float32)
    b = draw(td.Independent(td.Bernoulli(logits=a), 1), part, "z")
    u = part.uniform("z", 6)[::2]
    assert torch.equal(b[::2], (u < a.sigmoid()).float()) and torch.equal(b[1::2], (1 - u < a.sigmoid()).float())


# -- subset and choose -------------------------------------------------------------------------------------------------


def test_subsets_have_exact_counts_and_are_uniform():
    """Every one of the C(5, 2) = 10 subsets equally often: chi-square with 9 degrees below 40 (false alarm 7e-6)."""
    part = draws(5000, 4)
    size = torch.randint(0, 6, part.shape, generator=torch.Generator().manual_seed(0))
    mask = part.subset("m", size, 5)
    assert torch.equal(mask.sum(-1), size)
    two = part.subset("m", torch.full(part.shape, 2), 5)
    code = (two * 2 ** torch.arange(5)).sum(-1).flatten()
    count = code.bincount(minlength=32).double()
    count = count[count > 0]
    assert count.numel() == 10
    assert float(((count - 2000) ** 2 / 2000).sum()) < 40


def test_subsets_stay_where_they_are_allowed():
    where = torch.tensor([[True, False, True, True], [False, False, False, False]])
    part = draws(50, 2)
    size = torch.stack((torch.arange(50) % 4, torch.zeros(50, dtype=torch.int64)), -1)
    mask = part.subset("m", size, 4, where)
    assert torch.equal(mask.sum(-1), size) and not (mask & ~where).any()
    with pytest.raises(UserError, match="a size exceeds the allowed positions by 1"):
        part.subset("m", size + 1, 4, where)
    with pytest.raises(UserError, match="got a negative size -1"):
        part.subset("m", size - 1, 4, where)


def test_subsets_are_nested_in_size():
    """One ordering a row: a larger subset contains the smaller one."""
    part = draws(30, 3)
    masks = [part.subset("m", torch.full(part.shape, n), 6) for n in range(7)]
    assert all(bool((small <= large).all()) for small, large in itertools.pairwise(masks))


def test_choices_are_allocated_in_proportion():
    """ENGINE 3: "a stratified lead through the inverse CDF gives proportional allocation for any mixture weights"."""
    pi = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.07, 0.0, 0.53, 0.4]])
    chosen = draws(Plan.stratified(10, replicates=40), 2).choose(pi.log()).reshape(40, 10, 2)
    for item in range(2):
        for c in range(4):
            count = (chosen[:, :, item] == c).sum(1)
            # A component's stretch of (0, 1) touches at most two cells that it does not fill.
            assert (count >= math.floor(10 * float(pi[item, c]) - 1e-6) - 1).all()
            assert (count <= math.ceil(10 * float(pi[item, c]) - 1e-6) + 1).all()
    exact = chosen[:, :, 0]
    assert torch.equal((exact == 0).sum(1), torch.full((40,), 5)) and torch.equal(
        (exact == 2).sum(1), torch.full((40,), 2)
    )
    assert (chosen[:, :, 0] != 3).all() and (chosen[:, :, 1] != 1).all()  # no mass, no draw


def test_choices_have_their_probabilities():
    pi = torch.tensor([[0.1, 0.6, 0.3]]).expand(20_000, 3)
    chosen = draws(1, 20_000).choose(pi.log())[0]
    assert z_score((chosen[:, None] == torch.arange(3)).double(), pi[0].double()) < 5


def test_average_uses_the_shares():
    part = draws(Plan.nodes((0.2, 0.7), (0.25, 0.75), replicates=2), 3)
    values = torch.arange(12.0).reshape(4, 3)
    close(part.average(values), (0.25 * (values[0] + values[2]) + 0.75 * (values[1] + values[3])) / 2)
    close(draws(4, 3).average(values[..., None]), values.mean(0)[:, None])
    close(part[:2].average(values[:2]), 0.25 * values[0] + 0.75 * values[1])


def test_slices_and_chunks(unchecked):  # noqa: F811
    part = draws(Plan.stratified(4, replicates=3), 5)
    assert part.shape == (12, 5) and part[2:5].shape == (3, 5) and part[8:].stop == 12 and part[5:2].shape == (0, 5)
    assert part.whole and part[4:8].whole and not part[2:5].whole and not part[5:2].whole
    assert [c.shape[0] for c in part.chunks(17)] == [3, 3, 3, 3] and [c.shape[0] for c in part.chunks(1)] == [1] * 12
    with pytest.raises(TypeError, match=r"items are taken with draws.take\(index\)"):
        part[0]
    with pytest.raises(TypeError, match="sliced over k"):
        part[::2]


def test_seeds_are_distinct_and_non_negative():
    seeds = draws(1000, 20).seeds("s")
    assert (seeds >= 0).all() and seeds.unique().numel() == 20_000


def test_uniforms_of_draws_are_those_of_their_rows():
    """The contract of the names: seed, salt, 0, stream."""
    part = Plan.iid(3).draws(torch.tensor([4, 9]), seed=7, salt="eval")
    assert torch.equal(
        part.uniform("z", 2), uniforms(row_keys(7, "eval\x00z", torch.tensor([4, 9]), torch.arange(3)), 2)
    )
    seeds = words(row_keys(7, "eval\x00s", torch.tensor([4, 9]), torch.arange(3)), 1)[..., 0] & (2**63 - 1)
    assert torch.equal(part.seeds("s"), seeds)


# -- distributions -----------------------------------------------------------------------------------------------------

B, D = 3, 2
LOC, SCALE = torch.randn(B, D, generator=torch.Generator().manual_seed(1)).double(), torch.tensor([0.5, 1.5]).double()
TRIL = torch.tensor([[1.0, 0.0], [0.7, 0.4]]).double()
DISTRIBUTIONS = {
    "normal": td.Independent(td.Normal(LOC, SCALE), 1),
    "multivariate": td.MultivariateNormal(LOC, scale_tril=TRIL),
    "low rank": td.LowRankMultivariateNormal(LOC, torch.ones(D, 1).double(), SCALE),
    "log-normal": td.Independent(td.LogNormal(LOC, 0.3 * SCALE), 1),
    "bernoulli": td.Independent(td.Bernoulli(logits=LOC), 1),
    "categorical": td.Categorical(logits=torch.randn(B, 4, generator=torch.Generator().manual_seed(2))),
    "laplace (icdf)": td.Independent(td.Laplace(LOC, SCALE), 1),
    "exponential (icdf)": td.Independent(td.Exponential(LOC.exp()), 1),
    "uniform (icdf)": td.Independent(td.Uniform(LOC, LOC + SCALE), 1),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_latents_have_their_moments(name):
    """Mean and second moment of 20,000 draws, from two independent formulas of torch; |z| < 5."""
    q = DISTRIBUTIONS[name]
    z = draw(q, draws(20_000, B), "z").double()
    if name == "categorical":
        assert z_score((z[..., None] == torch.arange(4)).double(), q.probs.double()) < 5
        return
    assert z.shape == (20_000, B, D)
    assert z_score(z, q.mean.double()) < 5
    assert z_score((z - q.mean.double()).square(), q.variance.double()) < 5
    if name in ("multivariate", "low rank"):
        centred = z - q.mean
        assert z_score(centred[..., 0] * centred[..., 1], q.covariance_matrix[..., 0, 1]) < 5


def test_inverse_distribution_functions_stay_finite_in_float32():
    """A float64 uniform next to 1 must not round to 1 on its way into icdf: that would be an infinite latent."""
    from infimum.evidence.random import unit

    q = td.Exponential(torch.ones(1))
    top = inside_float32 = unit(torch.tensor([-1]))
    assert q.icdf(top.to(torch.float32)).isinf()
    from infimum.evidence.random import inside

    assert q.icdf(inside(inside_float32, torch.float32)).isfinite()
    part = draws(Plan.iid(1), 1)

    class Top(type(part)):
        def uniform(self, name, *event):
            return top.expand(1, 1, *event)

    extreme = Top(*(getattr(part, f.name) for f in dataclasses.fields(part)))
    assert draw(q, extreme, "z").isfinite().all()


def test_draws_are_differentiable_in_the_distribution():
    loc = LOC.clone().requires_grad_(True)
    draw(td.Independent(td.Normal(loc, SCALE), 1), draws(5, B), "z").sum().backward()
    close(loc.grad, torch.full((B, D), 5.0).double())


def test_refusals_of_draw():
    with pytest.raises(
        UserError, match=r"draws of Gamma cannot be made from uniform numbers: define sample\(s, draws\)"
    ):
        draw.dispatch(object)(td.Gamma(torch.ones(B), torch.ones(B)), draws(2, B), "z")
    with pytest.raises(UserError, match=r"batch shape \(4,\), expected \(3, ...\): one for each item"):
        draw(td.Normal(torch.zeros(4), 1.0), draws(2, B), "z")
