"""Language models: checkpoints of other libraries, prompts, adapters, rewards, and tasks.

What needs transformers is imported when it is first asked for; asking for a LLaDA class registers it with the Auto classes.
"""

import importlib
from typing import TYPE_CHECKING, Any

from infimum.language.advantages import ScaleRewards, group_advantages

if TYPE_CHECKING:
    from infimum.language.llada import LladaConfig, LladaForMaskedDiffusion

__all__ = ["LladaConfig", "LladaForMaskedDiffusion", "ScaleRewards", "group_advantages"]

_LATER = {"LladaConfig": "infimum.language.llada", "LladaForMaskedDiffusion": "infimum.language.llada"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'infimum.language' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
