"""What autograd keeps for the backward pass."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SavedBytes", "peak_saved_bytes"]


@dataclass
class SavedBytes:
    """Bytes of tensors that autograd keeps.

    Attributes:
        bytes: most at any time.
        now: at this time.
    """

    bytes: int = 0
    now: int = 0
    _held: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)

    def take(self, storage: int, size: int) -> None:
        """One more use of a storage."""
        uses, _ = self._held.get(storage, (0, size))
        if not uses:
            self.now += size
            self.bytes = max(self.bytes, self.now)
        self._held[storage] = (uses + 1, size)

    def give(self, storage: int) -> None:
        """One use less."""
        uses, size = self._held.pop(storage)
        if uses > 1:
            self._held[storage] = (uses - 1, size)
        else:
            self.now -= size


class _Kept:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@contextmanager
def peak_saved_bytes(*modules: nn.Module) -> Iterator[SavedBytes]:
    """Count what autograd keeps: each storage once, until its graph is gone; parameters of ``modules`` are left out.

    The figure is exact and the same on every machine, where the memory of a process is neither; what an operation needs for itself
    while it runs is not in it.
    """
    own = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    found = SavedBytes()

    def pack(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        kept = _Kept(tensor)
        if storage.data_ptr() not in own:
            found.take(storage.data_ptr(), storage.nbytes())
            weakref.finalize(kept, found.give, storage.data_ptr())
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        yield found
