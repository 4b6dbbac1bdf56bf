"""Embedded data sets, the user's own files, and the preprocessing that ties evidence to them.

Names are imported on first use, so that ``infimum.data.registry`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batching import batches
    from .loading import Dataset, load, reload
    from .raw import Raw
    from .reading import read
    from .registry import DATASETS, Entry, Kind
    from .sentences import load_sentences
    from .spec import DataSpec, Split, load_spec, save_spec
    from .steps import Standardise, Step, Threshold
    from .text import Corpus, Vocabulary, read_text

__all__ = [
    "DATASETS",
    "Corpus",
    "DataSpec",
    "Dataset",
    "Entry",
    "Kind",
    "Raw",
    "Split",
    "Standardise",
    "Step",
    "Threshold",
    "Vocabulary",
    "batches",
    "load",
    "load_sentences",
    "load_spec",
    "read",
    "read_text",
    "reload",
    "save_spec",
]

_HOME = {
    "batching": ("batches",),
    "loading": ("Dataset", "load", "reload"),
    "raw": ("Raw",),
    "reading": ("read",),
    "registry": ("DATASETS", "Entry", "Kind"),
    "sentences": ("load_sentences",),
    "spec": ("DataSpec", "Split", "load_spec", "save_spec"),
    "steps": ("Standardise", "Step", "Threshold"),
    "text": ("Corpus", "Vocabulary", "read_text"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
