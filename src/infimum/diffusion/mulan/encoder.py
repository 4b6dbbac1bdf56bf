"""What infers the auxiliary latent of an image: a convolutional network without down-sampling, and one map at its end."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infimum.nets import FourierFeatures
from infimum.nets.conv_blocks import ResidualBlock, SelfAttention, group_norm, zeroed

__all__ = ["LatentEncoder"]


class LatentEncoder(nn.Module):
    """An image to the parameters of q(c | x): VDM's way in, one channel that starts at 0, and a linear layer (2312.13236).

    Args:
        shape: (C, H, W).
        numbers: parameters.
        width: channels (paper: that of the denoiser).
        blocks: on the way in (paper: 4).
        fourier: frequencies of `FourierFeatures`.
        dropout: inside the blocks.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        numbers: int,
        *,
        width: int = 64,
        blocks: int = 4,
        fourier: tuple[float, ...] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, across = shape
        self.features = FourierFeatures(fourier)
        self.inputs = nn.Conv2d(channels * self.features.copies, width, 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(width, width, 1, dropout) for _ in range(blocks))
        self.middle = nn.ModuleList(ResidualBlock(width, width, 1, dropout) for _ in range(2))
        self.attention = SelfAttention(width)
        self.norm, self.map = group_norm(width), zeroed(nn.Conv2d(width, 1, 3, padding=1))
        self.outputs = nn.Linear(height * across, numbers)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N numbers"]:
        """Parameters for every image."""
        h, constant = self.inputs(self.features(x)), torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
        for block in self.down:
            h = block(h, constant)
        h = self.middle[1](self.attention(self.middle[0](h, constant)), constant)
        return self.outputs(F.silu(self.map(F.silu(self.norm(h))).flatten(1)))
