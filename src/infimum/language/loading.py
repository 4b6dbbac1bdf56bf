"""What a folder of transformers holds: its configuration, weights and tokenizer, without code from it and without a network."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from infimum.errors import UserError

__all__ = ["settings_of", "tokenizer_of", "weights_of"]

_WRONG = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""What transformers raises at a folder that it cannot read."""

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def settings_of(folder: Path) -> dict[str, Any]:
    """``config.json``.

    Raises:
        UserError: there is none, or it is no JSON object with a ``model_type``.
    """
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("model_type"), str):
        raise UserError(
            f"{folder} has no config.json with a model_type: give a folder that save_pretrained of transformers wrote"
        )
    if settings.get("quantization_config"):
        raise UserError(f"{folder} holds quantised weights, which are not read: save the model without quantisation")
    return settings


def weights_of(folder: Path, cls: Any, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """The model of a folder in evaluation mode, from safetensors alone.

    Args:
        folder: of one checkpoint.
        cls: a model of transformers, or one of its Auto classes.
        config: where it is not the folder's own.

    Raises:
        UserError: no safetensors, an architecture that transformers does not have, or weights that do not fit it.
    """
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no weights as safetensors: save the model there with save_pretrained")
    extra: dict[str, Any] = {} if config is None else {"config": config}
    if cls.__name__.startswith("Auto"):
        extra["trust_remote_code"] = False
    try:
        model, told = cls.from_pretrained(
            folder.absolute(), local_files_only=True, use_safetensors=True, output_loading_info=True, **extra
        )
    except UserError:
        raise
    except _WRONG as error:
        raise UserError(f"{folder} cannot be read by transformers: {_short(error)}") from None
    wrong = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if wrong:
        raise UserError(
            f"{folder} lacks {len(wrong)} weights of its config.json, such as {wrong[0]}: save the model anew"
        )
    return model.eval()


def tokenizer_of(folder: Path, cls: Any = AutoTokenizer) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder; None if it has none.

    ``tokenizer.json`` is the whole tokenizer and is read as it is: AutoTokenizer would build one of the model's family instead.

    Args:
        folder: of one checkpoint.
        cls: of the tokenizer, where there is no such file.

    Raises:
        UserError: transformers cannot read it without running code from the folder.
    """
    if not any((folder / name).exists() for name in _TOKENIZERS):
        return None
    if (folder / "tokenizer.json").exists():
        cls = PreTrainedTokenizerFast
    extra = {"trust_remote_code": False} if cls is AutoTokenizer else {}
    try:
        return cls.from_pretrained(folder.absolute(), local_files_only=True, **extra)
    except Exception as error:  # the library's tokenizers raise plain exceptions
        raise UserError(f"{folder}: its tokenizer cannot be read by transformers: {_short(error)}") from None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
