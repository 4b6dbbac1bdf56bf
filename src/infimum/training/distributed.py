"""Several processes: who we are, the mean of a tensor over all of them, and tensors sharded by FSDP2.

Modules are not wrapped in `DistributedDataParallel`: it synchronises only what goes through its own `forward`, and a
model here is called by its methods.  Gradients are averaged once an update instead, whatever the step did.
"""

import atexit
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from infimum.errors import UserError

__all__ = [
    "connect",
    "gather",
    "like",
    "mean",
    "mean_gradients",
    "place",
    "rank",
    "shard",
    "synchronise",
    "whole",
    "world",
]


def connect(device: str) -> torch.device:
    """The device of this process, after joining the others that `torchrun` or `accelerate launch` started.

    Raises:
        UserError: the device is unknown, or this machine does not have it.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise UserError(f"--device {device} is not a device: use cpu, cuda, cuda:0 or mps") from None
    backend = getattr(torch, wanted.type, None)
    if wanted.type != "cpu" and not (backend is not None and backend.is_available()):
        raise UserError(f"--device {device} was asked for and this machine has none: use --device cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if not dist.is_initialized():
            from accelerate import PartialState

            PartialState(cpu=wanted.type == "cpu")
            atexit.register(_leave)
        if wanted.type == "cuda" and wanted.index is None:
            wanted = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return wanted


def rank() -> int:
    """Number of this process, 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes, 1 when this one is alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean(x: Tensor) -> Tensor:
    """Mean over processes, the same bits on each; `x` itself when this one is alone."""
    if world() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x / world()


def gather(x: Tensor) -> Tensor:
    """Stack of the tensors of all processes (of one shape): (world, *shape)."""
    if world() == 1:
        return x[None]
    parts = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)


def mean_gradients(parameters: Sequence[nn.Parameter], extra: Tensor) -> Tensor:
    """Replace each gradient by its mean over processes, in one all-reduce; returns the mean of `extra` with it.

    A process without a gradient for a parameter counts as zero; a parameter without one anywhere keeps none.
    Parameters sharded by FSDP2 are left out: their gradients have been averaged already.
    """
    if world() == 1:
        return extra
    local = [p for p in parameters if not isinstance(p, DTensor)]
    dtype = torch.float64 if any(p.dtype == torch.float64 for p in local) else torch.float32
    present = torch.tensor([float(p.grad is not None) for p in local], dtype=dtype, device=extra.device)
    parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().to(dtype) for p in local]
    flat = mean(torch.cat([*parts, present, extra.flatten().to(dtype)]))
    sizes = [*(p.numel() for p in local), len(local), extra.numel()]
    *means, anywhere, extra_mean = flat.split(sizes)
    for p, value, some in zip(local, means, anywhere.tolist(), strict=True):
        p.grad = value.view_as(p).to(p.dtype) if some else None
    return extra_mean.view_as(extra).to(extra.dtype)


@torch.no_grad()
def synchronise(modules: Iterable[nn.Module]) -> None:
    """Give every process the parameters and buffers of the first one (those sharded by FSDP2 are left alone)."""
    if world() > 1:
        for module in modules:
            for tensor in [*module.parameters(), *module.buffers()]:
                if not isinstance(tensor, DTensor):
                    dist.broadcast(tensor.detach(), src=0)


def shard(network: nn.Module) -> None:
    """Spread the weights of a network over all processes by FSDP2, in place: each entry of its module lists, and every other layer
    on its own, so that methods other than ``forward`` work too. Do it after adapters were added, before the optimizer is made.

    Raises:
        UserError: there is one process only.
    """
    from torch.distributed.fsdp import fully_shard

    if world() == 1:
        raise UserError("weights are spread over processes, and this is the only one: start several with torchrun")
    listed = [child for module in network.modules() if isinstance(module, nn.ModuleList) for child in module]
    inside = {part for child in listed for part in child.modules()}
    for module in listed:
        if not any(module is not other and module in set(other.modules()) for other in listed):
            fully_shard(module, reshard_after_forward=True)
    for module in network.modules():
        if module not in inside and any(True for _ in module.parameters(recurse=False)):
            fully_shard(module, reshard_after_forward=True)


def whole(x: Tensor) -> Tensor:
    """A tensor that FSDP2 has sharded, in full (all processes must ask); any other as it is."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def like(x: Tensor, pattern: Tensor) -> Tensor:
    """`x` on the device of `pattern`, and sharded as it is."""
    x = x.to(pattern.device)
    return distribute_tensor(x, pattern.device_mesh, pattern.placements) if isinstance(pattern, DTensor) else x


def place(batch: Any, device: torch.device) -> Any:
    """This process's share of a global batch, on its device.

    Tensors, arrays and lists are cut along their first axis into one contiguous slice a process.  Tuples, mappings,
    dataclasses, and lists that hold tensors, are walked; anything else (a phase's name, None, a scalar) stays as it is.

    Raises:
        UserError: the batch does not divide by the number of processes.
    """
    if isinstance(batch, Tensor):
        return (batch if batch.ndim == 0 else _slice(batch)).to(device)
    if isinstance(batch, np.ndarray):
        return batch if batch.ndim == 0 else _slice(batch)
    if isinstance(batch, tuple):
        parts = [place(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    if isinstance(batch, list):
        walked = any(isinstance(part, Tensor | np.ndarray) for part in batch)
        return [place(part, device) for part in batch] if walked else _slice(batch)
    if isinstance(batch, dict):
        return {name: place(part, device) for name, part in batch.items()}
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: place(getattr(batch, f.name), device) for f in fields(batch) if f.init})
    return batch


def _slice(items: Any) -> Any:
    count, remainder = divmod(len(items), world())
    if remainder:
        raise UserError(
            f"a batch of {len(items)} does not divide by {world()} processes: choose a batch size that does"
        )
    return items[rank() * count : (rank() + 1) * count]


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
