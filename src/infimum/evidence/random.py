"""Pure random numbers: every bit is a function of (seed, stream, item, draw, position).

A word is the SplitMix64 finaliser of a counter, with a second 64-bit key xor-ed in between its two multiplications,
so a row of words is addressed by 128 bits. Only int64 tensor operations are used: the bits are the same on every
device, and there is no state to save.

Sources: Steele, Lea & Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014); Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3" (SC 2011) for counter-based generation.
"""

import hashlib
import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Keys", "normals", "row_keys", "uniforms", "words"]

Keys = tuple[Int[Tensor, "*n"], Int[Tensor, "*n"]]

_SLICE = 2**16  # elements worked on at a time, so that temporaries stay in cache


def _signed(word: int) -> int:
    """A 64-bit pattern as the int64 that holds it."""
    return word - 2**64 if word >= 2**63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MUL1 = _signed(0xBF58476D1CE4E5B9)
_MUL2 = _signed(0x94D049BB133111EB)
_ITEM = _signed(0xD1342543DE82EF95)
_DRAW = _signed(0xAF251AF3B0F025B5)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical (zero-filling) right shift of int64."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _finalise(x: Tensor, key: Tensor | None = None) -> Tensor:
    """SplitMix64's finaliser, in place; ``key`` enters between the two multiplications."""
    x.bitwise_xor_(_shift(x, 30)).mul_(_MUL1)
    if key is not None:
        x.bitwise_xor_(key)
    x.bitwise_xor_(_shift(x, 27)).mul_(_MUL2)
    return x.bitwise_xor_(_shift(x, 31))


def row_keys(seed: int, stream: str, items: Int[Tensor, "B"], k: Int[Tensor, "K"]) -> tuple[Tensor, Tensor]:
    """The 128-bit key of every (draw, item) row of a named stream.

    Args:
        seed: any integer; all of its bits count.
        stream: name of the stream, hashed with blake2b.
        items: item keys, int64, shape (B,).
        k: draw numbers, int64, shape (K,).

    Returns:
        Two int64 tensors of shape (K, B). For a fixed stream and draw the first is a bijection of the item key, so two
        items never share a row.
    """
    digest = hashlib.blake2b(f"{seed}\x00{stream}".encode(), digest_size=16).digest()
    halves = [[_signed(int.from_bytes(digest[i : i + 8], "little"))] for i in (0, 8)]
    row = _finalise(items * _ITEM + torch.tensor(halves, device=items.device))  # (2, B)
    first, second = _finalise(row[:, None, :] + k[:, None] * _DRAW)
    return first, second


def _fill(keys: Keys, count: int, per_word: int, dtype: torch.dtype, form: Callable[[Tensor], Tensor]) -> Tensor:
    """Words ``[0, count)`` of every row, formed into numbers slice by slice; (*n, count * per_word)."""
    first, second = (key.reshape(-1, 1) for key in keys)
    rows, device = first.shape[0], first.device
    if rows * count <= _SLICE:
        block = _finalise(first + torch.arange(count, device=device) * _GOLDEN, second)
        return form(block).to(dtype).reshape(*keys[0].shape, count * per_word)
    out = torch.empty(rows, count * per_word, dtype=dtype, device=device)
    counters = torch.arange(count, device=device) * _GOLDEN
    width = min(count, _SLICE) or 1
    height = max(1, _SLICE // width)
    for top in range(0, rows, height):
        a, b = first[top : top + height], second[top : top + height]
        for left in range(0, count, width):
            block = _finalise(a + counters[left : left + width], b)
            out[top : top + height, left * per_word : left * per_word + block.shape[1] * per_word] = form(block)
    return out.reshape(*keys[0].shape, count * per_word)


def words(keys: Keys, count: int) -> Int[Tensor, "*n count"]:
    """64 random bits for each (row, position), as int64: pure in (key, position), so a longer row extends a shorter."""
    return _fill(keys, count, 1, torch.int64, lambda block: block)


def unit(block: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The top 52 bits of a word as the midpoint of one of 2^52 cells: float64 in (0, 1), exact under u -> 1 - u."""
    return (_shift(block, 12).double() + 0.5).mul_(2.0**-52)


def inside(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast float64 uniforms to ``dtype`` without leaving the open interval (0, 1)."""
    if dtype == torch.float64:
        return u
    info = torch.finfo(dtype)
    return u.to(dtype).clamp_(info.tiny, 1 - info.eps / 2)


def uniforms(keys: Keys, count: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*n count"]:
    """Uniform numbers in the open interval (0, 1), 53 significant bits before the cast to ``dtype``."""
    return _fill(keys, count, 1, dtype, lambda block: inside(unit(block), dtype))


def _pairs32(block: Tensor) -> Tensor:
    """Box-Muller on one word: 40 bits make the radius, 24 the angle; two float32 normals, interleaved."""
    radius = (_shift(block, 24).double() + 0.5).mul_(2.0**-40).log_().mul_(-2.0).sqrt_().float()
    angle = ((block & 0xFFFFFF).float() + 0.5).mul_(2.0 * math.pi / 2**24)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(-2)


def _pairs64(block: Tensor) -> Tensor:
    """Box-Muller on two words: two float64 normals, interleaved."""
    radius = unit(block[:, 0::2]).log_().mul_(-2.0).sqrt_()
    angle = unit(block[:, 1::2]).mul_(2.0 * math.pi)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(-2)


def normals(keys: Keys, count: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*n count"]:
    """Standard normal numbers; pairs lie side by side, so a longer row extends a shorter one.

    float64 spends two words a pair, every other ``dtype`` one; the two do not give the same numbers.
    """
    pairs = (count + 1) // 2
    if dtype == torch.float64:
        return _fill(keys, 2 * pairs, 1, dtype, _pairs64)[..., :count]
    return _fill(keys, pairs, 2, dtype, _pairs32)[..., :count]
