"""Completions that a policy has written: how, and what a reward sees of them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from infimum.discrete import Cache, Canvas, Order

__all__ = ["Rollouts", "Sampling", "identical"]


@dataclass(frozen=True)
class Sampling:
    """How completions are written, see `infimum.discrete.fill`.

    Args:
        order: "confidence" (LLaDA), "threshold", "random" or "ancestral".
        steps: network calls a completion; None: one a token.
        block_length: tokens of a block, from the left to the right (papers: 32); None: that of the policy, or all at once.
        temperature: of the tokens (0.9; Sudoku 0.3).
        guidance, threshold, forbidden, last, cache, rows: see there.
    """

    order: Order = "confidence"
    steps: int | None = None
    block_length: int | None = None
    temperature: float = 0.9
    guidance: float = 0.0
    threshold: float = 0.9
    forbidden: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    cache: Cache = "none"
    rows: int = 256

    def options(self) -> dict[str, Any]:
        """What `fill` takes."""
        return dict(self.__dict__)


class Rollouts(NamedTuple):
    """Finished completions, as a reward sees them: those of a prompt stand together.

    Attributes:
        rows: which prompt each answers.
        tokens: (B, L), prompts and completions.
        canvas: what was to be filled in: ``canvas.target`` marks the completions.
    """

    rows: Int[Tensor, "B"]
    tokens: Int[Tensor, "B L"]
    canvas: Canvas


def identical(rollouts: Rollouts, size: int) -> Float[Tensor, ""]:
    """Share of groups whose completions are all the same."""
    groups = rollouts.tokens.view(-1, size, rollouts.tokens.shape[1])
    return (groups == groups[:, :1]).all(2).all(1).double().mean()
