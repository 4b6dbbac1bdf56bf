"""Sums and orderings over shapes, patterns of missing mass, and magnitudes, searched by hypothesis."""

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infimum.evidence import (
    LogWeights,
    cubo,
    elbo,
    eubo,
    harmonic,
    iwae,
    looser,
    renyi,
    snis_eubo,
    tvo,
    vr_max,
)
from infimum.evidence.debias import leave_one_out
from infimum.evidence.reductions import log_sum_exp

NUMBER = st.one_of(
    st.floats(-50, 50),
    st.sampled_from([-math.inf, 0.0, -1e6, 1e6, -1e100, 1e100, 1e-300, -745.0, 709.0]),
)


@st.composite
def tables(draw, finite: bool = False):
    """(K, B) float64, K and B from 1."""
    k, b = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    number = NUMBER.filter(math.isfinite) if finite else NUMBER
    rows = draw(st.lists(st.lists(number, min_size=b, max_size=b), min_size=k, max_size=k))
    return torch.tensor(rows, dtype=torch.float64)


def exact_log_sum(column: list[float]) -> float:
    """log sum exp by a correctly rounded sum of scaled terms."""
    peak = max(column)
    if peak == -math.inf:
        return -math.inf
    return peak + math.log(math.fsum(math.exp(v - peak) for v in column))


def slack(*values: torch.Tensor) -> torch.Tensor:
    """Rounding: a few units in the last place of the largest finite magnitude involved, item by item."""
    size = torch.stack([torch.where(v.isfinite(), v.abs(), 0.0) for v in values]).amax(0)
    return 1e-14 * (size + 1)


def at_most(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> bool:
    assert not a.isnan().any() and not b.isnan().any()
    return bool(((a <= b) | (a - b <= scale)).all())


@settings(max_examples=100, deadline=None)
@given(tables())
def test_log_sum_exp(log_w):
    """T2: equals the exact sum to 1e-12, is shift invariant, handles -inf, and its gradient is the softmax or 0."""
    log_w.requires_grad_(True)
    value = log_sum_exp(log_w)
    for b in range(log_w.shape[1]):
        expected = exact_log_sum(log_w[:, b].tolist())
        got = float(value[b].detach())
        assert got == expected or abs(got - expected) <= 1e-12 * max(1, abs(expected))
    torch.where(value.isfinite(), value, 0.0).sum().backward()
    assert log_w.grad.isfinite().all()
    alive = value.detach().isfinite()
    assert torch.allclose(log_w.grad.sum(0), alive.double(), atol=1e-12)
    shifted = log_sum_exp(log_w.detach() + 3.0)
    assert torch.allclose(shifted, value.detach() + 3.0, rtol=1e-12, atol=1e-12) or bool((log_w.abs() > 1e5).any())


@settings(max_examples=100, deadline=None)
@given(tables())
def test_leave_one_out(log_w):
    """Every column without every one of its rows, against the sum written out."""
    k = log_w.shape[0]
    if k == 1:
        return
    got = leave_one_out(log_w)
    for row in range(k):
        for b in range(log_w.shape[1]):
            column = log_w[:, b].tolist()
            expected = exact_log_sum(column[:row] + column[row + 1 :])
            value = float(got[row, b])
            assert value == expected or abs(value - expected) <= 1e-9 * max(1, abs(expected))


@settings(max_examples=100, deadline=None)
@given(tables())
def test_lower_below_upper_on_every_table(log_w):
    """ELBO <= VR(.5) <= L_K <= CUBO_2 <= VR-max; L_K <= SNIS-EUBO <= L_K + log K; VR(2) <= ELBO; looser and splits <= L_K."""
    w = LogWeights(log_w)
    k = log_w.shape[0]
    scale = slack(*log_w) * 4 * k
    mean, level = elbo(w).value, iwae(w).value
    chain = [renyi(w, 2.0).value, mean, renyi(w, 0.5).value, level, cubo(w).value, vr_max(w).value]
    for a, b in itertools.pairwise(chain):
        assert at_most(a, b, scale)
    surrogate = snis_eubo(w).value
    assert at_most(level, surrogate, scale) and at_most(surrogate, level + math.log(k), scale)
    groups = (torch.arange(k) % 2)[:, None].expand(log_w.shape)
    assert at_most(looser(w, groups).value, level, scale)
    assert at_most(iwae(w, splits=k).value, level, scale)
    left, right = tvo(w, (0, 0.5, 1)).value, tvo(w, (0, 0.5, 1), "right").value
    assert at_most(mean, left, scale) and at_most(left, right, scale) and at_most(right, surrogate, scale)


@settings(max_examples=100, deadline=None)
@given(tables(finite=True))
def test_upper_bounds_on_posterior_draws(log_w):
    """harmonic <= EUBO on every table (Jensen), both within the range of the weights."""
    w = LogWeights(log_w, source="posterior")
    scale = slack(*log_w) * 4 * log_w.shape[0]
    low, high = harmonic(w).value, eubo(w).value
    assert at_most(low, high, scale)
    assert at_most(log_w.amin(0), low, scale) and at_most(high, log_w.amax(0), scale)


@settings(max_examples=100, deadline=None)
@given(tables(), st.integers(0, 2**32))
def test_shares_generalise_equal_weights(log_w, seed):
    """A draw of share 2/K counts as two draws; a draw of share 0 does not count at all."""
    k = log_w.shape[0]
    count = torch.randint(0, 3, (k,), generator=torch.Generator().manual_seed(seed))
    if count.sum() == 0:
        return
    share = (count.double() / count.sum()).log()[:, None]
    weighed, repeated = LogWeights(log_w, share), LogWeights(log_w.repeat_interleave(count, 0))
    for bound in (elbo, iwae, cubo, snis_eubo, lambda w: renyi(w, 0.5), lambda w: renyi(w, 2.0)):
        a, b = bound(weighed).value, bound(repeated).value
        assert not a.isnan().any()
        same = (a == b) | ((a - b).abs() <= slack(*log_w) * 40)
        assert bool(same.all())
