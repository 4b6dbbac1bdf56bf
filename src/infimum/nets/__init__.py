"""Networks that more than one system uses."""

from infimum.nets.adm_unet import ADMUNet
from infimum.nets.canvas_mlp import CanvasMLP
from infimum.nets.dit import DiT
from infimum.nets.encoder_unet import EncoderUNet
from infimum.nets.llada import Llada
from infimum.nets.mlp import Activation, mlp
from infimum.nets.patch_discriminator import PatchDiscriminator
from infimum.nets.residual_mlp import FourierFeatures, LayerNorm, ResidualMLP
from infimum.nets.resnet_v2 import ResNetV2Decoder, ResNetV2Encoder
from infimum.nets.vdm_unet import VDMUNet

__all__ = [
    "ADMUNet",
    "Activation",
    "CanvasMLP",
    "DiT",
    "EncoderUNet",
    "FourierFeatures",
    "LayerNorm",
    "Llada",
    "PatchDiscriminator",
    "ResNetV2Decoder",
    "ResNetV2Encoder",
    "ResidualMLP",
    "VDMUNet",
    "mlp",
]
