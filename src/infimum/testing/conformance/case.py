"""What every check gets: the model, a small batch, and the budget of draws and false alarms."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from infimum.evidence import Draws, Plan
from infimum.evidence._tree import leaves, map_tree

__all__ = ["FEW", "ITEMS", "Case", "differs", "differs_tree", "discrete", "pick"]

ITEMS = 5  # items of the structural checks
FEW = 7  # draws of the structural checks: (7, 5) has no symmetry in which a wrong layout could hide
RELATIVE = 2e3  # tolerated units of rounding: batches of another size multiply matrices in another order


@dataclass(frozen=True)
class Case:
    """One model under test.

    Attributes:
        model: a `LatentModel` or `PathModel`.
        x: `ITEMS` items (a smaller batch is repeated).
        distinct: how many of them differ.
        seed: of all draws.
        n: draws an item of the statistical checks.
        level: false-alarm rate of one statistical check.
        plan: the plan whose mean must agree with that of independent draws.
        pathwise: whether latents must carry gradients; None: where they are continuous.
    """

    model: Any
    x: Any
    distinct: int
    seed: int
    n: int
    level: float
    plan: Plan
    pathwise: bool | None

    @property
    def device(self) -> torch.device:
        """Of the batch."""
        return next(leaves(self.x)).device

    def draws(self, plan: Plan, items: int = ITEMS, *, seed: int = 0, first: int = 0) -> Draws:
        """Draws for ``items`` items with keys from ``first`` on."""
        keys = torch.arange(first, first + items, device=self.device)
        return plan.draws(keys, seed=self.seed + seed, salt="conformance")

    def repeated(self, items: int) -> Any:
        """The distinct items, over and over, as a batch."""
        return pick(self.x, torch.arange(items, device=self.device) % self.distinct)


def pick(tree: Any, index: Tensor, axis: int = 0) -> Any:
    """Some entries along an axis of every tensor."""
    return map_tree(lambda t: t.index_select(axis, index), tree)


def differs(a: Tensor, b: Tensor) -> Bool[Tensor, "*n"]:
    """Where two tensors differ by more than another order of summation explains."""
    if not a.is_floating_point():
        return a != b
    tolerance = max(1e-9, RELATIVE * torch.finfo(a.dtype).eps)
    close = (a - b).abs() <= tolerance * (1 + a.abs())
    return ~(close | (a == b) | (a.isnan() & b.isnan()))


def differs_tree(a: Any, b: Any) -> bool:
    """Whether two trees of tensors differ anywhere."""
    pairs = list(zip(leaves(a), leaves(b), strict=True))
    return any(u.shape != v.shape or bool(differs(u, v).any()) for u, v in pairs)


def discrete(z: Tensor) -> bool:
    """Whether a latent takes whole numbers only, whatever its dtype."""
    return not z.is_floating_point() or bool((z == z.round()).all())
