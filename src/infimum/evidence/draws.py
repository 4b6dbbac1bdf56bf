"""What a plan yields for a batch: random numbers that are pure in (seed, salt, stream, item key, draw)."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from infimum.errors import UserError
from infimum.evidence.plan import SOBOL_DIMENSIONS, Plan, Sobol
from infimum.evidence.random import inside, normals, row_keys, uniforms, unit, words

__all__ = ["Draws"]

_LEAD = "\x00lead"  # streams of the engine's own begin with a character that no model's stream begins with


@dataclass(frozen=True, eq=False)
class Draws:
    """K draws for each of B items. Holds no numbers, only what they are computed from: asking twice gives the same.

    Sharing draws is passing the same object; being independent is `fork`. The *name* of a stream is part of a model's
    contract: renaming it changes results.

    Attributes:
        plan: how the budget is spent.
        keys: item keys, int64, shape (B,).
        seed: any integer.
        salt: separates uses of the same keys.
        start: first draw of this slice.
        stop: end of this slice.
        dtype: of `uniform` and `normal`.
    """

    plan: Plan
    keys: Int[Tensor, "B"]
    seed: int
    salt: str
    start: int
    stop: int
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, int]:
        """(K, B): draws first, items second, always."""
        return self.stop - self.start, self.keys.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the numbers are made."""
        return self.keys.device

    @property
    def biased(self) -> bool:
        """Whether the lead is a quadrature rule: exact for some integrands, biased for the rest."""
        return self.plan.deterministic_lead

    @property
    def whole(self) -> bool:
        """Whether the slice consists of whole replicates, so that its shares make an average."""
        return self.start % self.plan.block == 0 and self.stop % self.plan.block == 0 and self.stop > self.start

    @property
    def log_share(self) -> Float[Tensor, "K 1"]:
        """Log of each draw's share of the average, float64; sums to one over the whole set, 1/K except in quadrature."""
        if not self.plan.deterministic_lead:
            return torch.full((self.shape[0], 1), -math.log(self.plan.k), dtype=torch.float64, device=self.device)
        weight = torch.tensor(self.plan.rule.weight, dtype=torch.float64, device=self.device)
        level = self._index() % self.plan.block // self.plan.per_level
        return (weight[level] / (self.plan.replicates * self.plan.per_level)).log()[:, None]

    def _index(self) -> Tensor:
        return torch.arange(self.start, self.stop, device=self.device)

    def _twin(self) -> tuple[Tensor, Tensor | None]:
        """The draw whose numbers are used, and which draws (K, 1) use their reflection."""
        k = self._index()
        if self.plan.noise != "antithetic":
            return k, None
        return k - k % 2, (k % 2 == 1)[:, None]

    def _keys(self, name: str, k: Tensor, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return row_keys(self.seed, f"{self.salt}\x00{name}", self.keys if items is None else items, k)

    def lead(self) -> Float[Tensor, "K B"]:
        """The lead coordinate of every draw, float64 in (0, 1)."""
        plan = self.plan
        k = self._index()
        level = k // plan.per_level  # counts through the replicates: R * N values
        n = (level % plan.levels)[:, None]
        if plan.deterministic_lead:
            t = torch.tensor(plan.rule.t, dtype=torch.float64, device=self.device)[n].expand(self.shape)
        else:
            shared = plan.lead == "lattice"  # one shift for all levels of a replicate, and for all keys of a group
            first = level - level % plan.levels if shared else level
            group = self.keys.div(plan.spread, rounding_mode="floor")
            t = unit(words(self._keys(_LEAD, first, group if shared else None), 1)[..., 0])
            if plan.spread > 1:
                turn = _shift_mod(words(self._keys(f"{_LEAD}/turn", first, group), 1)[..., 0], plan.spread)
                t = ((self.keys + turn) % plan.spread + t) / plan.spread
            if plan.lead != "random":
                t = (n + t) / plan.levels
            # (n + t) / N can round to 1 in the last cell.
            t = t.clamp(2.0**-53, 1 - 2.0**-53)
        _, reflected = self._twin()
        return t if reflected is None else torch.where(reflected, 1 - t, t)

    def uniform(self, name: str, *event: int) -> Float[Tensor, "K B *event"]:
        """Uniform numbers in (0, 1) of the named stream."""
        count = math.prod(event)
        if self._sobol(name):
            u = inside(self._points(name, count), self.dtype)
        else:
            k, reflected = self._twin()
            u = uniforms(self._keys(name, k), count, self.dtype)
            if reflected is not None:
                u = inside(torch.where(reflected[..., None], 1 - u, u), self.dtype)  # 1 - u can round to 1
        return u.reshape(*self.shape, *event)

    def normal(self, name: str, *event: int) -> Float[Tensor, "K B *event"]:
        """Standard normal numbers of the named stream."""
        count = math.prod(event)
        if self._sobol(name):
            z = torch.special.ndtri(self._points(name, count)).to(self.dtype)
        else:
            k, reflected = self._twin()
            z = normals(self._keys(name, k), count, self.dtype)
            if reflected is not None:
                z = torch.where(reflected[..., None], -z, z)
        return z.reshape(*self.shape, *event)

    def subset(
        self, name: str, size: Int[Tensor, "K B"], n: int, where: Bool[Tensor, "B n"] | None = None
    ) -> Bool[Tensor, "K B n"]:
        """Uniformly random subsets of ``n`` positions with exactly ``size`` members, drawn from ``where``.

        Raises:
            UserError: a size is negative or larger than the number of allowed positions.
        """
        available = torch.full_like(self.keys, n) if where is None else where.sum(-1)
        if bool(((size < 0) | (size > available)).any()):
            worst = int((size - available).max())
            raise UserError(
                f"subset {name!r}: a size exceeds the allowed positions by {worst}: sizes must lie in [0, allowed]"
                if worst > 0
                else f"subset {name!r}: got a negative size {int(size.min())}"
            )
        score = dataclasses.replace(self, dtype=torch.float64).uniform(name, n)
        if where is not None:
            score = torch.where(where, score, 2.0)
        order = score.argsort(dim=-1)
        member = torch.arange(n, device=self.device) < size[..., None]
        return torch.zeros_like(member).scatter(-1, order, member)

    def choose(self, log_probs: Float[Tensor, "B C"]) -> Int[Tensor, "K B"]:
        """One of C categories for every draw: the inverse distribution function of the lead.

        A stratified lead gives proportional allocation whatever the probabilities; each draw keeps its share.
        """
        probs = log_probs.detach().double().softmax(-1)
        upper = probs.cumsum(-1)
        last = (probs > 0).long().mul(torch.arange(1, probs.shape[-1] + 1, device=probs.device)).amax(-1) - 1
        chosen = torch.searchsorted(upper, self.lead().T.contiguous(), right=True).T  # (K, B)
        return torch.minimum(chosen, last)

    def seeds(self, name: str) -> Int[Tensor, "K B"]:
        """A non-negative 63-bit seed for every draw, for samplers that are not ours."""
        return words(self._keys(name, self._index()), 1)[..., 0] & (2**63 - 1)

    def average(self, values: Float[Tensor, "K B *rest"]) -> Float[Tensor, "B *rest"]:
        """The weighted average over this set's draws, with their shares."""
        share = self.log_share.exp().to(values.dtype)
        return (values * share.reshape(-1, *[1] * (values.ndim - 1))).sum(0) / share.sum()

    def fork(self, salt: str) -> "Draws":
        """An independent set of draws for the same items under the same plan."""
        return dataclasses.replace(self, salt=f"{self.salt}/{salt}")

    def __getitem__(self, k: slice) -> "Draws":
        """A slice over draws; the numbers do not change."""
        if not isinstance(k, slice) or k.step not in (None, 1):
            raise TypeError("draws are sliced over k, draws[a:b]; items are taken with draws.take(index)")
        start, stop, _ = k.indices(self.shape[0])
        return dataclasses.replace(self, start=self.start + start, stop=self.start + max(stop, start))

    def take(self, b: Tensor) -> "Draws":
        """The draws of some of the items (an index or a mask); the numbers do not change."""
        return dataclasses.replace(self, keys=self.keys[b])

    def chunks(self, rows: int) -> Iterator["Draws"]:
        """Slices over k of at most ``rows`` (draw, item) pairs each; one draw of the whole batch at the least."""
        step = max(1, rows // max(1, self.shape[1]))
        for k in range(0, self.shape[0], step):
            yield self[k : k + step]

    def _sobol(self, name: str) -> bool:
        noise = self.plan.noise
        return noise == "sobol" or (isinstance(noise, Sobol) and noise.stream == name)

    def _points(self, name: str, count: int) -> Float[Tensor, "K B count"]:
        """Scrambled Sobol points under an independent digital shift for each (item, replicate, stream)."""
        if count > SOBOL_DIMENSIONS:
            raise UserError(
                f"Sobol points have at most {SOBOL_DIMENSIONS} dimensions, stream {name!r} asks for {count}: "
                "use noise='antithetic' or Sobol(...) of a smaller stream"
            )
        block, k = self.plan.block, self._index()
        points = _sobol_bits(count, block, self.seed, name).to(self.device)[k % block][:, None]  # (K, 1, count)
        shift = words(self._keys(f"\x00{name}/shift", k - k % block), count)  # (K, B, count)
        return unit(points ^ shift)


def _shift_mod(word: Tensor, n: int) -> Tensor:
    """A word's top 63 bits modulo n: uniform on 0..n-1 up to n / 2^63."""
    return (word >> 1 & (2**63 - 1)) % n


_BITS = 30  # of torch's direction numbers


@functools.lru_cache(maxsize=4)
def _sobol_bits(dimensions: int, count: int, seed: int, name: str) -> Int[Tensor, "count dimensions"]:
    """The first points of a linearly scrambled Sobol sequence, as the leading bits of int64 words.

    A random lower-triangular matrix over bits a dimension (Matousek, J. Complexity 14, 1998), made from words: a dimension
    does not depend on how many there are.
    """
    directions = torch.quasirandom.SobolEngine(dimensions).sobolstate.long()  # (dimensions, 30)
    zero = torch.zeros(1, dtype=torch.int64)
    random = words(row_keys(seed, f"\x00{name}/scramble", zero, zero), dimensions * _BITS).reshape(dimensions, _BITS)
    scrambled = torch.zeros_like(directions)
    for i in range(_BITS):  # output bit i from the top sees input bit i, and some of those above it
        above = ((1 << i) - 1) << (_BITS - i)
        seen = directions & ((random[:, i : i + 1] & above) | 1 << (_BITS - 1 - i))
        for half in (16, 8, 4, 2, 1):  # parity
            seen = seen ^ seen >> half
        scrambled |= (seen & 1) << (_BITS - 1 - i)
    n = torch.arange(count)
    gray = n ^ n >> 1
    points = torch.zeros(count, dimensions, dtype=torch.int64)
    for j in range(count.bit_length()):
        points ^= torch.where((gray >> j & 1).bool()[:, None], scrambled[:, j], 0)
    return points << (64 - _BITS)
