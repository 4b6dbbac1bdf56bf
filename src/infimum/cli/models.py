"""What the commands on checkpoints share: finding the model, its data, and what it offers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from infimum.data import DataSpec, read, reload
from infimum.errors import UserError
from infimum.training import load_model

__all__ = ["Items", "checkpoint_of", "held_out", "open_model"]


def checkpoint_of(path: str) -> Path:
    """The checkpoint that a path means: itself, or the best or last of a run directory."""
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"{path} does not exist: give a run directory or a checkpoint folder")
    if (folder / "metrics.jsonl").exists() or (folder / "result.json").exists():
        for name in ("best", "checkpoint"):
            if (folder / name / "model.safetensors").exists():
                return folder / name
        inner = sorted(p.parent.parent.name for p in folder.glob("*/checkpoint/model.safetensors"))
        if inner:
            raise UserError(f"{path} holds the runs {', '.join(inner)}: name one, such as {folder / inner[0]}")
        raise UserError(f"{path} holds no checkpoint: its run has not saved one yet")
    return folder


def open_model(path: str) -> tuple[Any, DataSpec, Path]:
    """The model of a checkpoint in evaluation mode, the spec of its data, and where it was."""
    folder = checkpoint_of(path)
    model, data = load_model(folder)
    if not data:
        raise UserError(
            f"{folder / 'data.json'} is empty: evidence without the preprocessing of the data means nothing"
        )
    return model, DataSpec.from_json(json.dumps(data)), folder


@dataclass(frozen=True)
class Items:
    """Items to evaluate, as the model sees them."""

    x: Tensor
    keys: Tensor
    title: str


def held_out(spec: DataSpec, data: str | None, split: Literal["train", "valid", "test"]) -> Items:
    """The named split of the data that the model was trained on, or all items of the user's file."""
    if data is not None:
        import torch

        raw = read(data, id=spec.id_column, labels=spec.label_column)
        return Items(spec.apply(raw), torch.from_numpy(raw.ids), f"{data} (all {len(raw.ids)} items)")
    dataset = reload(spec, spec.source)
    x, keys = getattr(dataset, split), getattr(dataset, f"{split}_ids")
    if not len(x):
        raise UserError(f"--split {split} of {spec.name} is empty: choose train, valid or test, or give --data FILE")
    return Items(x, keys, f"{spec.name}, {split} split ({len(x)} items)")
