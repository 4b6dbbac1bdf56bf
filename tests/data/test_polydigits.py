"""Mini-PolyMNIST against its own recipe: what is drawn where, on which photograph, with which digit."""

import pytest
import torch

from infimum.data.embedded import digits
from infimum.data.polydigits import BACKGROUNDS, SIDE, SMALL, _photographs, _strokes, polydigits
from infimum.errors import UserError


def found(x: torch.Tensor, photograph: torch.Tensor) -> list[torch.Tensor]:
    """The places of a photograph of which a tuple's picture is a crop with some pixels inverted: where they are."""
    windows = (
        photograph.unfold(1, SIDE, 1).unfold(2, SIDE, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    )  # (places, 3, 16, 16)
    first = windows[:, :, 0, 0]
    likely = ((first - x[:, 0, 0]).abs().amax(1) < 1e-6) | ((1 - first - x[:, 0, 0]).abs().amax(1) < 1e-6)
    masks = []
    for window in windows[likely]:
        plain, inverted = ((part - x).abs().amax(0) < 1e-6 for part in (window, 1 - window))
        if bool((plain | inverted).all()):
            masks.append(inverted & ~plain)
    return masks


@pytest.mark.parametrize("translated", [False, True])
def test_every_picture_is_a_crop_inverted_on_a_digit_of_its_label(translated):
    """Searched for by brute force among all crops of the photograph and all digits of the right side of the division."""
    data, raw = polydigits(5, translated=translated), digits()
    labels = torch.from_numpy(raw.labels)
    strokes = _strokes(raw.values, SMALL if translated else SIDE).bool()
    photographs = _photographs()
    for part, label in ((data.train[3], data.train_labels[3]), (data.test[0], data.test_labels[0])):
        for m in range(5):
            masks = found(part[m], photographs[m])
            assert masks, BACKGROUNDS[m]
            own = strokes[labels == label]
            if translated:  # the digit at its place in the picture
                places = [(i, j) for i in range(SIDE - SMALL + 1) for j in range(SIDE - SMALL + 1)]
                own = torch.stack([torch.nn.functional.pad(own, (j, 6 - j, i, 6 - i)) for i, j in places]).flatten(0, 1)
            assert any(bool((own == mask).all((1, 2)).any()) for mask in masks), (BACKGROUNDS[m], int(label))


def test_shapes_labels_and_division():
    data = polydigits(3, copies=2)
    assert data.train.shape == (2800, 3, 3, 16, 16) and data.test.shape == (397, 3, 3, 16, 16)
    assert len(data.valid) == 0 and data.spec.shape == (3, 3, 16, 16) and data.spec.kind == "real"
    assert float(data.train.min()) >= 0 and float(data.train.max()) <= 1
    assert not set(data.train_ids.tolist()) & set(data.test_ids.tolist())
    counts = torch.bincount(torch.cat((data.train_labels[:1400], data.test_labels)))
    assert torch.equal(counts, torch.bincount(torch.from_numpy(digits().labels)))


def test_no_digit_is_on_both_sides():
    """The division deals out digits, and pairs only within a side: every digit of a side is used once in each modality."""
    from infimum.data.batching import order
    from infimum.data.polydigits import TEST, _paired

    labels = torch.from_numpy(digits().labels)
    rows = order(torch.arange(len(labels)), 0, "polydigits")[TEST:]
    pairs = _paired(labels[rows], 4, 0, "train/0")
    assert torch.equal(pairs.sort(0).values, torch.arange(1400)[:, None].expand(-1, 4))
    assert torch.equal(labels[rows][pairs], labels[rows][pairs[:, :1]].expand(-1, 4))
    assert float((pairs[:, 0] == pairs[:, 1]).double().mean()) < 0.05  # of 140 digits of a label, 1 stays by chance


def test_more_modalities_and_copies_only_add():
    small, large = polydigits(2), polydigits(4, copies=3)
    for part in ("train", "test"):
        rows = len(getattr(small, part))
        assert torch.equal(getattr(small, part), getattr(large, part)[:rows, :2])
    assert torch.equal(small.train_ids, large.train_ids[:1400]) and torch.equal(small.test_ids, large.test_ids)
    assert torch.equal(small.train_labels, large.train_labels[:1400])
    assert not torch.equal(large.train[:1400], large.train[1400:2800])


def test_seeds_change_everything_and_nothing_else_does():
    one, same, other = polydigits(2), polydigits(2), polydigits(2, seed=1)
    assert torch.equal(one.train, same.train) and torch.equal(one.test_labels, same.test_labels)
    assert not torch.equal(one.train, other.train) and not torch.equal(one.test_labels, other.test_labels)


def test_refusals():
    with pytest.raises(UserError, match="polydigits has 1 to 5 modalities, got 6"):
        polydigits(6)
    with pytest.raises(UserError, match="copies is the number of pairings of each digit, at least 1, got 0"):
        polydigits(2, copies=0)
