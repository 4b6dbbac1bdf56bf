"""Kept keys and values: exact where they must be, and where they are not, what they say they are."""

import pytest
import torch

from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, completions, fill
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.nets import Llada
from infimum.nets.llada import Kept

PROMPTS = [[1, 2, 3, 0], [3], [0, 4]]


def network(blocks=1, **options):
    torch.manual_seed(0)
    model = MaskedDiffusion(MaskedDiffusionConfig(vocabulary=5, width=16, heads=2, blocks=blocks, **options)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return model.eval()


def keys(n, k=3):
    return Plan.iid(k).draws(torch.arange(n))


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize(
    "options",
    [
        {"order": "confidence", "steps": 4},
        {"order": "threshold", "threshold": 0.5},
        {"order": "confidence", "guidance": 0.7},
    ],
)
def test_one_layer_is_exact(cache, options):
    """Keys and values of one layer depend on their own token alone: every token is the one without a cache, for fewer columns."""
    model = network()
    x = completions(PROMPTS, 8, pad_id=0, fill=5)
    rule = {"block_length": 4, "temperature": 0.9, **options}
    plain, kept = fill(model, x, keys(3), **rule), fill(model, x, keys(3), cache=cache, **rule)
    assert torch.equal(plain.tokens, kept.tokens) and (plain.steps, plain.calls) == (kept.steps, kept.calls)
    assert kept.positions < plain.positions == plain.calls * 12
    assert torch.equal(fill(model, x, keys(3), cache=cache, rows=2, **rule).tokens, plain.tokens)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_shifted_logits_and_several_layers(cache, shift):
    """A step a block computes all anew: exact for any depth. More steps are not; one layer is, whatever place logits are of."""
    deep, x = network(3, logit_shift=shift), completions(PROMPTS, 8, pad_id=0, fill=5)
    once = {"block_length": 4, "steps": 2}
    assert torch.equal(fill(deep, x, keys(3), **once).tokens, fill(deep, x, keys(3), cache=cache, **once).tokens)
    often = {"block_length": 4, "steps": 8}
    plain, kept = (fill(deep, x, keys(3, 50), cache=c, **often) for c in ("none", cache))
    assert 0 < float((plain.tokens != kept.tokens).double().mean()) < 0.5
    # a whole pass a block and three of a window: with the prompt's 4 columns, or without what is on the right too
    window = {"prefix": (8 + shift) + (4 + shift), "dual": 2 * (4 + shift)}[cache]
    assert kept.positions == 150 * (2 * 12 + 3 * window) and plain.positions == 150 * 8 * 12
    one = network(1, logit_shift=shift)
    plain, kept = (fill(one, x, keys(3, 50), cache=c, **often) for c in ("none", cache))
    assert torch.equal(plain.tokens, kept.tokens)


@pytest.mark.parametrize("last", [7, 9])
def test_a_window_sees_what_the_others_were(last):
    """Against whole passes whose layers are handed the old vectors outside of the window."""
    net, (first, length) = network(3).network, (3, 9)
    assert isinstance(net, Llada)
    torch.manual_seed(1)
    before, after = torch.randint(0, 6, (2, 4, length))
    after[:, :first], after[:, last:] = before[:, :first], before[:, last:]
    present = torch.ones(4, length, dtype=torch.bool)
    present[1, :2] = False
    old = []
    hooks = [block.register_forward_pre_hook(lambda _, inputs: old.append(inputs[0])) for block in net.blocks]
    net.features(before, present)
    [hook.remove() for hook in hooks]

    def handed(i):
        def hook(_, inputs):
            h = inputs[0].clone()
            h[:, :first], h[:, last:] = old[i][:, :first], old[i][:, last:]
            return (h, *inputs[1:])

        return hook

    hooks = [block.register_forward_pre_hook(handed(i)) for i, block in enumerate(net.blocks)]
    want = net.features(after, present)[:, first:last]
    [hook.remove() for hook in hooks]
    kept = [Kept() for _ in net.blocks]
    torch.testing.assert_close(net.windowed(before, present, kept, 0), net.features(before, present))
    got, now = net.windowed(after[:, first:last], present, kept, first), net.features(after, present)
    torch.testing.assert_close(got, want.detach())
    assert float((got - now[:, first:last]).detach().abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache": "prefix", "order": "random"}, "no cache 'prefix' for order 'random'"),
        ({"cache": "dual", "order": "ancestral"}, "choose none, or prefix or dual with confidence or threshold"),
    ],
)
def test_refusals(options, words):
    x = completions(PROMPTS, 8, pad_id=0, fill=5)
    with pytest.raises(UserError, match=words):
        fill(network(), x, keys(3), **options)


def test_what_cannot_be_kept_is_refused():
    """A network of another kind; completions of unlike lengths; gaps."""
    puzzle = MaskedDiffusion(MaskedDiffusionConfig(vocabulary=4, length=6, network="mlp", width=8)).eval()
    with pytest.raises(UserError, match="a CanvasMLP keeps no keys"):
        fill(puzzle, torch.zeros(2, 6, dtype=torch.long), keys(2), cache="dual")
    x = completions([[1], [2]], [[5, 5, 5], [5, 5]], pad_id=0)
    with pytest.raises(UserError, match="of one length"):
        fill(network(), x, keys(2), cache="dual")
    gap = {"tokens": torch.full((1, 3), 2), "target": torch.tensor([[True, False, True]])}
    with pytest.raises(UserError, match="without gaps"):
        fill(network(), gap, keys(1), cache="prefix")
