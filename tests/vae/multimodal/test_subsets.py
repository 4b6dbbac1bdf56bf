"""Which subsets there are, which an item observes, and that random ones are uniform."""

import pytest
import torch

from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.vae.multimodal.subsets import log_subset_weights, observed_log_weights, random_members, subset_members
from vae.multimodal.cases import LIMIT, draws

NAMES = ("a", "b", "c")


def test_rows():
    assert subset_members(NAMES, "full").tolist() == [[True] * 3]
    assert torch.equal(subset_members(NAMES, "single"), torch.eye(3).bool())
    assert len({tuple(row) for row in subset_members(NAMES, "all").tolist()}) == 7
    assert subset_members(NAMES, "sample").sum(1).tolist() == [1, 1, 1, 3]
    assert subset_members(NAMES, (("c", "a"), ("b",))).tolist() == [[True, False, True], [False, True, False]]
    assert log_subset_weights(2, (1.0, 3.0)).exp().tolist() == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("subsets", ["all", "single", "full", (("a", "b"), ("c",), ("a",))])
def test_weights_go_to_what_is_observed(subsets):
    """Only subsets that the item has in full, renormalised; where there is none, those that it has in part."""
    members = subset_members(NAMES, subsets)
    log_w = log_subset_weights(len(members), tuple(float(i + 1) for i in range(len(members))))
    observed = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0]]).bool()
    got = observed_log_weights(log_w, members, observed).exp()
    for row, has in zip(got, observed, strict=True):
        inside = torch.tensor([bool((has | ~m).all()) for m in members])
        if not inside.any():
            inside = torch.tensor([bool((has & m).any()) for m in members])
        expected = torch.where(inside, log_w.exp(), 0.0)
        torch.testing.assert_close(row, expected / expected.sum())


@pytest.mark.parametrize("plan", [Plan.iid(6000), Plan.stratified(6000)])
def test_random_subsets_are_uniform_over_what_is_observed(plan):
    """Frequencies of all 7 and of the 3 non-empty subsets, |z| < 5.5 each (strata only narrow them)."""
    observed = torch.tensor([[1, 1, 1], [1, 0, 1]]).bool()
    seen = random_members(draws(0, 2, plan=plan), observed)
    assert not bool((seen & ~observed).any()) and bool(seen.any(-1).all())
    code = (seen.long() * torch.tensor([1, 2, 4])).sum(-1)
    for item, count in ((0, 7), (1, 3)):
        frequency = torch.bincount(code[:, item], minlength=8).double() / 6000
        expected = torch.where(frequency > 0, 1 / count, 0.0)
        assert int((frequency > 0).sum()) == count
        assert float((frequency - expected).abs().max() / (1 / count * (1 - 1 / count) / 6000) ** 0.5) < LIMIT


def test_random_subsets_of_given_sizes():
    observed = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    sizes = random_members(draws(200, 2), observed, 2, 3).sum(-1)
    assert sorted(sizes[:, 0].unique().tolist()) == [2, 3]
    assert sizes[:, 1].unique().tolist() == [1]  # fewer than two are there


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: subset_members(tuple(map(str, range(13))), "all"),
            "13 modalities have 2.13 - 1 subsets: use subsets='sample'",
        ),
        (
            lambda: subset_members(NAMES, "some"),
            "subsets is 'full', 'single', 'all', 'sample' or tuples of names, got 'some'",
        ),
        (lambda: subset_members(NAMES, (("a", "x"),)), "'x' is no modality: the model has a, b, c"),
        (lambda: subset_members(NAMES, (("a",), ("a", "a"))), "a subset is given twice"),
        (lambda: subset_members(NAMES, ((),)), "at least one modality"),
        (lambda: log_subset_weights(2, (1.0,)), "one weight for each of 2 subsets, got 1"),
        (lambda: log_subset_weights(2, (1.0, 0.0)), "must be positive"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(UserError, match=says):
        call()
