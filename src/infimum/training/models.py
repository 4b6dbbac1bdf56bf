"""Models by name: a table of what a checkpoint may hold, and saving and loading one model.

    PATH/  config.json  model.safetensors  data.json

No import path is read from a file: `config.json` names a row of the table.
"""

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infimum.errors import UserError
from infimum.training.config import from_json, to_json
from infimum.training.files import current, dump, read_json, replacing
from infimum.training.tensors import collect, fill, read_tensors, write_tensors

__all__ = ["FORMAT", "MODELS", "describe", "known_models", "load_model", "name_of", "refuse_other", "save_model"]

FORMAT = 1
"""Version of the checkpoint's layout."""

MODELS: dict[str, str] = {
    "vae": "infimum.vae.model:VAE",
    "conditional-vae": "infimum.vae.conditional:ConditionalVAE",
    "convolutional-vae": "infimum.vae.convolutional:ConvolutionalVAE",
    "belief-net": "infimum.vae.belief:BeliefNet",
    "multimodal-vae": "infimum.vae.multimodal.model:MultimodalVAE",
    "text-vae": "infimum.vae.text.model:TextVAE",
    "diffusion": "infimum.diffusion.model:GaussianDiffusion",
    "diffenc": "infimum.diffusion.diffenc:DiffEnc",
    "mulan": "infimum.diffusion.mulan.model:Mulan",
    "masked-diffusion": "infimum.discrete.masked:MaskedDiffusion",
    "autoregressive": "infimum.discrete.autoregressive:Autoregressive",
}
"""Name in `config.json` -> "module:Class".

The class has a frozen dataclass `Config`, `__init__(config)`, `.config`.
"""


def known_models() -> dict[str, str]:
    """`MODELS`, and the entry points `infimum.models` of installed packages (which cannot replace ours)."""
    return {point.name: point.value for point in entry_points(group="infimum.models")} | MODELS


def name_of(model: nn.Module) -> str | None:
    """The name under which the class of a model is known, or None; a model that its configuration does not build has none."""
    if not getattr(model, "describable", True):
        return None
    target = f"{type(model).__module__}:{type(model).__qualname__}"
    return next((name for name, value in known_models().items() if value == target), None)


def describe(model: nn.Module | None, name: str | None, module: str = "model") -> dict[str, object]:
    """Content of `config.json`: the name of the class, its configuration, and its prefix in `model.safetensors`."""
    config = None if model is None else to_json(model.config)
    return {"format": FORMAT, "model": name, "module": module, "config": config, "infimum": version("infimum")}


def save_model(path: str | Path, model: nn.Module, name: str, data: Mapping[str, Any]) -> None:
    """Write a model and the preprocessing of its data (`data.json`); an older checkpoint there is replaced at once.

    Raises:
        UserError: the name is unknown, or the folder holds something else than a checkpoint.
    """
    _class(name, Path(path))
    if not getattr(model, "describable", True):
        raise UserError(
            f"the network of this {name} is not its configuration's and could not be built again: save it itself"
        )
    refuse_other(Path(path))
    with replacing(Path(path)) as folder:
        dump(folder / "config.json", describe(model, name))
        dump(folder / "data.json", to_json(data, "data"))
        write_tensors(folder / "model.safetensors", collect({"model": model}))


def load_model(path: str | Path, *, averaged: bool = True) -> tuple[Any, dict[str, Any]]:
    """Build the model of a checkpoint on the CPU, in evaluation mode, and the preprocessing of its data.

    Args:
        averaged: where the run kept an exponential average of the weights, load that.

    Raises:
        UserError: no checkpoint there, an unknown model, a configuration or weights that do not fit it.
    """
    folder = current(Path(path))
    if folder is None:
        raise UserError(f"{path} is not a folder: give the checkpoint folder of a run")
    head = read_json(folder / "config.json")
    if head.get("format") != FORMAT:
        raise UserError(f"{folder} has checkpoint format {head.get('format')!r}, and {FORMAT} is read: upgrade infimum")
    if head.get("model") is None:
        raise UserError(f"{folder} holds a training state and no model of a known class: resume its run instead")
    cls = _class(head["model"], folder)
    model = cls(from_json(cls.Config, head.get("config"), f"{folder / 'config.json'}: config"))
    prefix = head.get("module", "model")
    tensors = read_tensors(folder / "model.safetensors")
    own = {key: value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
    mean = {key.removeprefix("ema."): value for key, value in tensors.items() if key.startswith(f"ema.{prefix}.")}
    with torch.no_grad():
        fill({str(prefix): model}, own | mean if averaged else own, folder / "model.safetensors")
    data = read_json(folder / "data.json") if (folder / "data.json").exists() else {}
    return model.eval(), data


def refuse_other(path: Path) -> None:
    """Refuse to replace a folder that is not a checkpoint."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: choose another folder for the checkpoint")
    if path.is_dir() and any(path.iterdir()) and not (path / "model.safetensors").exists():
        raise UserError(f"{path} holds other files and no checkpoint: choose another folder")


def _class(name: object, where: Path) -> Any:
    known = known_models()
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{where}: the model {name!r} is unknown; known are {', '.join(sorted(known))}")
    module, _, attribute = known[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
