"""Wrong files: each is one sentence that names the file, the place, what was expected and the remedy."""

import contextlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import polars
import pytest
from PIL import Image

from infimum.data import load
from infimum.errors import UserError


def refused(path: Path | str, message: str, **options: object) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert Path(str(path).split(":")[0]).name in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "holds no row"),
        ("a,b\n", "there is no row of data, expected at least 1"),
        ("a,b\n1,2\n", "there is one row of data, expected at least 2"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, expected 2"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 cells, expected 2"),
        ('a,b\n"1",2\n3\n', "line 3 has 1 cells"),
        ("a,b\n1,2\n3,red\n", r"row 1 \(line 3\), column 'b' holds 'red', expected a finite number"),
        ("a,b\n1,2\n\n3,red\n", r"row 1 \(line 4\), column 'b' holds 'red'"),
        ("a,b\n1,2\n3,\n", r"row 1 \(line 3\), column 'b' has a missing value \(''\)"),
        ("a,b\n1,2\n3,NA\n", r"column 'b' has a missing value \('NA'\)"),
        ("a,b\n1,2\n3,nan\n", r"row 1 \(line 3\), column 'b' has a missing value \('nan'\)"),
        ("a,b\n1,2\n3,-inf\n", r"row 1 \(line 3\), column 'b' holds '-inf', expected a finite number"),
        ("1,2\n3,nan\n", r"row 1 \(line 2\), column '1' has a missing value"),
        ("a,b\n1,2\n1,2020_01\n", "column 'b' holds '2020_01'"),
        ("a,a\n1,2\n3,4\n", "two columns are called 'a'"),
        (",a\n0,2\n1,4\n", r"column 0 has no name.*index=False"),
        ("5.1,0.2,setosa\n4.9,0.1,setosa\n", "line 1 mixes names and numbers"),
        ('a,b\n1,"2\n3,4\n', "not a readable CSV file"),
        ("a,b\n1,2\n3,\x00\n", "not a readable CSV|holds '"),
        ("a,b\n1,5\n1,6\n1,7\n", r"column 'a' has the same value in all 2 training rows \(1\).*remove the column"),
        ("a,b\n1e300,5\n-1e300,6\n2e300,7\n", "column 'a' is too large to be squared"),
    ],
)
def test_wrong_csv(text: str, message: str, tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    refused(path, message, valid=0.0, test=0.3)


def test_csv_that_is_not_text(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n1,\xff\xfe\n")
    refused(path, "not UTF-8 text")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "nobody"}, "has no column 'nobody', expected one of who, a, y"),
        ({"labels": "nobody"}, "has no column 'nobody'"),
        ({"id": "who", "labels": "y"}, "id 'p1' stands in rows 0 and 2 of column 'who'"),
        ({"labels": "y"}, "column 'who' holds 'p1'"),
        ({"id": "y", "labels": "who"}, "row 1, id column 'y' is empty"),
        ({"id": "a", "labels": "y"}, "column 'who' holds 'p1'"),
    ],
)
def test_wrong_id_and_label_columns(options: dict, message: str, tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("who,a,y\np1,1,u\np2,2,\np1,3,v\n")
    refused(path, message, **options)


def test_missing_labels_and_nothing_but_labels(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n1,u\n2,\n3,v\n")
    refused(path, "row 1 has no label in 'y'", labels="y")
    refused(path, "so no values, expected at least one column", labels="y", id="a")
    path.write_text("a,y\n1,0.5\n2,nan\n3,1\n")
    refused(path, "row 1 has no label in 'y'", labels="y")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 3)), "no row of data"),
        (np.zeros((1, 3)), "one row of data"),
        (np.zeros((3, 0)), "no values"),
        (np.zeros(3), r"shape \(3,\), expected \(rows, columns\)"),
        (np.zeros(()), r"shape \(\), expected"),
        (np.zeros((3, 2), complex), "dtype complex128, expected real numbers"),
        (np.full((3, 2), "a"), "dtype <U1, expected real numbers"),
        (np.zeros((3, 2), "M8[s]"), "dtype datetime64"),
        (np.zeros(3, [("a", float), ("b", float)]), "dtype .* expected real numbers"),
        (np.array([[1.0, 2.0], [3.0, np.nan], [np.nan, 1]]), "row 1, column 1 holds a missing value.*2 such values"),
        (np.array([[1.0, 2.0], [3.0, np.inf]]), "row 1, column 1 holds inf"),
        (np.full((3, 2, 2), np.nan), r"item 0, position \(0, 0\) holds a missing value"),
        (np.ones((4, 2)) * [[1, 2]] + [[0, 0], [0, 1], [0, 2], [0, 3]], "column 0 has the same value in all"),
    ],
)
def test_wrong_arrays(array: np.ndarray, message: str, tmp_path) -> None:
    np.save(tmp_path / "x.npy", array)
    refused(tmp_path / "x.npy", message)
    np.savez(tmp_path / "x.npz", x=array)
    refused(tmp_path / "x.npz", message)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([[0, 1], [3, 0], [1, 1]], {"kind": "binary"}, "row 1, column 0 holds 3, expected 0 or 1.*threshold="),
        ([[0, 1], [0.5, 0], [1, 1]], {"kind": "binary"}, "row 1, column 0 holds 0.5, expected 0 or 1"),
        ([[0, 1], [0.5, 0], [4, 1]], {"kind": "integer"}, "holds 0.5, expected a whole number from 0 to 4"),
        ([[0, 1], [-2, 0], [4, 1]], {"kind": "integer"}, "holds -2, expected a whole number from 0 to 4"),
        ([[0, 1], [2, 0], [4, 1]], {"levels": 4}, "row 2, column 0 holds 4, expected a whole number from 0 to 3"),
        ([[0, 1], [2, 0], [4, 1]], {"levels": 1}, "levels is 1, expected at least 2"),
        ([[0, 1], [2, 0], [1e9, 1]], {"kind": "integer"}, "largest value is 1e[+]09, expected grey levels below 65536"),
        ([[0, 1], [2, 0], [4, 1]], {"threshold": 5.0}, "turns every value into 0"),
        ([[0, 1], [2, 0], [4, 1]], {"threshold": 1.0, "kind": "real"}, "threshold=1.0 is for binary data"),
        ([[0, 1], [2, 0]], {"valid": 0.3, "test": 0.3}, "2 rows cannot be divided into test 1, valid 1"),
        ([[0, 1], [2, 0], [4, 1]], {"labels": "y"}, "a .npy file has no column for labels="),
        ([[0, 1], [2, 0], [4, 1]], {"id": "y"}, "a .npy file has no column for id="),
    ],
)
def test_values_that_do_not_fit_the_options(values, options, message, tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.array(values))
    with pytest.raises(UserError, match=message):
        load(tmp_path / "x.npy", **{"valid": 0.0, "test": 0.3, **options})


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_pickles_are_never_loaded(tmp_path) -> None:
    trace = tmp_path / "executed"
    objects = np.array([[Bomb(trace), 1], [2, 3]], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=objects)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Bomb(trace)))
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Bomb(trace)))
    for name in ("x.npy", "x.npz", "raw.npy", "raw.npz"):
        refused(tmp_path / name, "Python objects|not a readable numpy file|not an array")
    assert not trace.exists()
    pickle.loads((tmp_path / "raw.npy").read_bytes())
    assert trace.exists()  # the bomb was live


def test_archives_of_several_arrays(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(10, 2))
    path = tmp_path / "x.npz"
    np.savez(path, a=x, b=x, y=np.arange(10), short=np.arange(3))
    refused(path, "holds the arrays a, b, y, short, expected one: choose with .*x.npz:KEY")
    refused(f"{path}:c", "has no array 'c', expected one of a, b, y, short")
    refused(f"{path}:a", r"array 'short' has shape \(3,\), expected \(10,\)", labels="short")
    refused(f"{path}:a", "has no array 'nothing'", id="nothing")
    assert load(f"{path}:a", labels="y").spec.label_column == "y"
    np.savez(tmp_path / "none.npz")
    refused(tmp_path / "none.npz", "holds the arrays none")


def test_the_wrong_suffix(tmp_path) -> None:
    x = np.zeros((4, 2))
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", x=x)
    (tmp_path / "a.npy").rename(tmp_path / "c.npz")
    (tmp_path / "b.npz").rename(tmp_path / "d.npy")
    refused(tmp_path / "c.npz", "single array without a name, expected an archive: name the file .npy")
    refused(tmp_path / "d.npy", "holds several arrays, expected one")
    (tmp_path / "x.txt").write_text("1 2\n")
    refused(tmp_path / "x.txt", "name ends in '.txt', expected .npy, .npz, .csv, .parquet")
    (tmp_path / "data").write_text("1 2\n")
    refused(tmp_path / "data", "name ends in ''")
    refused(tmp_path / "no.csv", "there is no such file")
    refused(f"{tmp_path}/no.npz:a", "there is no such file")


def _bytes_of(form: str) -> bytes:
    x = np.random.default_rng(0).normal(size=(50, 3))
    buffer = io.BytesIO()
    if form == "npy":
        np.save(buffer, x)
    elif form == "npz":
        np.savez(buffer, x=x)
    elif form == "compressed.npz":
        np.savez_compressed(buffer, x=x)
    else:
        polars.DataFrame(x, schema=["a", "b", "c"]).write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["npy", "npz", "compressed.npz", "parquet"])
def test_truncated_files(form: str, tmp_path) -> None:
    whole, path = _bytes_of(form), tmp_path / f"x.{form}"
    for size in {1, 3, 4, 6, 7, 9, 11, 50, len(whole) // 2, len(whole) - 9, len(whole) - 1}:
        path.write_bytes(whole[:size])
        refused(path, "not a readable|single array|holds")
    path.write_bytes(b"")
    refused(path, "the file is empty")
    path.write_bytes(whole)
    assert load(path).spec.kind == "real"


@pytest.mark.parametrize("form", ["npy", "npz", "compressed.npz"])
def test_damaged_files_never_escape_as_another_exception(form: str, tmp_path) -> None:
    """Random bytes overwritten: either the file still reads, or a UserError says so.

    Parquet is left out: polars 2.1 may abort the process on a damaged footer, which no caller can catch.
    """
    whole, path, rng = _bytes_of(form), tmp_path / f"x.{form}", np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for position in rng.integers(0, min(len(whole), 2000), 3):
            damaged[position] = int(rng.integers(0, 256))
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(UserError):
            load(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1.0, 2.0], "b": ["x", "y"]}, r"column 'b' holds String \('x' in row 0\), expected numbers"),
        ({"a": [1.0, 2.0], "b": [None, 1]}, "row 0, column 'b' has a missing value"),
        ({"a": [1.0, float("nan")]}, "row 1, column 'a' holds a missing value"),
        ({"a": [1.0, float("inf")]}, "row 1, column 'a' holds inf"),
        ({"a": [[1.0], [2.0]]}, "column 'a' holds List"),
        ({"a": [1.0]}, "one row of data"),
        ({"a": []}, "no row of data|column 'a' holds Null"),
    ],
)
def test_wrong_parquet(columns: dict, message: str, tmp_path) -> None:
    polars.DataFrame(columns).write_parquet(tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", message)


def test_wrong_parquet_labels(tmp_path) -> None:
    polars.DataFrame({"a": [1.0, 2.0], "y": ["u", None], "z": [None, "w"]}).write_parquet(tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", "row 0, id column 'z' is empty", labels="y", id="z")
    refused(tmp_path / "t.parquet", "column 'z' holds String", labels="y")
    polars.DataFrame({"a": [1.0, 2.0], "y": ["u", None]}).write_parquet(tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", "row 1 has no label in 'y'", labels="y")


@pytest.fixture
def folder(tmp_path) -> Path:
    for i in range(4):
        Image.fromarray(np.full((6, 5), 10 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    assert load(tmp_path).spec.shape == (1, 6, 5)
    return tmp_path


def _save(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def test_odd_sizes_and_modes_are_named(folder: Path) -> None:
    _save(folder / "0.png", np.zeros((7, 5), np.uint8))  # the first one is the odd one
    refused(folder, r"'0.png' is 5 x 7 grey, expected 5 x 6 grey like 3 of the 4 images")
    _save(folder / "0.png", np.zeros((6, 5, 3), np.uint8))
    refused(folder, r"'0.png' is 5 x 6 colour, expected 5 x 6 grey")
    _save(folder / "0.png", np.zeros((6, 5, 4), np.uint8))
    refused(folder, "'0.png' has mode RGBA, expected 8-bit grey or RGB")
    _save(folder / "0.png", np.zeros((6, 5), np.uint16))
    refused(folder, "'0.png' has mode I;16, expected 8-bit")


def test_what_is_not_an_image_is_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    refused(folder, "'notes.txt' is not an image")
    (folder / "notes.txt").unlink()
    (folder / "inner").mkdir()
    refused(folder, "'inner' is a folder, expected images only")
    (folder / "inner").rmdir()
    (folder / "x.png").write_bytes(b"")
    refused(folder, "'x.png' is not an image")
    frames = [Image.fromarray(np.full((6, 5), i, np.uint8)) for i in (0, 9)]
    (folder / "x.png").unlink()
    frames[0].save(folder / "x.tif", save_all=True, append_images=frames[1:])
    refused(folder, "'x.tif' holds 2 pictures, expected one")


@pytest.mark.filterwarnings("ignore")  # pillow remarks on damaged tags
def test_truncated_and_damaged_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)
    for form in ("png", "jpg", "bmp", "tif"):
        for old in folder.glob("z.*"):
            old.unlink()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(form, form))
        whole = buffer.getvalue()
        for size in {5, 20, 40, len(whole) // 2, len(whole) - len(whole) // 4}:
            (folder / f"z.{form}").write_bytes(whole[:size])
            refused(folder, f"'z.{form}' is (not an image|a damaged image)")
        rng = np.random.default_rng(1)
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[int(rng.integers(8, len(whole)))] = int(rng.integers(0, 256))
            (folder / f"z.{form}").write_bytes(bytes(damaged))
            with contextlib.suppress(UserError):
                load(folder)


def test_a_picture_too_large_to_decode(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    refused(folder, "'0.png' has too many pixels")


def test_an_empty_folder_and_options_that_it_lacks(folder: Path, tmp_path) -> None:
    refused(folder, "has no labels='y', expected none or id=\"name\"", labels="y")
    refused(folder, "has no id='y'", id="y")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "the folder is empty")
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(empty / "only.png")
    refused(empty, "one row of data, expected at least 2")


def test_text_that_looks_like_json_is_no_table(tmp_path) -> None:
    (tmp_path / "t.csv").write_text(json.dumps({"a": [1, 2]}))
    refused(tmp_path / "t.csv", "expected")
