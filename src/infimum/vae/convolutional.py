"""A VAE of images with the residual networks of "How to train your VAE" (2309.13160)."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError
from infimum.nets import ResNetV2Decoder, ResNetV2Encoder
from infimum.nets.resnet_v2 import glorot
from infimum.vae.model import VAE, VAEConfig

__all__ = ["ConvolutionalVAE", "ConvolutionalVAEConfig"]


@dataclass(frozen=True)
class ConvolutionalVAEConfig(VAEConfig):
    """What a `ConvolutionalVAE` is built from; ``hidden`` and ``activation`` of a `VAEConfig` are not used.

    Attributes:
        width: channels of the residual blocks (paper: 128).
        stages: how many times the image is halved (paper: 6, for 256 x 256); its sides are multiples of 2^stages.
        normalisation: "train": batch statistics in training, as everywhere; "frozen": always the running ones, which then stay what
            they were at the start (what the original's training step does).
        input_norm: each image less its brightness and over its contrast before the encoder, as published. Both are then unknown to
            the latents: False where images differ in them.
    """

    width: int = 128
    stages: int = 6
    normalisation: Literal["train", "frozen"] = "train"
    input_norm: bool = True

    def __post_init__(self) -> None:
        """Refuse sizes that build nothing."""
        super().__post_init__()
        if self.width < 1 or self.stages < 1:
            raise UserError(f"width and stages are at least 1, got {self.width} and {self.stages}")


class _Folded(nn.Module):
    """Dense layer, then the image decoder, over any leading axes."""

    def __init__(self, first: nn.Linear, images: ResNetV2Decoder) -> None:
        super().__init__()
        self.first, self.images = first, images

    def forward(self, z: Float[Tensor, "*n latent"]) -> Float[Tensor, "*n dims"]:
        return self.images(self.first(z.flatten(0, -2))).flatten(1).unflatten(0, z.shape[:-1])


class ConvolutionalVAE(VAE):
    """`VAE` whose encoder and decoder are pre-activation residual networks. Streams as there.

    Raises:
        UserError: items that are not (C, H, W), sides that are no multiples of 2^stages, a likelihood of several outputs a pixel.
    """

    Config = ConvolutionalVAEConfig

    def __init__(self, config: ConvolutionalVAEConfig) -> None:
        super().__init__(config)
        self.train()

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        config = self.config
        assert isinstance(config, ConvolutionalVAEConfig)
        if self.likelihood.outputs != 1:
            raise UserError(
                f"a convolutional VAE has one output a pixel, and likelihood {config.likelihood!r} needs "
                f"{self.likelihood.outputs}: use laplace, gaussian or bernoulli"
            )
        width, stages, norm = config.width, config.stages, config.input_norm
        encoder = ResNetV2Encoder(config.shape, width=width, stages=stages, input_norm=norm)  # type: ignore[arg-type]
        decoder = ResNetV2Decoder(config.shape, width=width, stages=stages)  # type: ignore[arg-type]
        heads = nn.Linear(encoder.features, self.family.inputs)  # both heads of the paper in one
        first = nn.Linear(config.latent, decoder.features)
        heads.apply(glorot), first.apply(glorot)
        return nn.Sequential(nn.Unflatten(1, config.shape), encoder, heads), _Folded(first, decoder)

    def train(self, mode: bool = True) -> "ConvolutionalVAE":
        """Training mode; batch statistics stay frozen where the configuration says so."""
        super().train(mode)
        assert isinstance(self.config, ConvolutionalVAEConfig)
        if self.config.normalisation == "frozen":
            for part in self.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.eval()
        return self
