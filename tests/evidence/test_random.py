"""Pure random numbers: pinned vectors, a second implementation on Python's integers, and a statistical battery."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence import splitmix
from evidence.support import close
from infimum.evidence.random import inside, normals, row_keys, uniforms, unit, words

PINNED = {  # (seed, stream, item, draw): row key, words 0, 1 and 1,000,000. Changing them is a breaking change.
    (0, "z", 0, 0): (0x03589E2EF24E3CB8, 0x0CB1E799C1D153F7, 0x31FFC1E793A9F3E7, 0x64CF74679D06C858, 0x9034C09A4E0F1DBD),
    (0, "z", 1, 0): (0x4F4FE32F1C83347C, 0x706560B6535B4A71, 0x0ECE8A52618FD8E0, 0xC81671DBB104848C, 0x502D9F4D7534E49F),
    (0, "z", 0, 1): (0x379219F9FE898ADA, 0x7138FDD4BEF3B776, 0xD1AD45E45F77D796, 0xFDE1E3C878FF36BF, 0x0E61600E135ED485),
    (1, "z", 0, 0): (0xDC3E2CA801BC9FD6, 0x78D4BB2A92FB7F9F, 0x974CBEE2EFA67E03, 0x2E89F621024E7D07, 0xEEB80B5643E2026B),
    (1 + 2**32, "z", 0, 0): (
        0xBEC251D628093CBF, 0x8479907519901245, 0x9167C2D2DA99FB14, 0x375AE1DD783694E6, 0x112F0BF2020FEE14,
    ),
    (-1, "eval\x00z", -5, 7): (
        0xB1E4A1FF4EF87696, 0xFC8724A9F5E41269, 0xA26AAAB0E7EF4338, 0x624497463456B1B9, 0xB2EA94D0856A5D41,
    ),
    (2**70, "", 2**63 - 1, 2**40): (
        0x106E2584AF5A3790, 0x602A53BA759C706B, 0x5848D7B1A915CA9C, 0x6031F28019B1C0B5, 0xB5B2994D0162DF72,
    ),
}  # fmt: skip


def keys_of(seed: int, stream: str, items: list[int], k: list[int]):
    return row_keys(seed, stream, torch.tensor(items), torch.tensor(k))


@pytest.mark.parametrize("where", PINNED, ids=str)
def test_pinned_vectors(where):
    """ENGINE 2: "Pin test vectors: changing them is a breaking change"."""
    seed, stream, item, k = where
    first, second, *some = PINNED[where]
    keys = keys_of(seed, stream, [item], [k])
    assert [int(keys[0]), int(keys[1])] == [splitmix.signed(first), splitmix.signed(second)]
    row = words(keys, 1_000_001)[0, 0]
    assert [int(row[p]) for p in (0, 1, 1_000_000)] == [splitmix.signed(w) for w in some]


def test_pinned_numbers():
    keys = keys_of(0, "z", [0], [0])
    expected = [0.1953087988255574, 0.3937905075991025, 0.9156554349630058, 0.37440039348168275]
    assert uniforms(keys, 4, torch.float64)[0, 0].tolist() == expected
    close(uniforms(keys, 4)[0, 0], torch.tensor(expected, dtype=torch.float32), rtol=0, atol=0)
    pairs = torch.tensor([-0.930936861683792, -1.5490975882907092, 1.3463638634635495, 0.22622286034000252])
    close(normals(keys, 4)[0, 0], pairs, rtol=2e-6, atol=2e-6)
    double = torch.tensor([-1.419590950199447, 1.1185295313938133], dtype=torch.float64)
    close(normals(keys, 2, torch.float64)[0, 0], double, rtol=1e-14, atol=1e-14)


def test_finaliser_is_splitmix64():
    """The published first outputs of SplitMix64 for seed 1234567."""
    outputs = [splitmix.finalise(1234567 + i * splitmix.GOLDEN & splitmix.MASK) for i in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    start = torch.tensor([[splitmix.signed(1234567 + splitmix.GOLDEN & splitmix.MASK)]])
    assert words((start, torch.zeros_like(start)), 3)[0, 0].tolist() == [splitmix.signed(w) for w in outputs]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(-(2**80), 2**80),
    stream=st.text(max_size=8),
    item=st.integers(-(2**63), 2**63 - 1),
    k=st.integers(0, 2**62),
    count=st.integers(1, 9),
)
def test_equals_the_implementation_on_python_integers(seed, stream, item, k, count):
    stream = stream.encode("utf-8", "ignore").decode()
    key = splitmix.row_key(seed, stream, item, k)
    keys = keys_of(seed, stream, [item], [k])
    bits = [splitmix.word(key, p) for p in range(2 * count)]
    assert words(keys, 2 * count)[0, 0].tolist() == [splitmix.signed(w) for w in bits]
    assert uniforms(keys, 2 * count, torch.float64)[0, 0].tolist() == [splitmix.uniform(w) for w in bits]
    single = [z for w in bits for z in splitmix.normal_pair(w)]
    close(normals(keys, 4 * count)[0, 0], torch.tensor(single, dtype=torch.float32), rtol=1e-5, atol=1e-5)
    double = [z for w, v in zip(bits[::2], bits[1::2], strict=True) for z in splitmix.normal_pair_double(w, v)]
    close(
        normals(keys, 2 * count, torch.float64)[0, 0], torch.tensor(double, dtype=torch.float64), rtol=1e-13, atol=1e-13
    )


# -- properties ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [uniforms, normals])
def test_prefix_property(make, dtype):
    """ENGINE 2: "a longer event extends a shorter one"; also across the slices of 2^16 elements, and for odd lengths."""
    keys = keys_of(3, "z", [0, 5], [0, 1, 2])
    long = make(keys, 70_001, dtype)
    assert long.dtype == dtype and long.shape == (3, 2, 70_001)
    for count in (0, 1, 2, 7, 32, 65_536, 65_537):
        assert torch.equal(make(keys, count, dtype), long[..., :count])


def test_torch_randn_lacks_the_prefix_property():
    """ENGINE 2 [m]: "torch.randn does not have this property on CPU": short and long fills take different paths."""

    def randn(n):
        return torch.randn(n, generator=torch.Generator().manual_seed(0))

    assert not torch.equal(randn(8), randn(16)[:8])
    assert not torch.equal(randn(20), randn(32)[:20])


def test_rows_are_pure_in_their_key():
    """Slicing the rows, in any order or grouping, changes nothing."""
    items, k = torch.arange(300), torch.arange(40)
    first, second = row_keys(1, "z", items, k)
    whole = words((first, second), 9)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(words(row_keys(1, "z", items[order], k[7:11]), 9), whole[7:11, order])
    assert torch.equal(words((first[3], second[3]), 4), whole[3, :, :4])


def test_all_bits_of_a_seed_count():
    """ENGINE 2 [m]: "a CPU torch.Generator keeps only the low 32 bits of its seed (seeds 1 and 1 + 2^32 give the same
    stream)"; here they differ, as do negative and large seeds.
    """

    def torch_words(seed):
        return torch.randint(2**62, (4,), generator=torch.Generator().manual_seed(seed))

    assert torch.equal(torch_words(1), torch_words(1 + 2**32))
    seeds = [0, 1, -1, 1 + 2**32, 1 + 2**64, 2**200, 10, -10]
    rows = [tuple(words(keys_of(seed, "z", [0], [0]), 2)[0, 0].tolist()) for seed in seeds]
    assert len(set(rows)) == len(seeds)


def test_streams_differ_and_do_not_run_together():
    """Names and seeds are hashed with a separator between them: ("1", "2z") is not ("12", "z")."""
    rows = [
        tuple(words(keys_of(seed, stream, [0], [0]), 2)[0, 0].tolist())
        for seed, stream in ((1, "2z"), (12, "z"), (1, "z"), (1, "z "), (1, ""), (1, "Z"))
    ]
    assert len(set(rows)) == len(rows)


def test_row_keys_are_a_bijection_of_the_item():
    """Two items never share a row: 2^20 neighbouring items, and 2^20 scattered ones, have distinct first keys."""
    for items in (torch.arange(2**20), torch.arange(2**20) * 0x9E3779B97F4A7C15 % 2**63):
        first, _ = row_keys(0, "z", items.to(torch.int64), torch.tensor([3]))
        assert first.unique().numel() == 2**20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_uniforms_never_reach_zero_or_one(dtype):
    """The extreme words: all bits 0, all bits 1, and everything that rounds to 1 in ``dtype``."""
    extreme = unit(torch.tensor([0, -1, 2**63 - 1, -(2**63), 4095, 4096]))
    assert extreme.min() > 0 and extreme.max() < 1
    assert torch.equal((1 - extreme) + extreme, torch.ones(6).double()) and (1 - extreme).max() < 1
    u = inside(extreme, dtype)
    assert u.dtype == dtype and (u > 0).all() and (u < 1).all()
    assert (1 - extreme[0]) == extreme[1]


def test_normals_are_finite_at_the_extremes():
    from infimum.evidence.random import _pairs32, _pairs64

    extreme = torch.tensor([[0, -1, 2**63 - 1, -(2**63), 2**24 - 1, 2**24]])
    single, double = _pairs32(extreme), _pairs64(extreme)
    assert single.isfinite().all() and double.isfinite().all()
    assert single.abs().max() < 7.6 and double.abs().max() < 8.6  # sqrt(2 log 2^41), sqrt(2 log 2^53)


# -- the battery ---------------------------------------------------------------------------------------------------------

N = 2**21


def along(axis: str) -> torch.Tensor:
    """2^21 words with the axis running fastest."""
    if axis == "position":
        return words(keys_of(11, "battery", [4], [9]), N).flatten()
    if axis == "k":
        return words(row_keys(11, "battery", torch.tensor([4]), torch.arange(N)), 1).flatten()
    if axis == "item":
        return words(row_keys(11, "battery", torch.arange(N), torch.tensor([9])), 1).flatten()
    if axis == "far item":
        return words(row_keys(11, "battery", torch.arange(N) << 40, torch.tensor([9])), 1).flatten()
    if axis == "all":  # neighbours in every coordinate: 128 items, 128 draws, 128 positions
        return words(row_keys(11, "battery", torch.arange(128), torch.arange(128)), 128).flatten()
    rows = [row_keys(seed, "battery", torch.arange(32), torch.arange(32)) for seed in range(2048)]  # seed
    return words((torch.stack([r[0] for r in rows], -1), torch.stack([r[1] for r in rows], -1)), 1).flatten()


def chi_square(cells: torch.Tensor, count: int) -> float:
    """Normalised chi-square of equally likely cells (Wilson-Hilferty: normal to high accuracy)."""
    seen = cells.bincount(minlength=count).double()
    mean = cells.numel() / count
    df = count - 1
    ratio = float(((seen - mean) ** 2).sum() / mean) / df
    return (ratio ** (1 / 3) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df))


def battery(bits: torch.Tensor) -> dict[str, float]:
    """Statistics that are standard normal for random bits."""
    n = bits.numel()
    u = unit(bits)
    keys = bits.view(torch.int64)
    found: dict[str, float] = {}
    radius = (-2 * unit(keys)[0::2].log()).sqrt()
    z = torch.stack((radius * (2 * math.pi * u[1::2]).cos(), radius * (2 * math.pi * u[1::2]).sin()), -1).flatten()
    moment = [1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0, 10395]
    for order in range(1, 7):
        mean = float((z**order).mean())
        found[f"normal moment {order}"] = (mean - moment[order]) / math.sqrt(
            (moment[2 * order] - moment[order] ** 2) / n
        )
        found[f"uniform moment {order}"] = (float((u**order).mean()) - 1 / (order + 1)) / math.sqrt(
            (1 / (2 * order + 1) - 1 / (order + 1) ** 2) / n
        )
    centred = (u - 0.5) * math.sqrt(12)
    square = (centred**2 - 1) / math.sqrt(0.8)
    for lag in (1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 128, 1024, 16384):
        found[f"lag {lag}"] = float((centred[lag:] * centred[:-lag]).mean()) * math.sqrt(n - lag)
        found[f"lag {lag} of squares"] = float((square[lag:] * square[:-lag]).mean()) * math.sqrt(n - lag)
    found["1,000 cells"] = chi_square((u * 1000).long(), 1000)
    found["low bits, 1,024 cells"] = chi_square(bits & 1023, 1024)
    for lag in (1, 2, 64):
        pair = (u * 64).long()
        found[f"serial pairs, lag {lag}"] = chi_square(
            (pair[:-lag:2] * 64 + pair[lag::2][: pair[:-lag:2].numel()]), 4096
        )
    triple = (u[: n // 3 * 3] * 16).long().reshape(-1, 3)
    found["triples"] = chi_square(triple @ torch.tensor([256, 16, 1]), 4096)
    for bit in range(64):
        ones = float(((bits >> bit) & 1).sum())
        found[f"bit {bit}"] = (ones - n / 2) / math.sqrt(n / 4)
        flips = float((((bits[1:] ^ bits[:-1]) >> bit) & 1).sum())
        found[f"bit {bit} flips"] = (flips - (n - 1) / 2) / math.sqrt((n - 1) / 4)
    return found


AXES = ("position", "k", "item", "far item", "all", "seed")
FALSE_ALARM = 1e-4  # of each axis: two-sided normal limits, Bonferroni over its statistics


@pytest.mark.parametrize("axis", AXES)
def test_battery(axis):
    """ENGINE 2 [m]: moments to order six, lag correlations over k / item / dimension / seed, 1,000-cell chi-square; and pairs,
    triples, bit balance, bit flips. About 170 statistics on 2^21 words of an axis, family-wise false alarm 1e-4.
    """
    found = battery(along(axis))
    limit = statistics.NormalDist().inv_cdf(1 - FALSE_ALARM / 2 / len(found))
    worst = max(found, key=lambda name: abs(found[name]))
    assert abs(found[worst]) < limit, (worst, found[worst], limit)


@pytest.mark.parametrize("axis", AXES)
def test_kolmogorov_smirnov_and_collisions(axis):
    """sqrt(n) D < 2.5 (false alarm 2 exp(-12.5) = 7e-6); no equal 64-bit words (1e-7); collisions of 2^20 words in 2^36
    cells, from either end of the word: Poisson(8), at most 25 (3e-6) and at least 1 (3e-4).
    """
    bits = along(axis)
    u = unit(bits).sort().values
    n = u.numel()
    rank = torch.arange(n, dtype=torch.float64)
    assert float(torch.maximum((rank + 1) / n - u, u - rank / n).max()) * math.sqrt(n) < 2.5
    assert bits.unique().numel() == n
    some = bits[: 2**20]
    for cells in ((some >> 28) & (2**36 - 1), some & (2**36 - 1)):
        assert 1 <= 2**20 - cells.unique().numel() <= 25


def test_engine_normals_pass_moments():
    """The float32 and float64 transforms themselves, 4 million numbers: moments to order six and a KS test."""
    for dtype in (torch.float32, torch.float64):
        z = normals(row_keys(2, "z", torch.arange(1000), torch.arange(40)), 100, dtype).flatten().double()
        n = z.numel()
        moment = [1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0, 10395]
        for order in range(1, 7):
            error = math.sqrt((moment[2 * order] - moment[order] ** 2) / n)
            assert abs(float((z**order).mean()) - moment[order]) < 5 * error
        u = torch.special.ndtr(z).sort().values
        rank = torch.arange(n, dtype=torch.float64)
        assert float(torch.maximum((rank + 1) / n - u, u - rank / n).max()) * math.sqrt(n) < 2.5
        pairs = z.reshape(-1, 2)
        assert abs(float((pairs[:, 0] * pairs[:, 1]).mean())) * math.sqrt(n / 2) < 5


@pytest.mark.parametrize("part", ["seed", "item", "k", "position"])
def test_avalanche(part):
    """One flipped bit of any input flips every output bit with probability 1/2: |z| < 6 over 64 x (input bits) cells."""
    base = {"seed": 12345, "item": 678, "k": 90, "position": 11}
    n = 2000

    def some(flip: int) -> torch.Tensor:
        at = {name: value ^ (1 << flip if flip >= 0 and name == part else 0) for name, value in base.items()}
        items = torch.arange(n) * 2**21 + at["item"]
        return words(row_keys(at["seed"], "a", items, torch.tensor([at["k"]])), at["position"] + 1)[0, :, -1]

    plain = some(-1)
    for flip in range(20 if part != "position" else 10):
        changed = plain ^ some(flip)
        ones = torch.stack([(changed >> bit & 1).sum() for bit in range(64)]).double()
        assert ((ones - n / 2).abs() / math.sqrt(n / 4)).max() < 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bits_are_the_same_on_every_device():
    """ENGINE 2: "int64 torch operations only: the same bits on every device by construction"."""
    items, k = torch.tensor([0, 5, -7, 2**62]), torch.arange(9)
    here, there = row_keys(3, "z", items, k), row_keys(3, "z", items.cuda(), k.cuda())
    assert torch.equal(words(here, 20_001), words(there, 20_001).cpu())
    assert torch.equal(uniforms(here, 501), uniforms(there, 501).cpu())
    close(normals(here, 501), normals(there, 501).cpu(), rtol=1e-5, atol=1e-6)
