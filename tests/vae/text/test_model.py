"""The text VAE: the engine's contract, exact normalisation, padding, teacher forcing against steps, decoding, saving."""

import math
from pathlib import Path

import pytest
import torch

from infimum.data.text import END, PAD, SPECIAL, UNKNOWN
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.testing import check_model
from infimum.training.models import load_model, name_of, save_model
from infimum.vae.text import TextVAE, TextVAEConfig, beam_words, greedy_words, sample_words
from vae.text.cases import all_sentences, small

KINDS = [
    {"network": "lstm"},
    {"network": "transformer"},
    {"posterior": "batch-norm"},
    {"posterior": "delta"},
    {"skip": True},
    {"posterior": "vmf", "kappa": 4.0},
]


@pytest.mark.parametrize("kind", KINDS[:5], ids=str)
def test_the_contract(kind: dict) -> None:
    model = small(**kind)
    check_model(model, model.simulate(6, seed=1)[1], alarm=1e-6).raise_if_failed()


def test_the_contract_in_train_mode() -> None:
    """Without dropout training sees the model that is evaluated."""
    model = small().train()
    check_model(model, model.simulate(6, seed=1)[1], alarm=1e-6).raise_if_failed()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_probabilities_of_all_sentences_add_up_to_one(kind: dict) -> None:
    model, x = small(length=4, **kind).double(), all_sentences(4).double()
    z = model.family.prior(Plan.iid(3).draws(torch.zeros(1, dtype=torch.int64), dtype=torch.float64))
    with torch.no_grad():
        total = model.log_likelihood(x, z.expand(-1, len(x), -1)).logsumexp(1)
    torch.testing.assert_close(total, torch.zeros(3, dtype=total.dtype), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_whole_sentences_agree_with_single_steps(kind: dict) -> None:
    model = small(**kind, skip=True)
    z, x = model.simulate(20, seed=3)
    ids, at, want = x.long(), z[0], torch.zeros(20)
    token, state = torch.full((20,), PAD), model.decoder.begin(at)
    with torch.no_grad():
        for t in range(model.config.length - 1):
            h, state = model.decoder.step(token, at, state)
            nats = model.decoder.logits(h, at).log_softmax(-1)
            token = ids[:, t]
            want += torch.where(token == PAD, 0.0, nats.gather(1, (token - 1).clamp_min(0)[:, None])[:, 0])
        torch.testing.assert_close(model.log_likelihood(x, z)[0], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("network", ["lstm", "transformer"])
def test_padding_is_not_read(network: str) -> None:
    """The same sentences in rows twice as long, beside a long one: same posteriors, same likelihoods."""
    short, wide = small(length=5, network=network), small(length=10, network=network)
    wide.load_state_dict(short.state_dict())
    x = torch.tensor([[4, 5, END, PAD, PAD], [6, END, PAD, PAD, PAD]], dtype=torch.float32)
    long = torch.tensor([[4.0, 5, 6, 4, 5, 6, 4, 5, 6, END]])
    y = torch.cat((torch.nn.functional.pad(x, (0, 5)), long))
    with torch.no_grad():
        s, t = short.encode(x), wide.encode(y)
        for a, b in zip(s, t, strict=True):
            torch.testing.assert_close(a, b[:2], atol=1e-6, rtol=1e-5)
        z = s[0][None]
        z_long = torch.cat((z, z[:, :1]), 1)
        torch.testing.assert_close(
            short.log_likelihood(x, z), wide.log_likelihood(y, z_long)[:, :2], atol=1e-5, rtol=1e-5
        )


def test_word_dropout_hides_words_from_the_decoder_alone() -> None:
    model = small()
    z, x = model.simulate(8, seed=2)
    everything = torch.ones(8, 5, dtype=torch.bool)
    with torch.no_grad():
        full = model.log_likelihood(x, z)
        torch.testing.assert_close(model.log_likelihood(x, z, keep=everything), full)
        blind = model.log_likelihood(x, z, keep=~everything)
        x1 = torch.tensor([[4.0, 5, 6, END, PAD], [4.0, 6, 6, END, PAD]])
        hidden = torch.tensor([[True, False, True, True, True]]).expand(2, -1)
        nats = model.log_likelihood(x1, z[:, :1].expand(-1, 2, -1), keep=hidden)[0]
        unknown = torch.tensor([[4.0, UNKNOWN, 6, END, PAD]])
        same = model.log_likelihood(unknown, z[:, :1])[0]
        word = _nats_of_second(model, z[0, :1])
    assert float((blind - full).abs().max()) > 0.01
    # with its second word hidden, a sentence differs from that with <unknown> there in the second word's own term alone
    torch.testing.assert_close(nats[0] - word[5 - 1], nats[1] - word[6 - 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(nats[0] - word[5 - 1], same[0] - word[UNKNOWN - 1], atol=1e-5, rtol=1e-5)


def _nats_of_second(model: TextVAE, z: torch.Tensor) -> torch.Tensor:
    """log p(second word | first word 4, z) for words 1 .. V - 1."""
    h = model.decoder.states(torch.tensor([[PAD, 4]]), z[None])[0, :, 1]
    return model.decoder.logits(h, z).log_softmax(-1)[0]


def test_a_bag_of_words_does_not_know_their_order() -> None:
    model = small(bag_of_words=True)
    x = torch.tensor([[4.0, 5, 6, END, PAD], [6.0, 4, 5, END, PAD], [4.0, END, PAD, PAD, PAD]])
    z = torch.zeros(1, 3, 3)
    with torch.no_grad():
        nats, words = model.log_bag(x, z)[0], model.bag(z[0, 0]).log_softmax(-1)
    torch.testing.assert_close(nats[0], nats[1])
    torch.testing.assert_close(nats[2], words[3])
    torch.testing.assert_close(nats[0], words[3:6].sum())


@pytest.mark.parametrize("network", ["lstm", "transformer"])
def test_a_wide_beam_finds_the_best_sentence(network: str) -> None:
    model, x = small(length=4, network=network), all_sentences(4)
    z = model.family.prior(Plan.iid(1).draws(torch.arange(12)))[0]
    with torch.no_grad():
        nats = torch.stack([model.log_likelihood(x, one.expand(1, len(x), -1))[0] for one in z])
        best, score = beam_words(model, z, width=125)
        torch.testing.assert_close(score, nats.max(1).values, atol=1e-5, rtol=1e-5)
        assert torch.equal(best.float(), x[nats.argmax(1)])
        narrow, narrow_score = beam_words(model, z, width=1)
        assert torch.equal(narrow, greedy_words(model, z))
        torch.testing.assert_close(narrow_score, model.log_likelihood(narrow.float(), z[None])[0], atol=1e-5, rtol=1e-5)
        assert bool((score >= narrow_score - 1e-5).all())
    assert network == "transformer" or bool((score > narrow_score + 1e-3).any())


def test_sampled_sentences_have_their_probabilities() -> None:
    """Chi-square of 20,000 sentences over the enumeration, fixed seed: a correct sampler fails once in a million."""
    from scipy import stats

    model, x, n = small(length=3), all_sentences(3), 20_000
    z = torch.full((1, 3), 0.5)
    u = Plan.iid(1).draws(torch.arange(n), seed=4).uniform("u", 3)[0]
    rows = sample_words(model, z.expand(n, -1), u)
    with torch.no_grad():
        p = model.log_likelihood(x, z.expand(1, len(x), -1))[0].double().exp()
    seen = (rows[:, None] == x.long()).all(-1).sum(0)
    assert int(seen.sum()) == n
    assert len(x) == 31 and float(p.min()) * n > 5
    assert stats.chisquare(seen.numpy(), (p / p.sum() * n).numpy()).pvalue > 1e-6


def test_a_low_temperature_is_greedy() -> None:
    model = small()
    z = model.family.prior(Plan.iid(1).draws(torch.arange(50)))[0]
    u = Plan.iid(1).draws(torch.arange(50)).uniform("u", 5)[0]
    assert torch.equal(sample_words(model, z, u, temperature=1e-4), greedy_words(model, z))
    assert not torch.equal(sample_words(model, z, u), greedy_words(model, z))


def test_a_model_is_saved_with_its_words(tmp_path: Path) -> None:
    model = small(posterior="vmf", kappa=7.0)
    save_model(tmp_path / "m", model, name_of(model), {})
    again, _ = load_model(tmp_path / "m")
    z, x = model.simulate(4)
    assert again.config == model.config and again.vocabulary.decode(x) == model.vocabulary.decode(x)
    with torch.no_grad():
        assert torch.equal(again.log_joint(x, z), model.log_joint(x, z))


def test_refusals() -> None:
    model = small()
    with pytest.raises(UserError, match="expected sentences of 5 word numbers"):
        model.encode(torch.zeros(2, 4))
    with pytest.raises(UserError, match="there is no word 7, expected numbers 0 to 6"):
        model.encode(torch.full((1, 5), 7.0))
    with pytest.raises(UserError, match="no bag-of-words head"):
        model.log_bag(torch.zeros(1, 5), torch.zeros(1, 1, 3))
    with torch.no_grad():
        model.encoder.out.weight[0] = math.nan
    with pytest.raises(UserError, match=r"layer encoder.out\) are not finite for items \[0, 1\]"):
        model.encode(torch.tensor([[4.0, END, 0, 0, 0]] * 2))
    with pytest.raises(UserError, match="temperature is 0"):
        sample_words(model, torch.zeros(1, 3), torch.zeros(1, 5), temperature=0)
    with pytest.raises(UserError, match="a beam is at least 1"):
        beam_words(model, torch.zeros(1, 3), width=0)
    words = (*SPECIAL, "a")
    for changes, says in (
        ({"latent": 0}, "latent is 0"),
        ({"posterior": "vmf", "latent": 1}, "a sphere needs at least 2 dimensions"),
        ({"posterior": "vmf", "kappa": 0.0}, "kappa is 0.0, expected a positive number"),
        ({"posterior": "delta", "delta": -1.0}, "delta is -1.0"),
        ({"network": "transformer", "hidden": 10}, "multiple of 8"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"length": 1}, "length is 1"),
    ):
        with pytest.raises(UserError, match=says):
            TextVAEConfig(words=words, **changes)
