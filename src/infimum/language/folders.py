"""Mask predictors by folder: LLaDA, Dream, and converted causal models, told apart by what their ``config.json`` says."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from infimum.errors import UserError
from infimum.language.causal import FullAttention
from infimum.language.checks import check_mask, shared
from infimum.language.convert import RECORD, Converted
from infimum.language.llada import LladaForMaskedDiffusion
from infimum.language.loading import reading, settings_of, tokenizer_of, weights_of, whole
from infimum.training.files import current, dump, read_json, replacing

__all__ = ["MaskPredictor", "mask_predictor"]

OWN = (".json", ".safetensors", ".jinja", ".txt", ".model")
"""Endings of what `MaskPredictor.save_pretrained` writes, and replaces."""


@dataclass(frozen=True)
class MaskPredictor:
    """``MaskedDiffusion(MaskedDiffusionConfig(**found.masking), found.network)`` is the model whose likelihood is bounded.

    Attributes:
        network: (tokens (N, L), present (N, L)) to logits (N, L, V); ``network.remember = False`` recomputes its layers in the
            backward pass.
        masking: vocabulary, mask_id and logit_shift.
        tokenizer: None if the folder has none.
        longest: tokens of the longest sequence; None: not told.
        kind: "LLaDA", "Dream", or the class that was converted.
        model: of transformers, whose weights are those of the network: peft knows its layers by the names that they have in it.
        settings: ``config.json`` of the folder.
    """

    network: nn.Module
    masking: dict[str, int]
    tokenizer: PreTrainedTokenizerBase | None
    longest: int | None
    kind: str
    model: PreTrainedModel = field(repr=False)
    settings: dict[str, Any] = field(repr=False)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, ``config.json`` and tokenizer as the folder had them, and as `mask_predictor` reads them, all at once.

        The network is saved as it is now: train it in place. An older folder of the same kind gives way.

        Raises:
            UserError: adapters that are not merged, or a folder that holds something else.
        """
        if isinstance(self.network, FullAttention) and self.kind != "Dream":
            vocabulary, mask = self.masking["vocabulary"], self.masking["mask_id"]
            return Converted(self.network, vocabulary, mask, self.tokenizer).save_pretrained(folder)
        whole(self.model)
        path = Path(folder)
        if path.exists() and not self._gives_way(path):
            raise UserError(f"{path} holds something else than a {self.kind}: choose another folder")
        with replacing(path) as new:
            self.model.save_pretrained(new)
            if self.kind == "Dream":  # saved as the Qwen2 that it is inside
                written = read_json(new / "config.json")
                dtype = "torch_dtype" if "torch_dtype" in self.settings else "dtype"
                own = {dtype: written["dtype"], "vocab_size": written["vocab_size"]}
                dump(new / "config.json", self.settings | own)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(new)
        return None

    def _gives_way(self, path: Path) -> bool:
        """Whether a folder is empty, or a checkpoint of this kind and nothing else."""
        if not path.is_dir():
            return False
        files = list(path.iterdir())
        if not files:
            return True
        try:
            kind = json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"]
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            return False
        return kind == self.settings["model_type"] and all(f.is_file() and f.suffix in OWN for f in files)


def mask_predictor(folder: str | Path, adapter: str | Path | None = None) -> MaskPredictor:
    """The mask predictor of a folder, in evaluation mode; nothing is fetched and no code from the folder is run.

    ``model_type`` "llada" (2502.09992); "Dream" (2508.15487: a Qwen2 whose attention sees all, logits that predict the next token);
    or what `masked_from_causal` made and saved. The mask is put to the test of `check_mask`, which warns.

    Args:
        folder: of one model.
        adapter: folder of low-rank adapters that `Adapter.save` or peft wrote for it; they are merged into the weights.

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
        network = converted.network
        name = f"converted {type(network.model).__name__}"
        found = MaskPredictor(
            network, converted.masking, converted.tokenizer, network.longest, name, network.model, settings
        )
    elif kind == "llada":
        llada: Any = weights_of(path, LladaForMaskedDiffusion)
        longest = llada.config.max_sequence_length
        found = MaskPredictor(llada.network, llada.masking, tokenizer_of(path), longest, "LLaDA", llada, settings)
    elif kind.lower() == "dream":
        found = _dream(path, settings)
    else:
        raise UserError(
            f"{path} holds a model of type {kind!r}, which is no mask predictor: convert a causal one with "
            "infimum.language.masked_from_causal, train it, and save it"
        )
    if adapter is not None:
        from infimum.language.lora import merge_saved

        merge_saved(found.network, adapter)
    mask, vocabulary = found.masking["mask_id"], found.masking["vocabulary"]
    check_mask(found.network, found.tokenizer, mask, vocabulary, name=f"{found.kind} of {path}", longest=found.longest)
    return found


def _dream(path: Path, settings: dict[str, Any]) -> MaskPredictor:
    """Dream's weights have the names of Qwen2's."""
    own = {name: value for name, value in settings.items() if name not in ("auto_map", "architectures", "model_type")}
    with reading(path):
        config = Qwen2Config.from_dict(own)
    mask, rows = settings.get("mask_token_id", 151_666), config.vocab_size
    if type(mask) is not int or not 0 <= mask < rows:
        raise UserError(f"mask id {mask} >= vocab {rows}: mend mask_token_id in {path / 'config.json'}")
    if shared(mask, settings.get("pad_token_id"), settings.get("eos_token_id")):
        raise UserError(f"mask id {mask} is that of padding or of the end of the text too: mend {path / 'config.json'}")
    model = weights_of(path, Qwen2ForCausalLM, config)
    network = FullAttention(model)
    masking = {"vocabulary": rows, "mask_id": mask, "logit_shift": 1}
    return MaskPredictor(
        network, masking, tokenizer_of(path, Qwen2Tokenizer), network.longest, "Dream", model, settings
    )
