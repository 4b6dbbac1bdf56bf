"""Splits and minibatches are pure functions of a seed, of the items' ids and of a counter."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infimum.data import batches, load
from infimum.data.batching import order
from infimum.errors import UserError


def test_the_order_is_pinned() -> None:
    """Changing it moves every user's test items into training: a breaking change."""
    assert order(torch.arange(10), 0, "rows").tolist() == [1, 9, 4, 7, 0, 3, 5, 6, 2, 8]
    assert order(torch.arange(10), 1, "batches", 2).tolist() == [0, 6, 5, 7, 9, 8, 4, 1, 3, 2]


def test_orders_are_uniform() -> None:
    """All 24 orders of 4 items over 4,800 seeds: chi-square(23), false alarm 1 in 10^6 (bound 73.7)."""
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(4800):
        key = tuple(order(torch.arange(4), seed, "rows").tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 73.7


def test_split_depends_on_seed_and_shares() -> None:
    first, same, other = load("iris", seed=1), load("iris", seed=1), load("iris", seed=2)
    assert torch.equal(first.test_ids, same.test_ids)
    assert not torch.equal(first.test_ids, other.test_ids)
    assert [len(x) for x in (first.train, first.valid, first.test)] == [105, 15, 30]
    none = load("iris", valid=0.0, test=0.0)
    assert [len(x) for x in (none.train, none.valid, none.test)] == [150, 0, 0]
    assert none.valid.shape == (0, 4)
    assert none.spec.split.train == 1.0


def test_an_id_column_ties_the_split_to_the_items_and_not_to_the_rows(tmp_path) -> None:
    rows = [f"p{i},{i * 0.37},{i % 7}" for i in range(50)]
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(50)]
    for name, table in (("a.csv", rows), ("b.csv", shuffled)):
        (tmp_path / name).write_text("\n".join(["who,x,y", *table]))
    a, b = (load(tmp_path / name, id="who") for name in ("a.csv", "b.csv"))
    assert torch.equal(a.test_ids, b.test_ids)
    assert torch.equal(a.train_ids, b.train_ids)
    torch.testing.assert_close(a.test, b.test)


@given(size=st.integers(1, 12), batch=st.integers(1, 30), start=st.integers(0, 20), seed=st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_batches_resume_and_cover_each_epoch_once(size: int, batch: int, start: int, seed: int) -> None:
    x = torch.arange(size) * 10.0
    count = 3 * size // batch + 2
    full = list(islice(batches(x, batch, seed=seed), start + count))
    resumed = list(islice(batches(x, batch, seed=seed, start=start), count))
    for (xa, ia), (xb, ib) in zip(full[start:], resumed, strict=True):
        assert torch.equal(ia, ib)
        assert torch.equal(xa, xb)
        assert len(ia) == batch
        assert torch.equal(xa, x[ia])
    flat = torch.cat([index for _, index in full])
    for epoch in range(len(flat) // size):
        seen = flat[epoch * size : (epoch + 1) * size]
        assert torch.equal(seen.sort().values, torch.arange(size))


def test_epochs_differ_and_so_do_seeds() -> None:
    x = torch.zeros(64, 3)
    (_, a), (_, b) = islice(batches(x, 64), 2)
    (_, c) = next(batches(x, 64, seed=1))
    assert not torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_far_start_is_immediate() -> None:
    index = next(batches(torch.zeros(7), 5, start=10**15))[1]
    assert len(index) == 5


@pytest.mark.parametrize(
    ("size", "batch", "start", "message"),
    [(0, 1, 0, "x has no items"), (3, 0, 0, "batch is 0, expected at least 1"), (3, 1, -1, "start is -1")],
)
def test_impossible_batches_are_refused_at_once(size: int, batch: int, start: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        batches(torch.zeros(size, 2), batch, start=start)
