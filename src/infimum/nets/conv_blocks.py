"""Residual blocks and attention of denoising U-Nets (Ho et al. 2020, 2006.11239; VDM 2107.00630)."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ResidualBlock", "SelfAttention", "group_norm", "zeroed"]


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """Of so many groups, fewer where these would have less than four channels."""
    # 32 groups at 128 channels and more; of 4 channels at least, as a group of one would take the condition away again
    return nn.GroupNorm(math.gcd(groups, channels, max(1, channels // 4)), channels)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer, with all its parameters 0."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class ResidualBlock(nn.Module):
    """Norm, swish, convolution, plus the condition; norm, swish, dropout, convolution that starts at 0; plus the input."""

    def __init__(self, inputs: int, width: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.first = group_norm(inputs), nn.Conv2d(inputs, width, 3, padding=1)
        self.condition = zeroed(nn.Linear(condition, width, bias=False))
        self.again, self.drop = group_norm(width), nn.Dropout(dropout)
        self.second = zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)

    def forward(self, h: Float[Tensor, "N c H W"], c: Float[Tensor, "N e"]) -> Float[Tensor, "N C H W"]:
        inner = self.first(F.silu(self.norm(h))) + self.condition(c)[:, :, None, None]
        return self.shortcut(h) + self.second(self.drop(F.silu(self.again(inner))))


class SelfAttention(nn.Module):
    """Every pixel looks at all others, with one head; it starts as nothing.

    Args:
        width: channels.
        fused: the fused kernels, which have no forward-mode derivative.
    """

    def __init__(self, width: int, *, fused: bool = True) -> None:
        super().__init__()
        self.fused = fused
        self.norm, self.inputs = group_norm(width), nn.Conv2d(width, 3 * width, 1)
        self.outputs = zeroed(nn.Conv2d(width, width, 1))

    def forward(self, h: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        q, k, v = (part.flatten(2).transpose(1, 2)[:, None] for part in self.inputs(self.norm(h)).chunk(3, 1))
        if self.fused:
            seen = F.scaled_dot_product_attention(q, k, v)
        else:
            seen = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        seen = seen[:, 0].transpose(1, 2)
        return h + self.outputs(seen.unflatten(2, h.shape[2:]))
