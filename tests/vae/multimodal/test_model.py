"""The family: the contract, its members against each other, missing modalities, places in the batch, forms of the data."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from infimum.errors import UserError
from infimum.evidence import Plan, evaluate, iwae, weigh
from infimum.testing import check_model
from infimum.vae import VAE, VAEConfig
from infimum.vae.multimodal import (
    Modality,
    MultimodalConfig,
    MultimodalVAE,
    RandomSubsetELBO,
    SubsampledELBO,
    from_multivae,
    mmvae,
    mopoe,
    mvae,
)
from vae.multimodal.cases import LIMIT, MEMBERS, draws, mixed

close = torch.testing.assert_close
CONFIGS = {
    "mvae": mvae(mixed(), latent=2),
    "mmvae": mmvae(mixed(), latent=2),
    "mmvae as published": mmvae(mixed(), latent=2, family="laplace", learn_prior=True),
    "mopoe": mopoe(mixed(), latent=2),
    "mopoe with the prior everywhere": mopoe(mixed(), latent=2, prior_expert="all", learn_prior=True),
    "chosen subsets": MultimodalConfig(
        mixed(), 2, subsets=(("vector", "text"), ("label", "picture")), weights=(3.0, 1.0), prior_expert="none"
    ),
    "sampled subsets": MultimodalConfig(mixed(), 2, subsets="sample"),
}
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]]).bool()


def build(config: MultimodalConfig, seed: int = 0) -> MultimodalVAE:
    torch.manual_seed(seed)
    return MultimodalVAE(config).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_contract(name):
    model = build(CONFIGS[name])
    x = model.simulate(5)[1]
    report = check_model(model, x)
    report.raise_if_failed()
    for check in ("joint", "prior", "proposal", "simulated latents", "unbiased gradients"):
        assert report[check].passed, check


@pytest.mark.parametrize("name", ["mvae", "mmvae as published", "chosen subsets", "sampled subsets"])
def test_contract_of_incomplete_items(name):
    model = build(CONFIGS[name])
    check_model(model, (model.simulate(5)[1], MASK)).raise_if_failed()


@pytest.mark.parametrize("path", [SubsampledELBO, RandomSubsetELBO])
def test_contract_of_the_bounds_by_subsets(path):
    model = build(CONFIGS["mopoe"])
    x = model.simulate(5)[1]
    check_model(path(model), x).raise_if_failed()
    check_model(path(model), (x, MASK)).raise_if_failed()


def test_members_are_one_family():
    """MoPoE over the full set is MVAE, over single ones MMVAE; with one modality all are the plain VAE."""
    parts = mixed()
    x = build(CONFIGS["mvae"]).simulate(4)[1]

    def weights(config, k=6):
        return weigh(build(config), x, draws(k, 4)).log_w

    full, single = (tuple(parts),), tuple((name,) for name in parts)
    same = {"subsets": full, "prior_expert": "all"}
    assert torch.equal(weights(mopoe(parts, latent=2, **same)), weights(mvae(parts, latent=2)))
    assert torch.equal(
        weights(mopoe(parts, latent=2, subsets=single, prior_expert="none")), weights(mmvae(parts, latent=2))
    )
    one = {"only": Modality((3,), "gaussian", hidden=(8,), activation="tanh")}
    plain = VAE(VAEConfig((3,), "gaussian", latent=2, hidden=(8,)))
    for make in (mmvae, mopoe, mvae):
        model = build(make(one, latent=2, prior_expert="none"))
        model.nets["only"].encoder.load_state_dict(plain.encoder.state_dict())
        model.nets["only"].decoder.load_state_dict(plain.decoder.state_dict())
        item = x["vector"]
        close(weigh(model, {"only": item}, draws(3, 4)).log_w, weigh(plain, item, draws(3, 4)).log_w)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_mask_is_the_same_as_leaving_out(name):
    """What an item lacks changes nothing, NaN included: the evidence is that of what it has."""
    model = build(CONFIGS[name])
    x = model.simulate(5)[1]
    spoilt = {n: p.clone() for n, p in x.items()}
    for m, n in enumerate(spoilt):
        spoilt[n][~MASK[:, m]] = math.nan if spoilt[n].is_floating_point() else 0
    table = weigh(model, (spoilt, MASK), draws(5, 5)).log_w
    for b in range(5):
        part = {n: x[n][b : b + 1] for m, n in enumerate(x) if MASK[b, m]}
        alone = weigh(model, part, Plan.iid(5).draws(torch.tensor([b]), dtype=torch.float64)).log_w
        close(table[:, b : b + 1], alone)
    whole = weigh(model, (x, torch.ones_like(MASK)), draws(5, 5)).log_w
    assert torch.equal(whole, weigh(model, x, draws(5, 5)).log_w)


def test_gradients_of_incomplete_items_are_finite():
    model = build(CONFIGS["mopoe"]).train()
    x = {
        n: p.masked_fill(~MASK[:, m].reshape(-1, *[1] * (p.ndim - 1)), math.nan)
        for m, (n, p) in enumerate(model.simulate(5)[1].items())
    }
    iwae(weigh(model, (x, MASK), draws(3, 5))).value.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 20 and all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("name", ["mmvae", "mopoe"])
def test_place_in_the_batch_does_not_matter(name):
    model = build(CONFIGS[name])
    x, keys = model.simulate(12)[1], torch.arange(12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    plan = Plan.stratified(4 if name == "mmvae" else 15)
    first = evaluate(model, x, plan, keys=keys).value
    again = evaluate(model, {n: p[order] for n, p in x.items()}, plan, keys=keys[order], batch=5, rows=7).value
    close(again, first[order], rtol=1e-5, atol=1e-5)  # networks see batches of another size; the draws are the same


def test_strata_use_every_component_once():
    """The lead of a stratified plan, for every item, whatever it observes; weights still average to the evidence."""
    model = build(CONFIGS["mopoe"])
    x = model.simulate(5)[1]
    s = model.encode(x)
    chosen = Plan.stratified(15).draws(torch.arange(5)).choose(s[2])
    assert all(sorted(column.tolist()) == list(range(15)) for column in chosen.T)
    some = Plan.stratified(6).draws(torch.arange(5)).choose(model.encode((x, MASK))[2])
    assert [len(set(column.tolist())) for column in some.T] == [6, 3, 1, 3, 3]


def test_encoders_run_once():
    model = build(CONFIGS["mopoe"])
    x = model.simulate(6)[1]
    calls = []
    for net in model.nets.values():
        net.encoder.register_forward_hook(lambda *_: calls.append(1))
    evaluate(model, x, Plan.iid(50), rows=32)
    assert len(calls) == 4


def test_experts_are_chosen_for_each_item_and_draw():
    """MMVAE's conditional draws: item by item, draw by draw, half from either expert (binomial, |z| < 5.5)."""
    model = build(CONFIGS["mmvae"])
    x = model.simulate(40)[1]
    s = model.given(x, ("vector", "text"))
    chosen = draws(50, 40).choose(s[2])
    assert chosen.unique().tolist() == [0, 3]
    share = (chosen == 0).double()
    assert abs(float(share.mean()) - 0.5) / (0.25 / 2000) ** 0.5 < LIMIT
    assert 0 < float(share[0].mean()) < 1 and 0 < float(share[:, 0].mean()) < 1


def test_products_answer_for_subsets():
    """q(z | x_A) of a mixture of products is the product over A alone."""
    model = build(CONFIGS["mopoe"])
    x = model.simulate(5)[1]
    mean, log_scale, log_w = model.given(x, ("vector", "label"))
    row = next(i for i, r in enumerate(model.members.tolist()) if r == [True, False, True, False])
    whole = model.encode(x)
    assert mean.shape[1] == 1 and torch.equal(log_w, torch.zeros(5, 1))
    close((mean[:, 0], log_scale[:, 0]), (whole[0][:, row], whole[1][:, row]))


def test_generation_has_the_shapes_and_means_of_the_modalities():
    model = build(CONFIGS["mopoe"])
    x = model.simulate(7)[1]
    drawn = model.generate(draws(2, 3))
    assert {n: tuple(p.shape) for n, p in drawn.items()} == {
        "vector": (2, 3, 3), "picture": (2, 3, 1, 5, 6), "label": (2, 3, 1), "text": (2, 3, 3),
    }  # fmt: skip
    means = model.translate(x, ("vector",), draws=draws(2, 7))
    assert list(means) == ["picture", "label", "text"] and means["text"].shape == (2, 7, 3, 5)
    close(means["label"].sum(-1), torch.ones(2, 7, 1))
    # the mean of draws of x_m is E[x_m | z]: 4,000 draws at one z, |z| < 5.5
    z = torch.zeros(4000, 1, 2)
    seen = model._emit(z, ["picture"], draws(4000, 1))["picture"].double()
    seen, truth = seen.detach(), model.nets["picture"].mean(z[:1])[0].detach().double()
    assert float(((seen.mean(0) - truth).abs() / (seen.std(0) / 4000**0.5)).max()) < LIMIT
    assert {n: tuple(p.shape[1:]) for n, p in model.reconstruct(x).items()}["picture"] == (1, 5, 6)


def test_forms_of_the_data():
    model = build(CONFIGS["mopoe"])
    x = model.simulate(5)[1]
    reference = weigh(model, x, draws(3, 5)).log_w
    hot = x | {n: nn.functional.one_hot(x[n].long(), levels).float() for n, levels in (("label", 4), ("text", 5))}
    assert torch.equal(weigh(model, hot, draws(3, 5)).log_w, reference)
    flat = torch.cat([x[n].flatten(1) for n in model.names], 1)
    assert torch.equal(weigh(model, flat, draws(3, 5)).log_w, reference)
    assert torch.equal(model.split(flat)["picture"], x["picture"])
    assert torch.equal(model.join({n: p[None] for n, p in x.items()})[0], flat)
    assert torch.equal(weigh(model, x | {"label": x["label"][:, 0]}, draws(3, 5)).log_w, reference)
    masked = weigh(model, (x, MASK), draws(3, 5)).log_w
    masks = dict(zip(model.names, MASK.T, strict=True))
    batch = SimpleNamespace(data=x, masks=masks, labels=None)
    assert torch.equal(weigh(model, from_multivae(batch), draws(3, 5)).log_w, masked)
    assert torch.equal(weigh(model, from_multivae({"data": x, "masks": masks}), draws(3, 5)).log_w, masked)
    assert torch.equal(weigh(model, from_multivae(SimpleNamespace(data=x)), draws(3, 5)).log_w, reference)


def test_pictures_of_categories_keep_their_pixels_apart():
    """A convolutional decoder of categories: its channels become the logits of the right pixel."""
    torch.manual_seed(0)
    part = {"p": Modality((2, 4, 4), "categorical", levels=3, network="conv", hidden=(4,), width=8)}
    model = MultimodalVAE(mmvae(part, latent=2)).eval()
    z = torch.randn(1, 3, 2)
    raw = model.nets["p"].decoder(z[0])  # (3, 2 * 3, 4, 4)
    close(model.nets["p"].mean(z)[0], raw.unflatten(1, (2, 3)).softmax(2).movedim(2, -1))
    check_model(model, model.simulate(5)[1]).raise_if_failed()


def test_networks_of_ones_own():
    """A decoder that takes (N, D) only, objects of multivae's kind, and an encoder of another latent size."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, z):
            assert z.ndim == 2
            return SimpleNamespace(reconstruction=self.layer(z))

    class Encoder(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.layer = nn.Linear(3, 2 * size)

        def forward(self, x):
            mean, log_variance = self.layer(x).chunk(2, -1)
            return SimpleNamespace(embedding=mean, log_covariance=log_variance)

    parts = {"a": Modality((3,), "gaussian"), "b": Modality((2,), "gaussian")}
    model = MultimodalVAE(mopoe(parts, latent=2), {"a": Encoder(2)}, {"a": Decoder()}).eval()
    x = model.simulate(5)[1]
    check_model(model, x).raise_if_failed()
    mean, log_scale, _ = model.experts(x)
    out = model.nets["a"].encoder(x["a"])
    close((mean[:, 0], log_scale[:, 0]), (out.embedding, 0.5 * out.log_covariance))
    wrong = MultimodalVAE(mopoe(parts, latent=2), {"a": Encoder(5)})
    with pytest.raises(UserError, match="an encoder gives 5 latent dimensions and the model has 2"):
        wrong.encode(x)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda x: {"vector": x["vector"], "sound": x["text"]},
            r"\['sound', 'vector'\], and the model has \['label', ",
        ),
        (lambda x: (x, MASK & False), r"items 0, 1, 2, 3, 4 have no observed modality"),
        (lambda x: (x, MASK[:, :2]), r"of shape \(B, M\) = \(5, 4\), got torch.bool of shape \(5, 2\)"),
        (lambda x: (x, MASK.float()), "a mask is boolean"),
        (lambda x: x | {"text": x["text"][:3]}, "same number of items"),
        (lambda x: x | {"vector": x["vector"][:, :2]}, r"shape \(3,\) of modality 'vector', got \(2,\)"),
        (lambda x: x | {"text": torch.rand(5, 3, 5)}, "not one-hot: give one-hot rows, not probabilities or logits"),
        (lambda x: torch.zeros(5, 7), r"7 values an item, and the modalities .* have 3 \+ 30 \+ 1 \+ 3"),
    ],
)
def test_refused_items(change, says):
    model = build(CONFIGS["mopoe"])
    with pytest.raises(UserError, match=says):
        model.encode(change(model.simulate(5)[1]))


def test_items_outside_of_all_subsets_are_refused():
    model = build(MultimodalConfig(mixed(), 2, subsets=(("vector", "text"),)))
    with pytest.raises(UserError, match="items 2 have no modality of any of the model's subsets"):
        model.encode((model.simulate(5)[1], MASK))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: MultimodalConfig({}), "at least 1 modality"),
        (lambda: MultimodalConfig(mixed(), 0), "at least 1, got 0"),
        (lambda: MultimodalConfig(mixed(), subsets="all", weights=(1.0,)), "one weight for each of 15 subsets"),
        (lambda: mopoe(mixed(), family="laplace"), "family 'laplace' has no products"),
        (lambda: mmvae({"a.b": Modality((1,))}), "use a name without dots"),
        (lambda: Modality((3,), network="conv"), "network 'conv' is for pictures"),
        (lambda: Modality((3,), scale=-1.0), "positive scale, got -1.0"),
        (lambda: Modality(()), "every axis at least 1"),
        (lambda: MultimodalVAE(mvae(mixed()), encoders={"x": nn.Identity()}), "'x' is no modality"),
    ],
)
def test_refused_configurations(call, says):
    with pytest.raises(UserError, match=says):
        call()
