"""The diffusion transformer: patches as tokens, the condition through the norms (Peebles & Xie 2023, 2212.09748)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.nets.conv_blocks import zeroed
from infimum.nets.residual_mlp import FourierFeatures, conditioning

__all__ = ["DiT"]


def _positions(rows: int, columns: int, width: int) -> Float[Tensor, "N width"]:
    """Sine and cosine of the row in one half of the numbers, of the column in the other, at rates from 1 down to 1e-4."""
    quarter = width // 4
    rate = torch.exp(torch.arange(quarter, dtype=torch.float64) * (-math.log(10_000.0) / quarter))
    sides = [torch.arange(n)[:, None] * rate for n in (rows, columns)]
    row, column = (torch.cat((angle.sin(), angle.cos()), -1) for angle in sides)
    both = torch.cat((row[:, None].expand(-1, columns, -1), column[None].expand(rows, -1, -1)), -1)
    return both.flatten(0, 1)


class _Block(nn.Module):
    """Attention and a layer of four times the width; shift, scale and gate of both are made of the condition: adaLN-Zero."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) for _ in range(2))
        self.inputs, self.outputs = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.condition = zeroed(nn.Linear(width, 6 * width))

    def forward(self, h: Float[Tensor, "N T C"], c: Float[Tensor, "N C"]) -> Float[Tensor, "N T C"]:
        shift, scale, gate, shift_2, scale_2, gate_2 = self.condition(F.silu(c))[:, None].chunk(6, -1)
        inner = self.norms[0](h) * (1 + scale) + shift
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.inputs(inner).chunk(3, -1))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + gate * self.outputs(seen)
        return h + gate_2 * self.wide(self.norms[1](h) * (1 + scale_2) + shift_2)


class DiT(nn.Module):
    """(z, u) to an image like z, by a transformer over patches of z. It starts at 0.

    Args:
        channels: of z.
        width: of the tokens, a multiple of 4 and of ``heads`` (paper: 384 to 1152).
        blocks: how many (paper: 12 to 28).
        patch: side of a patch in pixels (paper: 2 to 8).
        heads: of the attention; one for 64 numbers if not given.
        fourier: frequencies of `FourierFeatures`, appended as channels.
        dropout: inside the blocks.
        context: numbers that the network is told besides u, such as a label.

    Raises:
        UserError: sizes that do not divide one another, or no blocks.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 384,
        blocks: int = 12,
        patch: int = 2,
        heads: int | None = None,
        fourier: tuple[float, ...] = (),
        dropout: float = 0.0,
        context: int = 0,
    ) -> None:
        super().__init__()
        heads = math.gcd(width, max(1, width // 64)) if heads is None else heads
        if width < 4 or width % 4 or heads < 1 or width % heads or blocks < 1 or patch < 1:
            raise UserError(
                "a DiT needs a width that 4 and its heads divide, a block and a patch of at least 1 pixel, got width "
                f"{width}, {heads} heads, {blocks} blocks and patch {patch}"
            )
        self.context = context
        self.width, self.patch, self.channels = width, patch, channels
        self.features = FourierFeatures(fourier)
        self.inputs = nn.Linear(channels * self.features.copies * patch**2, width)
        self.embedding = nn.Sequential(nn.Linear(width + context, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.condition = zeroed(nn.Linear(width, 2 * width))
        self.outputs = zeroed(nn.Linear(width, channels * patch**2))

    def forward(
        self, z: Float[Tensor, "N C H W"], u: Float[Tensor, "N"], context: Float[Tensor, "N m"] | None = None
    ) -> Float[Tensor, "N C H W"]:
        """The output for every image of z at its own u in [0, 1] and context.

        Raises:
            UserError: a side that the patch does not divide.
        """
        height, width, p = *z.shape[2:], self.patch
        if height % p or width % p:
            raise UserError(
                f"patches of {p} x {p} do not tile images of {height} x {width}: take a patch that divides both"
            )
        rows, columns = height // p, width // p
        tokens = F.unfold(self.features(z), p, stride=p).transpose(1, 2)
        h = self.inputs(tokens) + _positions(rows, columns, self.width).to(z)
        c = self.embedding(conditioning(u, self.width, context, self.context))
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.condition(F.silu(c))[:, None].chunk(2, -1)
        out = self.outputs(self.norm(h) * (1 + scale) + shift)
        return F.fold(out.transpose(1, 2), (height, width), p, stride=p)
