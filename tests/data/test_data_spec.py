"""The spec: what it stores comes back, what it applies is what was seen, and its Jacobian is the true one."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infimum.data import DataSpec, Split, Standardise, Threshold, load, load_spec, save_spec
from infimum.data.embedded import wine
from infimum.errors import UserError

finite = st.floats(allow_nan=False, allow_infinity=False)
SPEC = DataSpec(
    name="t",
    kind="real",
    shape=(2,),
    columns=("a", "b"),
    steps=(Standardise((1.0, 0.1), (2.0, 0.3)),),
    source="x/t.csv",
    split=Split(3, 0.5, 0.2, 0.3),
    id_column="who",
    label_column="y",
    fingerprint="00",
)


@given(
    means=st.lists(finite, min_size=1, max_size=4),
    std=st.floats(min_value=1e-300, allow_nan=False, allow_infinity=False),
    name=st.text(),
    seed=st.integers(),
)
@settings(max_examples=100, deadline=None)
def test_json_round_trip_is_exact(means: list[float], std: float, name: str, seed: int) -> None:
    steps = (Standardise(tuple(means), (std,) * len(means)),)
    spec = DataSpec(name=name, kind="real", shape=(len(means),), steps=steps, split=Split(seed, 0.7, 0.1, 0.2))
    assert DataSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        DataSpec("i", "integer", (1, 2, 2), levels=17),
        DataSpec("b", "binary", (3,), steps=(Threshold(0.5, None),)),
        DataSpec("b", "binary", (3,), steps=(Threshold(8.0, 17),)),
    ],
)
def test_file_round_trip_leaves_no_other_file(spec: DataSpec, tmp_path) -> None:
    for _ in range(2):
        save_spec(spec, tmp_path / "data.json")
        assert load_spec(tmp_path / "data.json") == spec
        assert os.listdir(tmp_path) == ["data.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch) -> None:
    save_spec(SPEC, tmp_path / "data.json")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save_spec(DataSpec("i", "integer", (1,), levels=2), tmp_path / "data.json")
    assert load_spec(tmp_path / "data.json") == SPEC
    assert os.listdir(tmp_path) == ["data.json"]


def _edited(**changes: object) -> str:
    record = json.loads(SPEC.to_json())
    for path, value in changes.items():
        target = record
        *above, last = path.split("__")
        for part in above:
            target = target[int(part)] if isinstance(target, list) else target[part]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return json.dumps(record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[1]", r"is \[1\], expected an object"),
        ("[" * 100_000, "not JSON"),
        ('{"format": 1, "format": 1}', "'format' twice"),
        (_edited(format=2), "format 2, expected 1"),
        (_edited(format=True), "format True, expected 1"),
        (_edited(colour="red"), "unknown field 'colour'"),
        (_edited(name=...), "no field 'name'"),
        (_edited(name=3), "name is 3, expected text"),
        (_edited(kind="complex"), 'kind is "complex", expected binary or integer or real'),
        (_edited(shape=[]), "shape is"),
        (_edited(shape=[0]), "shape is"),
        (_edited(shape=[2.0]), "shape is .* expected a list, each item of it a whole number"),
        (_edited(shape=2), "shape is 2, expected a list"),
        (_edited(shape=[3]), "2 column names for items of shape"),
        (_edited(levels=True), "levels is true, expected a whole number or null"),
        (_edited(levels=4), "levels is 4 for real data"),
        (_edited(columns=["a", 1]), "columns is .* expected a list, each item of it text or null"),
        (_edited(split__seed=0.5), "split.seed is 0.5, expected a whole number"),
        (_edited(split__test=0.9), "must sum to 1"),
        (_edited(split__test=-0.1), "test is -0.1, expected a share"),
        (_edited(split__extra=0), "unknown field 'extra'"),
        (_edited(steps={}), "steps is {}, expected a list"),
        (_edited(steps=[3]), "a step of the data spec is 3"),
        (_edited(steps__0__step="os.system"), "expected a step named threshold or standardise"),
        (_edited(steps__0__step=["threshold"]), "expected a step named threshold or standardise"),
        (_edited(steps__0__clip=1), "unknown field 'clip'"),
        (_edited(steps__0__std=[1.0]), "2 means and 1 stds"),
        (_edited(steps__0__std=[1.0, 0.0]), "every std above 0"),
        (_edited(steps__0__mean=[1.0, float("nan")]), "holds NaN, expected finite"),
        (_edited(steps__0__mean=["1", 2]), "step standardise.mean is"),
        (_edited(steps=[{"step": "threshold", "value": 1, "levels": None}]), "'threshold' does not fit real"),
        (_edited(steps__0__mean=[1.0] * 3, steps__0__std=[1.0] * 3), "3 means for items of shape"),
    ],
)
def test_foreign_json_is_refused_in_one_sentence(text: str, message: str, tmp_path) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_spec(tmp_path / "data.json")
    assert str(tmp_path / "data.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_spec_file_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_spec(tmp_path / "data.json")
    (tmp_path / "data.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        load_spec(tmp_path / "data.json")
    with pytest.raises(UserError, match="cannot be written"):
        save_spec(SPEC, tmp_path / "nowhere" / "data.json")


def test_log_scale_is_the_log_determinant_of_the_preprocessing() -> None:
    """Evidence in raw units, two ways: the Jacobian, and a Gaussian's density with its parameters in raw units."""
    data = load("wine")
    raw = torch.from_numpy(wine().values)
    step = data.spec.steps[0]
    assert isinstance(step, Standardise)
    mean, std = torch.tensor(step.mean, dtype=torch.float64), torch.tensor(step.std, dtype=torch.float64)
    standardised = torch.distributions.Normal(0.0, 1.0).log_prob((raw - mean) / std).sum(1)
    direct = torch.distributions.Normal(mean, std).log_prob(raw).sum(1)
    torch.testing.assert_close(standardised + data.spec.log_scale(), direct, rtol=1e-12, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda row: (row - mean) / std, raw[0])
    assert data.spec.log_scale() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), rel=1e-12)
    assert load("digits").spec.log_scale() == 0.0


def test_standardisation_knows_the_training_rows_only() -> None:
    """Exact moments: mean 0 and variance 1 on train; on all the rows together they differ."""
    data = load("wine")
    train = data.train.double()
    assert train.mean(0).abs().max() < 1e-6
    assert (train.square().mean(0) - 1).abs().max() < 1e-6
    every = torch.cat((data.train, data.valid, data.test)).double()
    assert every.mean(0).abs().max() > 1e-3


def test_apply_matches_columns_by_name() -> None:
    spec, raw = load("wine").spec, wine()
    expected = spec.apply(raw)
    assert raw.columns is not None
    turned = replace(raw, values=raw.values[:, ::-1], columns=raw.columns[::-1])
    assert torch.equal(spec.apply(turned), expected)
    with pytest.raises(UserError, match="lacks the column 'alcohol', expected the columns alcohol, malic_acid"):
        spec.apply(replace(raw, columns=("other", *raw.columns[1:])))
    wider = replace(raw, values=np.hstack((raw.values, raw.values[:, :1])), columns=(*raw.columns, "other"))
    with pytest.raises(UserError, match=r"unknown column 'other'.*id= or labels="):
        spec.apply(wider)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 1, 9, 9)), r"items have shape \(1, 9, 9\), expected \(1, 8, 8\)"),
        (np.zeros((2, 63)), r"shape \(63,\), expected \(1, 8, 8\)"),
        (np.zeros(64), r"shape \(\), expected \(1, 8, 8\)"),
        (np.full((2, 64), 17), r"item 0, position \(0, 0, 0\) holds 17, expected a whole number from 0 to 16 \(128"),
        (np.full((2, 64), 0.5), "holds 0.5, expected a whole number from 0 to 16"),
        (np.full((2, 64), -1), "holds -1, expected"),
        (np.full((2, 64), np.nan), "holds a missing value"),
        (np.full((2, 64), "a"), "expected real numbers"),
        (np.full((2, 64), None), "expected real numbers"),
    ],
)
def test_apply_refuses_what_does_not_fit(values: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("digits").spec.apply(values)


def test_apply_takes_arrays_and_tensors_flat_or_shaped() -> None:
    spec = load("digits", kind="integer").spec
    values = np.arange(128).reshape(2, 64) % 17
    expected = torch.from_numpy(values).float().reshape(2, 1, 8, 8)
    for given_values in (values, values.reshape(2, 1, 8, 8), torch.from_numpy(values), values.astype(np.uint8)):
        assert torch.equal(spec.apply(given_values), expected)


def test_apply_refuses_what_float32_cannot_hold() -> None:
    with pytest.raises(UserError, match="after preprocessing: row 1, column 'a' holds inf"):
        SPEC.apply(np.array([[0.0, 0.0], [1e300, 0.0]]))
