"""The user's own files: every format tells the same numbers, and the kind of data is guessed by a stated rule."""

from pathlib import Path

import numpy as np
import polars
import pytest
import torch
from PIL import Image

from infimum.data import DataSpec, load, read, reload
from infimum.errors import UserError

TABLE = np.random.default_rng(0).normal(size=(40, 3)) * [1, 10, 1e-3] + [0, 5, 1e4]


def _write(path: Path, form: str) -> tuple[Path, str]:
    """The same table in one of the formats; the path of it, and what to call ``load`` with."""
    file = path / f"t.{form}"
    if form == "npy":
        np.save(file, TABLE)
    elif form == "npz":
        np.savez(file, a=TABLE, b=TABLE[:5])
        return file, f"{file}:a"
    elif form == "csv":
        file.write_text("a,b,c\n" + "\n".join(",".join(map(repr, row)) for row in TABLE.tolist()))
    else:
        polars.DataFrame(TABLE, schema=["a", "b", "c"]).write_parquet(file)
    return file, str(file)


@pytest.mark.parametrize("form", ["npy", "npz", "csv", "parquet"])
def test_every_format_gives_the_same_data_set(form: str, tmp_path) -> None:
    file, name = _write(tmp_path, form)
    raw = read(name)
    assert np.array_equal(raw.values, TABLE)
    assert raw.ids.tolist() == list(range(40))
    data = load(name)
    assert data.spec.kind == "real"
    assert data.spec.columns == (("a", "b", "c") if form in ("csv", "parquet") else None)
    assert data.spec.source == name
    assert data.spec.name == file.name
    np.save(tmp_path / "other.npy", TABLE)
    same = load(tmp_path / "other.npy")
    assert torch.equal(data.train, same.train)
    assert torch.equal(data.test_ids, same.test_ids)
    spec = DataSpec.from_json(data.spec.to_json())
    assert torch.equal(spec.apply(raw)[data.test_ids], data.test)
    assert torch.equal(reload(spec, name).test, data.test)


@pytest.mark.parametrize("form", ["npy", "npz", "csv", "parquet"])
def test_reload_refuses_another_source(form: str, tmp_path) -> None:
    _, name = _write(tmp_path, form)
    spec = load(name).spec
    with pytest.raises(UserError, match=r"trained on the file .*: pass its path"):
        reload(spec)
    np.save(tmp_path / "other.npy", TABLE * 1.001)
    with pytest.raises(UserError, match="not what the model was trained on"):
        reload(spec, tmp_path / "other.npy")


def _csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["csv", "parquet", "npz"])
def test_id_and_label_columns_stand_apart(form: str, tmp_path) -> None:
    words, who = ["red", "blue", "red", "green"], ["p1", "p2", "p3", "p4"]
    x = np.arange(8.0).reshape(4, 2)
    path = tmp_path / f"t.{form}"
    if form == "npz":
        np.savez(path, x=x, who=np.array(who), colour=np.array(words))
    else:
        frame = polars.DataFrame({"who": who, "a": x[:, 0], "colour": words, "b": x[:, 1]})
        frame.write_csv(path) if form == "csv" else frame.write_parquet(path)
    raw = read(path, id="who", labels="colour")
    assert np.array_equal(raw.values, x)
    assert raw.columns == (None if form == "npz" else ("a", "b"))
    assert raw.classes == ("blue", "green", "red")
    assert raw.labels.tolist() == [2, 0, 2, 1]
    import hashlib

    first = int.from_bytes(hashlib.blake2b(b"p1", digest_size=8).digest(), "little", signed=True)
    assert raw.ids[0] == first
    assert len(set(raw.ids.tolist())) == 4
    data = load(path, id="who", labels="colour", valid=0.0, test=0.25)
    position = data.train_ids.tolist().index(first) if first in data.train_ids.tolist() else None
    assert position is None or data.train_labels[position] == 2
    again = reload(DataSpec.from_json(data.spec.to_json()), path)
    assert torch.equal(again.train_labels, data.train_labels)
    assert again.classes == data.classes


def test_numbers_as_labels_stay_numbers(tmp_path) -> None:
    path = _csv(tmp_path, "a,y,z\n1,3,0.5\n2,4,1.5\n3,5,2.5\n")
    assert read(path, labels="y").labels.dtype == np.int64
    assert read(path, labels="z").labels.tolist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize(
    ("text", "columns", "first"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b"), [1, 2]),
        ("\ufeffa,b\r\n1,2\r\n3,4\r\n\r\n", ("a", "b"), [1, 2]),
        ("a;b\n1;2\n3;4\n", ("a", "b"), [1, 2]),
        ("a\tb\n1\t2\n3\t4\n", ("a", "b"), [1, 2]),
        ('"a, left","b"\n"1",2\n3,4\n', ("a, left", "b"), [1, 2]),
        ("a , b\n 1, 2\n3 ,4\n", ("a", "b"), [1, 2]),
        ("1,2\n3,4\n", None, [1, 2]),
        ("-1e3,.5\n3,4\n", None, [-1000, 0.5]),
        ("0,1\n3,4\n5,6\n", ("0", "1"), [3, 4]),
        ("a\n1\n2\n", ("a",), [1]),
    ],
)
def test_csv_dialects(text: str, columns: tuple[str, ...] | None, first: list[float], tmp_path) -> None:
    raw = read(_csv(tmp_path, text))
    assert raw.columns == columns
    assert raw.values[0].tolist() == first


@pytest.mark.parametrize(
    ("values", "options", "kind", "levels"),
    [
        (np.array([[0, 1], [1, 0], [1, 1]]), {}, "binary", None),
        (np.array([[0, 1], [1, 0], [1, 1]], dtype=bool), {}, "binary", None),
        (np.array([[0, 9], [1, 0], [1, 1]], dtype=np.uint8), {}, "integer", 256),
        (np.array([[0, 9], [1, 0], [1, 1]], dtype=np.uint8), {"kind": "real"}, "real", None),
        (np.array([[0, 9], [1, 0], [1, 1]]), {}, "real", None),
        (np.array([[0, 9], [1, 0], [1, 1]]), {"kind": "integer"}, "integer", 10),
        (np.array([[0, 9], [1, 0], [1, 1]]), {"levels": 16}, "integer", 16),
        (np.array([[0.0, 0.9], [0.1, 0.7], [0.2, 0.3]]), {"threshold": 0.5}, "binary", None),
    ],
)
def test_the_kind_is_guessed_by_the_stated_rule(values, options, kind, levels, tmp_path) -> None:
    np.save(tmp_path / "x.npy", values)
    spec = load(tmp_path / "x.npy", valid=0.0, test=0.3, **options).spec
    assert (spec.kind, spec.levels) == (kind, levels)


def test_items_keep_their_shape(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(10, 2, 3, 4)).astype(">f4")  # of foreign byte order
    np.save(tmp_path / "x.npy", x)
    data = load(tmp_path / "x.npy")
    step = data.spec.steps[0]
    train = torch.from_numpy(x.astype(np.float64))[data.train_ids]
    expected = (train - train.mean(0)) / train.std(0, correction=0)
    torch.testing.assert_close(data.train.double(), expected, rtol=1e-6, atol=1e-6)
    assert len(step.mean) == 24


def test_a_folder_of_images(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    for folder, mode in (("colour", "RGB"), ("grey", "L")):
        (tmp_path / folder).mkdir()
        for i, picture in enumerate(pixels):
            image = picture if mode == "RGB" else picture[..., 0]
            Image.fromarray(image).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "grey" / ".hidden").write_text("not looked at")
    colour, grey = read(tmp_path / "colour"), read(tmp_path / "grey", id="name")
    assert np.array_equal(colour.values, pixels.transpose(0, 3, 1, 2))
    assert np.array_equal(grey.values, pixels[:, None, ..., 0])
    assert colour.ids.tolist() == list(range(6))
    assert len(set(grey.ids.tolist())) == 6
    assert not set(grey.ids.tolist()) & set(range(6))
    data = load(tmp_path / "grey")
    assert (data.spec.kind, data.spec.levels, data.spec.shape) == ("integer", 256, (1, 5, 4))
    assert load(tmp_path / "grey", threshold=100).train.unique().tolist() == [0.0, 1.0]
