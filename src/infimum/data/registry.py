"""The embedded data sets: one line each, importing nothing."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["DATASETS", "Entry", "Kind"]

Kind = Literal["binary", "integer", "real"]


@dataclass(frozen=True)
class Entry:
    """One embedded data set.

    Attributes:
        loader: where its reader is, ``module:function``; called as ``function(**options)``.
        title: what it is, in a few words.
        items: number of items.
        shape: shape of one item.
        kinds: what the likelihood may be, the default first.
        levels: number of grey levels of the raw values, for images.
        threshold: raw values from here on become 1 when ``kind`` is "binary".
        extra: the extra that brings the package it lies in, if that is not a core dependency.
    """

    loader: str
    title: str
    items: int
    shape: tuple[int, ...]
    kinds: tuple[Kind, ...]
    levels: int | None = None
    threshold: float | None = None
    extra: str | None = None


_IMAGES: tuple[Kind, ...] = ("binary", "integer")
_EMBEDDED = "infimum.data.embedded"

DATASETS: dict[str, Entry] = {
    "digits": Entry(f"{_EMBEDDED}:digits", "handwritten digits, 17 grey levels", 1797, (1, 8, 8), _IMAGES, 17, 8),
    "mnist5k": Entry(f"{_EMBEDDED}:mnist5k", "5,000 MNIST digits", 5000, (1, 28, 28), _IMAGES, 256, 128, "images"),
    "photographs": Entry(
        f"{_EMBEDDED}:photographs",
        "patches of 12 photographs, split by photograph",
        47550,
        (1, 8, 8),
        ("integer", "binary"),
        256,
        128,
        "images",
    ),
    "faces": Entry(
        f"{_EMBEDDED}:faces", "faces of 100 photographs", 100, (1, 24, 24), ("integer",), 256, None, "images"
    ),
    "wine": Entry(f"{_EMBEDDED}:wine", "chemistry of Italian wines", 178, (13,), ("real",)),
    "breast_cancer": Entry(f"{_EMBEDDED}:breast_cancer", "cell nuclei of breast tumours", 569, (30,), ("real",)),
    "iris": Entry(f"{_EMBEDDED}:iris", "sizes of iris flowers", 150, (4,), ("real",)),
    "diabetes": Entry(f"{_EMBEDDED}:diabetes", "patients with diabetes, raw units", 442, (10,), ("real",)),
    "wikipedia": Entry(
        "infimum.data.wikipedia:wikipedia",
        "sentences of Wikipedia, 3 to 20 tokens, split by article",
        7453,
        (21,),
        ("integer",),
        3000,
        None,
        "text",
    ),
    "wikipedia-characters": Entry(
        "infimum.data.characters:wikipedia_characters",
        "Wikipedia in chunks of 64 letters and spaces, split by article",
        51375,
        (64,),
        ("integer",),
        27,
        None,
        "text",
    ),
}
