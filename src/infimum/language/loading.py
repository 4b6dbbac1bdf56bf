"""Folders of transformers: configuration, weights and tokenizer read without code from them and without a network, and written."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from infimum.errors import UserError
from infimum.language.tokens import short

__all__ = ["reading", "settings_of", "tokenizer_of", "weights_of", "whole"]

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


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """What transformers raises at a folder becomes one sentence, and its reports, of many lines each, are not printed.

    Raises:
        UserError: with the reason.
    """
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # at wrong settings its configurations and architectures raise whatever Python does
        reason = short(error)
        if "ignore_mismatched_sizes" in reason:
            reason = "its weights have other shapes than its config.json tells"
        raise UserError(
            f"{folder} cannot be read by transformers ({reason}): mend it, or save the model anew"
        ) from None
    finally:
        logging.set_verbosity(before)


def weights_of(folder: Path, cls: Any, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """The model of a folder in evaluation mode, from safetensors alone.

    Args:
        folder: of one checkpoint.
        cls: a model of transformers, or one of its Auto classes.
        config: where it is not the folder's own.

    Raises:
        UserError: no safetensors, an architecture that transformers does not have, or weights that do not fit it: missing, of
            other shapes, or more than it has.
    """
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no weights as safetensors: save the model there with save_pretrained")
    extra: dict[str, Any] = {} if config is None else {"config": config}
    if cls.__name__.startswith("Auto"):
        extra["trust_remote_code"] = False
    with reading(folder):
        model, told = cls.from_pretrained(
            folder.absolute(), local_files_only=True, use_safetensors=True, output_loading_info=True, **extra
        )
    wrong = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if wrong:
        raise UserError(
            f"{folder} lacks {len(wrong)} weights of its config.json, such as {wrong[0]}: save the model anew"
        )
    extra_keys = sorted(map(str, told["unexpected_keys"]))
    if extra_keys:
        raise UserError(
            f"{folder} holds {len(extra_keys)} weights that its config.json has no place for, such as {extra_keys[0]}: mend "
            "config.json, or save the model anew"
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
        raise UserError(f"{folder}: its tokenizer cannot be read by transformers: {short(error)}") from None


def whole(model: nn.Module) -> None:
    """Refuse a model that cannot be saved as one.

    Raises:
        UserError: adapters are still beside its weights.
    """
    if any("base_layer." in name for name, _ in model.named_parameters()):
        raise UserError(
            "the network has adapters beside its weights: merge them with adapter.merge(), or save them alone with adapter.save"
        )
