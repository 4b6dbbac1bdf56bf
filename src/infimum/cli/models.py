"""What the commands on checkpoints share: finding the model, its data, and what it offers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from infimum.cli.language import LANGUAGE, is_language, open_language
from infimum.data import DataSpec, Vocabulary, load_sentences, read, read_text, reload
from infimum.errors import UserError
from infimum.recipes.base import items_for
from infimum.training import load_model

__all__ = ["Items", "check_apart", "check_device", "check_target", "checkpoint_of", "held_out", "open_model"]


PIPELINE = "diffusers pipeline"
"""Name of the data of a model whose data are unknown."""

_KEPT = (
    "config.json", "data.json", "metrics.jsonl", "result.json", "state.json", "infimum.json", "adapter_config.json",
    "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    "special_tokens_map.json", "added_tokens.json", "merges.txt",
)  # fmt: skip
"""Files of runs and of checkpoints, which no output may take the place of."""


def check_device(name: str) -> None:
    """Refuse a device that does not exist here."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is no device: use cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name} was asked, but torch sees no CUDA device: use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UserError(f"--device {name} was asked, and the last one here is cuda:{last}: use that, or --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name} was asked, but torch sees no Apple GPU: use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name} is not offered: use cpu, cuda, cuda:1 or mps")


def check_apart(data: str | None, targets: Mapping[str, str | None]) -> None:
    """Refuse output files that would take the place of the data, or of one another.

    Args:
        data: a file or a folder that is read.
        targets: output file by flag.

    Raises:
        UserError: names both flags.
    """
    seen: dict[Path, str] = {}
    for flag, target in targets.items():
        if target is None:
            continue
        path = Path(target).resolve()
        if data is not None and path.exists():
            source = Path(data).resolve()
            if source.exists() and (source in path.parents or path.samefile(source)):
                raise UserError(f"{flag} {target} is read as --data {data}, and would be lost: choose another file")
        if path in seen:
            raise UserError(f"{seen[path]} and {flag} both name {target}: give them files of their own")
        seen[path] = flag


def check_target(flag: str, path: str | None) -> None:
    """Refuse an output file that could not be written, before any work is done for it."""
    if path is None:
        return
    target = Path(path)
    if target.is_dir():
        raise UserError(f"{flag} {path} is a folder: give the name of a file")
    if not target.parent.is_dir():
        raise UserError(f"{flag} {path}: the folder {target.parent} does not exist")
    if target.exists() and (target.name in _KEPT or target.suffix == ".safetensors"):
        raise UserError(f"{flag} {path} is a file that a run keeps, and would be lost: choose another name")


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


def open_model(path: str, adapter: str | None = None) -> tuple[Any, DataSpec, Path]:
    """The model of a checkpoint in evaluation mode, the spec of its data, and where it was.

    Args:
        path: run directory, checkpoint, or folder of another library.
        adapter: folder of adapters of a language model.
    """
    if is_language(path):
        return open_language(path, adapter)
    if adapter is not None:
        raise UserError(f"--adapter is for folders of language models, and {path} is none: leave it out")
    if (Path(path) / "model_index.json").exists():
        return _pipeline(Path(path))
    folder = checkpoint_of(path)
    model, data = load_model(folder)
    if not data:
        raise UserError(
            f"{folder / 'data.json'} is empty: evidence without the preprocessing of the data means nothing"
        )
    return model, DataSpec.from_json(json.dumps(data)), folder


def _pipeline(folder: Path) -> tuple[Any, DataSpec, Path]:
    """A pipeline of diffusers, of integer images as its training scripts scale them."""
    from infimum.diffusion import from_diffusers

    model = from_diffusers(folder)
    return model, DataSpec(PIPELINE, "integer", model.config.shape, levels=model.config.levels), folder


@dataclass(frozen=True)
class Items:
    """Items to evaluate, as the model sees them."""

    x: Any
    keys: Tensor
    title: str


def held_out(
    model: Any, spec: DataSpec, data: str | None, split: Literal["train", "valid", "test"], *, chat: bool = False
) -> Items:
    """The named split of the data that the model was trained on, or all items of the user's file.

    Args:
        model: of a checkpoint.
        spec: of its data.
        data: file or folder of the user's.
        split: of the model's own data.
        chat: put prompts into the chat template of a language model's tokenizer.
    """
    vocabulary = getattr(model, "vocabulary", None)
    if spec.name == LANGUAGE:
        if data is None:
            raise UserError("a language model does not know the texts that it was trained on: give --data FILE")
        from infimum.cli.texts import canvas_items

        return canvas_items(model, data, chat=chat)
    if chat:
        raise UserError(f"--chat is for language models, and this is a {type(model).__name__}: leave it out")
    if data is not None and vocabulary is not None:
        return _sentences(vocabulary, spec, data)
    if data is not None:
        raw = read(data, id=spec.id_column, labels=spec.label_column)
        labels = None if raw.labels is None else torch.from_numpy(raw.labels)
        x = items_for(model, spec.apply(raw), labels)
        return Items(x, torch.from_numpy(raw.ids), f"{data} (all {len(raw.ids)} items)")
    if spec.name == PIPELINE:
        raise UserError("a pipeline of diffusers does not know the data that it was trained on: give --data FILE")
    if spec.source is not None and not _file(spec.source).exists():
        raise UserError(
            f"the model was trained on {spec.source}, which is not there seen from this folder: call from the folder of the "
            "training, or give --data FILE (all of its items are evaluated)"
        )
    if spec.source is not None and vocabulary is not None:
        dataset, _ = load_sentences(spec.source, words=vocabulary, longest=spec.shape[0] - 1, seed=spec.split.seed)
        if dataset.spec.fingerprint != spec.fingerprint:
            raise UserError(
                f"{spec.source} does not hold the sentences that the model was trained on: restore the file, or give it with "
                "--data as new text"
            )
    else:
        dataset = reload(spec, spec.source)
    x, keys = getattr(dataset, split), getattr(dataset, f"{split}_ids")
    if not len(x):
        raise UserError(f"--split {split} of {spec.name} is empty: choose train, valid or test, or give --data FILE")
    x = items_for(model, x, getattr(dataset, f"{split}_labels"))
    return Items(x, keys, f"{spec.name}, {split} split ({len(keys)} items)")


def _sentences(vocabulary: Vocabulary, spec: DataSpec, data: str) -> Items:
    """All sentences of the user's text that fit, in the model's words."""
    corpus = read_text(data, words=vocabulary, longest=spec.shape[0] - 1)
    if corpus.unknown > 0.5:
        raise UserError(
            f"{data}: the model does not know {corpus.unknown:.0%} of the words, so that it can tell nothing of this text: give "
            "text of the kind that it was trained on"
        )
    left = f", {corpus.left_out} left out as too short, too long or repeated" if corpus.left_out else ""
    title = f"{data} ({len(corpus.raw.ids)} sentences{left}; {corpus.unknown:.1%} of the words unknown)"
    return Items(torch.from_numpy(corpus.raw.values).float(), torch.from_numpy(corpus.raw.ids), title)


def _file(source: str) -> Path:
    """The file of a source that may name a column, as file.csv:column."""
    return Path(source.rsplit(":", 1)[0] if ".csv:" in source.lower() else source)
