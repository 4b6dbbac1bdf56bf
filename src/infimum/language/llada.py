"""LLaDA as a model of transformers: loads its published checkpoints by their own names, without code from the checkpoint."""

import math
from typing import Any, cast

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import can_return_tuple

from infimum.errors import UserError
from infimum.language.checks import mask_entropies, shared
from infimum.nets import Llada

__all__ = ["LladaConfig", "LladaForMaskedDiffusion"]

ONLY = {
    "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True, "alibi": False, "include_bias": False,
    "include_qkv_bias": False, "weight_tying": False, "attention_layer_norm": False, "bias_for_layer_norm": False,
    "scale_logits": False, "input_emb_norm": False,
}  # fmt: skip
"""Settings of published configurations that have one value here."""

SIZES = (
    "vocab_size", "embedding_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size", "max_sequence_length",
    "mask_token_id", "logit_shift",
)  # fmt: skip
"""Settings that are whole numbers."""

IGNORED = ("token_type_ids", "use_cache")
"""What callers of transformers' models pass by habit, and what changes nothing."""


class LladaConfig(PreTrainedConfig):
    """``config.json`` of LLaDA (2502.09992); settings that do not change the model are kept as they are.

    Raises:
        UserError: a setting that this implementation does not have or that is no such number, or a mask that is no row of the
            embedding, or one of the other special tokens.
    """

    model_type = "llada"

    def __init__(
        self,
        vocab_size: int = 126_464,
        embedding_size: int | None = None,
        d_model: int = 4096,
        n_layers: int = 32,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        mlp_hidden_size: int | None = 12_288,
        rope_theta: float = 500_000.0,
        rms_norm_eps: float = 1e-5,
        max_sequence_length: int | None = 4096,
        mask_token_id: int = 126_336,
        pad_token_id: int | list[int] | None = 126_081,
        eos_token_id: int | list[int] | None = 126_081,
        bos_token_id: int | None = None,
        logit_shift: int = 0,
        **others: Any,
    ) -> None:
        for name, value in ONLY.items():
            if others.get(name, value) not in (value, None):
                raise UserError(f"{name} is {others[name]!r} in the configuration, and this LLaDA has {value!r} alone")
        self.vocab_size, self.embedding_size = vocab_size, embedding_size or vocab_size
        self.d_model, self.n_layers, self.n_heads = d_model, n_layers, n_heads
        self.n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        self.mlp_hidden_size, self.rope_theta, self.rms_norm_eps = mlp_hidden_size, rope_theta, rms_norm_eps
        self.max_sequence_length, self.mask_token_id, self.logit_shift = max_sequence_length, mask_token_id, logit_shift
        self.pad_token_id, self.eos_token_id, self.bos_token_id = pad_token_id, eos_token_id, bos_token_id
        self._check()
        super().__init__(**others)

    def _check(self) -> None:
        for name in SIZES:
            value = getattr(self, name)
            if type(value) is not int and not (value is None and name in ("mlp_hidden_size", "max_sequence_length")):
                raise UserError(f"{name} is {value!r} in the configuration, expected a whole number: mend it")
            if value is not None and value < (name not in ("mask_token_id", "logit_shift")):
                raise UserError(f"{name} is {value} in the configuration, which is too small: mend it")
        for name in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < math.inf:
                raise UserError(f"{name} is {value!r} in the configuration, expected a number above 0: mend it")
        for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
            value = getattr(self, name)
            ids = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
            if any(type(i) is not int for i in ids):
                raise UserError(f"{name} is {value!r} in the configuration, expected the number of a token: mend it")
        if not self.mask_token_id < self.embedding_size >= self.vocab_size:
            raise UserError(
                f"mask id {self.mask_token_id} >= vocab {self.embedding_size}: pass mask_token_id, or mend the configuration"
                if self.mask_token_id >= self.embedding_size
                else f"embedding_size is {self.embedding_size}, below vocab_size {self.vocab_size}: mend the configuration"
            )
        if shared(self.mask_token_id, self.pad_token_id, self.eos_token_id):
            raise UserError(
                f"mask id {self.mask_token_id} is that of padding or of the end of the text too: give the mask one of its own"
            )


class LladaNetwork(Llada):
    """The transformer inside of a checkpoint."""

    relative = True
    """Columns of padding change nothing."""
    checkpoint_prefix = "model.transformer."
    """In front of the names of its layers in the checkpoint, and so in adapters."""


class LladaForMaskedDiffusion(PreTrainedModel):
    """The mask predictor of LLaDA, with `from_pretrained`, `save_pretrained`, and as ``AutoModelForMaskedLM``.

    ``MaskedDiffusion(MaskedDiffusionConfig(**model.masking), model.network)`` is the model whose likelihood is bounded.
    """

    config_class = LladaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["_Block"]  # noqa: RUF012 - as transformers has it

    def __init__(self, config: LladaConfig) -> None:
        super().__init__(config)
        self.model = nn.Module()
        self.model.transformer = LladaNetwork(
            config.embedding_size, width=config.d_model, blocks=config.n_layers, heads=config.n_heads,
            kv_heads=config.n_kv_heads, hidden=config.mlp_hidden_size, theta=config.rope_theta, eps=config.rms_norm_eps,
            longest=config.max_sequence_length,
        )  # fmt: skip
        self.post_init()

    @property
    def network(self) -> LladaNetwork:
        """The transformer itself."""
        return self.model.transformer

    @property
    def masking(self) -> dict[str, int]:
        """What `infimum.discrete.MaskedDiffusionConfig` needs to know of the checkpoint."""
        config = self.config
        return {"vocabulary": config.vocab_size, "mask_id": config.mask_token_id, "logit_shift": config.logit_shift}

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "N L"] | None = None,
        attention_mask: Bool[Tensor, "N L"] | Int[Tensor, "N L"] | None = None,
        labels: Int[Tensor, "N L"] | None = None,
        **others: Any,
    ) -> MaskedLMOutput:
        """Logits of every position; positions that ``attention_mask`` marks 0 are padding, which nothing attends to.

        Args:
            input_ids: tokens.
            attention_mask: 1 where there is one.
            labels: refused: a loss needs the number of masks, or the time that they were drawn for.
            others: ``return_dict=False`` for a tuple; all else is refused but for `IGNORED`.

        Raises:
            UserError: a sequence longer than the model was trained on, or arguments that would change nothing.
        """
        if labels is not None:
            raise UserError(
                "labels were given, and the loss of masked diffusion weights each canvas by its number of masks: take terms of "
                "infimum.discrete.MaskedDiffusion(MaskedDiffusionConfig(**model.masking), model.network), or your own of the logits"
            )
        wrong = [
            name for name, value in others.items() if name not in IGNORED and value is not None and value is not False
        ]
        if input_ids is None or wrong:
            raise UserError(
                f"LLaDA takes input_ids and attention_mask, and got {' and '.join(wrong) or 'no input_ids'}: give token ids alone"
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise UserError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, expected that of input_ids, {tuple(input_ids.shape)}: "
                "mark every token 1 or 0"
            )
        present = None if attention_mask is None else attention_mask.bool()
        return MaskedLMOutput(logits=self.network(input_ids, present))

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.network.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Another embedding."""
        self.network.wte = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.network.ff_out

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Another head."""
        self.network.ff_out = cast(nn.Linear, new_embeddings)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *arguments: Any, **others: Any
    ) -> nn.Embedding:
        """More or fewer rows of embedding and head; all of them are tokens of the vocabulary.

        Raises:
            UserError: the mask would be cut off.
        """
        if new_num_tokens is not None and new_num_tokens <= self.config.mask_token_id:
            raise UserError(
                f"an embedding of {new_num_tokens} rows has none for mask id {self.config.mask_token_id}: keep "
                f"{self.config.mask_token_id + 1} at least"
            )
        found = super().resize_token_embeddings(new_num_tokens, *arguments, **others)
        self.config.vocab_size = self.config.embedding_size = self.network.wte.weight.shape[0]
        return found

    def _init_weights(self, module: nn.Module) -> None:
        """None: the network has initialised itself."""

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass."""
        return not self.network.remember

    @property
    def is_gradient_checkpointing(self) -> bool:
        """The older name of it."""
        return self.is_activation_checkpointing

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **_: Any) -> None:
        """Recompute blocks in the backward pass, in evaluation mode too."""
        self.network.remember = False

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations."""
        self.network.remember = True

    def mask_entropy(self, tokens: Int[Tensor, "N L"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """`mask_entropies` of the predictions on masks alone and on text."""
        return mask_entropies(self.network, tokens, self.config.mask_token_id)


AutoConfig.register("llada", LladaConfig, exist_ok=True)
AutoModel.register(LladaConfig, LladaForMaskedDiffusion, exist_ok=True)
AutoModelForMaskedLM.register(LladaConfig, LladaForMaskedDiffusion, exist_ok=True)
AutoModelForCausalLM.register(
    LladaConfig, LladaForMaskedDiffusion, exist_ok=True
)  # published configurations name it so
