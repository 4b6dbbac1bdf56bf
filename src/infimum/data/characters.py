"""Running English text as numbers of characters: a to z and the space, in chunks of equal length."""

import functools
import re
import unicodedata

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from infimum.errors import UserError

from .raw import Raw
from .wikipedia import articles

__all__ = ["CHARACTERS", "CHUNK", "decoded", "encoded", "wikipedia_characters"]

CHARACTERS = " abcdefghijklmnopqrstuvwxyz"
"""The alphabet of text8; a character's number is its place."""

CHUNK = 64

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGITS = {str(i): f" {word} " for i, word in enumerate(_NUMBERS)}
_MARKUP = re.compile(r"\{\|.*?\|\}|\[\[(?:File|Image|Category):[^\]]*\]\]|<[^>]*>", re.DOTALL)


def encoded(text: str) -> np.ndarray:
    """Numbers of the characters, as text8 has them: lower case, accents off, digits spelled, all else a single space."""
    plain = unicodedata.normalize("NFKD", text).lower()
    spelled = "".join(_DIGITS.get(c, c) for c in plain if not unicodedata.combining(c))
    kept = re.sub("[^a-z]+", " ", spelled).strip()
    return np.array([0 if c == " " else ord(c) - 96 for c in kept], dtype=np.int64)


def decoded(x: Shaped[Tensor, "B L"] | Shaped[np.ndarray, "B L"]) -> list[str]:
    """The text of every row.

    Raises:
        UserError: numbers outside of 0 to 26.
    """
    rows = torch.as_tensor(x).long()
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < len(CHARACTERS):
        raise UserError(
            f"characters have numbers from 0 to {len(CHARACTERS) - 1}, got {int(rows.min())} to {int(rows.max())}"
        )
    return ["".join(CHARACTERS[i] for i in row) for row in rows.tolist()]


@functools.lru_cache(maxsize=1)
def wikipedia_characters() -> Raw:
    """The articles of `wikipedia` as chunks of 64 characters; the article is the group, what is left over at its end is dropped."""
    chunks, groups = [], []
    for number, text in enumerate(articles(_MARKUP)):
        row = encoded(text)
        whole = len(row) // CHUNK
        chunks.append(row[: whole * CHUNK].reshape(whole, CHUNK))
        groups += [number] * whole
    values = np.concatenate(chunks)
    return Raw(
        values=values,
        ids=np.arange(len(values)),
        name="wikipedia-characters",
        groups=np.array(groups),
        levels=len(CHARACTERS),
    )
