"""Keys and values that a sampler keeps while it fills a block (Fast-dLLM, 2505.22618): fewer columns a call, no longer exact."""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from infimum.discrete.canvas import Canvas
from infimum.discrete.masked import MaskedDiffusion, shifted
from infimum.errors import UserError
from infimum.nets.llada import Kept

__all__ = ["Cache", "Window", "check_cache"]

Cache = Literal["none", "prefix", "dual"]


def check_cache(model: MaskedDiffusion, s: Canvas) -> None:
    """Refuse what cannot be cached.

    Raises:
        UserError: a network without kept keys, or completions that do not stand side by side in the same columns.
    """
    if not hasattr(model.network, "windowed") or getattr(model.network, "causal", False):
        raise UserError(
            f"a {type(model.network).__name__} keeps no keys and values: use cache='none', or a model of LLaDA's architecture"
        )
    first = s.target[:1]
    columns = first[0].nonzero()[:, 0]
    if not bool((s.target == first).all()) or int(columns[-1]) - int(columns[0]) + 1 != len(columns):
        raise UserError(
            "a cache needs completions of one length that stand in the same columns, without gaps: use completions(), or "
            "cache='none'"
        )


class Window:
    """Vectors of some columns of canvases while one block is filled: the first call computes all, the others a window.

    Args:
        model: with a network that has ``windowed``.
        cache: "prefix": keep what stands left of the block; "dual": and what stands right of it.
        first: column of the block.
        last: column behind it.
    """

    def __init__(self, model: MaskedDiffusion, cache: Cache, first: int, last: int) -> None:
        self.model = model
        shift = model.config.logit_shift
        self.first = max(0, first - shift)  # the logits of a column may be those of the one before
        self.last: int | None = last if cache == "dual" else None
        self.network: Any = model.network
        self.kept: list[Kept] | None = None
        self.of: Tensor | None = None

    def vectors(
        self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"], at: Bool[Tensor, "N L"], rows: Int[Tensor, "N"]
    ) -> tuple[Float[Tensor, "M width"], int]:
        """As `MaskedDiffusion.vectors`, and how many columns of each canvas were computed.

        Args:
            z: canvases.
            present: see `Canvas`.
            at: which positions, within the block.
            rows: numbers of the canvases, some of those of the first call.
        """
        if self.kept is None or self.of is None:
            self.kept, self.of = [Kept() for _ in self.network.blocks], rows
            h, first = self.network.windowed(z, present, self.kept, 0), 0
        else:
            if len(rows) < len(self.of):  # canvases that are finished leave
                stay = torch.isin(self.of, rows)
                self.of = rows
                for one in self.kept:
                    assert one.keys is not None and one.values is not None
                    one.keys, one.values = one.keys[stay], one.values[stay]
            h, first = self.network.windowed(z[:, self.first : self.last], present, self.kept, self.first), self.first
        columns = slice(first, first + h.shape[1])
        if self.model.config.logit_shift:
            h = shifted(h, present[:, columns])
        return h[at[:, columns]], h.shape[1]
