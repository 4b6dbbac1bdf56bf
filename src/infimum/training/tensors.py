"""Tensors of modules and optimizers to safetensors files and back: strict, in full, without pickle."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.training.distributed import like, whole

__all__ = ["collect", "fill", "pack", "read_tensors", "to_cpu", "unpack", "write_tensors"]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors on the CPU that do not share memory, readable by whom the umask lets read."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path)  # a private file of its own, renamed
    path.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: the file is missing, cut short, or no safetensors file.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: the checkpoint is incomplete, use another one")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or no safetensors file ({reason}): use another checkpoint") from None


def collect(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Copies on the CPU of all parameters and persistent buffers, named `module.tensor`.

    Tied tensors are written once for each name.  All processes must call it when FSDP2 has sharded a module.

    Raises:
        UserError: a module keeps extra state that is not a tensor.
    """
    tensors = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            if not isinstance(value, Tensor):
                raise UserError(f"{name}.{key} is a {type(value).__name__}: keep the state of a module in buffers")
            tensors[f"{name}.{key}"] = to_cpu(value)
    return tensors


def fill(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], where: Path) -> None:
    """Write tensors named `module.tensor` into modules; names, shapes and dtypes must be the same.

    Raises:
        UserError: a tensor is missing, left over, or of another shape or dtype.
    """
    targets = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for problem, names in (
        ("lacks", targets.keys() - tensors.keys()),
        ("has no use for", tensors.keys() - targets.keys()),
    ):
        if names:
            first = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            word = f"{where} lacks {first}" if problem == "lacks" else f"{where} has {first}, unknown to the model"
            raise UserError(f"{word}: the checkpoint was written by another configuration")
    for key, target in targets.items():
        if target.shape != tensors[key].shape or target.dtype != tensors[key].dtype:
            found, wanted = ((tuple(t.shape), str(t.dtype)) for t in (tensors[key], target))
            raise UserError(f"{where}: {key} is {found}, and the model has {wanted}: another configuration wrote it")
    for name, module in modules.items():
        module.load_state_dict({key: like(tensors[f"{name}.{key}"], t) for key, t in module.state_dict().items()})


def pack(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of an optimizer as tensors named `index.name`, and JSON for the groups and for what is not a tensor.

    Raises:
        UserError: the state holds something that is neither.
    """
    tensors: dict[str, Tensor] = {}
    state = optimizer.state_dict()
    scalars = {str(i): _encode(part, f"{i}", tensors) for i, part in state["state"].items()}
    groups = [_encode(group, f"group{i}", tensors) for i, group in enumerate(state["param_groups"])]
    return tensors, {"class": type(optimizer).__name__, "state": scalars, "groups": groups}


def unpack(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], packed: Mapping[str, Any], where: Path
) -> None:
    """Restore what `pack` gave, into an optimizer of the same class over the same parameters.

    Raises:
        UserError: another class, another number of parameters, or a missing tensor.
    """
    own = optimizer.state_dict()["param_groups"]
    counts = [len(group["params"]) for group in own], [len(group["params"]["list"]) for group in packed["groups"]]
    if packed["class"] != type(optimizer).__name__ or counts[0] != counts[1]:
        raise UserError(
            f"{where} holds {packed['class']} over {counts[1]} parameters, and {type(optimizer).__name__} over "
            f"{counts[0]} was expected: resume with the configuration that wrote it"
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        state = {int(i): _decode(part, tensors) for i, part in packed["state"].items()}
        groups = [_decode(group, tensors) for group in packed["groups"]]
    except KeyError as error:
        raise UserError(f"{where} lacks {error}: the checkpoint is damaged, use another one") from None
    for group, fresh in zip(groups, own, strict=True):
        for name, value in fresh.items():
            if name != "params" and not _alike(group.get(name), value):
                raise UserError(
                    f"{where}: {name} of the optimizer is {group.get(name)!r}: the checkpoint is damaged, use another one"
                )
    for i, part in state.items():
        if not 0 <= i < len(parameters) or not isinstance(part, dict):
            raise UserError(
                f"{where} has a state of parameter {i}, of {len(parameters)}: the checkpoint is damaged, use another one"
            )
        for name, t in part.items():
            if isinstance(t, Tensor) and (bool(t.isnan().any()) or (name in _LIKE and t.shape != parameters[i].shape)):
                raise UserError(
                    f"{where}: {i}.{name} is NaN or of another shape: the checkpoint is damaged, use another one"
                )
        shared = {name: like(t, parameters[i]) for name, t in part.items() if _of_shape(t, parameters[i])}
        part.update(shared)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


_LIKE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum")
"""Moments that have the shape of their parameter."""


def _alike(value: object, fresh: object) -> bool:
    """Whether a setting of an optimizer is of the kind that it is in a fresh one; numbers are finite and not negative."""
    if isinstance(fresh, bool) or fresh is None or isinstance(value, bool):
        return value is None or isinstance(value, bool)
    if isinstance(fresh, int | float):
        return isinstance(value, int | float) and min(0, fresh) <= value < math.inf
    if isinstance(fresh, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(fresh) and all(map(_alike, value, fresh))
    return type(value) is type(fresh)


def _of_shape(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == parameter.shape


def to_cpu(x: Tensor) -> Tensor:
    """A copy in full that shares memory with nothing."""
    return whole(x.detach()).cpu().clone(memory_format=torch.contiguous_format)


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = to_cpu(value)
        return {"tensor": name}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _encode(part, f"{name}.{key}", tensors) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_encode(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]}
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise UserError(
            f"the optimizer keeps {name} = {value!r}, which a checkpoint cannot hold: use an optimizer of torch.optim"
        ) from None
    return value


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tensor"}:
        return tensors[value["tensor"]]
    if value.keys() <= {"list", "tuple"} and value:
        return [list, tuple]["tuple" in value](_decode(part, tensors) for part in next(iter(value.values())))
    return {key: _decode(part, tensors) for key, part in value.items()}
