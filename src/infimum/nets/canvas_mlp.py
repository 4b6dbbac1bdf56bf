"""A fully connected network over a canvas of a fixed number of cells."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.nets.mlp import mlp

__all__ = ["CanvasMLP"]


class CanvasMLP(nn.Module):
    """One-hot cells to logits of every cell, with ReLU: for puzzles, where every cell has a place of its own.

    Args:
        vocabulary: tokens, the mask among them.
        length: cells.
        hidden: widths of the hidden layers.
    """

    def __init__(self, vocabulary: int, length: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        self.layers = mlp(vocabulary * length, hidden, vocabulary * length, "relu")

    def forward(
        self, z: Int[Tensor, "N L"], present: Bool[Tensor, "N L"] | None = None
    ) -> Float[Tensor, "N L vocabulary"]:
        """Logits of every cell.

        Raises:
            UserError: another number of cells, or padding, which has no place here.
        """
        if z.shape[1] != self.length or present is not None:
            what = f"{z.shape[1]} cells" if present is None else "padding"
            raise UserError(f"got {what}, and this network has exactly {self.length} cells: use a transformer")
        cells = F.one_hot(z, self.vocabulary).to(next(self.parameters()).dtype)
        return self.layers(cells.flatten(1)).unflatten(-1, (self.length, self.vocabulary))
