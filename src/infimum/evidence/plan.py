"""How a budget of draws is spent.

A plan is R independent replicates of N levels x M draws a level. Every draw has one *lead* coordinate in (0, 1), shared
by the draws of a level: a diffusion model reads it as time, a masked model as the number of masks, a mixture posterior
as the component. The replicate is the unit of every standard error.
"""

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from infimum.errors import UserError

if TYPE_CHECKING:
    from infimum.evidence.draws import Draws

__all__ = ["Nodes", "Plan", "Sobol"]

SOBOL_DIMENSIONS = 21201  # torch.quasirandom.SobolEngine.MAXDIM


@dataclass(frozen=True)
class Nodes:
    """A quadrature rule on (0, 1) for the lead coordinate: points and weights that sum to one."""

    t: tuple[float, ...]
    weight: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse rules that are no average over (0, 1)."""
        if len(self.t) != len(self.weight) or not self.t:
            raise UserError(
                f"Nodes need as many weights as points, got {len(self.t)} points, {len(self.weight)} weights"
            )
        if not all(0 < t < 1 for t in self.t):
            raise UserError(f"Nodes need points inside (0, 1), got {self.t}")
        if min(self.weight) <= 0 or abs(math.fsum(self.weight) - 1) > 1e-9:
            raise UserError(f"Nodes need positive weights that sum to 1, got a sum of {math.fsum(self.weight):.6g}")

    @staticmethod
    def gauss(n: int) -> "Nodes":
        """Gauss-Legendre on (0, 1): exact for polynomials of degree below 2n (Golub & Welsch 1969)."""
        i = torch.arange(1, n, dtype=torch.float64)
        off = i / (4 * i * i - 1).sqrt()
        values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
        # Eigenvalues come sorted; symmetrising makes t -> 1 - t map the rule onto itself to the last bit.
        t = (values - values.flip(0)) / 4 + 0.5
        weight = vectors[0].square()
        weight = (weight + weight.flip(0)) / 2
        return Nodes(tuple(t.tolist()), tuple((weight / weight.sum()).tolist()))


@dataclass(frozen=True)
class Sobol:
    """Scrambled Sobol points for one named stream; all other streams stay random."""

    stream: str


@dataclass(frozen=True)
class Plan:
    """How K = replicates x levels x per_level draws an item are spent.

    Attributes:
        replicates: independent repetitions R: the unit of standard errors, and of certificates with R > 1.
        levels: values N of the lead coordinate in a replicate.
        per_level: draws M that share a level.
        lead: ``"random"``; ``"stratified"`` (one uniform a cell), ``"lattice"`` (one shift for all cells), ``"gauss"``
            (Gauss-Legendre nodes) or `Nodes`. The last two are deterministic and mark the draws ``biased``.
        noise: ``"random"``; ``"antithetic"`` (draws 2j and 2j+1 of a level are twins that reflect everything: u to 1-u,
            z to -z, lead to 1-lead); ``"sobol"`` (scrambled Sobol points for every stream) or ``Sobol("z")`` (for one).
        spread: consecutive keys that tile the lead together (training: the global batch). Evaluation leaves it at 1.
    """

    replicates: int = 1
    levels: int = 1
    per_level: int = 1
    lead: Literal["random", "stratified", "lattice", "gauss"] | Nodes = "random"
    noise: Literal["random", "antithetic", "sobol"] | Sobol = "random"
    spread: int = 1

    def __post_init__(self) -> None:
        """Refuse budgets that cannot be spent as told."""
        for name in ("replicates", "levels", "per_level", "spread"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"Plan needs {name} >= 1, a whole number, got {value!r}")
        if not isinstance(self.lead, Nodes) and self.lead not in ("random", "stratified", "lattice", "gauss"):
            raise UserError(f"lead is 'random', 'stratified', 'lattice', 'gauss' or Nodes(...), got {self.lead!r}")
        if not isinstance(self.noise, Sobol) and self.noise not in ("random", "antithetic", "sobol"):
            raise UserError(f"noise is 'random', 'antithetic', 'sobol' or Sobol(stream), got {self.noise!r}")
        if isinstance(self.lead, Nodes) and self.levels != len(self.lead.t):
            raise UserError(
                f"levels={self.levels} but the rule has {len(self.lead.t)} nodes: use Plan.nodes(t, weight)"
            )
        if self.noise == "antithetic":
            if self.per_level % 2:
                raise UserError(f"antithetic draws come in twins: per_level must be even, got {self.per_level}")
            if isinstance(self.lead, Nodes):
                raise UserError("antithetic twins reflect the lead, which a user's Nodes need not be closed under")
        if self.deterministic_lead and self.spread > 1:
            raise UserError(f"spread={self.spread} tiles a random lead; quadrature nodes are the same for every key")
        if (self.noise == "sobol" or isinstance(self.noise, Sobol)) and self.block & (self.block - 1):
            warnings.warn(
                f"Sobol points are balanced for powers of two, got {self.block} draws a replicate",
                stacklevel=3,
            )

    @property
    def k(self) -> int:
        """Draws an item: replicates x levels x per_level."""
        return self.replicates * self.block

    @property
    def block(self) -> int:
        """Draws in a replicate."""
        return self.levels * self.per_level

    @property
    def deterministic_lead(self) -> bool:
        """Whether the lead is a quadrature rule rather than a random variable."""
        return self.lead == "gauss" or isinstance(self.lead, Nodes)

    @property
    def independent(self) -> bool:
        """Whether the K draws of an item are independent and each distributed as the proposal."""
        return self.noise == "random" and self.per_level == 1 and (self.lead == "random" or self.block == 1)

    @property
    def rule(self) -> Nodes:
        """The quadrature rule of a deterministic lead."""
        return self.lead if isinstance(self.lead, Nodes) else Nodes.gauss(self.levels)

    @staticmethod
    def iid(k: int) -> "Plan":
        """K independent draws; each is a replicate of its own."""
        return Plan(replicates=k)

    @staticmethod
    def antithetic(k: int) -> "Plan":
        """K/2 independent pairs of twins."""
        if k % 2:
            raise UserError(f"antithetic draws come in twins: k must be even, got {k}")
        return Plan(replicates=k // 2, per_level=2, noise="antithetic")

    @staticmethod
    def stratified(levels: int, per_level: int = 1, replicates: int = 1) -> "Plan":
        """One uniform lead in each of ``levels`` equal cells."""
        return Plan(replicates=replicates, levels=levels, per_level=per_level, lead="stratified")

    @staticmethod
    def lattice(levels: int, per_level: int = 1, replicates: int = 1) -> "Plan":
        """Equally spaced leads under one common random shift (the "low-discrepancy sampler" of VDM, 2107.00630)."""
        return Plan(replicates=replicates, levels=levels, per_level=per_level, lead="lattice")

    @staticmethod
    def gauss(levels: int, per_level: int = 1, replicates: int = 1) -> "Plan":
        """Gauss-Legendre nodes for the lead, random noise at the nodes."""
        return Plan(replicates=replicates, levels=levels, per_level=per_level, lead="gauss")

    @staticmethod
    def nodes(t: tuple[float, ...], weight: tuple[float, ...], per_level: int = 1, replicates: int = 1) -> "Plan":
        """A quadrature rule of the user's own for the lead."""
        rule = Nodes(tuple(t), tuple(weight))
        return Plan(replicates=replicates, levels=len(rule.t), per_level=per_level, lead=rule)

    @staticmethod
    def sobol(k: int, replicates: int = 1) -> "Plan":
        """``replicates`` independently shifted sets of ``k`` scrambled Sobol points; the lead is stratified."""
        return Plan(replicates=replicates, levels=k, lead="stratified", noise="sobol")

    def draws(
        self,
        keys: Int[Tensor, "B"],
        *,
        seed: int = 0,
        salt: str = "",
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "Draws":
        """The draws of this plan for a batch of items.

        Args:
            keys: one int64 per item: what the numbers depend on. Evaluation: item ids; training: a running count.
            seed: any integer.
            salt: separates uses of the same keys ("eval", "train").
            device: where the numbers are made; that of ``keys`` by default.
            dtype: of `Draws.uniform` and `Draws.normal`.
        """
        from infimum.evidence.draws import Draws

        keys = keys.to(device=device, dtype=torch.int64)
        return Draws(self, keys, seed, salt, 0, self.k, dtype)
