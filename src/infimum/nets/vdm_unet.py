"""The U-Net of VDM, which never changes the resolution (Kingma et al. 2021, 2107.00630, appendix B)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.nets.conv_blocks import ResidualBlock, SelfAttention, group_norm, zeroed
from infimum.nets.residual_mlp import FourierFeatures, conditioning

__all__ = ["VDMUNet"]


class VDMUNet(nn.Module):
    """(z, u) to an image like z: ``blocks`` residual blocks, two around an attention, ``blocks`` + 1 with skips. It starts at 0.

    Args:
        channels: of z.
        width: channels inside, even (paper: 128 for CIFAR-10).
        blocks: on the way in (paper: 32).
        fourier: frequencies of `FourierFeatures`, appended as channels.
        dropout: inside the blocks (paper: 0.1).
        context: numbers that the network is told besides u, such as a label.

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
        context: int = 0,
    ) -> None:
        super().__init__()
        if width < 4 or width % 2 or blocks < 1:
            raise UserError(f"a VDM U-Net needs an even width of at least 4 and a block, got {width} and {blocks}")
        self.width, self.context = width, context
        self.features = FourierFeatures(fourier)
        embedded = 4 * width
        self.embedding = nn.Sequential(
            nn.Linear(width + context, embedded), nn.SiLU(), nn.Linear(embedded, embedded), nn.SiLU()
        )
        self.inputs = nn.Conv2d(channels * self.features.copies, width, 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(width, width, embedded, dropout) for _ in range(blocks))
        self.middle = nn.ModuleList(ResidualBlock(width, width, embedded, dropout) for _ in range(2))
        self.attention = SelfAttention(width)
        self.up = nn.ModuleList(ResidualBlock(2 * width, width, embedded, dropout) for _ in range(blocks + 1))
        self.norm, self.outputs = group_norm(width), zeroed(nn.Conv2d(width, channels, 3, padding=1))

    def forward(
        self, z: Float[Tensor, "N C H W"], u: Float[Tensor, "N"], context: Float[Tensor, "N m"] | None = None
    ) -> Float[Tensor, "N C H W"]:
        """The output for every image of z at its own u in [0, 1] and context."""
        c = self.embedding(conditioning(u, self.width, context, self.context))
        h = self.inputs(self.features(z))
        skips = [h]
        for block in self.down:
            h = block(h, c)
            skips.append(h)
        h = self.middle[1](self.attention(self.middle[0](h, c)), c)
        for block in self.up:
            h = block(torch.cat((h, skips.pop()), 1), c)
        return self.outputs(F.silu(self.norm(h)))
