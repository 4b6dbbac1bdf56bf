"""Objectives, batches, the learner and its alarm, estimates of the likelihood, and walks in the latent space."""

import math
from pathlib import Path

import pytest
import torch

from infimum.data.text import PAD
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.training import Run, train
from infimum.vae.regularisers import latent_discriminator
from infimum.vae.text import (
    TextLearner,
    TextObjective,
    TextVAE,
    collapse_alarm,
    distinct,
    greedy_words,
    initialise,
    interpolate,
    posterior_log_likelihood,
    prior_log_likelihood,
    reconstruct,
    traverse,
)
from infimum.vae.text.buckets import buckets, sentence_batches
from infimum.vae.text.space import path_between
from vae.text.cases import small

Z = 4.9  # false alarm 1e-6


def items(n: int = 96, **kind) -> tuple[TextVAE, torch.Tensor]:
    model = small(**kind)
    return model, model.simulate(n, seed=5)[1]


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        ({"regulariser": "kl"}, {}),
        ({"regulariser": "kl", "beta": 0.3, "anneal": "none"}, {"posterior": "batch-norm"}),
        ({"regulariser": "kl"}, {"posterior": "delta", "skip": True}),
        ({"regulariser": "free-bits"}, {"network": "transformer"}),
        ({"regulariser": "free-bits-batch", "word_dropout": 0.5}, {}),
        ({"regulariser": "mmd"}, {"bag_of_words": True}),
        ({"regulariser": "gap", "aggregate": 4}, {}),
        ({"regulariser": "gap-joint", "anneal": "cyclic"}, {}),
        ({"regulariser": "gap"}, {"posterior": "vmf"}),
        ({"regulariser": "tc", "aggregate": 8}, {}),
        ({"regulariser": "aae"}, {}),
        ({"regulariser": "aae"}, {"posterior": "vmf"}),
    ],
    ids=str,
)
def test_the_loss_is_the_sum_of_its_parts_and_reaches_every_parameter(objective: dict, kind: dict) -> None:
    model, x = items(16, **kind)
    o = TextObjective(**objective)
    o.check(model.config, 16)
    draws = o.plan.draws(torch.arange(16), salt="train")
    judge = latent_discriminator(3) if objective["regulariser"] == "aae" else None
    loss, report = o.loss(model.train(), x, draws, weight=0.7, discriminator=judge)
    parts = -float(report["reconstruction"]) + 0.7 * o.beta * float(report["regulariser"])
    assert float(loss) == pytest.approx(parts, rel=1e-6)  # a bag of words adds no value
    s = model.eval().encode(x)
    if objective["regulariser"] == "kl" and kind.get("posterior") != "batch-norm":
        torch.testing.assert_close(report["regulariser"], model.family.divergence(s).mean())
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "norm.bias" not in name:
            assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name


def test_a_discriminator_and_the_model_have_losses_of_their_own() -> None:
    """Each by its formula from the same draws; the discriminator's gradient ends at the latents."""
    model, x = items(16)
    torch.manual_seed(0)
    o, judge = TextObjective("aae", draws=4), latent_discriminator(3)
    draws = o.plan.draws(torch.arange(16), salt="train")
    loss, report = o.loss(model, x, draws, discriminator=judge)
    z = model.sample(model.encode(x), draws).detach()
    there = model.family.prior(draws)
    torch.testing.assert_close(report["regulariser"], -judge(z).sigmoid().log().mean().detach())
    torch.testing.assert_close(
        report["discriminator"], -judge(there).sigmoid().log().mean() - (1 - judge(z).sigmoid()).log().mean()
    )
    report["discriminator"].backward()
    assert all(p.grad is None for p in model.parameters()) and all(p.grad is not None for p in judge.parameters())
    before = [p.grad.clone() for p in judge.parameters()]
    loss.backward(inputs=list(model.parameters()))
    assert all(torch.equal(a, p.grad) for a, p in zip(before, judge.parameters(), strict=True))


def test_a_discriminator_learns_in_the_step_of_the_model(tmp_path: Path) -> None:
    """At a rate of the model's that moves nothing it tells its latents, far from the prior, from those of the prior."""
    model, x = items(64)
    with torch.no_grad():
        model.encoder.out.weight *= 4
    learner = TextLearner(model, x, TextObjective("aae", draws=8, anneal="none"), batch=32, lr=0.05)
    learner.optimizers["main"].param_groups[0]["lr"] = 0.0
    first = {name: p.clone() for name, p in model.named_parameters()}
    metrics = train(learner, steps=60, run=Run(tmp_path / "r", quiet=True)).metrics
    assert metrics["discriminator"] < 0.7 * 2 * math.log(2) < 2 * math.log(2) < metrics["regulariser"] * 2
    assert all(torch.equal(p, first[name]) for name, p in model.named_parameters())


def test_a_plain_loss_is_minus_an_elbo() -> None:
    """Weighted by 1, its mean over draws is the engine's ELBO of the same draws."""
    from infimum.evidence import elbo, weigh

    model, x = items(8)
    values = []
    for seed in range(200):
        draws = Plan.iid(1).draws(torch.arange(8), seed=seed)
        with torch.no_grad():
            loss, _ = TextObjective("kl").loss(model, x, draws)
            values.append(-loss - elbo(weigh(model, x, draws)).value.mean())
    gap = torch.stack(values).double()
    assert abs(float(gap.mean())) < Z * float(gap.std()) / math.sqrt(200)


def test_weights_of_annealing() -> None:
    linear, cyclic = TextObjective(), TextObjective(anneal="cyclic")
    assert [linear.weight(step, 10) for step in (0, 50, 100, 900)] == [0, 0.5, 1, 1]
    assert [cyclic.weight(step, 10) for step in (0, 50, 150, 200, 250)] == [0, 0.5, 1, 0, 0.5]
    assert TextObjective(anneal="none").weight(0, 10) == 1


def test_what_is_a_bound_says_so() -> None:
    assert TextObjective("kl").is_bound and not TextObjective("kl").warning
    for o in (TextObjective("kl", beta=0.5), TextObjective(), TextObjective("free-bits")):
        assert "is not an ELBO" in o.warning


def test_refusals_of_objectives() -> None:
    config = small().config
    for o, batch, says in (
        (TextObjective(), 1, "aggregated posterior of one item equals the VAE objective: use a batch of at least 8"),
        (TextObjective(aggregate=5), 32, "a batch of 32 does not divide into parts of 5"),
    ):
        with pytest.raises(UserError, match=says):
            o.check(config, batch)
    sphere = small(posterior="vmf")
    for kind, says in (("free-bits", "free bits are nats a dimension"), ("tc", "total correlation is made of nats")):
        with pytest.raises(UserError, match=says):
            TextObjective(kind).check(sphere.config, 32)
    with pytest.raises(UserError, match="'aae' has no discriminator"):
        TextObjective("aae").loss(*items(4), TextObjective("aae").plan.draws(torch.arange(4)))
    for changes, says in (
        ({"beta": -1.0}, "beta is -1"),
        ({"draws": 0}, "draws is 0"),
        ({"anneal_epochs": 30.0}, "rises for 30.0 of 20.0 epochs"),
        ({"word_dropout": 2.0}, "word_dropout is 2"),
        ({"aggregate": 0}, "aggregate is 0"),
        ({"parts": (1.0, -2.0, 1.0)}, "three finite weights of at least 0"),
    ):
        with pytest.raises(UserError, match=says):
            TextObjective(**changes)


def test_buckets_hold_one_length_each() -> None:
    _, x = items(200)
    made, lengths = buckets(x, 4), (x != PAD).sum(1)
    assert bool((lengths[made] == lengths[made][:, :1]).all())
    assert len(made.flatten().unique()) == made.numel()
    assert made.numel() == sum(int(c) // 4 * 4 for c in lengths.unique(return_counts=True)[1])
    one, other = (sentence_batches(x, 4, "length", seed=1, start=start) for start in (0, len(made) + 3))
    for _ in range(len(made) + 3):
        next(one)
    assert all(torch.equal(next(one), next(other)) for _ in range(5))
    with pytest.raises(UserError, match="no length has 200 sentences"):
        buckets(x, 200)


def _trained(model: TextVAE, x: torch.Tensor, folder: Path, steps: int, kind: str = "gap", **options) -> dict:
    objective = TextObjective(kind, draws=4, anneal_epochs=0.5, word_dropout=0.2)
    learner = TextLearner(model, x, objective, batch=16, **options)
    return dict(train(learner, steps=steps, run=Run(folder, quiet=True, resume=folder.exists()), every=5).metrics)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.02},
        {"lr": 0.02, "bucketing": "length"},
        {"optimizer": "sgd", "lr": 0.5},
        {"lr": 0.02, "kind": "aae"},
        {"lr": 0.02, "kind": "tc"},
    ],
    ids=str,
)
def test_training_lowers_the_loss_and_resumes_to_the_same_end(tmp_path: Path, options: dict) -> None:
    def fresh() -> TextVAE:
        return small(dropout=0.3, seed=9)

    _, x = items(96)
    at_once, in_two = fresh(), fresh()
    _trained(at_once, x, tmp_path / "one", 30, **options)
    _trained(in_two, x, tmp_path / "resumed", 11, **options)
    in_two = fresh()
    _trained(in_two, x, tmp_path / "resumed", 30, **options)
    for a, b in zip(at_once.parameters(), in_two.parameters(), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        z = torch.zeros(1, 96, 3)
        assert (
            float(at_once.eval().log_likelihood(x, z).mean()) > float(fresh().eval().log_likelihood(x, z).mean()) + 0.2
        )


def test_official_starting_values() -> None:
    model = small(posterior="batch-norm")
    initialise(model)
    for name, parameter in model.named_parameters():
        limit = 0.1 if "embed" in name else 0.01
        if "norm" not in name:
            assert 0.5 * limit < float(parameter.detach().abs().max()) <= limit, name
    assert bool((model.family.norm.weight == 0.6).all())


def test_the_alarm_says_when_z_is_not_used(tmp_path: Path) -> None:
    model, x = items(96)
    assert collapse_alarm(model, x) is None
    with torch.no_grad():
        model.encoder.out.weight.zero_()
    assert "posterior collapse, 0 active units and 0.000 nats" in str(collapse_alarm(model, x))
    learner = TextLearner(model, x, TextObjective("kl", anneal="none"), batch=16, lr=1e-9)
    with pytest.warns(UserWarning, match="the posteriors have collapsed to the prior .* over the epoch up to step 6"):
        train(learner, steps=6, run=Run(tmp_path / "r", quiet=True))


def test_likelihoods_by_prior_and_posterior_draws_against_quadrature() -> None:
    """One latent dimension: E exp(prior LL) = p(x) and E exp(post LL) = E_q p(x|z), by 400 independent seeds."""
    model, x = items(3, latent=1)
    t = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    with torch.no_grad():
        z = t[:, None, None].expand(-1, 3, 1)
        nats = torch.cat([model.log_likelihood(x, part.float()).double() for part in z.split(500)])
        s = model.encode(x)
        prior, post = model.log_prior(z), model.log_proposal(tuple(part.double() for part in s), z)
        step = math.log(float(t[1] - t[0]))
        truth = [(nats + weight).logsumexp(0) + step for weight in (prior, post)]
    for function, want, target in (
        (prior_log_likelihood, truth[0], "log p(x)"),
        (posterior_log_likelihood, truth[1], "log E_q[p(x|z)]"),
    ):
        each = [function(model, x, k=4, seed=seed) for seed in range(400)]
        assert each[0].target == target and each[0].side == "lower"
        ratio = (torch.stack([e.value for e in each]).double() - want).exp()
        assert float(((ratio.mean(0) - 1) / (ratio.std(0) / 20)).abs().max()) < Z
        assert float((torch.stack([e.value for e in each]).mean(0) - want).max()) < 0
    assert float((truth[0] - truth[1]).abs().max()) > 0.01
    with pytest.raises(UserError, match="k is 5, expected an even number"):
        prior_log_likelihood(model, x, k=5)


def test_half_of_the_draws_come_from_each() -> None:
    from infimum.vae.text.proposals import with_prior

    model, x = items(5, latent=1)
    with torch.no_grad():
        both = with_prior(model)
        s = both.encode(x)
        s = ((s[0][0] + 100, s[0][1]), s[1])
        z = both.sample(s, Plan(levels=16, lead="stratified").draws(torch.arange(5)))
    assert ((z[..., 0] > 50).sum(0) == 8).all()


@pytest.mark.parametrize("kind", [{}, {"posterior": "vmf"}], ids=str)
def test_walks_begin_and_end_at_reconstructions(kind: dict) -> None:
    model, x = items(12, **kind)
    first, second = x[:6], x[6:]
    path = interpolate(model, first, second, steps=5)
    assert len(path) == 5 and path[0] == reconstruct(model, first) and path[-1] == reconstruct(model, second)
    with torch.no_grad():
        a, b = (model.family.centre(model.encode(part)) for part in (first, second))
        points = path_between(model, a, b, 5)
        steps = (points[1:] - points[:-1]).norm(dim=-1)
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), atol=1e-5, rtol=1e-4)  # equal steps
    if kind:
        torch.testing.assert_close(points.norm(dim=-1), torch.ones(5, 6))
    moved = traverse(model, first, 1, steps=3)
    assert moved[1] == reconstruct(model, first)
    with torch.no_grad():
        shifted = a + 3 * torch.eye(3)[1]
        shifted = torch.nn.functional.normalize(shifted, dim=-1) if kind else shifted
        assert moved[2] == model.vocabulary.decode(greedy_words(model, shifted))
    with pytest.raises(UserError, match="the model has 3 latent dimensions"):
        traverse(model, first, 3)
    with pytest.raises(UserError, match="at least its 2 ends"):
        interpolate(model, first, second, steps=1)


def test_distinct_counts_different_runs_of_words() -> None:
    assert distinct(["a b a", "a b"], 1) == 2 / 5 and distinct(["a b a", "a b"], 2) == 2 / 3
    assert math.isnan(distinct(["a"], 2))
