"""Estimates: averages, units, concatenation, brackets, comparison, and their files."""

import dataclasses
import json
import math
import os

import pytest
import torch

from evidence.support import close, draws
from infimum.errors import UserError
from infimum.evidence import (
    Bracket,
    Estimate,
    LogWeights,
    Plan,
    closed_form,
    compare,
    cubo,
    elbo,
    eubo,
    evaluate,
    harmonic,
    iwae,
    jvi,
    load_estimate,
    save_estimate,
    weigh,
)
from infimum.testing import LinearGaussian
from testing.oracle_cases import rand, spd


def lower(n: int = 6, k: int = 50, level: float = -10.0, **change) -> Estimate:
    w = LogWeights(level + 0.1 * rand(k, n), draws=Plan.iid(k).draws(torch.arange(n)))
    return dataclasses.replace(iwae(w), **change)


def upper(n: int = 6, k: int = 50, level: float = -9.0) -> Estimate:
    w = LogWeights(level + 0.1 * rand(k, n), source="posterior", draws=Plan.iid(k).draws(torch.arange(n)))
    return harmonic(w)


# -- averages ------------------------------------------------------------------------------------------------------------


def test_mean_has_both_errors_and_the_certificate():
    """00-bounds 3.1 d, 3.6: limit = mean -+ log(1/delta)/N; Monte Carlo error sqrt(sum se^2)/N; population s.d./sqrt(N)."""
    for estimate, sign in ((lower(), -1), (upper(), 1)):
        mean = estimate.mean(0.05)
        assert mean.value == pytest.approx(float(estimate.value.mean()))
        assert mean.certificate == pytest.approx(mean.value + sign * math.log(20) / 6)
        assert mean.stderr == pytest.approx(float(estimate.stderr.square().sum().sqrt()) / 6)
        assert mean.population_stderr == pytest.approx(float(estimate.value.std()) / 6**0.5)
        assert mean.items == 6 and mean.side == estimate.side and mean.obstacle == ""
        relation = "<=" if sign > 0 else ">="
        assert f"certified mean {relation} {mean.certificate:.4f} with probability 0.95" in str(mean)
    assert lower().mean(0.01).certificate < lower().mean(0.05).certificate
    assert math.isnan(lower(1).mean().population_stderr) and "population" not in str(lower(1).mean())


def test_price_of_a_certificate_is_three_nats_over_n():
    """00-bounds 3.1 d: "The price of a rigorous 95% lower limit on the dataset mean is 3.0/N nats"."""
    mean = lower(1000).mean(0.05)
    assert (mean.value - mean.certificate) * 1000 == pytest.approx(3.0, abs=0.005)


def test_pareto_k_is_printed_beside_the_standard_error():
    mean = lower(k=200).mean()
    assert mean.tail is not None and "Pareto k" in str(mean) and "Monte Carlo" in str(mean)
    assert lower(k=10).mean().tail is None


def test_why_there_is_no_certificate():
    w = LogWeights(rand(50, 4))
    for estimate, why in (
        (cubo(w), "without a certificate"),
        (jvi(w), "without a certificate"),
        (lower(4, keys=torch.tensor([1, 2, 2, 3])), "items share keys"),
        (lower() - lower(), "bounds nothing"),
        (iwae(LogWeights(rand(4, 4), draws=draws(Plan(replicates=4, spread=4), 4))), "spreads its lead over 4 items"),
    ):
        assert estimate.mean().certificate is None and why in estimate.mean().obstacle
        assert f"no certificate: {estimate.mean().obstacle}" in str(estimate.mean())


def test_mean_refusals():
    for delta in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(UserError, match=r"delta is the probability that the certificate fails, in \(0, 1\), got"):
            lower().mean(delta)
    with pytest.raises(UserError, match="holds no items"):
        closed_form(torch.zeros(0)).mean()


def test_items_without_mass_average_to_minus_infinity():
    log_w = rand(30, 3)
    log_w[:, 1] = -math.inf
    mean = iwae(LogWeights(log_w)).mean()
    assert mean.value == -math.inf and mean.certificate == -math.inf and "-inf" in str(mean)


def test_type_checker_covers_dataclass_fields():
    """ENGINE 12 [m]: shapes are checked in tests through the import hook, "dataclass fields included"."""
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError):
        Estimate(torch.zeros(3), torch.zeros(4), "none", False, None, "mismatched")


# -- units ---------------------------------------------------------------------------------------------------------------


def test_units():
    """00-bounds 8: nats, bits, bits per dimension with the number of dimensions stated."""
    nats = lower()
    bits, per_dim = nats.to_unit("bits"), nats.to_unit("bits/dim", dims=64)
    close(bits.value, nats.value / math.log(2))
    close(per_dim.value, nats.value / math.log(2) / 64)
    close(per_dim.stderr, nats.stderr / math.log(2) / 64)
    for converted, scale in ((bits, 1 / math.log(2)), (per_dim, 1 / math.log(2) / 64)):
        assert converted.mean().certificate == pytest.approx(nats.mean().certificate * scale)
        assert converted.mean().unit in str(converted.mean())
    assert dataclasses.replace(nats, ceiling=0.0).to_unit("bits").ceiling == 0
    with pytest.raises(UserError, match="in bits already: convert the one in nats"):
        bits.to_unit("bits/dim", dims=3)
    for dims in (None, 0):
        with pytest.raises(UserError, match=f"bits/dim needs dims, .*got {dims}"):
            nats.to_unit("bits/dim", dims=dims)


# -- several estimates ---------------------------------------------------------------------------------------------------


def test_cat_puts_batches_together():
    model, x = LinearGaussian(rand(4, 2), rand(4), spd(4), shift=0.3).eval(), rand(7, 4)
    with torch.no_grad():
        parts = [
            iwae(weigh(model, x[i], Plan.iid(40).draws(torch.arange(7)[i], seed=0, salt="eval", dtype=torch.float32)))
            for i in (slice(0, 3), slice(3, 7))
        ]
    both, whole = Estimate.cat(parts), evaluate(model, x, Plan.iid(40))
    close(both.value, whole.value, rtol=0, atol=1e-10)
    close(both.stderr, whole.stderr, rtol=1e-9, atol=0)
    assert torch.equal(both.keys, torch.arange(7)) and both.calls == 280
    close(both.diagnostics["pareto_k"], whole.diagnostics["pareto_k"], rtol=1e-6, atol=1e-9)
    in_bits = Estimate.cat([part.to_unit("bits") for part in parts])
    assert in_bits.mean().certificate == pytest.approx(both.mean().certificate / math.log(2))
    assert Estimate.cat([parts[0], dataclasses.replace(parts[1], keys=None)]).keys is None
    with pytest.raises(UserError, match="at least one part"):
        Estimate.cat([])
    for change in ({"name": "ELBO"}, {"target": "log p(y)"}, {"unit": "bits"}, {"side": "none"}, {"copies": 2}):
        name = next(iter(change))
        with pytest.raises(UserError, match=f"parts differ in {name}"):
            Estimate.cat([parts[0], dataclasses.replace(parts[1], **change)])


def test_difference_has_no_side():
    """00-bounds 3.6.5: "A difference of two IWELBOs is not signed"."""
    a, b = lower(level=-9.0), lower()
    d = a - b
    assert (d.side, d.certified, d.unbiased_for) == ("none", False, None)
    close(d.value, a.value - b.value)
    close(d.stderr, (a.stderr.square() + b.stderr.square()).sqrt())


QUESTIONS = [
    ({"target": "log p(x), block order"}, "bound different targets, 'log p\\(x\\)' and 'log p\\(x\\), block order'"),
    ({"unit": "bits"}, "different units, 'nats' and 'bits': convert both to one"),
    ({"keys": torch.arange(6) + 1}, "different items \\(their keys differ\\)"),
    ({"value": torch.zeros(5).double(), "stderr": torch.zeros(5).double(), "keys": None}, "of 6 and 5 items"),
]


@pytest.mark.parametrize(("change", "message"), QUESTIONS)
def test_unlike_estimates_are_not_compared(change, message):
    """ENGINE 6: "compare refuses different target, keys or units"; so do a difference and a bracket."""
    other = dataclasses.replace(lower(), **change)
    for use in (compare, lambda a, b: a - b):
        with pytest.raises(UserError, match=message):
            use(lower(), other)
    with pytest.raises(UserError, match=message):
        Bracket(lower(), dataclasses.replace(upper(), **change))


def test_bracket_holds_both_limits_together():
    """00-bounds 3.6.1: "split delta when both are quoted"."""
    bracket = Bracket(lower(), upper())
    mean = bracket.mean(0.1)
    assert mean.lower.delta == mean.upper.delta == 0.05
    assert mean.lower.certificate < mean.lower.value < mean.upper.value < mean.upper.certificate
    close(bracket.gap, upper().value - lower().value)
    assert str(mean).startswith(f"[{mean.lower.value:.4f}, {mean.upper.value:.4f}] nats")
    Bracket(closed_form(torch.zeros(3)), closed_form(torch.zeros(3)))
    with pytest.raises(UserError, match="lower side needs a lower bound, got harmonic-50 of side 'upper'"):
        Bracket(upper(), upper())
    with pytest.raises(UserError, match=r"upper side needs an upper bound, got CUBO_2-50 .* of side 'none'"):
        Bracket(lower(), cubo(LogWeights(rand(50, 6))))


# -- compare -------------------------------------------------------------------------------------------------------------


def test_certified_verdicts():
    """00-bounds 3.6.5: certified only if the lower limit of A exceeds the upper limit of B."""
    good, bad = Bracket(lower(100, level=-5.0), upper(100, level=-4.9)), Bracket(lower(100), upper(100, level=-9.9))
    for a, b, answer in ((good, bad, "better"), (bad, good, "worse")):
        verdict = compare(a, b)
        assert (verdict.answer, verdict.certified) == (answer, True)
        assert str(verdict).startswith(f"{answer} (certified): ")
    exact = closed_form(torch.full((100,), -7.0), keys=torch.arange(100))
    assert compare(good, exact).answer == "better" and compare(bad, exact).answer == "worse"
    assert compare(exact, closed_form(torch.full((100,), -7.5))).certified


def test_lower_bounds_alone_decide_nothing():
    """A gap between two ELBOs may be the proposals': undecided, with the reason."""
    w = LogWeights(torch.full((50, 6), -3.0).double() + 0.1 * rand(50, 6))
    better, worse = elbo(w), elbo(LogWeights(w.log_w - 5))
    verdict = compare(better, worse)
    assert verdict.answer == "undecided" and not verdict.certified
    assert "has no sign" in verdict.reason and "+5.0000" in verdict.reason


def test_asymptotic_verdicts_need_reliable_tails():
    a, b = lower(k=200, level=-9.0), lower(k=200)
    verdict = compare(a, b)
    assert (verdict.answer, verdict.certified) == ("better", False)
    assert compare(b, a).answer == "worse" and compare(a, a).answer == "undecided"
    heavy = dict(b.diagnostics) | {"pareto_k": torch.full((6,), 0.9).double()}
    assert compare(a, dataclasses.replace(b, diagnostics=heavy)).answer == "undecided"
    assert compare(a, dataclasses.replace(b, stderr=torch.full_like(b.stderr, math.nan))).answer == "undecided"


def test_wrong_verdicts_are_rare():
    """Two proposals of one model, 1,000 data sets of 20 items: a verdict other than undecided is wrong; at most 5% of them.

    Binomial limit at 5 standard deviations: 0.05 + 5 sqrt(.05 .95 / 1000).
    """
    n, sets = 20, 1000
    x = torch.full((n * sets, 1), 1.2).double()
    parts = []
    for seed, (shift, stretch) in enumerate(((0.3, 1.3), (-0.2, 1.2))):
        model = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.ones(1), shift=shift, stretch=stretch)
        with torch.no_grad():
            w = weigh(model, x, draws(100, n * sets, seed), rows=10**6)
        parts.append(iwae(dataclasses.replace(w, draws=None)))
    wrong = 0
    for i in range(sets):
        at = slice(i * n, (i + 1) * n)
        a, b = (
            dataclasses.replace(
                p, value=p.value[at], stderr=p.stderr[at], diagnostics={k: v[at] for k, v in p.diagnostics.items()}
            )
            for p in parts
        )
        wrong += compare(a, b).answer != "undecided"
    assert wrong / sets < 0.05 + 5 * (0.05 * 0.95 / sets) ** 0.5


# -- files ---------------------------------------------------------------------------------------------------------------


def same(a: Estimate, b: Estimate) -> None:
    for field in dataclasses.fields(a):
        mine, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(mine, torch.Tensor):
            assert (
                torch.equal(torch.nan_to_num(mine, 123.0), torch.nan_to_num(other, 123.0)) and mine.dtype == other.dtype
            )
        elif field.name == "diagnostics":
            assert set(mine) == set(other)
            for name in mine:
                assert mine[name].shape == other[name].shape
                close(mine[name], other[name], rtol=0, atol=0, equal_nan=True)
        else:
            assert mine == other, field.name


ROUND_TRIPS = {
    "iwae": lambda: lower(),
    "without keys": lambda: lower(keys=None),
    "one replicate": lambda: iwae(LogWeights(rand(8, 3), block=8)),
    "dead item": lambda: iwae(LogWeights(torch.tensor([[-math.inf, 0.1]] * 30).double())),
    "closed form": lambda: closed_form(torch.tensor([1 / 3, -1e300])),
    "bits": lambda: lower().to_unit("bits/dim", dims=7),
    "eubo": lambda: eubo(LogWeights(rand(30, 2), source="posterior")),
    "ceiling": lambda: lower(ceiling=0.0),
    "no items": lambda: closed_form(torch.zeros(0)),
    "large keys": lambda: lower(2, keys=torch.tensor([2**63 - 1, -(2**63)])),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_estimates_survive_their_files(name, tmp_path):
    """Bit for bit, NaN and infinities included; certificates too."""
    estimate, path = ROUND_TRIPS[name](), tmp_path / "deep" / "estimate.json"
    save_estimate(estimate, path)
    again = load_estimate(path)
    same(estimate, again)
    if len(estimate.value):
        assert str(again.mean()) == str(estimate.mean())
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert [p.name for p in path.parent.iterdir()] == ["estimate.json"]


def test_saving_is_atomic(tmp_path, monkeypatch):
    """A failed write leaves the old file whole and nothing beside it."""
    path = tmp_path / "estimate.json"
    save_estimate(lower(), path)
    before = path.read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save_estimate(upper(), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["estimate.json"]


HOSTILE = {
    "not JSON": ("{", "is not JSON"),
    "not text": (b"\xff\xfe\x00", "is not JSON"),
    "a list": ("[1, 2]", "not an estimate of format 1"),
    "nested a hundred thousand times": ("[" * 100_000, "is not JSON"),
    "another format": ({"format": 2}, "not an estimate of format 1"),
    "a field gone": ({"value": ...}, "lacks the field 'value'"),
    "an unknown side": ({"side": "above"}, "side 'above'"),
    "an unknown claim": ({"unbiased_for": "truth"}, "unbiased_for 'truth'"),
    "a side of another type": ({"side": ["lower"]}, "side"),
    "a name that is no name": ({"name": 3}, "must be strings"),
    "a certificate by word": ({"certified": "yes"}, "certified must be true or false"),
    "calls as a float": ({"calls": 1.5}, "whole numbers"),
    "values as text": ({"value": "abcdef"}, "no list of numbers"),
    "a value as text": ({"value": [1, 2, 3, 4, 5, "x"]}, "holds an entry that is no number"),
    "a value as a list": ({"value": [1, 2, 3, 4, 5, [6]]}, "holds an entry that is no number"),
    "a value too large": ({"value": [1, 2, 3, 4, 5, 10**400]}, "holds an entry that is no number"),
    "too few values": ({"value": [1, 2]}, "one entry for each item"),
    "too few keys": ({"keys": [1, 2]}, "there are 2 keys for 6 items"),
    "a key too large": ({"keys": [0, 1, 2, 3, 4, 2**63]}, "64-bit whole numbers"),
    "keys as truth values": ({"keys": [True] * 6}, "64-bit whole numbers"),
    "copies as text": ({"copies": "many"}, "copies a positive number"),
    "no copies": ({"copies": 0}, "copies a positive number"),
    "negative copies": ({"copies": -1}, "copies a positive number"),
    "copies beyond all numbers": ({"copies": 10**400}, "copies a positive number"),
    "a ceiling as a list": ({"ceiling": []}, "ceiling must be a number"),
    "diagnostics as a list": ({"diagnostics": []}, "diagnostics must be an object"),
    "diagnostics of other items": (
        {"diagnostics": {"pareto_k": [0.1]}},
        "'pareto_k' must have one entry for each of 6 items",
    ),
    "an unknown unit": ({"unit": "hartley"}, "unit 'hartley' is unknown"),
    "bits without their scale": ({"unit": "bits"}, "lacks its number of units a nat"),
    "a scale of zero": ({"unit": "bits", "diagnostics": {"unit_per_nat": [0.0]}}, "one positive number"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_message(name, tmp_path):
    content, message = HOSTILE[name]
    path = tmp_path / "estimate.json"
    if isinstance(content, dict):
        save_estimate(lower(), path)
        good = json.loads(path.read_text()) | content
        path.write_text(json.dumps({k: v for k, v in good.items() if v is not ...}))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_estimate(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_estimate(tmp_path / "absent.json")
    with pytest.raises(UserError, match="cannot be read"):
        load_estimate(tmp_path)
