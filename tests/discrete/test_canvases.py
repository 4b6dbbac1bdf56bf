"""What a network sees and what it does not: prompts, padding, masks among the tokens; and what is refused at once."""

import math

import pytest
import torch
from torch import nn

from infimum.discrete import (
    Autoregressive,
    MaskedDiffusion,
    MaskedDiffusionConfig,
    canvas_of,
    completions,
    exact_elbo,
    exact_log_likelihood,
    fill,
    masks_of,
)
from infimum.discrete.learner import SequenceLearner
from infimum.errors import UserError
from infimum.evidence import Plan, path_terms, weigh
from infimum.nets import Llada
from infimum.training import Run, load_model, save_model, train

PROMPTS, ANSWERS = [[1, 2, 0], [], [3]], [[0, 1], [2, 2, 2, 1], [3, 0, 1]]
X = completions(PROMPTS, ANSWERS, pad_id=0)


class Spy(nn.Module):
    """Notes every canvas, and knows nothing."""

    def __init__(self, vocabulary=4):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(vocabulary)), []

    def forward(self, z, present=None):
        self.seen.append(z.clone())
        return self.weight.expand(*z.shape, -1)


def small(blocks=1, **options):
    torch.manual_seed(0)
    config = MaskedDiffusionConfig(**{"vocabulary": 4, "width": 16, "heads": 2, "blocks": blocks} | options)
    model = MaskedDiffusion(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("form", ["count", "complement", "time", "rounded", "rounded-official"])
@pytest.mark.parametrize("block", [None, 2])
@pytest.mark.parametrize("even", [False, True])
def test_prompts_and_padding_are_never_masked(form, block, even):
    s = canvas_of(X, 4, 4)
    masks = masks_of(s, Plan.iid(300).draws(torch.arange(3)), form, block_length=block, even=even)
    assert not bool((masks.masked & ~s.target).any()) and not bool((masks.scored & ~masks.masked).any())
    assert torch.equal(masks.masked.any(0), s.target)


@pytest.mark.parametrize("way", ["orders", "exact", "bound", "fill"])
def test_networks_see_prompts(way):
    spy = Spy()
    model = MaskedDiffusion(MaskedDiffusionConfig(4), spy).eval()
    with torch.no_grad():
        if way == "orders":
            weigh(model.unrolled(), X, Plan.iid(3).draws(torch.arange(3)))
        elif way == "fill":
            fill(model, X, Plan.iid(3).draws(torch.arange(3)))
        else:
            (exact_log_likelihood if way == "exact" else exact_elbo)(model, X)
    seen = torch.cat(spy.seen)
    assert len(seen) > 3 and bool((seen == 4).any())
    for z in seen:
        fits = [bool((z[~t] == row[~t]).all()) for row, t in zip(X["tokens"], X["target"], strict=True)]
        assert any(fits)


@pytest.mark.parametrize(
    ("lengths", "points", "block", "side"),
    [
        ([4], 2, None, "lower"), ([5], 2, None, "none"), ([3], 1, None, "none"), ([2], 1, None, "lower"),
        ([2, 5], 2, None, "none"), ([4], 2, 2, "none"),
    ],
)  # fmt: skip
def test_quadrature_is_a_bound_where_it_is_exact_only(lengths, points, block, side):
    """A polynomial of degree L - 1, exact from 2 N = L on; the longest item decides, and blocks have steps."""
    from infimum.evidence import elbo

    with pytest.warns(UserWarning, match="infinite variance"):
        model = small(form="time", block_length=block)
    x = completions([[]] * len(lengths), [[1] * n for n in lengths], pad_id=0)
    with torch.no_grad():
        assert elbo(path_terms(model, x, Plan.gauss(points).draws(torch.arange(len(lengths))))).side == side


@pytest.mark.parametrize("shift", [0, 1])
def test_padding_changes_nothing(shift):
    """Rows alone and together, an empty prompt among them, with any padding; also a number that no embedding has."""
    model = small(2, logit_shift=shift)
    with torch.no_grad():
        alone = [
            exact_log_likelihood(model, completions([p], [a], pad_id=0)).value
            for p, a in zip(PROMPTS, ANSWERS, strict=True)
        ]
        for pad in (0, 1, 3, -100, 17):
            together = exact_log_likelihood(model, completions(PROMPTS, ANSWERS, pad_id=pad)).value
            torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("shift", [0, 1])
def test_empty_columns_are_left_out(shift):
    """A batch of short rows of a padded file: narrower canvases, the same masks and terms."""
    model, some = small(2, logit_shift=shift), torch.tensor([0, 2])
    draws = Plan.iid(20).draws(torch.arange(3))
    x = completions([*PROMPTS[:1], [1] * 6, *PROMPTS[2:]], [*ANSWERS[:1], [2] * 9, *ANSWERS[2:]], pad_id=0)
    with torch.no_grad():
        whole = path_terms(model, x, draws).value[:, some]
        part = {name: each[some] for name, each in x.items()}
        assert model.encode(part).tokens.shape == (2, 3 + 3) and x["tokens"].shape == (3, 6 + 9)
        torch.testing.assert_close(path_terms(model, part, draws.take(some)).value, whole)


def test_shifted_windows_start_at_the_first_token():
    """With an empty prompt beside a longer one a kept window gives what whole passes give."""
    model = small(1, logit_shift=1)
    x = completions([[1, 2, 0], []], 4, pad_id=0, fill=4)
    draws = Plan.iid(20).draws(torch.arange(2))
    plain, kept = (fill(model, x, draws, block_length=2, cache=c).tokens for c in ("none", "dual"))
    assert torch.equal(plain, kept)


def test_a_mask_among_the_tokens_is_never_data():
    """Of the autoregressive twin too: probabilities of what can be data add up to 1, and it never writes the mask."""
    torch.manual_seed(0)
    config = MaskedDiffusionConfig(vocabulary=3, mask_id=1, length=3, width=8, heads=1)
    twin = Autoregressive(config).double().eval()
    x = torch.tensor([[a, b, c] for a in (0, 2) for b in (0, 2) for c in (0, 2)])
    with torch.no_grad():
        assert float(twin.log_evidence(x).value.logsumexp(0)) == pytest.approx(0, abs=1e-12)
        drawn = twin.generate(Plan.iid(1).draws(torch.arange(300)))
    assert set(drawn.flatten().tolist()) == {0, 2}


def test_impossible_tokens_and_nan():
    """A probability of 0: minus infinity on both sides; NaN: refused."""
    model = MaskedDiffusion(MaskedDiffusionConfig(4), Spy()).eval()
    with torch.no_grad():
        model.network.weight[2] = -math.inf
        x = torch.tensor([[0, 1, 2, 3]])
        assert exact_log_likelihood(model, x).value.tolist() == exact_elbo(model, x).value.tolist() == [-math.inf]
        model.network.weight[2] = math.nan
        for exact in (exact_log_likelihood, exact_elbo):
            with pytest.raises(UserError, match="log p of item 0 is NaN"):
                exact(model, x)


def test_random_places_go_by_the_models_blocks():
    """The default is the order that the ELBO belongs to."""
    model = small(block_length=2)
    blank, draws = torch.zeros(2, 6, dtype=torch.long), Plan.iid(50).draws(torch.arange(2))
    by_default, blocks, whole = (fill(model, blank, draws, order="random", block_length=b).tokens for b in (None, 2, 6))
    assert torch.equal(by_default, blocks) and not torch.equal(by_default, whole)


@pytest.mark.parametrize("temperature", [3.0, 6.0])
def test_confidence_is_without_temperature(temperature):
    """The place that is written first is the one whose token is most probable by p, not by p^(1/T)."""
    differ = 0
    for seed in range(120):
        model, x = small(), completions([[seed % 4, seed // 4 % 4]], 3, pad_id=0, fill=4)
        draws = Plan.iid(1).draws(torch.tensor([seed]))
        spied = []
        inner = model.vectors
        model.vectors = lambda z, present, at, inner=inner, spied=spied: (
            spied.append(z.clone()),
            inner(z, present, at),
        )[1]
        written = fill(model, x, draws, temperature=temperature).tokens[0, 0]
        first = int(((spied[1] != spied[0])[0]).nonzero()[0])
        logits = model.logits(spied[0], x["present"], x["target"]).detach()
        # what every place would have written is drawn from p^(1/T) by the step's own numbers
        from infimum.discrete.canvas import uniforms

        u = uniforms(canvas_of(x, 4, 4, filled=False), draws, "token/0/0")[0][x["target"]]
        shares = (logits / temperature).softmax(1)
        token = torch.searchsorted(shares.cumsum(1), u[:, None], right=True)[:, 0]
        by_p, by_share = (each.gather(1, token[:, None])[:, 0] for each in (logits.softmax(1), shares))
        assert first - 2 == int(by_p.argmax()) and int(written[first]) == int(token[first - 2])
        differ += int(by_p.argmax() != by_share.argmax())
    assert differ > 0


def test_other_networks_are_not_written_as_the_configurations(tmp_path):
    """A base of rotary positions that the configuration does not have: no checkpoint that would load as another model."""
    config = MaskedDiffusionConfig(5, width=16, heads=2, blocks=1)
    same = MaskedDiffusion(config, Llada(6, width=16, heads=2, blocks=1, theta=1e4))
    other = MaskedDiffusion(config, Llada(6, width=16, heads=2, blocks=1))
    assert same.describable and same.in_form("complement").describable and not other.describable
    assert not MaskedDiffusion(config, Llada(6, width=16, heads=2, blocks=1, theta=1e4, causal=True)).describable
    assert not MaskedDiffusion(config, Llada(6, width=16, heads=2, blocks=1, kv_heads=1, theta=1e4)).describable
    save_model(tmp_path / "same", same, "masked-diffusion", {})
    assert torch.equal(load_model(tmp_path / "same")[0].network.wte.weight, same.network.wte.weight)
    with pytest.raises(UserError, match="could not be built again"):
        save_model(tmp_path / "other", other, "masked-diffusion", {})
    x = torch.randint(0, 5, (8, 4))
    train(SequenceLearner(other, x, batch=4), steps=1, run=Run(tmp_path / "run", quiet=True))
    with pytest.raises(UserError, match="no model of a known class"):
        load_model(tmp_path / "run" / "checkpoint")


def test_modes_are_kept():
    """Another form of a model in training leaves its network in training."""
    model = small().train()
    assert model.in_form("complement").training and model.network.training
    assert not model.eval().in_form("complement").training


def test_blocks_can_be_recomputed():
    """``remember=False``: fewer bytes kept for the backward pass, the same gradient."""
    from infimum.testing import peak_saved_bytes

    x, bytes_kept, slopes = torch.randint(0, 9, (4, 32)), [], []
    for remember in (True, False):
        torch.manual_seed(0)
        network = Llada(10, width=32, heads=2, blocks=6, remember=remember).double()
        with peak_saved_bytes(network) as peak:
            network(x).square().sum().backward()
        bytes_kept.append(peak.bytes)
        slopes.append([p.grad for p in network.parameters()])
    assert bytes_kept[1] < 0.3 * bytes_kept[0]
    for a, b in zip(*slopes, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MaskedDiffusionConfig(2, characters="aab"), "characters for a vocabulary of 2"),
        (lambda: MaskedDiffusionConfig(1, mask_id=0), "the only token is the mask"),
        (lambda: MaskedDiffusion(MaskedDiffusionConfig(11), Llada(11, width=8, heads=1)), "mask id 11 or vocabulary 11 >= 11 rows"),
        (lambda: exact_elbo(MaskedDiffusion(MaskedDiffusionConfig(11), Spy()).eval(), torch.ones(1, 2).long()), "4 logits"),
        (lambda: canvas_of(torch.zeros(0, 3).long(), 4, 4), "the batch has no items"),
        (lambda: exact_elbo(small(), torch.ones(1, 2).long(), rows=0), "rows is 0"),
        (lambda: fill(small(), X, Plan.iid(1).draws(torch.arange(3)), order="threshold", threshold=math.nan), "threshold is nan"),
        (
            lambda: fill(small(mask_id=3), torch.ones(1, 2).long(), Plan.iid(1).draws(torch.arange(1)), forbidden=[0, 1, 2]),
            "every token of the vocabulary is forbidden",
        ),
        (
            lambda: fill(small(), torch.ones(1, 6).long(), Plan.iid(1).draws(torch.arange(1)), steps=8, block_length=2),
            "8 steps do not divide among 3 blocks of 2 tokens: take 6$",
        ),
        (
            lambda: SequenceLearner(small(), {"tokens": torch.ones(4, 3).long(), "target": torch.ones(2, 3).bool()}),
            "tokens 4, target 2",
        ),
    ],
)  # fmt: skip
def test_refusals(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_thresholds_need_no_steps():
    model = small()
    draws = Plan.iid(1).draws(torch.arange(1))
    a, b = (fill(model, torch.zeros(1, 6).long(), draws, order="threshold", steps=n).tokens for n in (None, 4))
    assert torch.equal(a, b)
