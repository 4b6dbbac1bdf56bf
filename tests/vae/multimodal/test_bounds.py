"""Bounds and gaps against the linear-Gaussian closed forms, and the densities of mixtures against quadrature."""

import itertools
import math

import pytest
import torch

from infimum.evidence import Bracket, Plan, elbo, evaluate, iw_eubo, iwae, looser, path_terms, weigh
from infimum.testing.oracles.multimodal import LinearGaussianModalities
from infimum.vae.multimodal import (
    MultimodalConfig,
    MultimodalVAE,
    RandomSubsetELBO,
    SubsampledELBO,
    linear_moments,
    mmvae,
    mopoe,
    mvae,
    subset_elbos,
    subset_gaps,
)
from infimum.vae.multimodal.subsets import random_members
from vae.multimodal.cases import (
    LIMIT,
    draws,
    linear_parts,
    orthogonal_world,
    twin,
    with_best_single,
    with_exact_product,
    z_score,
)

close = torch.testing.assert_close


def gap(model, path, log_p, x, plan, seed=0) -> torch.Tensor:
    """log p(x) less the bound, item by item."""
    with torch.no_grad():
        terms = path_terms(path, x, draws(0, len(log_p), seed, plan))
        return log_p - elbo(terms).value


def test_the_worlds_of_the_spec():
    """D=10, g=4, M=2/3/5: 4/8/16 and 2.667/4.381/5.913 nats; and the general formulas agree with it for equal G."""
    for m, single, every in ((2, 4.0, 2.6667), (3, 8.0, 4.3810), (5, 16.0, 5.9135)):
        found = LinearGaussianModalities.equal_gaps(m, 10, 4.0)
        assert found["mmvae"] == pytest.approx(single) and found["mopoe"] == pytest.approx(every, abs=1e-4)
    world = orthogonal_world(3, 2, equal=4.0)
    means = {size: [world.best_gap(a) for a in itertools.combinations(world.names, size)] for size in (1, 2, 3)}
    equal = LinearGaussianModalities.equal_gaps(3, 2, 4.0)
    assert sum(means[1]) / 3 == pytest.approx(equal["mmvae"])
    assert sum(sum(each) for each in means.values()) / 7 == pytest.approx(equal["mopoe"])


def test_the_joint_is_that_of_the_world():
    world = orthogonal_world()
    model = twin(world, mvae(linear_parts(world), latent=2))
    z, x = world.simulate(200)
    normal = torch.distributions.Normal
    by_hand = normal(0.0, 1.0).log_prob(z).sum(-1)
    for name, part in x.items():
        mean = z @ world.weights[name].T + world.biases[name]
        by_hand = by_hand + normal(mean, world.noise[name].sqrt()).log_prob(part).sum(-1)
    with torch.no_grad():
        close(model.log_joint(x, z), by_hand)
        mean, covariance = linear_moments(model)
    assert world.divergence_to(mean, covariance) == pytest.approx(0.0, abs=1e-10)
    worse = world.divergence_to(mean + 1, covariance)
    precision = world.marginal().precision_matrix
    assert worse == pytest.approx(0.5 * float(precision.sum()))  # KL of two Gaussians one apart in every column


@pytest.mark.parametrize("member", [mvae, mopoe])
def test_a_product_of_exact_experts_is_exact(member):
    """Every single weight is p(x): complete items, and any subset given by leaving out or by a mask."""
    world = orthogonal_world()
    model = with_exact_product(world, member(linear_parts(world), latent=2, prior_expert="all"))
    _, x = world.simulate(6)
    if member is mvae:
        with torch.no_grad():
            close(weigh(model, x, draws(4, 6)).log_w, world.log_evidence(x).expand(4, -1))
            for names in (("m1",), ("m0", "m2")):
                part = {n: x[n] for n in names}
                close(weigh(model, part, draws(4, 6)).log_w, world.log_evidence(part).expand(4, -1))
                mask = torch.tensor([[n in names for n in world.names]]).expand(6, -1)
                close(weigh(model, (x, mask), draws(4, 6)).log_w, world.log_evidence(part).expand(4, -1))
    s = model.given(x, ("m0", "m2"))
    close(s[1].exp().square()[:, 0], (1 / world.precision(("m0", "m2")).diagonal()).expand(6, -1))


def test_gaps_of_the_best_and_of_the_true_encoders():
    """21 section 3.4: E[log p - L_A] for both encoders, over 4,000 items of the world, |z| < 5.5."""
    world = orthogonal_world()
    _, x = world.simulate(4000, seed=1)
    log_p = world.log_evidence(x)
    best = with_best_single(world, mmvae(linear_parts(world), latent=2))
    exact = with_exact_product(world, mopoe(linear_parts(world), latent=2, prior_expert="all"))
    for name in world.names:
        values = gap(best, SubsampledELBO(best, (name,)), log_p, x, Plan.antithetic(8))
        assert z_score(values, world.best_gap((name,))) < LIMIT
    for size in (1, 2):
        for names in itertools.combinations(world.names, size):
            values = gap(exact, SubsampledELBO(exact, names), log_p, x, Plan.antithetic(8))
            assert z_score(values, world.conditional_gap(names)) < LIMIT
            assert world.conditional_gap(names) > world.best_gap(names)
    mean = sum(world.best_gap((name,)) for name in world.names) / 3
    assert z_score(gap(best, SubsampledELBO(best), log_p, x, Plan.stratified(3, replicates=2)), mean) < LIMIT
    every = [a for size in (1, 2, 3) for a in itertools.combinations(world.names, size)]
    mean = sum(world.conditional_gap(a) for a in every) / 7
    for path, plan in (
        (SubsampledELBO, Plan.stratified(7)),
        (SubsampledELBO, Plan.iid(5)),
        (RandomSubsetELBO, Plan.iid(5)),
    ):
        assert z_score(gap(exact, path(exact), log_p, x, plan, seed=3), mean) < LIMIT


def test_a_random_subset_pays_its_own_divergence():
    """Term by term: log-likelihoods at the drawn z less KL(q(z|x_A) to p(z)) of the drawn A, by torch.distributions."""
    world = orthogonal_world()
    model = with_exact_product(world, mopoe(linear_parts(world), latent=2, prior_expert="all"))
    _, x = world.simulate(6, seed=8)
    path, given = RandomSubsetELBO(model), draws(9, 6)
    with torch.no_grad():
        s = path.encode(x)
        members = random_members(given, s[2])
        mean, log_scale = (part.transpose(0, 1) for part in model.products(s, members.transpose(0, 1)))
        z = mean + log_scale.exp() * model.family.noise(given, "z", 2)
        q = torch.distributions.Normal(mean, log_scale.exp())
        divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
        torch.testing.assert_close(path.terms(x, s, given), model.log_likelihoods(x, z).sum(-1) - divergence)
    assert members.any(-1).all() and not members.all()


def test_estimated_gaps_bracket_the_exact_one():
    """Below without posterior draws, above with them; both near the closed form (|z| < 5.5)."""
    world = orthogonal_world()
    model = with_exact_product(world, mopoe(linear_parts(world), latent=2, prior_expert="all"))
    z, x = world.simulate(1500, seed=2)
    below = subset_gaps(model, x, [("m0",)], k=50)[("m0",)]
    above = subset_gaps(model, x, [("m0",)], k=50, latents=z)[("m0",)]
    assert (below.side, above.side) == ("lower", "upper")
    truth = world.conditional_gap(("m0",))
    with torch.no_grad():  # the parts' own noise is far below the spread over items
        assert z_score(below.value, truth) < LIMIT and z_score(above.value, truth) < LIMIT
    assert float(below.value.mean()) < float(above.value.mean())
    assert list(subset_gaps(model, {n: p[:3] for n, p in x.items()}, k=4)) == [
        tuple(n for n, on in zip(world.names, row, strict=True) if on) for row in model.members.tolist()
    ]


def test_the_gap_of_a_mixture_is_that_of_its_density():
    """Where single modalities are components, KL(q(z|x_A) to p(z|x)) of two by quadrature on a grid; |z| < 5.5 an item.

    The mean over components, which `SubsampledELBO` bounds with, is larger.
    """
    world = orthogonal_world()
    model = with_best_single(world, mmvae(linear_parts(world), latent=2))
    _, x = world.simulate(4, seed=6)
    names = ("m0", "m1")
    axis = torch.linspace(-9, 9, 1501, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[:, None].expand(-1, 4, -1)
    with torch.no_grad():
        s = model.given(x, names)
        log_q, log_p = model.log_proposal(s, z), model.log_joint(x, z) - world.log_evidence(x)
        cell = float(axis[1] - axis[0]) ** 2
        torch.testing.assert_close(log_q.exp().sum(0) * cell, torch.ones(4, dtype=torch.float64))
        truth = (log_q.exp() * (log_q - log_p)).sum(0) * cell
    found = subset_gaps(model, x, [names], k=400_000, seed=3)[names]
    assert float(((found.value - truth).abs() / found.stderr).max()) < LIMIT
    apart = subset_gaps(model, x, [("m0",), ("m1",)], k=10_000, seed=3)
    mean = (apart["m0",].value + apart["m1",].value) / 2
    assert bool((mean > truth + 5 * found.stderr).all())


@pytest.mark.parametrize("plan", [Plan.iid(9), Plan.stratified(9), Plan.stratified(3, replicates=3)])
@pytest.mark.parametrize("config", [mmvae, mopoe])
def test_weights_under_the_mixture_average_to_the_evidence(config, plan):
    """E p^ = p(x) for i.i.d. and stratified components, over 4,000 replicates an item, |z| < 5.5."""
    world = orthogonal_world()
    model = with_exact_product(world, config(linear_parts(world), latent=2))
    _, x = world.simulate(3, seed=5)
    many = {n: p.repeat(4000, 1) for n, p in x.items()}
    with torch.no_grad():
        value = iwae(weigh(model, many, draws(0, 12000, plan=plan))).value - world.log_evidence(x).repeat(4000)
    assert z_score(value.reshape(4000, 3).exp(), 1.0) < LIMIT


def test_the_tight_bound_reaches_the_evidence():
    world = orthogonal_world()
    model = with_exact_product(world, mmvae(linear_parts(world), latent=2))
    z, x = world.simulate(20, seed=6)
    log_p = world.log_evidence(x)
    found = evaluate(model, x, Plan.stratified(9999), seed=1)
    assert float((found.value - log_p).abs().max()) < 0.05  # every item
    assert abs(float((found.value - log_p).mean())) < 0.01  # 21 section 6: below .01 at 1e4 draws
    upper = evaluate(model, x, Plan(levels=500), iw_eubo, seed=2, latents=z)
    mean = Bracket(found, upper).mean()
    assert mean.lower.certificate <= float(log_p.mean()) <= mean.upper.certificate


def test_strata_tighten_the_bound():
    """Every expert once instead of three random ones, over 10,000 pairs of sets of draws."""
    world = orthogonal_world()
    model = with_best_single(world, mmvae(linear_parts(world), latent=2))
    many = {n: p.repeat(500, 1) for n, p in world.simulate(20, seed=6)[1].items()}
    rough, even = (evaluate(model, many, plan, seed=3).value for plan in (Plan.iid(3), Plan.stratified(3)))
    gain = (even - rough).reshape(500, 20).mean(1)
    assert float(gain.mean() / gain.std() * 500**0.5) > LIMIT


def line_world():
    """One latent dimension and two modalities of one column: everything can be integrated on a grid."""
    w = {"a": torch.tensor([[1.2]]), "b": torch.tensor([[0.7]])}
    return LinearGaussianModalities(w, {"a": torch.tensor([0.5]), "b": torch.tensor([0.3])})


def on_the_line(model, x):
    """z on a grid, and log q_m(z) (M, n), log q(z), log p(z) and log p(x, z) of one item."""
    z = torch.linspace(-40, 40, 80001, dtype=torch.float64)
    with torch.no_grad():
        mean, log_scale, log_w = model.encode(x)
        each = torch.distributions.Normal(mean[0], log_scale[0].exp()).log_prob(z)
        mixture = (log_w[0][:, None] + each).logsumexp(0)
        joint = model.log_joint(x, z[:, None, None])[:, 0]
    return z, each, mixture, torch.distributions.Normal(0.0, 1.0).log_prob(z), joint


def line_model():
    world = line_world()
    torch.manual_seed(4)
    return world, twin(world, mmvae(linear_parts(world), latent=1))


def test_the_looser_bound_converges_to_its_own_limit():
    """log p + mean log c_m with c_m = E_{q_m}[p(z|x) / q(z)] by quadrature; its defect is no noise (00-bounds 3.2)."""
    world, model = line_model()
    _, x = world.simulate(1)
    z, each, mixture, _, joint = on_the_line(model, x)
    log_p = world.log_evidence(x)[0]
    close(torch.trapezoid(joint.exp(), z).log(), log_p, rtol=0, atol=1e-9)
    c = torch.trapezoid((each + joint - mixture).exp(), z, dim=1) / log_p.exp()
    assert float(c.mean()) == pytest.approx(1.0)
    limit = float(log_p + c.log().mean())
    many = {n: p.repeat(200, 1) for n, p in x.items()}
    with torch.no_grad():
        set_of = draws(0, 200, plan=Plan.stratified(4000))
        table = weigh(model, many, set_of, rows=2**18)
        value = looser(table, set_of.choose(model.encode(many)[2])).value
        tight = iwae(table).value
    assert limit < float(log_p) - 0.02
    assert (
        z_score(value, limit) < LIMIT + 1
    )  # the bias at 2,000 draws a stratum is a fraction of the error of 200 items
    assert z_score(tight, float(log_p)) < LIMIT + 1


def test_the_divergence_of_a_mixture_is_below_the_mean_of_divergences():
    """Convexity of KL, by quadrature; and the density of the mixture is normalised."""
    _, model = line_model()
    x = line_world().simulate(1, seed=3)[1]
    z, each, mixture, prior, _ = on_the_line(model, x)
    close(torch.trapezoid(mixture.exp(), z), torch.ones(()).double())
    with torch.no_grad():
        close(model.log_proposal(model.encode(x), z[:, None, None])[:, 0], mixture)
        parts = model.divergences(model.encode(x))[0]
    close(parts, torch.trapezoid(each.exp() * (each - prior), z, dim=1), rtol=0, atol=1e-7)
    whole = float(torch.trapezoid(mixture.exp() * (mixture - prior), z))
    assert whole < float(parts.mean()) - 0.01


def test_the_mixture_elbo_is_above_the_subsampled_one():
    """Both equal their integrals on a grid (4,000 replicates of an item, |z| < 5.5) and differ by that convexity alone."""
    world, model = line_model()
    _, x = world.simulate(1, seed=3)
    z, each, mixture, _, joint = on_the_line(model, x)
    tight = float(torch.trapezoid(mixture.exp() * (joint - mixture), z))
    loose = float(torch.trapezoid(each.exp() * (joint - each), z, dim=1).mean())
    assert loose < tight - 0.01
    many = {n: p.repeat(4000, 1) for n, p in x.items()}
    with torch.no_grad():
        set_of = draws(0, 4000, plan=Plan.stratified(2))
        assert z_score(elbo(weigh(model, many, set_of)).value, tight) < LIMIT
        assert z_score(elbo(path_terms(SubsampledELBO(model), many, set_of)).value, loose) < LIMIT


def test_elbos_of_subsets_are_those_of_smaller_models():
    """Wu & Goodman's terms bound log p(x_A): exact products make each of them log p(x_A)."""
    world = orthogonal_world()
    model = with_exact_product(world, mvae(linear_parts(world), latent=2))
    _, x = world.simulate(4000, seed=8)
    rows = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1]]).bool()
    members = rows[:, None].expand(3, 4000, 3)
    with torch.no_grad():
        found = subset_elbos(model, x, draws(3, 4000), members)
        for row, values in zip(rows, found, strict=True):
            part = {n: x[n] for n, on in zip(world.names, row.tolist(), strict=True) if on}
            assert z_score(values - world.log_evidence(part), 0.0) < LIMIT
        nothing = subset_elbos(model, x, draws(1, 4000), torch.zeros(1, 4000, 3).bool())
    assert torch.equal(nothing, torch.zeros(1, 4000).double())


def test_random_subsets_serve_many_modalities():
    """15 modalities have 32,767 subsets: the bound stays below the evidence, and importance weights average to it."""
    world = orthogonal_world(15, 2)
    model = with_exact_product(world, MultimodalConfig(linear_parts(world), 2, subsets="sample", prior_expert="all"))
    assert isinstance(model, MultimodalVAE) and model.members.shape == (16, 15)
    _, x = world.simulate(500)
    log_p = world.log_evidence(x)
    below = gap(model, RandomSubsetELBO(model), log_p, x, Plan.stratified(8))
    assert float(below.mean() / below.std() * 500**0.5) > LIMIT
    ratio = evaluate(model, {n: p[:50] for n, p in x.items()}, Plan.iid(400)).value - log_p[:50]
    assert abs(float(ratio.mean())) < 0.05 and math.isfinite(float(ratio.sum()))
