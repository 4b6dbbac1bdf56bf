"""Which sentences make a batch: any, padded, or those of one length."""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.data import batches
from infimum.data.batching import order
from infimum.data.text import PAD
from infimum.errors import UserError

__all__ = ["Bucketing", "buckets", "sentence_batches"]

Bucketing = Literal["random", "length"]


def buckets(x: Float[Tensor, "N T"], batch: int) -> Int[Tensor, "n batch"]:
    """Batches of sentences of equal length, formed once and for all; what does not fill a batch is left out.

    So the official code does. The mixture of posteriors that is held against the prior is then that of one length, which
    discourages a latent that knows the length, and batches always have the same members.

    Raises:
        UserError: no length has enough sentences.
    """
    lengths = (x != PAD).sum(1)
    rows = [(lengths == length).nonzero().squeeze(1) for length in lengths.unique().tolist()]
    full = [part[: len(part) // batch * batch].view(-1, batch) for part in rows]
    made = torch.cat(full)
    if not len(made):
        most = max(len(part) for part in rows)
        raise UserError(
            f"no length has {batch} sentences (the most frequent one has {most}): use bucketing='random', or a smaller batch"
        )
    return made


def sentence_batches(
    x: Float[Tensor, "N T"], batch: int, bucketing: Bucketing, *, seed: int, start: int
) -> Iterator[Tensor]:
    """Endless batches (batch, T), pure in (seed, number). "length": only their order changes from epoch to epoch."""
    if bucketing == "random":
        for items, _ in batches(x, batch, seed=seed, start=start):
            yield items
        return
    rows = buckets(x, batch)
    number = torch.arange(len(rows))
    epoch, first = divmod(start, len(rows))
    while True:
        for i in order(number, seed, "buckets", epoch)[first:].tolist():
            yield x[rows[i]]
        epoch, first = epoch + 1, 0
