"""Mask predictors by folder: LLaDA, Dream, and converted causal models, told apart by what their ``config.json`` says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from infimum.errors import UserError
from infimum.language.causal import FullAttention
from infimum.language.checks import check_mask
from infimum.language.convert import RECORD, Converted
from infimum.language.llada import LladaForMaskedDiffusion
from infimum.language.loading import settings_of, tokenizer_of, weights_of
from infimum.training.files import current

__all__ = ["MaskPredictor", "mask_predictor"]


@dataclass(frozen=True)
class MaskPredictor:
    """``MaskedDiffusion(MaskedDiffusionConfig(**found.masking), found.network)`` is the model whose likelihood is bounded.

    Attributes:
        network: (tokens (N, L), present (N, L)) to logits (N, L, V).
        masking: vocabulary, mask_id and logit_shift.
        tokenizer: None if the folder has none.
        longest: tokens of the longest sequence; None: not told.
        kind: "LLaDA", "Dream", or the class that was converted.
    """

    network: nn.Module
    masking: dict[str, int]
    tokenizer: PreTrainedTokenizerBase | None
    longest: int | None
    kind: str


def mask_predictor(folder: str | Path) -> MaskPredictor:
    """The mask predictor of a folder, in evaluation mode; nothing is fetched and no code from the folder is run.

    ``model_type`` "llada" (2502.09992); "Dream" (2508.15487: a Qwen2 whose attention sees all, logits that predict the next token);
    or what `masked_from_causal` made and saved. The mask is put to the test of `check_mask`, which warns.

    Raises:
        UserError: no such folder, another kind of model, missing weights, or a mask that is none.
    """
    path = current(Path(folder))
    if path is None:
        raise UserError(f"{folder} is not a folder: give that of a mask predictor")
    settings = settings_of(path)
    kind = settings["model_type"]
    if (path / RECORD).exists():
        converted = Converted.from_pretrained(path)
        name = type(converted.network.model).__name__
        found = MaskPredictor(
            converted.network, converted.masking, converted.tokenizer, converted.network.longest, f"converted {name}"
        )
    elif kind == "llada":
        llada: Any = weights_of(path, LladaForMaskedDiffusion)
        longest = llada.config.max_sequence_length
        found = MaskPredictor(llada.network.eval(), llada.masking, tokenizer_of(path), longest, "LLaDA")
    elif kind.lower() == "dream":
        found = _dream(path, settings)
    else:
        raise UserError(
            f"{path} holds a model of type {kind!r}, which is no mask predictor: convert a causal one with "
            "infimum.language.masked_from_causal, train it, and save it"
        )
    mask, vocabulary = found.masking["mask_id"], found.masking["vocabulary"]
    check_mask(found.network, found.tokenizer, mask, vocabulary, name=f"{found.kind} of {path}", longest=found.longest)
    return found


def _dream(path: Path, settings: dict[str, Any]) -> MaskPredictor:
    """Dream's weights have the names of Qwen2's."""
    own = {name: value for name, value in settings.items() if name not in ("auto_map", "architectures", "model_type")}
    config = Qwen2Config.from_dict(own)
    mask, rows = settings.get("mask_token_id", 151_666), config.vocab_size
    if type(mask) is not int or not 0 <= mask < rows:
        raise UserError(f"mask id {mask} >= vocab {rows}: mend mask_token_id in {path / 'config.json'}")
    if mask in (settings.get("pad_token_id"), settings.get("eos_token_id")):
        raise UserError(f"mask id {mask} is that of padding or of the end of the text too: mend {path / 'config.json'}")
    network = FullAttention(weights_of(path, Qwen2ForCausalLM, config))
    masking = {"vocabulary": rows, "mask_id": mask, "logit_shift": 1}
    return MaskPredictor(network, masking, tokenizer_of(path, Qwen2Tokenizer), network.longest, "Dream")
