"""Pre-activation residual encoder and decoder of "How to train your VAE" (2309.13160; ResNet-V2: He et al. 2016, 1603.05027)."""

from jaxtyping import Float
from torch import Tensor, nn

from infimum.errors import UserError

__all__ = ["ResNetV2Decoder", "ResNetV2Encoder", "glorot"]

CHANNELS = 64
"""Channels of the 4 x 4 map (at six stages of 256 x 256) between the residual stages and the dense layers."""


def glorot(module: nn.Module) -> None:
    """Glorot-uniform kernels and zero biases, the defaults of the original's framework."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _unit(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(_norm(channels), nn.ReLU(), layer)


class Residual(nn.Module):
    """shortcut(x) + body(x), each unit as BN - ReLU - convolution."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """The sum of both paths."""
        return self.shortcut(x) + self.body(x)


def _triple(width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _unit(nn.Conv2d(width, width, 3, padding=1), width),
        _unit(nn.Conv2d(width, width, 3, padding=1), width),
        _unit(nn.Conv2d(width, width, 1, stride=stride), width),
    )


def identity_block(width: int) -> Residual:
    """x + Tri(x)."""
    return Residual(_triple(width), nn.Identity())


def down_block(width: int) -> Residual:
    """Half the size: stride 2 in the last, 1x1 convolution of the triple and in the shortcut."""
    return Residual(_triple(width, 2), _unit(nn.Conv2d(width, width, 1, stride=2), width))


def up_block(width: int, out: int) -> Residual:
    """Twice the size: a transposed 3x3 convolution of stride 2 after a 1x1 one, and in the shortcut."""

    def double(channels: int) -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(channels, out, 3, stride=2, padding=1, output_padding=1)

    body = nn.Sequential(_unit(nn.Conv2d(width, out, 1), width), _unit(double(out), out))
    return Residual(body, _unit(double(width), width))


def check_size(shape: tuple[int, ...], stages: int) -> None:
    """Refuse items that the stages cannot halve.

    Raises:
        UserError: not (C, H, W), or a side that 2^stages does not divide.
    """
    step = 2**stages
    if len(shape) != 3 or shape[1] % step or shape[2] % step or min(shape) < 1:
        high, wide = (max(step, side // step * step) for side in (shape[-2:] if len(shape) > 1 else (step, step)))
        raise UserError(
            f"a ResNet of {stages} stages halves an image {stages} times, so its sides must be multiples of {step}, got items of "
            f"shape {shape}: use {high} x {wide}, or fewer stages"
        )


class ResNetV2Encoder(nn.Module):
    """Images (B, C, H, W) to features (B, F): normalisation, a convolution, ``stages`` of 2 identity blocks and 1 down block.

    The normalisation is that of each channel over its pixels, with one scale and shift a pixel: a network belongs to one size. It
    takes brightness and contrast from every image, so that no latent can know them: without ``input_norm`` it is left out.

    Raises:
        UserError: a side that is no multiple of 2^stages.
    """

    def __init__(
        self, shape: tuple[int, int, int], *, width: int = 128, stages: int = 6, input_norm: bool = True
    ) -> None:
        super().__init__()
        check_size(shape, stages)
        channels, high, wide = shape
        self.norm = nn.LayerNorm((high, wide), eps=1e-3) if input_norm else nn.Identity()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        blocks = [[identity_block(width), identity_block(width), down_block(width)] for _ in range(stages)]
        self.blocks = nn.Sequential(*[block for stage in blocks for block in stage])
        self.last = nn.Conv2d(width, CHANNELS, 1)
        self.features = CHANNELS * (high >> stages) * (wide >> stages)
        self.apply(glorot)

    def map(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 64 h w"]:
        """The feature map."""
        return self.last(self.blocks(self.first(self.norm(x))))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """The feature map, flat."""
        return self.map(x).flatten(1)


class ResNetV2Decoder(nn.Module):
    """Features (B, F) to images (B, C, H, W): ``stages`` of 1 identity block and 1 up block, no output nonlinearity.

    Raises:
        UserError: a side that is no multiple of 2^stages.
    """

    def __init__(self, shape: tuple[int, int, int], *, width: int = 128, stages: int = 6) -> None:
        super().__init__()
        check_size(shape, stages)
        channels, high, wide = shape
        self.start = (CHANNELS, high >> stages, wide >> stages)
        self.features = CHANNELS * self.start[1] * self.start[2]
        self.first = nn.Conv2d(CHANNELS, width, 3, padding=1)
        outs = [width] * (stages - 1) + [channels]
        self.blocks = nn.Sequential(*[block for out in outs for block in (identity_block(width), up_block(width, out))])
        self.last = nn.Conv2d(channels, channels, 1)
        self.apply(glorot)

    def forward(self, h: Float[Tensor, "B F"]) -> Float[Tensor, "B C H W"]:
        """The image."""
        return self.last(self.blocks(self.first(h.unflatten(1, self.start))))
