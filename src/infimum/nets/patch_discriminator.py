"""A discriminator of patches: one logit for each receptive field (PatchGAN: Isola et al. 2017, 1611.07004)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.nets.resnet_v2 import glorot

__all__ = ["PatchDiscriminator"]


class PatchDiscriminator(nn.Module):
    """Images (B, C, H, W) to logits (B, 1, h, w), "real" against "made"; the defaults are those of 2309.13160.

    Every 3x3 convolution is followed by batch normalisation, leaky ReLU (not after the last) and dropout. With normalisation
    "frozen" the running statistics are used in training too and stay those of the start, and nothing is dropped: what the
    original's training step does. With "train" every batch is normalised by itself, images and reconstructions apart, which hides
    from the discriminator what all reconstructions have in common, such as too little of the high frequencies.

    Raises:
        UserError: filters and strides of different number, or a last filter other than 1.
    """

    def __init__(
        self,
        channels: int = 3,
        *,
        filters: tuple[int, ...] = (128, 128, 128, 64, 64, 1),
        strides: tuple[int, ...] = (2, 2, 2, 1, 1, 1),
        dropout: float = 0.25,
        normalisation: Literal["frozen", "train"] = "frozen",
    ) -> None:
        super().__init__()
        self.normalisation = normalisation
        if len(filters) != len(strides) or not filters or filters[-1] != 1:
            raise UserError(
                f"a patch discriminator needs a stride for each filter and a last filter of 1, got {filters}, {strides}"
            )
        layers: list[nn.Module] = []
        for i, (out, stride) in enumerate(zip(filters, strides, strict=True)):
            layers += [
                nn.Conv2d(channels, out, 3, stride=stride, padding=1),
                nn.BatchNorm2d(out, eps=1e-3, momentum=0.01),
            ]
            layers += [nn.LeakyReLU(0.3)] if i < len(filters) - 1 else []
            layers += [nn.Dropout(dropout)]
            channels = out
        self.layers = nn.Sequential(*layers)
        self.apply(glorot)
        self.train()

    def train(self, mode: bool = True) -> "PatchDiscriminator":
        """Training mode; statistics and dropout stay as in evaluation where they are frozen."""
        super().train(mode)
        if self.normalisation == "frozen":
            self.layers.eval()
        return self

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 h w"]:
        """Logits of "real"."""
        return self.layers(x)
