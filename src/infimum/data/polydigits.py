"""Mini-PolyMNIST and Translated-PolyMNIST from bundled digits and bundled photographs: nothing is downloaded.

The procedure of PolyMNIST (Sutter et al. 2021, 2105.02470; Daunhawer et al. 2022, 2110.04121, appendices): every modality has
a photograph of its own, of which each item gets a random crop whose colours are inverted where a binarised digit is on; the
modalities of a tuple show different digits of one label, paired by a random permutation for each label and modality.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor

from infimum.data.batching import order
from infimum.data.embedded import digits, pictures
from infimum.data.loading import Dataset
from infimum.data.spec import DataSpec, Split
from infimum.errors import UserError
from infimum.evidence import Plan

__all__ = ["BACKGROUNDS", "SIDE", "polydigits"]

BACKGROUNDS = ("astronaut", "coffee", "chelsea", "motorcycle_left", "ihc")
"""The photographs, one a modality: the colour ones of scikit-image that are PNG (a JPEG's pixels depend on the decoder)."""
SIDE = 16
SMALL = 10
"""Side of a translated digit."""
TEST = 397


def polydigits(modalities: int = 5, *, translated: bool = False, copies: int = 1, seed: int = 0) -> Dataset:
    """Tuples of one digit class on ``modalities`` backgrounds, (N, M, 3, 16, 16) in [0, 1], with labels.

    scikit-learn's 8x8 digits are enlarged to 16x16 bilinearly and cut at half of their range; photographs are halved first.
    1,400 digits are for training and 397 for testing, divided before they are paired, so that no digit is on both sides. There is
    no validation part.

    Args:
        modalities: M, 1 to 5.
        translated: digits of 10x10 at uniformly random places.
        copies: pairings of each training digit, every one with crops and places of its own (N = 1400 copies; more copies only
            add to the end, and the 397 test tuples stay the same).
        seed: of the division, the pairings, crops and places.

    Raises:
        UserError: a number of modalities or copies out of range.
    """
    if not 1 <= modalities <= len(BACKGROUNDS):
        raise UserError(f"polydigits has 1 to {len(BACKGROUNDS)} modalities, got {modalities}")
    if copies < 1:
        raise UserError(f"copies is the number of pairings of each digit, at least 1, got {copies}")
    raw = digits()
    assert raw.labels is not None
    labels, shapes = torch.from_numpy(raw.labels), _strokes(raw.values, SMALL if translated else SIDE)
    photographs = _photographs()[:modalities]
    dealt = order(torch.arange(len(labels)), seed, "polydigits")
    parts = {"test": (dealt[:TEST], 1), "train": (dealt[TEST:], copies)}
    tensors: dict[str, Tensor] = {}
    first = 0
    for name, (rows, times) in parts.items():
        x, y = [], []
        for copy in range(times):
            keys = torch.arange(first, first + len(rows))
            first += len(rows)
            pairs = _paired(labels[rows], modalities, seed, f"{name}/{copy}")
            x.append(_tuples(shapes[rows][pairs], photographs, keys, seed))
            y.append(labels[rows][pairs[:, 0]])
        tensors[name], tensors[f"{name}_labels"] = torch.cat(x), torch.cat(y)
        tensors[f"{name}_ids"] = torch.arange(first - len(rows) * times, first)
    spec = DataSpec(
        name="translated-polydigits" if translated else "polydigits",
        kind="real",
        shape=(modalities, 3, SIDE, SIDE),
        split=Split(seed=seed, train=1 - TEST / len(labels), valid=0.0, test=TEST / len(labels)),
    )
    empty = {"valid": tensors["train"][:0], "valid_ids": torch.arange(0), "valid_labels": torch.arange(0)}
    return Dataset(**tensors, **empty, spec=spec, classes=tuple(map(str, range(10))))


def _strokes(values: np.ndarray, side: int) -> Float32[Tensor, "N side side"]:
    """1 where the enlarged digit is at least half of its range of 16, else 0."""
    grey = torch.from_numpy(values.astype(np.float32)) / 16
    return (F.interpolate(grey, (side, side), mode="bilinear", align_corners=False)[:, 0] >= 0.5).float()


def _photographs() -> list[Float32[Tensor, "3 _ _"]]:
    """The backgrounds in [0, 1], halved: crops of 16x16 then show some texture."""
    found = pictures()
    halved = []
    for name in BACKGROUNDS:
        picture = torch.from_numpy(found[name][..., :3].astype(np.float32) / 255).permute(2, 0, 1)
        halved.append(F.avg_pool2d(picture[None], 2)[0])
    return halved


def _paired(labels: Int64[Tensor, "n"], modalities: int, seed: int, stream: str) -> Int64[Tensor, "n M"]:
    """Rows of the digits of every tuple: for each label and modality a random permutation of the label's digits."""
    pairs = torch.empty(len(labels), modalities, dtype=torch.int64)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        for m in range(modalities):
            pairs[rows, m] = rows[order(rows, seed, f"polydigits/{stream}/{label}/{m}")]
    return pairs


def _tuples(
    strokes: Float32[Tensor, "n M side side"], photographs: list[Tensor], keys: Int64[Tensor, "n"], seed: int
) -> Float32[Tensor, "n M 3 16 16"]:
    """Crops of the photographs, their colours inverted on the digits."""
    draws = Plan.iid(1).draws(keys, seed=seed, salt="polydigits")
    grid = torch.arange(SIDE)
    side = strokes.shape[-1]
    out = []
    for m, photograph in enumerate(photographs):
        place = draws.uniform(f"crop/{m}", 2)[0]  # (n, 2)
        room = torch.tensor(photograph.shape[1:]) - SIDE + 1
        top, left = (place * room).long().unbind(-1)
        crop = photograph[:, (top[:, None] + grid)[:, :, None], (left[:, None] + grid)[:, None, :]].transpose(0, 1)
        at = (draws.uniform(f"place/{m}", 2)[0] * (SIDE - side + 1)).long()
        down, right = (grid[None] - at[:, i, None] for i in (0, 1))  # where each pixel lies in the digit
        inside = ((down >= 0) & (down < side))[:, :, None] & ((right >= 0) & (right < side))[:, None, :]
        n = torch.arange(len(keys))[:, None, None]
        on = strokes[n, m, down.clamp(0, side - 1)[:, :, None], right.clamp(0, side - 1)[:, None, :]] * inside
        out.append(torch.where(on[:, None] > 0, 1 - crop, crop))
    return torch.stack(out, 1)
