"""LLaDA's levels: the bias of the published rounding, and none without it (00-masked-diffusion, 3.5 and 4.1)."""

import itertools

import pytest
import torch

from discrete.worlds import fixture, model_of, ones
from infimum.discrete import exact_elbo
from infimum.discrete.published import levels_from, llada_levels
from infimum.errors import UserError
from infimum.evidence import Plan

SIZES = [(8, 16), (8, 24), (8, 200), (16, 128), (6, 12), (10, 4), (5, 4), (7, 3), (1, 4), (4, 1)]


def frequencies(length, copies, rounding):
    """How often each level comes, over all starts, relative to what it should be."""
    levels = levels_from(torch.arange(1, length + 1), copies, length, rounding)
    return torch.bincount(levels.flatten(), minlength=length + 1)[1:].double() / copies


@pytest.mark.parametrize(("length", "copies"), SIZES)
def test_all_levels_are_equally_frequent(length, copies):
    """By enumeration of the starts, for every copy on its own too."""
    assert torch.equal(frequencies(length, copies, "floor"), torch.ones(length).double())
    each = levels_from(torch.arange(1, length + 1), copies, length).sort(0).values
    assert torch.equal(each, torch.arange(1, length + 1)[:, None].expand(-1, copies))


@pytest.mark.parametrize(
    ("length", "odd", "even"),
    [(8, 0.5, 1.5), (24, 0.5, 1.5), (200, 0.5, 1.5), (16, 1.0, 1.0), (6, 0.875, 1.125), (10, 0.875, 1.125)],
)
def test_the_published_rounding_prefers_even_levels(length, odd, even):
    """Sixteen copies."""
    found = frequencies(length, 16, "banker")
    assert set(found[::2].tolist()) == {odd} and set(found[1::2].tolist()) == {even}


def test_the_published_rounding_at_five_tokens():
    """One copy of four ends in one half: its levels are 4, 4, 1, 1 and 3."""
    assert frequencies(5, 4, "banker").tolist() == [1.25, 0.75, 1.0, 1.25, 0.75]


def by_level(length):
    """L / l times the mean score of the sets of l masked tokens, for every l, on the table of 6.1."""
    table = fixture(n=length).log()
    means = []
    for level in range(1, length + 1):
        sets = list(itertools.combinations(range(length), level))
        means.append(sum(float(table[sum(2**i for i in s), list(s)].sum()) for s in sets) / len(sets) * length / level)
    return torch.tensor(means, dtype=torch.float64)


def test_the_bias_of_a_likelihood():
    """Of the expectation over starts and masks: none, and with the published rounding that of the preference for even levels."""
    terms, exact = by_level(4), float(exact_elbo(model_of(fixture()), ones()).value)
    assert float((frequencies(4, 8, "floor") * terms).mean()) == pytest.approx(exact, abs=1e-12)
    biased = float((frequencies(4, 8, "banker") * terms).mean())
    assert abs(biased - exact) > 0.01
    assert biased == pytest.approx(float((torch.tensor([0.5, 1.5, 0.5, 1.5]) * terms).mean()), abs=1e-12)


@pytest.mark.parametrize("rounding", ["floor", "banker"])
def test_drawn_levels_and_weights(rounding):
    """Within 4.5 standard errors of the enumerated frequencies: of 8 levels, a false alarm in 18,000 runs; pure in the seed."""
    draws = Plan.iid(4000).draws(torch.arange(2), seed=5)
    levels, weight = llada_levels(16, 8, draws, rounding=rounding)
    assert levels.shape == weight.shape == (4000, 2, 16) and torch.equal(weight, 8 / levels.double())
    share = torch.stack([(levels == level).double().mean(-1).flatten() for level in range(1, 9)])
    z = (share.mean(1) * 8 - frequencies(8, 16, rounding)) / (share.std(1) * 8 / 8000**0.5).clamp_min(1e-12)
    assert float(z.abs().max()) < 4.5
    assert torch.equal(levels, llada_levels(16, 8, draws, rounding=rounding)[0])


@pytest.mark.parametrize(("length", "copies"), [(8, 16), (5, 4), (7, 3)])
def test_the_lattice_of_the_library_is_unbiased(length, copies):
    """Levels of form "count" under `Plan.lattice`: within 4.5 standard errors over replicates."""
    model = model_of(fixture(n=length))
    s = model.encode(ones(length))
    masks = model.masks(s, Plan.lattice(copies, replicates=6000).draws(torch.arange(1), seed=7))
    levels = masks.masked.sum(-1).view(6000, copies)
    share = torch.stack([(levels == level).double().mean(1) for level in range(1, length + 1)])
    z = (share.mean(1) * length - 1) / (share.std(1) * length / 6000**0.5).clamp_min(1e-12)
    assert float(z.abs().max()) < 4.5
    assert int((levels.sort(1).values.diff(dim=1) > -(-length // copies)).sum()) == 0  # evenly spaced


@pytest.mark.parametrize(("copies", "length", "rounding"), [(0, 4, "floor"), (4, 0, "floor")])
def test_nothing_to_level_is_refused(copies, length, rounding):
    with pytest.raises(UserError, match="copies"):
        levels_from(torch.ones(1, dtype=torch.long), copies, length, rounding)
