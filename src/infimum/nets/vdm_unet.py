"""The U-Net of VDM, which never changes the resolution (Kingma et al. 2021, 2107.00630, appendix B)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.nets.residual_mlp import FourierFeatures, sinusoidal

__all__ = ["VDMUNet"]


def _norm(channels: int) -> nn.GroupNorm:
    # 32 groups at 128 channels and more; of 4 channels at least, as a group of one would take the condition away again
    return nn.GroupNorm(math.gcd(32, channels, max(1, channels // 4)), channels)


def _zero(layer: nn.Module) -> nn.Module:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class _Residual(nn.Module):
    """Norm, swish, convolution, plus the condition; norm, swish, dropout, convolution that starts at 0; plus the input."""

    def __init__(self, inputs: int, width: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.first = _norm(inputs), nn.Conv2d(inputs, width, 3, padding=1)
        self.condition = _zero(nn.Linear(condition, width, bias=False))
        self.again, self.drop = _norm(width), nn.Dropout(dropout)
        self.second = _zero(nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)

    def forward(self, h: Float[Tensor, "N c H W"], c: Float[Tensor, "N e"]) -> Float[Tensor, "N C H W"]:
        inner = self.first(F.silu(self.norm(h))) + self.condition(c)[:, :, None, None]
        return self.shortcut(h) + self.second(self.drop(F.silu(self.again(inner))))


class _Attention(nn.Module):
    """Every pixel looks at all others, with one head; it starts as nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inputs = _norm(width), nn.Conv2d(width, 3 * width, 1)
        self.outputs = _zero(nn.Conv2d(width, width, 1))

    def forward(self, h: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        q, k, v = (part.flatten(2).transpose(1, 2)[:, None] for part in self.inputs(self.norm(h)).chunk(3, 1))
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return h + self.outputs(seen.unflatten(2, h.shape[2:]))


class VDMUNet(nn.Module):
    """(z, u) to an image like z: ``blocks`` residual blocks, two around an attention, ``blocks`` + 1 with skips. It starts at 0.

    Args:
        channels: of z.
        width: channels inside, even (paper: 128 for CIFAR-10).
        blocks: on the way in (paper: 32).
        fourier: frequencies of `FourierFeatures`, appended as channels.
        dropout: inside the blocks (paper: 0.1).

    Raises:
        UserError: a width that is odd or below 4, or no blocks.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 128,
        blocks: int = 32,
        fourier: tuple[float, ...] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width < 4 or width % 2 or blocks < 1:
            raise UserError(f"a VDM U-Net needs an even width of at least 4 and a block, got {width} and {blocks}")
        self.width = width
        self.features = FourierFeatures(fourier)
        embedded = 4 * width
        self.embedding = nn.Sequential(nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded), nn.SiLU())
        self.inputs = nn.Conv2d(channels * self.features.copies, width, 3, padding=1)
        self.down = nn.ModuleList(_Residual(width, width, embedded, dropout) for _ in range(blocks))
        self.middle = nn.ModuleList(_Residual(width, width, embedded, dropout) for _ in range(2))
        self.attention = _Attention(width)
        self.up = nn.ModuleList(_Residual(2 * width, width, embedded, dropout) for _ in range(blocks + 1))
        self.norm, self.outputs = _norm(width), _zero(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, z: Float[Tensor, "N C H W"], u: Float[Tensor, "N"]) -> Float[Tensor, "N C H W"]:
        """The output for every image of z at its own u in [0, 1]."""
        c = self.embedding(sinusoidal(u, self.width))
        h = self.inputs(self.features(z))
        skips = [h]
        for block in self.down:
            h = block(h, c)
            skips.append(h)
        h = self.middle[1](self.attention(self.middle[0](h, c)), c)
        for block in self.up:
            h = block(torch.cat((h, skips.pop()), 1), c)
        return self.outputs(F.silu(self.norm(h)))
