"""Language models: checkpoints of other libraries, prompts, adapters, rewards, and tasks.

What needs transformers is imported when it is first asked for; asking for a LLaDA class registers it with the Auto classes.
"""

import importlib
from typing import TYPE_CHECKING, Any

from infimum.language.advantages import ScaleRewards, group_advantages

if TYPE_CHECKING:
    from infimum.language.checks import check_mask, mask_entropies
    from infimum.language.convert import Converted, masked_from_causal
    from infimum.language.folders import MaskPredictor, mask_predictor
    from infimum.language.llada import LladaConfig, LladaForMaskedDiffusion

__all__ = [
    "Converted",
    "LladaConfig",
    "LladaForMaskedDiffusion",
    "MaskPredictor",
    "ScaleRewards",
    "check_mask",
    "group_advantages",
    "mask_entropies",
    "mask_predictor",
    "masked_from_causal",
]

_LATER = {
    "Converted": "infimum.language.convert",
    "LladaConfig": "infimum.language.llada",
    "LladaForMaskedDiffusion": "infimum.language.llada",
    "MaskPredictor": "infimum.language.folders",
    "check_mask": "infimum.language.checks",
    "mask_entropies": "infimum.language.checks",
    "mask_predictor": "infimum.language.folders",
    "masked_from_causal": "infimum.language.convert",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'infimum.language' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
