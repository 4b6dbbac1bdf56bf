"""Language models: checkpoints of other libraries, and what every language system needs."""

from infimum.language.llada import LladaConfig, LladaForMaskedDiffusion

__all__ = ["LladaConfig", "LladaForMaskedDiffusion"]
