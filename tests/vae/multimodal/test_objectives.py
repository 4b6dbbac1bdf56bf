"""Training objectives: their values by hand, their gradients against autograd and in expectation, what they refuse and say."""

import pytest
import torch

from infimum.errors import UserError
from infimum.evidence import iwae, looser, weigh
from infimum.vae.multimodal import MultimodalConfig, MultimodalObjective, MultimodalVAE, looser_rule, mmvae, mopoe, mvae
from infimum.vae.multimodal.subsets import random_members, subset_members
from vae.multimodal.cases import LIMIT, draws, linear_parts, mixed, orthogonal_world

close = torch.testing.assert_close
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]]).bool()
COPIES = 2000


def build(config: MultimodalConfig) -> MultimodalVAE:
    torch.manual_seed(0)
    return MultimodalVAE(config).double()


def gradient(model, backward) -> dict[str, torch.Tensor]:
    model.zero_grad()
    backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def of(objective: MultimodalObjective, model, x, set_of) -> dict[str, torch.Tensor]:
    return gradient(model, lambda: objective.backward(model, x, set_of))


@pytest.mark.parametrize("masked", [False, True])
def test_the_subsampled_loss_by_hand(masked):
    """Subset by subset and item by item with the same latents: reconstruct what is there, weigh, subtract beta KL."""
    config = MultimodalConfig(
        mixed(), 2, subsets=(("vector", "text"), ("label",), ("picture",)), weights=(2.0, 1.0, 1.0)
    )
    model = build(config)
    x = model.simulate(5)[1]
    items = (x, MASK) if masked else x
    objective = MultimodalObjective(beta=0.3, weights={"text": 2.0, "picture": 0.5}, k=4)
    set_of = draws(0, 5, plan=objective.plan(model))
    assert set_of.shape == (12, 5)
    (loss,) = objective.backward(model, items, set_of).values()
    s = model.encode(items)
    chosen = set_of.choose(s[2])
    noise = set_of.normal("z", 2)
    normal, factor = torch.distributions.Normal, {"vector": 1.0, "picture": 0.5, "label": 1.0, "text": 2.0}
    total = torch.zeros(()).double()
    for b in range(5):
        for k in range(12):
            q = normal(s[0][b, chosen[k, b]], s[1][b, chosen[k, b]].exp())
            z = q.mean + q.stddev * noise[k, b]
            each = model.log_likelihoods({n: p[b : b + 1] for n, p in x.items()}, z[None, None])[0, 0]
            for m, name in enumerate(model.names):
                total += factor[name] * each[m] * (MASK[b, m] if masked else 1) / 60
        for j, w in enumerate(s[2][b].exp()):
            q = normal(s[0][b, j], s[1][b, j].exp())
            total -= 0.3 * w * torch.distributions.kl_divergence(q, normal(0.0, 1.0)).sum() / 5
    close(loss, -total.detach())


@pytest.mark.parametrize("draw", ["stratified", "iid"])
@pytest.mark.parametrize("config", [mmvae, mopoe])
def test_gradients_are_those_of_the_bounds(config, draw):
    """Tight and looser bound and mixture ELBO: the rule on the table equals autograd through the bound, incomplete items too."""
    model = build(config(mixed(), latent=2))
    x = (model.simulate(5)[1], MASK)
    for bound, value in (
        ("tight_iwae", lambda w, groups: iwae(w).value),
        ("looser_iwae", lambda w, groups: looser(w, groups).value),
        ("mixture_elbo", lambda w, groups: w.log_w.mean(0)),
    ):
        objective = MultimodalObjective(bound, k=3, draws=draw)
        set_of = draws(0, 5, plan=objective.plan(model))
        groups = set_of.choose(model.encode(x)[2].detach())
        found = of(objective, model, x, set_of)
        expected = gradient(model, lambda: (-value(weigh(model, x, set_of), groups).mean()).backward())  # noqa: B023
        assert found.keys() == expected.keys() and len(found) > 20
        for name in found:
            close(found[name], expected[name], rtol=1e-6, atol=1e-8, msg=lambda m: f"{bound} {name}: {m}")  # noqa: B023


def replicates(model, x, objective: MultimodalObjective, count: int, seed: int) -> torch.Tensor:
    """The encoder's gradient of ``count`` sets of draws of one item, (count, parameters): a loss for each item's own copy."""
    net = model.nets["m0"].encoder[0]
    rows = []
    for r in range(count):
        set_of = objective.plan(model).draws(torch.arange(COPIES) + COPIES * r, seed=seed, dtype=torch.float64)
        found = of(objective, model, {n: p.repeat(COPIES, 1) for n, p in x.items()}, set_of)
        rows.append(torch.cat([g.flatten() for n, g in found.items() if n.startswith("nets.m0.encoder")]))
    assert rows[0].numel() == net.weight.numel() + net.bias.numel()
    return torch.stack(rows)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest |z| of the difference of two means."""
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    return float(((one.mean(0) - other.mean(0)).abs() / error).max())


@pytest.fixture(scope="module")
def pair():
    world = orthogonal_world(2)
    torch.manual_seed(3)
    return MultimodalVAE(mmvae(linear_parts(world), latent=2)).double(), world.simulate(1, seed=4)[1]


def test_which_gradients_are_unbiased(pair):
    """Against the total derivative, 40 x 2,000 sets, |z| < 5.5: DReG of iid draws and STL are; DReG of strata is not."""
    model, x = pair
    total = {
        name: replicates(model, x, MultimodalObjective(name, k=k, draws=draw), 40, 1)
        for name, k, draw in (
            ("tight_iwae", 4, "iid"),
            ("looser_iwae", 2, "stratified"),
            ("mixture_elbo", 1, "stratified"),
        )
    }
    stl = MultimodalObjective("mixture_elbo", k=1, gradient="stl")
    assert apart(replicates(model, x, stl, 40, 2), total["mixture_elbo"]) < LIMIT
    dreg = MultimodalObjective("tight_iwae", k=4, draws="iid", gradient="dreg")
    assert not dreg.warning
    assert apart(replicates(model, x, dreg, 40, 2), total["tight_iwae"]) < LIMIT
    published = MultimodalObjective("looser_iwae", k=2, gradient="dreg")
    assert "which is biased on strata" in published.warning
    assert apart(replicates(model, x, published, 40, 2), total["looser_iwae"]) > LIMIT


def test_the_published_dreg_of_the_looser_bound():
    """1911.03393, appendix: in each stratum the squares of its own normalised weights, strata averaged; no score."""
    model = build(mmvae(mixed(), latent=2))
    x = model.simulate(5)[1]
    set_of = draws(0, 5, plan=MultimodalObjective("looser_iwae", k=3).plan(model))
    log_weights = model.encode(x)[2].detach()
    table = weigh(model, x, set_of)
    found = looser_rule(log_weights, dreg=True)(table)
    groups = set_of.choose(log_weights)
    for b in range(5):
        for m in range(4):
            mine = groups[:, b] == m
            assert int(mine.sum()) == 3
            weights = table.log_w[mine, b].double().softmax(0)
            close((found.joint[mine, b], found.path[mine, b]), (weights / 4, weights**2 / 4))
    assert found.score is None


def test_random_subsets_train_by_the_loss_of_all():
    """One subset at random for every draw, against every subset once: equal in expectation (|z| < 5.5), beta and weights too."""
    parts = linear_parts(orthogonal_world())
    every, some = (build(MultimodalConfig(parts, 2, subsets=s, prior_expert="all")) for s in ("all", "sample"))
    x = orthogonal_world().simulate(1, seed=4)[1]
    both = []
    for model, draw, seed in ((every, "stratified", 1), (some, "iid", 2)):
        objective = MultimodalObjective(beta=0.5, weights={"m1": 2.0}, draws=draw)
        both.append(replicates(model, x, objective, 40, seed))
    assert apart(*both) < LIMIT


def test_wu_and_goodmans_objective():
    """All, each single one, and random subsets of 2 .. M-1: 1802.05335, eq. 7, with the sum over subsets of their own ELBOs."""
    model = build(mvae(mixed(), latent=2))
    x = model.simulate(5)[1]
    objective = MultimodalObjective("subset_elbos", random_subsets=2, beta=0.5)
    set_of = draws(0, 5, plan=objective.plan(model))
    assert set_of.shape == (7, 5)
    (loss,) = objective.backward(model, x, set_of).values()
    rows = [[True] * 4, *torch.eye(4).bool().tolist()]
    extra = random_members(set_of[5:], torch.ones(5, 4).bool(), 2, 3)
    assert set(extra.sum(-1).flatten().tolist()) <= {2, 3}
    total, noise = 0.0, set_of.normal("z", 2)
    for b in range(5):
        item = {n: p[b : b + 1] for n, p in x.items()}
        for k, row in enumerate([*rows, *extra[:, b].tolist()]):
            names = tuple(n for n, on in zip(model.names, row, strict=True) if on)
            s = model.given(item, names)
            z = s[0][0, 0] + s[1][0, 0].exp() * noise[k, b]
            part = {n: item[n] for n in names}
            total += (model.log_likelihoods(part, z[None, None]).sum() - 0.5 * model.divergences(s)[0, 0]).item() / 5
    assert float(loss) == pytest.approx(-total)
    assert subset_members(model.names, "single").shape[0] == 4


def test_names_of_what_was_trained_by():
    """A bound reports its name; what is none says so, in the metrics and in a sentence."""
    model = build(mopoe(mixed(), latent=2))
    x = model.simulate(5)[1]
    for objective, key in (
        (MultimodalObjective(), "subsampled_elbo"),
        (MultimodalObjective("tight_iwae"), "tight_iwae"),
        (MultimodalObjective("looser_iwae", k=2), "looser_iwae"),
        (MultimodalObjective("mixture_elbo"), "mixture_elbo"),
        (MultimodalObjective(beta=2.5), "loss (not a bound)"),
        (MultimodalObjective("subset_elbos"), "loss (not a bound)"),
        (MultimodalObjective(weights={"text": 3.9}), "loss (not a bound)"),
    ):
        assert list(objective.backward(model, x, draws(0, 5, plan=objective.plan(model)))) == [key]
        assert ("not a bound" in objective.warning) == (key == "loss (not a bound)")
    assert MultimodalObjective(beta=2.5).warning == (
        "the training objective was subsampled_elbo with beta=2.5, weights={} and is not a bound; the evaluation uses the "
        "unmodified joint"
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: MultimodalObjective(gradient="dreg"), "'dreg' is not offered for subsampled_elbo: use total"),
        (
            lambda: MultimodalObjective("tight_iwae", gradient="stl"),
            "'stl' is not offered for tight_iwae: use total or dreg",
        ),
        (lambda: MultimodalObjective(k=0), "k is at least 1"),
        (lambda: MultimodalObjective(beta=-1.0), "beta must not be negative and weights positive, got -1.0"),
        (lambda: MultimodalObjective("tight_iwae", beta=2.0), "use bound 'subsampled_elbo', got 'tight_iwae'"),
        (lambda: MultimodalObjective(random_subsets=1), "random_subsets is for bound 'subset_elbos'"),
        (
            lambda: MultimodalObjective("tight_iwae").plan(build(MultimodalConfig(mixed(), 2, subsets="sample"))),
            "tight_iwae needs subsets that can be listed, got subsets='sample'",
        ),
        (
            lambda: MultimodalObjective(weights={"sound": 2.0}).backward(
                (m := build(mopoe(mixed(), latent=2))), m.simulate(2)[1], draws(1, 2)
            ),
            "weights name 'sound', and the model has the modalities vector, picture, label, text",
        ),
    ],
)
def test_refusals(call, says):
    with pytest.raises(UserError, match=says):
        call()
