"""From a name or a path to tensors: train, valid and test, with ids and labels, and the spec that made them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from infimum.errors import UserError

from .batching import order
from .raw import Raw
from .reading import read
from .registry import DATASETS, Kind
from .spec import DataSpec, Split
from .steps import Standardise, Step, Threshold

__all__ = ["Dataset", "load", "reload"]


@dataclass(frozen=True)
class Dataset:
    """A data set as a model sees it.

    Attributes:
        train: (N, *shape) float32, in a random order.
        valid: the same, held out for choices; may be empty.
        test: the same, held out for the final number; may be empty.
        train_ids: (N,) int64, the keys of the items' draws: row numbers of the source, or hashes of the user's ids.
        valid_ids: the same.
        test_ids: the same.
        spec: what turned the raw values into these.
        train_labels: (N,) int64 class numbers or float64 numbers, if there are any.
        valid_labels: the same.
        test_labels: the same.
        classes: names of the classes, if they have names.
    """

    train: Float32[Tensor, "n *shape"]
    valid: Float32[Tensor, "v *shape"]
    test: Float32[Tensor, "t *shape"]
    train_ids: Int64[Tensor, "n"]
    valid_ids: Int64[Tensor, "v"]
    test_ids: Int64[Tensor, "t"]
    spec: DataSpec
    train_labels: Shaped[Tensor, "n"] | None = None
    valid_labels: Shaped[Tensor, "v"] | None = None
    test_labels: Shaped[Tensor, "t"] | None = None
    classes: tuple[str, ...] | None = None


def load(
    name_or_path: str | Path,
    *,
    kind: Kind | None = None,
    threshold: float | None = None,
    levels: int | None = None,
    seed: int = 0,
    valid: float = 0.1,
    test: float = 0.2,
    id: str | None = None,
    labels: str | None = None,
    patch: int | None = None,
) -> Dataset:
    """Load an embedded data set by name, or the user's file or folder by path.

    The split is pure in (seed, item ids): the items are put in an order that depends on nothing else, and ``test``,
    ``valid`` and ``train`` are cut from it one after the other; photographs are divided whole. Standardisation is
    fitted on the training items alone.

    Without ``kind``, a data set of the registry takes its first kind; a file is binary if ``threshold`` is given or all
    of its values are 0 or 1, integer if it holds 8-bit values or ``levels`` is given, and real otherwise.

    Args:
        name_or_path: a key of ``DATASETS``, or a path (a name wins: write ``./wine`` for a folder of that name).
        kind: "binary", "integer" or "real".
        threshold: raw values from here on count as 1 (binary).
        levels: number of grey levels of the user's integer data (default: 256 for 8-bit values, else the largest + 1).
        seed: of the split.
        valid: share of the items (of the photographs) held out for choices.
        test: share held out for the final number.
        id: the user's id column, see `read`.
        labels: the user's label column, see `read`.
        patch: side of the photographs' patches in pixels (default 8).

    Raises:
        UserError: no such data set or file, or data that do not fit the options; see `read`.
    """
    raw = _raw(name_or_path, id=id, labels=labels, patch=patch)
    if len(raw.ids) < 2:
        raise UserError(
            f"{raw.title}: there is one row of data, expected at least 2: add rows, so that some can be held out"
        )
    split = Split(seed=seed, train=round(1 - valid - test, 12), valid=valid, test=test)
    parts = _deal(raw, split)
    spec = _fit(raw, parts["train"], split, kind, threshold, levels)
    return _dataset(raw, parts, spec)


def reload(spec: DataSpec, path: str | Path | None = None) -> Dataset:
    """The data set of a stored spec again: the same source, split and preprocessing, nothing fitted anew.

    Of polydigits one pairing of each training digit, however many there were.

    Args:
        spec: of ``data.json``.
        path: the user's file; needed if the spec is of a file, because paths in stored files are not followed.

    Raises:
        UserError: the source is not the one that the spec was made from.
    """
    if spec.source is None and path is not None:
        raise UserError(f"the model was trained on the data set {spec.name!r}, expected no path: leave {path} out")
    if spec.source is not None and path is None:
        raise UserError(f"the model was trained on the file {spec.source}: pass its path")
    if spec.source is None and spec.name in ("polydigits", "translated-polydigits"):
        from .polydigits import polydigits

        return polydigits(spec.shape[0], translated=spec.name != "polydigits", seed=spec.split.seed)
    patch = spec.shape[-1] if spec.name == "photographs" and spec.source is None else None
    raw = _raw(spec.name if path is None else path, id=spec.id_column, labels=spec.label_column, patch=patch)
    if raw.fingerprint() != spec.fingerprint:
        raise UserError(
            f"{raw.title} is not what the model was trained on (other values or ids), expected the same data: restore "
            "them, or apply the spec to them as new data"
        )
    return _dataset(raw, _deal(raw, spec.split), spec)


def _raw(name_or_path: str | Path, *, id: str | None, labels: str | None, patch: int | None) -> Raw:
    """The raw values of a registered name or of a path, with the options that it knows."""
    if patch is not None and name_or_path != "photographs":
        raise UserError(f"patch={patch} is for photographs, expected none for {str(name_or_path)!r}: leave it out")
    if isinstance(name_or_path, str) and name_or_path in DATASETS:
        for option, value in (("id", id), ("labels", labels)):
            if value is not None:
                raise UserError(f"{option}={value!r} is for files, expected none for {name_or_path!r}: leave it out")
        module, function = DATASETS[name_or_path].loader.split(":")
        options: Mapping[str, Any] = {} if patch is None else {"patch": patch}
        raw: Raw = getattr(import_module(module), function)(**options)
        return raw
    text = str(name_or_path)
    if not Path(text).exists() and not Path(text).suffix and "/" not in text:
        close = difflib.get_close_matches(text, DATASETS, n=1)
        hint = f", did you mean {close[0]!r}" if close else ""
        raise UserError(
            f"there is no data set or file {text!r}{hint}: expected {', '.join(DATASETS)} or the path of a file"
        )
    return read(name_or_path, id=id, labels=labels)


def _deal(raw: Raw, split: Split) -> dict[str, np.ndarray]:
    """Row numbers of each part, in a random order that is pure in (seed, ids); groups stay whole."""
    rows = order(torch.from_numpy(raw.ids), split.seed, "rows").numpy()
    if raw.groups is None:
        groups, dealt = np.arange(len(raw.ids)), rows
    else:
        groups = raw.groups
        dealt = order(torch.arange(int(groups.max()) + 1), split.seed, "groups").numpy()
    count = len(dealt)
    tests, valids = (max(1, int(share * count + 0.5)) if share else 0 for share in (split.test, split.valid))
    if tests + valids >= count:
        raise UserError(
            f"{raw.title}: {count} {'rows' if raw.groups is None else 'groups'} cannot be divided into test {tests}, "
            f"valid {valids} and at least 1 to train on: lower valid= or test=, or give more data"
        )
    part = np.empty(count, dtype=np.int64)
    part[dealt] = np.repeat([0, 1, 2], [tests, valids, count - tests - valids])
    of_row = part[groups[rows]]
    return {name: rows[of_row == number] for number, name in enumerate(("test", "valid", "train"))}


def _fit(
    raw: Raw, train: np.ndarray, split: Split, kind: Kind | None, threshold: float | None, levels: int | None
) -> DataSpec:
    """The spec of a new data set: its kind, and the steps fitted on the training rows."""
    entry = DATASETS[raw.name] if raw.source is None else None
    if kind is None:
        preferred: Kind | None = entry.kinds[0] if entry and threshold is None and levels is None else None
        kind = preferred or _guess(raw, threshold, levels)
    if entry and kind not in entry.kinds:
        why = " (a density of whole numbers has no upper limit)" if kind == "real" else ""
        raise UserError(f"{raw.name} cannot be {kind}{why}, expected kind={' or '.join(entry.kinds)}")
    for option, value, fitting in (("threshold", threshold, "binary"), ("levels", levels, "integer")):
        if value is not None and kind != fitting:
            raise UserError(f"{option}={value} is for {fitting} data, expected none for kind={kind}: leave it out")
    if entry and levels not in (None, entry.levels):
        raise UserError(f"{raw.name} has {entry.levels} grey levels, not {levels}: leave levels= out")
    if entry and threshold is None:
        threshold = entry.threshold
    steps: tuple[Step, ...] = ()
    if kind == "binary" and threshold is not None:
        steps = (_threshold(raw, threshold),)
    if kind == "real":
        steps = (Standardise.fit(raw.values[train], raw.columns, raw.title),)
    if kind == "integer" and levels is None:
        levels = raw.levels or _count_levels(raw)
    return DataSpec(
        name=raw.name,
        kind=kind,
        shape=raw.values.shape[1:],
        levels=levels,
        columns=raw.columns,
        steps=steps,
        source=raw.source,
        split=split,
        id_column=raw.id_column,
        label_column=raw.label_column,
        fingerprint=raw.fingerprint(),
    )


def _guess(raw: Raw, threshold: float | None, levels: int | None) -> Kind:
    if threshold is not None or raw.levels == 2 or bool(((raw.values == 0) | (raw.values == 1)).all()):
        return "binary"
    return "integer" if levels is not None or raw.levels is not None else "real"


def _threshold(raw: Raw, value: float) -> Threshold:
    """The step, unless it would make every value the same."""
    low, high = raw.values.min(), raw.values.max()
    if not low < value <= high:
        raise UserError(
            f"{raw.title}: threshold={value:g} turns every value into {int(value <= low)}, expected one above {low:g} "
            f"and at most {high:g}, the range of the values: change threshold="
        )
    return Threshold(float(value), raw.levels)


def _count_levels(raw: Raw) -> int:
    """Largest value + 1, at least 2; values that are no grey levels are refused by `DataSpec.apply`."""
    high = float(raw.values.max())
    if high >= 2**16:
        raise UserError(
            f"{raw.title}: the largest value is {high:g}, expected grey levels below 65536: use kind='real' instead"
        )
    return max(2, int(high) + 1)


def _dataset(raw: Raw, parts: Mapping[str, np.ndarray], spec: DataSpec) -> Dataset:
    seen = spec.apply(raw)
    tensors: dict[str, Tensor] = {}
    for name, rows in parts.items():
        tensors[name] = seen[torch.from_numpy(rows)]
        tensors[f"{name}_ids"] = torch.from_numpy(raw.ids[rows])
        if raw.labels is not None:
            tensors[f"{name}_labels"] = torch.from_numpy(raw.labels[rows])
    return Dataset(**tensors, spec=spec, classes=raw.classes)
