"""Defensive importance sampling: draws shared out among several proposals, the mixture's density below all of them.

Hesterberg (Technometrics 37, 1995); Owen & Zhou (JASA 95, 2000). Whatever the further proposals are, the weights stay
importance weights of p(x): the bound is certified. With the prior among n proposals they are bounded by n p(x | z).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.evidence._tree import map_tree
from infimum.evidence.draws import Draws
from infimum.evidence.model import LatentModel

__all__ = ["Defensive"]


@dataclass(frozen=True, eq=False)
class _Cell(Draws):
    """Draws inside the proposal that the lead chose: the rest of the lead, stretched to (0, 1), is theirs to use."""

    cells: int = 1
    outer: str = ""

    def lead(self) -> Float[Tensor, "K B"]:
        """Uniform, independent of which of the equal cells the lead of salt ``outer`` fell into."""
        chosen = Draws(self.plan, self.keys, self.seed, self.outer, self.start, self.stop, self.dtype)
        return (chosen.lead() * self.cells % 1).clamp(2.0**-53, 1 - 2.0**-53)


class Defensive(LatentModel):
    """A model with the proposal (q + q'_1 + ...) / n, equal parts. The lead chooses: a stratified one shares evenly.

    Args:
        model: supplies the joint and q.
        others: supply q' by ``encode``, ``sample`` and ``log_proposal`` over the same latents.
    """

    def __init__(self, model: LatentModel, *others: LatentModel) -> None:
        super().__init__()
        if not others:
            raise UserError("Defensive needs at least one further proposal beside the model's own")
        self.proposals = nn.ModuleList((model, *others))
        self.target = getattr(model, "target", "log p(x)")
        self.ceiling: float | None = getattr(model, "ceiling", None)
        self.train(model.training)

    def encode(self, x: Any) -> Any:
        """What the proposals need, one entry each."""
        return tuple(q.encode(x) for q in self.proposals)  # type: ignore[operator]

    def sample(self, s: Any, draws: Draws) -> Any:
        """Latents from one of the proposals; those after the first use streams forked by their number."""
        n = len(self.proposals)
        turn = (draws.lead() * n).long()
        # A proposal may itself be defensive: it splits the same lead further.
        cells, outer = n * getattr(draws, "cells", 1), getattr(draws, "outer", draws.salt)
        draws = _Cell(
            draws.plan, draws.keys, draws.seed, draws.salt, draws.start, draws.stop, draws.dtype, cells, outer
        )
        z = None
        for i, (q, part) in enumerate(zip(self.proposals, s, strict=True)):
            each = q.sample(part, draws.fork(str(i)) if i else draws)  # type: ignore[operator]
            here = turn == i

            def pick(new: Tensor, old: Tensor, here: Tensor = here) -> Tensor:
                return torch.where(here.reshape(*here.shape, *[1] * (new.ndim - 2)), new, old)

            z = each if z is None else map_tree(pick, each, z)
        return z

    def log_proposal(self, s: Any, z: Any) -> Float[Tensor, "K B"]:
        """log of the mixture's density in nats."""
        each = [q.log_proposal(part, z) for q, part in zip(self.proposals, s, strict=True)]  # type: ignore[operator]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    def log_joint(self, x: Any, z: Any) -> Float[Tensor, "K B"]:
        """The model's own."""
        return self.proposals[0].log_joint(x, z)  # type: ignore[operator]
