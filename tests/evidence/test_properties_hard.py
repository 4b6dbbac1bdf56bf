"""What hypothesis may throw at the engine: any dtype, one draw, one item, none, NaN anywhere, magnitudes of every size."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infimum.errors import UserError
from infimum.evidence import (
    RULES,
    LogWeights,
    PathTerms,
    Plan,
    compare,
    cubo,
    elbo,
    eubo,
    harmonic,
    iwae,
    pareto_k,
    renyi,
    snis_eubo,
    vr_max,
)

BOUNDS = {
    "elbo": elbo,
    "iwae": iwae,
    "renyi": lambda w: renyi(w, 0.5),
    "cubo": cubo,
    "snis_eubo": snis_eubo,
    "vr_max": vr_max,
}
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
NUMBER = st.one_of(st.floats(-50, 50), st.sampled_from([-math.inf, 0.0, -6e4, 6e4, -745.0, 709.0, 1e-30]))


@st.composite
def tables(draw, most: int = 6, number: st.SearchStrategy = NUMBER):
    """(K, B) of any floating dtype, K and B from 1."""
    k, b = draw(st.integers(1, most)), draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(number, min_size=b, max_size=b), min_size=k, max_size=k))
    return torch.tensor(rows, dtype=torch.float64).to(draw(DTYPES))


@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from(sorted(BOUNDS)))
def test_a_bound_of_any_dtype_is_the_float64_bound_of_its_numbers(log_w, name):
    """Nothing is computed in half precision: the value is float64's, and standard errors are never negative."""
    found, exact = BOUNDS[name](LogWeights(log_w)), BOUNDS[name](LogWeights(log_w.double()))
    assert found.value.dtype == torch.float64
    assert torch.equal(found.value, exact.value)
    assert not found.value.isnan().any()
    assert not bool((found.stderr < 0).any())


@settings(max_examples=100, deadline=None)
@given(tables(), st.data())
def test_nan_and_inf_are_refused_by_item(log_w, data):
    """One NaN or +inf anywhere: the error names its item."""
    k, b = (data.draw(st.integers(0, size - 1)) for size in log_w.shape)
    bad = log_w.clone()
    bad[k, b] = data.draw(st.sampled_from([math.nan, math.inf]))
    with pytest.raises(UserError, match=rf"items \[{b}\]"):
        LogWeights(bad)
    with pytest.raises(UserError, match=rf"items \[{b}\]"):
        PathTerms(bad, torch.zeros(bad.shape[1]))


@settings(max_examples=60, deadline=None)
@given(tables(most=1))
def test_one_draw(log_w):
    """K = 1: all bounds are the log-weight itself, its standard error is unknown, and Pareto k is not computed."""
    w = LogWeights(log_w)
    for name, bound in BOUNDS.items():
        found = bound(w)
        assert torch.equal(found.value, log_w[0].double()), name
        assert bool(found.stderr.isnan().all() | (found.value == -math.inf).any()), name
    for name in ("rloo", "vimco"):
        with pytest.raises(UserError, match="at least 2"):
            RULES[name](w)
    assert not bool(torch.isfinite(pareto_k(log_w.double())).any())


@settings(max_examples=100, deadline=None)
@given(tables(number=NUMBER.filter(math.isfinite)))
def test_the_mean_of_items(log_w):
    """The mean, its certificate below it, and a comparison with itself that is no news: for every table."""
    w = LogWeights(log_w)
    found = iwae(w)
    mean = found.mean(0.05)
    exact = math.fsum(found.value.tolist()) / len(found.value)
    assert mean.value == pytest.approx(exact, rel=1e-12, abs=1e-12)
    assert mean.certificate is not None
    assert mean.certificate <= mean.value
    assert mean.value - mean.certificate == pytest.approx(
        math.log(20) / log_w.shape[1], rel=1e-6, abs=1e-10 * abs(exact)
    )
    verdict = compare(found, found)
    assert "undecided" in str(verdict).lower()
    upper = harmonic(LogWeights(log_w, source="posterior")), eubo(LogWeights(log_w, source="posterior"))
    for e in upper:
        assert e.side == "upper"
        rounding = 1e-14 * (log_w.double().abs().amax() + 1)
        assert bool((e.value >= log_w.double().amin(0) - rounding).all())


@settings(max_examples=100, deadline=None)
@given(tables(), st.sampled_from(sorted(set(RULES) - {"disarm"})))
def test_coefficients_are_finite(log_w, name):
    """Whatever the table, no rule gives a coefficient that is NaN or infinite."""
    w = LogWeights(log_w)
    if name in ("rloo", "vimco") and log_w.shape[0] == 1:
        return  # refused, see above
    for part in RULES[name](w):
        assert part is None or bool(torch.isfinite(part).all()), name


@settings(max_examples=100, deadline=None)
@given(
    k=st.integers(1, 5), items=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=4, unique=True),
    event=st.lists(st.integers(0, 4), max_size=3), dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**63), name=st.text(max_size=8),
)  # fmt: skip
def test_draws_of_any_shape(k, items, event, dtype, seed, name):
    """Shapes as asked for, even empty; inside (0, 1); pure: the same numbers for an item on its own."""
    keys = torch.tensor(items)
    draws = Plan.iid(k).draws(keys, seed=seed, dtype=dtype)
    u, z = draws.uniform(name, *event), draws.normal(name, *event)
    assert u.shape == z.shape == (k, len(items), *event)
    assert u.dtype == z.dtype == dtype
    assert bool(((u > 0) & (u < 1)).all())
    assert bool(torch.isfinite(z).all())
    alone = Plan.iid(k).draws(keys[-1:], seed=seed, dtype=dtype)
    assert torch.equal(alone.normal(name, *event), z[:, -1:])


def test_empty():
    """No draws or no items: refused in words, never an empty answer."""
    with pytest.raises(UserError, match="at least 1 draw"):
        LogWeights(torch.zeros(0, 3))
    with pytest.raises(UserError, match="at least 1 item"):
        LogWeights(torch.zeros(3, 0))
    with pytest.raises(UserError, match="at least 1 item"):
        PathTerms(torch.zeros(3, 0), torch.zeros(0))
