"""The pictures of a run as data URIs, so that the page needs no other file."""

import base64
from dataclasses import dataclass

from infimum.report.reading import RunRecord
from infimum.report.words import clip, memory

__all__ = ["Picture", "pictures"]

LARGEST = 8_000_000
"""Bytes of a picture that a page takes in."""

CAPTIONS = {
    "samples": ("Samples", "Items drawn from the model: a latent from the prior, then an item given the latent."),
    "reconstructions": (
        "Reconstructions",
        "Held-out items (first and every other row) and below each what the model makes of it: the mean of p(x | z).",
    ),
}
DRAWN_HERE = ("curves", "evidence")
"""Figures that the page draws itself, from the numbers."""


@dataclass(frozen=True)
class Picture:
    """An image with all that a reader needs beside it."""

    title: str
    caption: str
    source: str
    width: int
    height: int


def pictures(record: RunRecord) -> tuple[list[Picture], list[str]]:
    """The PNG files in the run's figures, and sentences about those that cannot be shown."""
    found, missing = [], []
    for file in sorted((record.path / "figures").glob("*.png")):
        if file.stem.startswith(".") or file.stem.split("-")[-1] in DRAWN_HERE:
            continue
        size = file.stat().st_size
        if size > LARGEST:
            missing.append(f"figures/{clip(file.name)} is {memory(size)} large and was left out.")
            continue
        content = file.read_bytes()
        if (shape := _shape(content)) is None:
            missing.append(f"figures/{clip(file.name)} is no whole PNG picture and was left out.")
            continue
        title, caption = CAPTIONS.get(file.stem, (clip(file.stem.replace("-", " ").capitalize()), ""))
        source = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
        found.append(Picture(title, caption or f"From the run's figures/{clip(file.name)}.", source, *shape))
    return found, missing


def _shape(content: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG that can be decoded to its end."""
    import io
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                image.load()
                return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
