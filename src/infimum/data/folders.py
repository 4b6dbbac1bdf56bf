"""The user's folders of images: 8 bits a channel, grey or colour, all of one size."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from infimum.errors import UserError, require

from .raw import Raw, as_numbers, keys_of

__all__ = ["read_folder"]

_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
_WORDS = {"L": "grey", "RGB": "colour"}


def read_folder(folder: Path, title: str, *, id_column: str | None, labels: str | None) -> Raw:
    """Every image of a folder in the order of the file names: (N, 1 or 3, H, W), whole numbers 0 .. 255.

    ``id="name"`` takes the file names as ids; hidden files are left out.

    Raises:
        UserError: pillow is not installed; a file is not an image, is damaged, or differs in size or mode.
    """
    if labels is not None or id_column not in (None, "name"):
        option = f"labels={labels!r}" if labels is not None else f"id={id_column!r}"
        raise UserError(f'{title}: a folder of images has no {option}, expected none or id="name" for the file names')
    image = require("PIL.Image", "images")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not paths:
        raise UserError(f"{title}: the folder is empty, expected images of one size: check the path")
    values = np.stack(_same([(path.name, _decode(image, path, title)) for path in paths], title))
    ids = np.arange(len(values), dtype=np.int64)
    if id_column is not None:
        ids = keys_of([path.name for path in paths], id_column, title)
    name = folder.resolve().name
    return Raw(as_numbers(values, title), ids, name, levels=256, source=title, id_column=id_column)


def _decode(image: Any, path: Path, title: str) -> np.ndarray:
    """One file as (1 or 3, H, W) uint8."""
    where = f"{title}: {path.name!r}"
    if path.is_dir():
        raise UserError(f"{where} is a folder, expected images only: move its images up or give that folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image.DecompressionBombWarning)
            picture = image.open(path)
        with picture:
            mode = _MODES.get(picture.mode)
            if mode is None or (picture.mode == "P" and "transparency" in picture.info):
                raise UserError(
                    f"{where} has mode {picture.mode}, expected 8-bit grey or RGB without transparency: convert it"
                )
            if getattr(picture, "n_frames", 1) != 1:
                raise UserError(f"{where} holds {picture.n_frames} pictures, expected one: save them separately")
            pixels = np.asarray(picture.convert(mode))
    except image.UnidentifiedImageError:
        raise UserError(f"{where} is not an image, expected images only: remove it from the folder") from None
    except (image.DecompressionBombError, image.DecompressionBombWarning):
        raise UserError(f"{where} has too many pixels, expected a picture of ordinary size: cut it") from None
    except UserError:
        raise
    except Exception as error:  # damaged bytes make pillow fail in many ways
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{where} is a damaged image ({reason}): save or copy it again") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _same(pictures: list[tuple[str, np.ndarray]], title: str) -> list[np.ndarray]:
    """The pictures, if all are like the most common one; else the odd one is named."""
    counts = Counter((pixels.shape[1:], pixels.shape[0]) for _, pixels in pictures)
    ((high, wide), channels), many = counts.most_common(1)[0]
    for name, pixels in pictures:
        if pixels.shape != (channels, high, wide):
            raise UserError(
                f"{title}: {name!r} is {_describe(pixels.shape)}, expected {_describe((channels, high, wide))} "
                f"like {many} of the {len(pictures)} images: resize, convert or remove it"
            )
    return [pixels for _, pixels in pictures]


def _describe(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]} {_WORDS['L' if shape[0] == 1 else 'RGB']}"
