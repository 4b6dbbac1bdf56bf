"""Which tokens of a canvas are masked, which of them are scored, and with what weight."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from infimum.discrete.canvas import Canvas, uniforms
from infimum.discrete.config import Form
from infimum.evidence import Draws

__all__ = ["Masks", "masks_of"]


class Masks(NamedTuple):
    """One masked canvas for every draw.

    Attributes:
        masked: (K, B, L), what the network does not see.
        scored: (K, B, L), part of it, whose log-probabilities make the term.
        weight: (K, B), of their sum.
    """

    masked: Bool[Tensor, "K B L"]
    scored: Bool[Tensor, "K B L"]
    weight: Float[Tensor, "K B"]


def masks_of(
    s: Canvas,
    draws: Draws,
    form: Form = "count",
    *,
    floor: float = 0.0,
    block_length: int | None = None,
    even: bool = False,
) -> Masks:
    """Masked canvases of a form of the ELBO, see `MaskedDiffusionConfig`. Both ways to choose a block are unbiased.

    Streams: "mask" (a number for each target position, in their order: padding and prompts change nothing).

    Args:
        s: what is to be masked.
        draws: their lead chooses a block and, in it, a level.
        form: see `MaskedDiffusionConfig`, as ``floor`` and ``block_length``.
        floor: smallest time.
        block_length: tokens of a block; None: one block.
        even: blocks have equal probabilities (SPG), however short the last one is; otherwise in proportion to their tokens.
    """
    n = s.lengths
    length = int(n.max()) if block_length is None else block_length
    lead = draws.lead()
    if even:
        number = (n / length).ceil()
        block = (lead * number).floor()
        size = _size(n, block, length)
        part, share = lead * number - block, number
    else:
        block = (lead * n / length).floor()
        size = _size(n, block, length)
        part, share = (lead * n - block * length) / size, n / size
    part = part.clamp(max=1 - 2.0**-53)  # uniform on (0, 1), in the block
    u = uniforms(s, draws, "mask")
    belongs = (s.rank / length).floor()
    inside, later = (belongs == block[..., None]) & s.target, (belongs > block[..., None]) & s.target
    if form == "time":
        t = floor + (1 - floor) * part
        chosen, weight = inside & (u < t[..., None]), share / t
    else:
        members, weight = _counts(form, part, size)
        order = torch.where(inside, u, 2.0).argsort(-1).argsort(-1)
        chosen, weight = inside & (order < members[..., None]), share * weight
    return Masks(chosen | later, chosen, weight)


def _size(n: Tensor, block: Tensor, length: int) -> Tensor:
    """Tokens of a block: the last one may be shorter."""
    return torch.minimum(n - block * length, torch.as_tensor(float(length), dtype=block.dtype, device=block.device))


def _counts(
    form: Form, part: Float[Tensor, "K B"], size: Float[Tensor, "K B"]
) -> tuple[Float[Tensor, "K B"], Float[Tensor, "K B"]]:
    """Numbers of masks and weights, by the forms that mask an exact number of tokens."""
    if form == "count":
        members = (part * size).floor() + 1
        return members, size / members
    if form == "complement":
        members = (part * (size + 1)).floor()
        return members, torch.where(members > 0, (size + 1) / members.clamp_min(1), 0.0)
    if form == "rounded":
        members = (part * size + 0.5).floor().clamp_min(1)
        return members, size / members
    return (part * size + 1e-9).floor().clamp_min(1), 1 / part  # t = 1 is the number below it, and masks all
