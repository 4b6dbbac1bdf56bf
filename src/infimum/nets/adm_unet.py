"""A U-Net that halves the resolution, after ADM (Dhariwal & Nichol 2021, 2105.05233)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.nets.conv_blocks import group_norm, zeroed
from infimum.nets.residual_mlp import FourierFeatures, conditioning

__all__ = ["ADMUNet"]


class _Block(nn.Module):
    """A residual block whose second norm is scaled and shifted by the condition; it may halve or double the resolution."""

    def __init__(self, inputs: int, width: int, condition: int, dropout: float, change: str = "") -> None:
        super().__init__()
        self.change = change
        self.norm, self.first = group_norm(inputs), nn.Conv2d(inputs, width, 3, padding=1)
        self.condition = nn.Linear(condition, 2 * width)
        self.again, self.drop = group_norm(width), nn.Dropout(dropout)
        self.second = zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)

    def _resized(self, h: Tensor) -> Tensor:
        if self.change == "half":
            return F.avg_pool2d(h, 2)
        return F.interpolate(h, scale_factor=2, mode="nearest") if self.change == "double" else h

    def forward(self, h: Float[Tensor, "N c H W"], c: Float[Tensor, "N e"]) -> Float[Tensor, "N C h w"]:
        inner = self.first(self._resized(F.silu(self.norm(h))))
        scale, shift = self.condition(c)[:, :, None, None].chunk(2, 1)
        inner = self.drop(F.silu(self.again(inner) * (1 + scale) + shift))
        return self.shortcut(self._resized(h)) + self.second(inner)


class _Attention(nn.Module):
    """Every pixel looks at all others, a head for 64 channels; it starts as nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = math.gcd(width, max(1, width // 64))
        self.norm, self.inputs = group_norm(width), nn.Conv1d(width, 3 * width, 1)
        self.outputs = zeroed(nn.Conv1d(width, width, 1))

    def forward(self, h: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        flat = self.norm(h).flatten(2)
        q, k, v = (part.unflatten(1, (self.heads, -1)).transpose(2, 3) for part in self.inputs(flat).chunk(3, 1))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        return h + self.outputs(seen).view_as(h)


class ADMUNet(nn.Module):
    """(z, u) to an image like z: residual blocks at each resolution, attention at the lower ones, skips. It starts at 0.

    Args:
        channels: of z.
        width: channels at full resolution, even (paper: 128 to 256).
        blocks: at each resolution on the way in, one more on the way out (paper: 2 or 3).
        multiples: channels at each resolution as multiples of ``width``; each further one halves the sides (paper: (1, 2, 3, 4)).
        attention: from which halving on pixels look at one another.
        fourier: frequencies of `FourierFeatures`, appended as channels.
        dropout: inside the blocks.
        context: numbers that the network is told besides u, such as a label.

    Raises:
        UserError: a width that is odd or below 4, no blocks, or no resolution.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 128,
        blocks: int = 2,
        multiples: tuple[int, ...] = (1, 2, 2),
        attention: int = 1,
        fourier: tuple[float, ...] = (),
        dropout: float = 0.0,
        context: int = 0,
    ) -> None:
        super().__init__()
        if width < 4 or width % 2 or blocks < 1 or not multiples or min(multiples) < 1:
            raise UserError(
                "an ADM U-Net needs an even width of at least 4, a block and multiples of at least 1, got width "
                f"{width}, {blocks} blocks and multiples {multiples}"
            )
        self.context = context
        self.width, self.factor = width, 2 ** (len(multiples) - 1)
        self.features = FourierFeatures(fourier)
        embedded = 4 * width
        self.embedding = nn.Sequential(
            nn.Linear(width + context, embedded), nn.SiLU(), nn.Linear(embedded, embedded), nn.SiLU()
        )

        def stage(inputs: int, outputs: int, level: int, change: str = "") -> nn.ModuleList:
            parts: list[nn.Module] = [_Block(inputs, outputs, embedded, dropout, change)]
            if level >= attention and not change:
                parts.append(_Attention(outputs))
            return nn.ModuleList(parts)

        now = width * multiples[0]
        self.inputs = nn.Conv2d(channels * self.features.copies, now, 3, padding=1)
        skips, down, up = [now], [], []
        for level, multiple in enumerate(multiples):
            for _ in range(blocks):
                down.append(stage(now, width * multiple, level))
                now = width * multiple
                skips.append(now)
            if level < len(multiples) - 1:
                down.append(stage(now, now, level, "half"))
                skips.append(now)
        self.down = nn.ModuleList(down)
        lowest = len(multiples) - 1
        self.middle = nn.ModuleList([stage(now, now, max(lowest, attention)), stage(now, now, -1)])
        for level, multiple in reversed(list(enumerate(multiples))):
            for i in range(blocks + 1):
                up.append(stage(now + skips.pop(), width * multiple, level))
                now = width * multiple
                if level and i == blocks:
                    up.append(stage(now, now, level, "double"))
        self.up = nn.ModuleList(up)
        self.norm, self.outputs = group_norm(now), zeroed(nn.Conv2d(now, channels, 3, padding=1))

    def forward(
        self, z: Float[Tensor, "N C H W"], u: Float[Tensor, "N"], context: Float[Tensor, "N m"] | None = None
    ) -> Float[Tensor, "N C H W"]:
        """The output for every image of z at its own u in [0, 1] and context.

        Raises:
            UserError: a side that cannot be halved that often.
        """
        if z.shape[2] % self.factor or z.shape[3] % self.factor:
            raise UserError(
                f"sides must be multiples of {self.factor}, got images of {z.shape[2]} x {z.shape[3]}: give fewer multiples"
            )
        c = self.embedding(conditioning(u, self.width, context, self.context))
        h = self.inputs(self.features(z))
        skips = [h]
        for parts in self.down:
            h = _through(parts, h, c)
            skips.append(h)
        for parts in self.middle:
            h = _through(parts, h, c)
        for parts in self.up:
            assert isinstance(parts, nn.ModuleList)
            block = parts[0]
            assert isinstance(block, _Block)
            h = _through(parts, h if block.change else torch.cat((h, skips.pop()), 1), c)
        return self.outputs(F.silu(self.norm(h)))


def _through(parts: nn.Module, h: Tensor, c: Tensor) -> Tensor:
    """A residual block, and an attention if there is one."""
    assert isinstance(parts, nn.ModuleList)
    h = parts[0](h, c)
    return parts[1](h) if len(parts) > 1 else h
