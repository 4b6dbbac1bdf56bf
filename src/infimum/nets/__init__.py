"""Networks that more than one system uses."""

from infimum.nets.mlp import Activation, mlp
from infimum.nets.patch_discriminator import PatchDiscriminator
from infimum.nets.resnet_v2 import ResNetV2Decoder, ResNetV2Encoder

__all__ = ["Activation", "PatchDiscriminator", "ResNetV2Decoder", "ResNetV2Encoder", "mlp"]
