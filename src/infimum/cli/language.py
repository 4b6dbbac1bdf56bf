"""Folders of language models on the command line: recognised by their ``config.json``, opened as masked diffusion models."""

import json
import sys
from pathlib import Path
from typing import Any

from infimum.data import DataSpec
from infimum.errors import UserError, require

__all__ = ["LANGUAGE", "is_language", "open_language", "rows_of"]

LANGUAGE = "language model"
"""Name of the data of a model whose texts are unknown."""

CELLS = 2**16
"""Tokens that go through the network at a time."""


def is_language(path: str | Path) -> bool:
    """Whether a folder's ``config.json`` is one of transformers: ours names a "model", theirs a "model_type"."""
    try:
        settings = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and isinstance(settings.get("model_type"), str) and "format" not in settings


def open_language(path: str | Path, adapter: str | None = None) -> tuple[Any, DataSpec, Path]:
    """A masked diffusion model with a `tokenizer` and the `longest` text that it takes.

    Args:
        path: folder of the model.
        adapter: folder of low-rank adapters, which are merged into it.

    Raises:
        UserError: transformers is not installed, a folder cannot be read, or it has no tokenizer.
    """
    require("transformers", "lm")
    from transformers.utils import logging

    from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig
    from infimum.language import mask_predictor

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    found = mask_predictor(path, adapter)
    if found.tokenizer is None:
        raise UserError(f"{path} has no tokenizer: save it there with tokenizer.save_pretrained")
    masking: dict[str, Any] = dict(found.masking)
    model: Any = MaskedDiffusion(MaskedDiffusionConfig(**masking), found.network).eval()
    model.tokenizer, model.longest = found.tokenizer, found.longest
    return model, DataSpec(LANGUAGE, "integer", (1,), levels=max(2, model.config.size)), Path(path)


def rows_of(length: int, most: int) -> int:
    """Canvases of so many tokens that go through the network at a time; their number changes no value."""
    return max(1, min(most, CELLS // length))
