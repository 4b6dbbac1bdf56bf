"""infimum: train, estimate, select and align latent-variable models by their evidence bounds.

Rooms are imported on first use: ``import infimum; infimum.evidence`` works, and ``import infimum`` alone costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "data", "distributions", "evidence", "nets", "testing", "training", "vae"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"infimum.{name}")
    raise AttributeError(f"module 'infimum' has no attribute {name!r}")
