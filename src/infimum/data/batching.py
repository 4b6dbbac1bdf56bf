"""Orders and minibatches that are pure functions of a seed and a counter: nothing to save, nothing to restore."""

from collections.abc import Iterator

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.random import row_keys

__all__ = ["batches", "order"]


def order(keys: Int[Tensor, "N"], seed: int, stream: str, epoch: int = 0) -> Int[Tensor, "N"]:
    """A random permutation, pure in its arguments: positions sorted by the 64 random bits of their keys.

    Two distinct keys never tie, and permuting ``keys`` permutes the answer accordingly: the order belongs to the items
    and not to the rows that they happen to stand in.
    """
    first, _ = row_keys(seed, stream, keys, torch.tensor([epoch], device=keys.device))
    return first[0].argsort()


def batches(
    x: Shaped[Tensor, "N *item"], batch: int, *, seed: int = 0, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless minibatches; batch number n depends on (seed, n) alone, so a resumed run sees the same ones.

    Epoch e goes through ``x`` in an order that is pure in (seed, e). The epochs are joined end to end and cut into
    batches: each is full, and a batch that reaches the end of an epoch goes on into the next. Every item is seen
    exactly once an epoch; with ``batch > N`` a batch holds items more than once.

    Args:
        x: (N, *item).
        batch: items in a batch.
        seed: of the orders.
        start: number of the first batch to yield.

    Yields:
        ``(x[index], index)``, index int64 of shape (batch,).

    Raises:
        UserError: ``x`` is empty, ``batch`` is below 1 or ``start`` below 0.
    """
    if len(x) == 0:
        raise UserError("batches: x has no items, expected at least 1: give data or a smaller held-out share")
    if batch < 1:
        raise UserError(f"batches: batch is {batch}, expected at least 1: choose a positive batch size")
    if start < 0:
        raise UserError(f"batches: start is {start}, expected 0 or more: it is the number of the first batch")
    return _batches(x, batch, seed, start)


def _batches(x: Tensor, batch: int, seed: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = len(x)
    rows = torch.arange(size, device=x.device)
    epoch, offset = divmod(start * batch, size)
    current = order(rows, seed, "batches", epoch)
    while True:
        parts, missing = [], batch
        while missing:
            if offset == size:
                epoch, offset = epoch + 1, 0
                current = order(rows, seed, "batches", epoch)
            part = current[offset : offset + missing]
            parts.append(part)
            offset += len(part)
            missing -= len(part)
        index = torch.cat(parts)
        yield x[index], index
