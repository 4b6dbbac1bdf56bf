"""The state of a training run, in one folder that is replaced as a whole.

    checkpoint/  config.json  model.safetensors  data.json  state.json  optimizer-<name>.safetensors

`model.safetensors` holds every module of the learner (`module.tensor`), the averages (`ema.module.tensor`) and the
state of torch's generators (`rng.cpu`: bytes, one row a process).  All processes call `save`; the first one writes.
Resuming on several machines needs a folder that all of them see.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.training.average import EMA
from infimum.training.config import to_json
from infimum.training.distributed import gather, like, rank, world
from infimum.training.files import current, dump, read_json, replacing
from infimum.training.models import FORMAT, describe, name_of, refuse_other
from infimum.training.tensors import collect, fill, pack, read_tensors, to_cpu, unpack, write_tensors

__all__ = ["RESERVED", "Parts", "load_modules", "load_state", "save_state"]

RESERVED = ("ema", "rng")
"""Names that a learner's modules cannot have."""


@dataclass(frozen=True)
class Parts:
    """What a checkpoint is taken of, and restored into."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    averages: Mapping[str, EMA]
    device: torch.device


def save_state(path: Path, parts: Parts, *, state: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Write a checkpoint, or nothing.  `config.json` describes the first module whose class is in `MODELS`.

    Raises:
        UserError: the folder holds other files, or a state cannot be written without pickle.
    """
    tensors = collect(parts.modules)
    for name, average in parts.averages.items():
        tensors |= {f"ema.{name}.{key}": to_cpu(t) for key, t in average.named().items()}
    tensors |= _generators(parts.device)
    packed = {name: pack(optimizer) for name, optimizer in parts.optimizers.items()}
    if rank() != 0:
        return
    refuse_other(path)
    with replacing(path) as folder:
        dump(folder / "config.json", {**_head(parts.modules), "infimum": version("infimum")})
        dump(folder / "data.json", to_json(data, "data"))
        write_tensors(folder / "model.safetensors", tensors)
        for name, (moments, _) in packed.items():
            write_tensors(folder / f"optimizer-{name}.safetensors", moments)
        optimizer_json = {name: groups for name, (_, groups) in packed.items()}
        dump(folder / "state.json", {"format": FORMAT, **state, "optimizers": optimizer_json})


def load_state(path: Path, parts: Parts) -> dict[str, Any]:
    """Restore everything that `save_state` wrote into objects of the same configuration; returns its `state`.

    Raises:
        UserError: the checkpoint is incomplete, damaged or of another configuration.
    """
    folder = _folder(path)
    state: dict[str, Any] = read_json(folder / "state.json")
    if state.get("format") != FORMAT:
        raise UserError(
            f"{folder} has checkpoint format {state.get('format')!r}, and {FORMAT} is read: upgrade infimum"
        )
    head, own = read_json(folder / "config.json"), _head(parts.modules)
    if {name: head.get(name) for name in own} != own:
        raise UserError(f"{folder / 'config.json'} describes another model than the run's: use the checkpoint it wrote")
    tensors = read_tensors(folder / "model.safetensors")
    _fill(folder, parts.modules, parts.averages, tensors)
    packed = state.pop("optimizers", None)
    whole = isinstance(packed, dict) and all(_is_packed(part) for part in packed.values())
    if not isinstance(packed, dict) or not whole:
        raise UserError(f"{folder / 'state.json'} describes no optimizers: the checkpoint is damaged, use another one")
    if packed.keys() != parts.optimizers.keys():
        raise UserError(f"{folder} has the optimizers {sorted(packed)}, and {sorted(parts.optimizers)} were expected")
    for name, optimizer in parts.optimizers.items():
        file = folder / f"optimizer-{name}.safetensors"
        unpack(optimizer, read_tensors(file), packed[name], file)
    _restore_generators(tensors, parts.device, folder / "model.safetensors")
    return state


def load_modules(path: str | Path, modules: Mapping[str, nn.Module], averages: Mapping[str, EMA] | None = None) -> None:
    """Read only the weights of a checkpoint (say `Result.best`) into a learner's modules, and its averages.

    Raises:
        UserError: the checkpoint is incomplete, damaged or of another configuration.
    """
    folder = _folder(Path(path))
    _fill(folder, modules, averages or {}, read_tensors(folder / "model.safetensors"))


def _restore_generators(tensors: Mapping[str, Tensor], device: torch.device, file: Path) -> None:
    """States of torch's generators, where as many processes wrote them as read them."""
    kinds: dict[str, Callable[[Tensor], None]] = {"cpu": torch.set_rng_state}
    if device.type == "cuda" and "rng.cuda" in tensors:
        kinds["cuda"] = lambda row: torch.cuda.set_rng_state(row, device)
    for kind, restore in kinds.items():
        rows = tensors.get(f"rng.{kind}")
        try:
            if rows is None or rows.ndim != 2:
                raise TypeError("it is missing or no table")
            if len(rows) == world():
                restore(rows[rank()].clone())
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"{file}: rng.{kind} is no state of a generator ({str(error).splitlines()[0]}): use another checkpoint"
            ) from None


def _head(modules: Mapping[str, nn.Module]) -> dict[str, object]:
    """`config.json` of the first module whose class is known, but for the version that writes it."""
    named = next(((name, module) for name, module in modules.items() if name_of(module)), None)
    head = describe(None, None) if named is None else describe(named[1], name_of(named[1]), named[0])
    return {name: value for name, value in head.items() if name != "infimum"}


def _is_packed(part: object) -> bool:
    """Whether this is what `pack` makes of an optimizer."""
    if not isinstance(part, dict) or not isinstance(part.get("class"), str) or not isinstance(part.get("state"), dict):
        return False
    groups = part.get("groups")
    return isinstance(groups, list) and all(
        isinstance(g, dict) and isinstance(g.get("params"), dict) and isinstance(g["params"].get("list"), list)
        for g in groups
    )


def _folder(path: Path) -> Path:
    folder = current(path)
    if folder is None:
        raise UserError(f"{path} is not a folder: give the checkpoint folder of a run")
    return folder


def _fill(
    folder: Path, modules: Mapping[str, nn.Module], averages: Mapping[str, EMA], tensors: Mapping[str, Tensor]
) -> None:
    file = folder / "model.safetensors"
    fill(modules, {key: t for key, t in tensors.items() if key.partition(".")[0] not in RESERVED}, file)
    for name, average in averages.items():
        for key, value in average.values.items():
            if f"ema.{name}.{key}" not in tensors:
                raise UserError(f"{file} lacks ema.{name}.{key}: the run kept no average of it, resume it as it was")
            if tensors[f"ema.{name}.{key}"].shape != value.shape:
                shapes = tuple(tensors[f"ema.{name}.{key}"].shape), tuple(value.shape)
                raise UserError(
                    f"{file}: ema.{name}.{key} is {shapes[0]}, and the model has {shapes[1]}: use another checkpoint"
                )
            value.copy_(like(tensors[f"ema.{name}.{key}"], value))


def _generators(device: torch.device) -> dict[str, Tensor]:
    """States of torch's generators (dropout, samplers of other libraries), one row a process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {f"rng.{name}": to_cpu(gather(value.to(device))) for name, value in states.items()}
