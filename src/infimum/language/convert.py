"""Mask predictors out of causal language models, as Dream (2508.15487) and DiffuLLaMA (2410.17891) begin."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from infimum.errors import UserError
from infimum.language.causal import FullAttention
from infimum.language.checks import shared
from infimum.language.llada import LladaConfig
from infimum.language.loading import settings_of, tokenizer_of, weights_of, whole
from infimum.training.files import current, dump, read_json, replacing

__all__ = ["Converted", "masked_from_causal"]

RECORD = "infimum.json"
"""File beside ``config.json`` that tells a converted model from a causal one."""

MASK = "<|mask|>"
"""The mask's name, where a tokenizer is given a new token."""


@dataclass(frozen=True)
class Converted:
    """A mask predictor that was a causal language model; to be trained before it predicts masks well.

    ``MaskedDiffusion(MaskedDiffusionConfig(**converted.masking), converted.network)`` is the model whose likelihood is bounded.

    Attributes:
        network: (tokens (N, L), present (N, L)) to logits (N, L, V), with ``features`` and ``head``.
        vocabulary: tokens of data are 0 to vocabulary - 1, but for the mask.
        mask_id: the mask.
        tokenizer: with the mask among its tokens, where there is one.
    """

    network: FullAttention
    vocabulary: int
    mask_id: int
    tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def masking(self) -> dict[str, int]:
        """What `infimum.discrete.MaskedDiffusionConfig` needs to know: logits at a position predict the next token."""
        return {"vocabulary": self.vocabulary, "mask_id": self.mask_id, "logit_shift": 1}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), `config.json`, tokenizer and `infimum.json` at once; an older converted model gives way.

        Raises:
            UserError: adapters that are not merged, or a folder that holds something else.
        """
        whole(self.network.model)
        path = Path(folder)
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / RECORD).exists())):
            raise UserError(f"{path} holds something else than a converted model: choose another folder")
        with replacing(path) as new:
            self.network.model.save_pretrained(new)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(new)
            dump(new / RECORD, {"format": 1, **self.masking})

    @staticmethod
    def from_pretrained(folder: str | Path) -> "Converted":
        """What `save_pretrained` wrote, in evaluation mode; nothing is fetched and no code from the folder is run.

        Raises:
            UserError: no converted model, weights that do not fit, or a mask that is no row of the embedding.
        """
        path = current(Path(folder)) or Path(folder)
        settings_of(path)
        record = read_json(path / RECORD)
        vocabulary, mask = record.get("vocabulary"), record.get("mask_id")
        if (
            record.get("format") != 1
            or record.get("logit_shift") != 1
            or type(vocabulary) is not int
            or type(mask) is not int
        ):
            raise UserError(
                f"{path / RECORD} is {record}, expected format 1, logit_shift 1, and whole numbers as vocabulary and mask_id: "
                "convert the model anew"
            )
        network = FullAttention(weights_of(path, AutoModelForCausalLM))
        if not 0 <= mask <= vocabulary or max(mask + 1, vocabulary) > network.rows:
            raise UserError(
                f"{path / RECORD}: mask id {mask} and vocabulary {vocabulary} do not fit an embedding of {network.rows} rows: "
                "convert the model anew"
            )
        return Converted(network, vocabulary, mask, tokenizer_of(path))


def masked_from_causal(
    model: PreTrainedModel | str | Path,
    *,
    mask_token: str | int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Converted:
    """A causal language model with attention to all tokens, and a mask.

    Model and tokenizer are changed in place. A new row of the embedding is the mean of the others; so is that of the head, whose
    logit of the mask nobody reads.

    Args:
        model: with a language-modelling head, or the folder of one, whose tokenizer comes with it.
        mask_token: the mask: its number, or its name in the tokenizer, where it is added if it is not there. None: the tokenizer's
            mask, or else a new token ``<|mask|>``, in a row that no token has if the embedding has one to spare.
        tokenizer: of the model.

    Raises:
        UserError: an architecture that cannot be converted, a mask out of reach or with another meaning, a name without a
            tokenizer, or a tokenizer of another model.
    """
    if not isinstance(model, PreTrainedModel):
        folder = Path(model)
        if (folder / RECORD).exists():
            raise UserError(f"{folder} is converted already: use Converted.from_pretrained")
        settings_of(folder)
        model, tokenizer = weights_of(folder, AutoModelForCausalLM), tokenizer or tokenizer_of(folder)
    if model.config.model_type == LladaConfig.model_type:
        raise UserError("a LLaDA is a mask predictor already: open its folder with infimum.language.mask_predictor")
    network = FullAttention(model)
    rows = network.rows
    known = rows if tokenizer is None else 1 + max(tokenizer.get_vocab().values())
    if known > rows:
        raise UserError(
            f"the tokenizer has tokens up to {known - 1} and the model's embedding has {rows} rows: give the model's own tokenizer"
        )
    mask = _mask(mask_token, tokenizer, rows)
    taken = {
        name: getattr(part, name, None)
        for part in (model.config, tokenizer)
        for name in ("pad_token_id", "eos_token_id")
    }
    for name, ids in taken.items():
        if shared(mask, ids):
            raise UserError(f"mask id {mask} is the {name} too: give the mask a token of its own")
    if mask >= rows:
        _grow(model, mask + 1)
    return Converted(network, max(known, mask) if mask >= known else known, mask, tokenizer)


def _mask(wanted: str | int | None, tokenizer: PreTrainedTokenizerBase | None, rows: int) -> int:
    """Its number, `rows` at most."""
    if isinstance(wanted, int):
        if not 0 <= wanted <= rows:
            raise UserError(f"mask id {wanted} > vocab {rows}: pass a row of the embedding, or {rows} for a new one")
        return wanted
    if tokenizer is None:
        if wanted is not None:
            raise UserError(f"the mask {wanted!r} is a name: pass the model's tokenizer, or a number")
        return rows
    if wanted is None and tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    tokenizer.add_special_tokens({"mask_token": wanted or MASK})
    return int(tokenizer.mask_token_id)


@torch.no_grad()
def _grow(model: PreTrainedModel, rows: int) -> None:
    """More rows for embedding and head, each the mean of the old ones."""
    parts = [model.get_input_embeddings(), model.get_output_embeddings()]
    old, means = len(parts[0].weight), [part.weight.float().mean(0) for part in parts]
    biases = [getattr(part, "bias", None) for part in parts]
    shifts = [None if bias is None else bias.float().mean() for bias in biases]
    model.resize_token_embeddings(rows, mean_resizing=False)
    for part, mean, shift in zip(
        (model.get_input_embeddings(), model.get_output_embeddings()), means, shifts, strict=True
    ):
        part.weight[old:] = mean.to(part.weight.dtype)
        if shift is not None:
            part.bias[old:] = shift.to(part.bias.dtype)
