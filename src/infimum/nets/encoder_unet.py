"""The U-Net of DiffEnc's encoder: an image and a number to an image, with a derivative in the number."""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.nets.conv_blocks import ResidualBlock, SelfAttention, group_norm, zeroed
from infimum.nets.residual_mlp import sinusoidal

__all__ = ["EncoderUNet"]


class EncoderUNet(nn.Module):
    """(x, u) to an image like x (Nielsen et al. 2024, 2310.19789). It starts at 0.

    Residual blocks and a maximum over 2 x 2 pixels at each level, an attention between two blocks at the lowest, and back by
    transposed convolutions with skips. Every operation has a forward-mode derivative, and that a gradient.

    Args:
        channels: of x.
        width: channels of the first level, twice as many on each further one (paper: 64).
        levels: how often the resolution is halved (paper: 2 at 32 x 32).
        blocks: on the way in, and again on the way out, spread evenly over the levels (paper: 2, 4 or 8).
        condition: size of what is made of u (paper: 256).
        dropout: inside the blocks.

    Raises:
        UserError: a width that is odd or below 4, no level, or blocks that the levels do not divide.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 64,
        levels: int = 2,
        blocks: int = 2,
        condition: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width < 4 or width % 2 or levels < 1 or blocks < 1 or blocks % levels:
            raise UserError(
                "an encoder U-Net needs an even width of at least 4, a level and a number of blocks that the levels divide, got "
                f"width {width}, {levels} levels and {blocks} blocks"
            )
        self.width = width
        each, widths = blocks // levels, [width * 2**level for level in range(levels)]

        def stage(inputs: int, outputs: int) -> nn.ModuleList:
            sizes = [inputs, *[outputs] * each]
            return nn.ModuleList(ResidualBlock(a, b, condition, dropout) for a, b in itertools.pairwise(sizes))

        self.embedding = nn.Sequential(
            nn.Linear(width, condition), nn.SiLU(), nn.Linear(condition, condition), nn.SiLU()
        )
        self.inputs = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(stage(a, b) for a, b in zip([width, *widths], widths, strict=False))
        self.middle = nn.ModuleList(ResidualBlock(widths[-1], widths[-1], condition, dropout) for _ in range(2))
        self.attention = SelfAttention(widths[-1], fused=False)
        above = [widths[-1], *widths[:0:-1]]
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in zip(above, widths[::-1], strict=True)
        )
        self.up = nn.ModuleList(stage(2 * size, size) for size in widths[::-1])
        self.norm, self.outputs = group_norm(width, 16), zeroed(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: Float[Tensor, "N C H W"], u: Float[Tensor, "N"]) -> Float[Tensor, "N C H W"]:
        """The output for every image at its own u in [0, 1].

        Raises:
            UserError: a side that cannot be halved that often.
        """
        factor = 2 ** len(self.down)
        if x.shape[2] % factor or x.shape[3] % factor:
            raise UserError(
                f"{len(self.down)} levels halve sides that {factor} divides, got images of {x.shape[2]} x {x.shape[3]}: take "
                "fewer levels"
            )
        c = self.embedding(sinusoidal(u, self.width))
        h = self.inputs(x)
        skips = []
        for stage in self.down:
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                h = block(h, c)
            skips.append(h)
            h = F.max_pool2d(h, 2)
        h = self.middle[1](self.attention(self.middle[0](h, c)), c)
        for enlarge, stage in zip(self.enlarge, self.up, strict=True):
            assert isinstance(stage, nn.ModuleList)
            h = torch.cat((enlarge(h), skips.pop()), 1)
            for block in stage:
                h = block(h, c)
        return self.outputs(F.silu(self.norm(h)))
