"""LLaDA's likelihood protocol as published (2502.09992, its get_log_likelihood), for parity with numbers in print."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence import Draws

__all__ = ["Rounding", "levels_from", "llada_levels"]

Rounding = Literal["floor", "banker"]


def levels_from(
    start: Int[Tensor, "*n"], copies: int, length: int, rounding: Rounding = "floor"
) -> Int[Tensor, "*n b"]:
    """Levels k + j L / b of copies j = 0 .. b - 1, as whole numbers, wrapped to 1 .. L.

    "floor": k + floor(j L / b). With k uniform on 1 .. L every copy's level is uniform, and the estimate unbiased.

    "banker": round(k + j L / b), halves to the even neighbour, as the published code has it. Where j L / b ends in one half, k and
    k + 1 meet on the same even level: L = 8, b = 16 has odd levels half as often as they should be and even ones 1.5 times. The
    weight of a level is L / level, so that the estimate is biased, most of all by level 1.

    Args:
        start: k, in 1 .. L.
        copies: b, of one sequence.
        length: L, tokens that are modelled.
        rounding: see above.

    Raises:
        UserError: no copies, no tokens, or another rounding.
    """
    if copies < 1 or length < 1 or rounding not in ("floor", "banker"):
        raise UserError(
            f"{copies} copies, length {length} and rounding {rounding!r}: expected at least 1, at least 1, and floor or banker"
        )
    j = torch.arange(copies, device=start.device)
    if rounding == "floor":
        level = start[..., None] + j * length // copies
    else:
        level = (start[..., None].double() + j.double() * length / copies).round().long()
    return (level - 1) % length + 1


def llada_levels(
    copies: int, length: int, draws: Draws, *, rounding: Rounding = "floor"
) -> tuple[Int[Tensor, "K B b"], Float[Tensor, "K B b"]]:
    """Numbers of masked tokens of b copies of a sequence, and the weights L / level of their log-probabilities.

    The library's own way to the same end is form "count" under ``Plan.lattice(b)``, whose levels are floor(L u) + 1 at the b evenly
    spaced times u under one shift: unbiased too, for items of unlike lengths at once, and with a standard error by replicates.

    Stream: "level".

    Args:
        copies: b.
        length: L.
        draws: a batch of copies for each.
        rounding: see `levels_from`; "banker" is biased.
    """
    start = (draws.uniform("level") * length).long().clamp(max=length - 1) + 1
    levels = levels_from(start, copies, length, rounding)
    return levels, length / levels.double()
