"""What each method masks: every token in its turn, the prompt and earlier blocks if asked, nothing else."""

import pytest
import torch

from alignment.worlds import fixture, model_of
from infimum.alignment import (
    BGPO,
    ESPO,
    SPG,
    DiffuGRPO,
    GroupDiffusionPO,
    Reinforce,
    block_masks,
    elbo_of,
    perturbed,
    quadrature_plan,
    token_table,
)
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, canvas_of, completions, masks_of
from infimum.evidence import Plan

ELBO = -3.2292308426711944
"""Of the fixture (00-masked-diffusion 6.1)."""


def blocks_of(length, block):
    """A model that writes block by block, and a completion."""
    config = MaskedDiffusionConfig(3, length=length, network="mlp", width=4, blocks=1, block_length=block)
    model = MaskedDiffusion(config).eval()
    return model, canvas_of(torch.zeros(200, length, dtype=torch.long), 3, 3)


@pytest.mark.parametrize(
    "method",
    [
        *(GroupDiffusionPO(points=n, rule=r) for r, n in (("gauss", 2), ("gauss", 3), ("midpoint", 4), ("mc", 3))),
        GroupDiffusionPO(rule="simpson-heuristic", mask="count_official"),
        *(GroupDiffusionPO(points=3, mask=m) for m in ("bernoulli", "count_official")),
        BGPO(n_t=3), ESPO(), Reinforce(), SPG(block_length=8), DiffuGRPO(),
    ],
    ids=str,
)  # fmt: skip
def test_every_token_is_scored_by_some_mask(method):
    """Also where the policy writes by blocks: fixed levels must not leave blocks out."""
    model, s = blocks_of(32, 8)
    masks = method.masks(model, s, method.plan.draws(torch.arange(200)))
    assert bool(masks.scored.any(0).any(0).all())


def test_a_pair_of_espo_masks_every_token_once():
    model, s = blocks_of(9, 3)
    method = ESPO(pairs=2)
    scored = method.masks(model, s, method.plan.draws(torch.arange(200))).scored
    assert torch.equal(scored[0] ^ scored[1], s.target) and torch.equal(scored[2] ^ scored[3], s.target)


def test_random_times_with_counts_are_unbiased():
    """|z| < 4.5 over 40,000 completions; the number next to t L would have been -3.0498 on average, 20 errors away."""
    model = model_of(fixture())
    method = GroupDiffusionPO(rule="mc", points=3)
    s = canvas_of(torch.ones(40_000, 4, dtype=torch.long), 2, 2)
    draws = method.plan.draws(torch.arange(40_000))
    with torch.no_grad():
        value = elbo_of(token_table(model, s, draws, method.masks(model, s, draws)))
    error = float(value.std()) / 200
    assert abs(float(value.mean()) - ELBO) < 4.5 * error and error < (3.2292 - 3.0498) / 20


@pytest.mark.parametrize("length", [4, 8, 256])
def test_the_last_node_of_the_heuristic_masks_all(length):
    """t = .1, .5, 1 with floor(t L) masks and at least one."""
    s = canvas_of(torch.zeros(1, length, dtype=torch.long), 3, 3)
    draws = quadrature_plan("simpson-heuristic", 3).draws(torch.arange(1))
    count = masks_of(s, draws, "rounded-official").scored.sum(-1)[:, 0].tolist()
    assert count == [max(1, length // 10), length // 2, length]


def test_block_all_without_blocks_is_everything():
    _, s = blocks_of(8, 4)
    draws = Plan.iid(6).draws(torch.arange(200))
    whole = block_masks(s, draws, "block_all", None)
    assert bool(whole.scored.all()) and bool((whole.weight == 1).all())
    block = block_masks(s, draws, "block_all", 4)
    assert set(block.scored.sum(-1).flatten().tolist()) == {4} and bool((block.weight == 2).all())


def test_perturbation_leaves_the_block_alone():
    """Prompts and earlier blocks lose 15% of their tokens (|z| < 4.5); the chosen block's numbers of masks stay uniform."""
    x = completions([[1, 2, 0, 1]] * 4000, [[0] * 8] * 4000, pad_id=0)
    s = canvas_of(x, 3, 3)
    model = MaskedDiffusion(MaskedDiffusionConfig(3, width=8, blocks=1, heads=1)).eval()
    method = SPG(flavour="official", block_length=4, num_masks=2)
    draws = method.plan.draws(torch.arange(4000))
    plain, found = block_masks(s, draws, "block", 4), method.masks(model, s, draws)
    extra = found.masked & ~plain.masked
    last = plain.scored[..., 8:].any(-1)  # the second of two blocks was chosen
    assert not bool((plain.masked & ~found.masked).any())
    assert not bool(extra[..., 8:].any()) and not bool(extra[..., 4:8][~last].any())
    for share in (extra[..., :4], extra[..., 4:8][last]):
        n = share.numel()
        assert abs(float(share.double().mean()) - 0.15) < 4.5 * (0.15 * 0.85 / n) ** 0.5
    whole = SPG(flavour="official", masking="random").masks(model, s, draws)
    clean = block_masks(s, draws, "random")
    assert torch.equal(whole.masked[..., 4:], clean.masked[..., 4:]) and bool(whole.masked[..., :4].any())


def test_perturbation_does_not_see_padding():
    """Three pads in front of a row change no mask of its tokens."""
    short = canvas_of(completions([[1, 2]], [[0, 1, 2]], pad_id=0), 3, 3)
    long = canvas_of(completions([[1, 2], [0, 1, 2, 0, 1]], [[0, 1, 2], [0]], pad_id=0), 3, 3)
    draws = Plan.iid(50).draws(torch.arange(1))
    a = perturbed(short, draws, block_masks(short, draws, "all"), 0.5).masked
    wide = Plan.iid(50).draws(torch.arange(2))
    b = perturbed(long, wide, block_masks(long, wide, "all"), 0.5).masked[:, :1, 3:]
    assert torch.equal(a, b) and 0 < float(a[..., :2].double().mean()) < 1
