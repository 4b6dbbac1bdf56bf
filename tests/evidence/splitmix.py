"""The generator once more, on Python's integers: SplitMix64's finaliser with a second key between its multiplications."""

import hashlib
import math

MASK = 2**64 - 1
GOLDEN, MUL1, MUL2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
ITEM, DRAW = 0xD1342543DE82EF95, 0xAF251AF3B0F025B5


def finalise(x: int, key: int = 0) -> int:
    x = (x ^ (x >> 30)) * MUL1 & MASK
    x ^= key
    x = (x ^ (x >> 27)) * MUL2 & MASK
    return x ^ (x >> 31)


def row_key(seed: int, stream: str, item: int, k: int) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{seed}\x00{stream}".encode(), digest_size=16).digest()
    halves = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    rows = [finalise((item * ITEM + half) & MASK) for half in halves]
    first, second = (finalise((row + k * DRAW) & MASK) for row in rows)
    return first, second


def word(key: tuple[int, int], position: int) -> int:
    return finalise((key[0] + position * GOLDEN) & MASK, key[1])


def uniform(w: int) -> float:
    return ((w >> 12) + 0.5) * 2.0**-52


def normal_pair(w: int) -> tuple[float, float]:
    radius = math.sqrt(-2 * math.log(((w >> 24) + 0.5) * 2.0**-40))
    angle = 2 * math.pi * ((w & 0xFFFFFF) + 0.5) / 2**24
    return radius * math.cos(angle), radius * math.sin(angle)


def normal_pair_double(w: int, v: int) -> tuple[float, float]:
    radius, angle = math.sqrt(-2 * math.log(uniform(w))), 2 * math.pi * uniform(v)
    return radius * math.cos(angle), radius * math.sin(angle)


def signed(w: int) -> int:
    return w - 2**64 if w >= 2**63 else w
