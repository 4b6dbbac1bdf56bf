"""LLaDA as a model of transformers: loads its published checkpoints by their own names, without code from the checkpoint."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from infimum.errors import UserError
from infimum.language.checks import mask_entropies
from infimum.nets import Llada

__all__ = ["LladaConfig", "LladaForMaskedDiffusion"]

ONLY = {
    "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True, "alibi": False, "include_bias": False,
    "include_qkv_bias": False, "weight_tying": False, "attention_layer_norm": False, "bias_for_layer_norm": False,
    "scale_logits": False, "input_emb_norm": False,
}  # fmt: skip
"""Settings of published configurations that have one value here."""


class LladaConfig(PreTrainedConfig):
    """``config.json`` of LLaDA (2502.09992); settings that do not change the model are kept as they are.

    Raises:
        UserError: a setting that this implementation does not have, or a mask that is no row of the embedding.
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
        max_sequence_length: int = 4096,
        mask_token_id: int = 126_336,
        pad_token_id: int | None = 126_081,
        eos_token_id: int | None = 126_081,
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
        if not 0 <= mask_token_id < self.embedding_size:
            raise UserError(
                f"mask id {mask_token_id} >= vocab {self.embedding_size}: pass mask_token_id, or mend the configuration"
            )
        if mask_token_id in (pad_token_id, eos_token_id):
            raise UserError(
                f"mask id {mask_token_id} is that of padding or of the end of the text too: give the mask one of its own"
            )
        self.pad_token_id, self.eos_token_id, self.bos_token_id = pad_token_id, eos_token_id, bos_token_id
        super().__init__(**others)


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
        self.model.transformer = Llada(
            config.embedding_size, width=config.d_model, blocks=config.n_layers, heads=config.n_heads,
            kv_heads=config.n_kv_heads, hidden=config.mlp_hidden_size, theta=config.rope_theta, eps=config.rms_norm_eps,
        )  # fmt: skip
        self.post_init()

    @property
    def network(self) -> Llada:
        """The transformer itself."""
        return self.model.transformer

    @property
    def masking(self) -> dict[str, int]:
        """What `infimum.discrete.MaskedDiffusionConfig` needs to know of the checkpoint."""
        config = self.config
        return {"vocabulary": config.vocab_size, "mask_id": config.mask_token_id, "logit_shift": config.logit_shift}

    def forward(
        self,
        input_ids: Int[Tensor, "N L"],
        attention_mask: Bool[Tensor, "N L"] | Int[Tensor, "N L"] | None = None,
        **_: Any,
    ) -> MaskedLMOutput:
        """Logits of every position; positions that ``attention_mask`` marks 0 are padding, which nothing attends to.

        Raises:
            UserError: a sequence longer than the model was trained on.
        """
        if input_ids.shape[1] > self.config.max_sequence_length:
            raise UserError(
                f"a sequence of {input_ids.shape[1]} tokens is longer than the model's {self.config.max_sequence_length}: "
                "shorten it"
            )
        present = None if attention_mask is None else attention_mask.bool()
        return MaskedLMOutput(logits=self.network(input_ids, present))

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.network.wte

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.network.ff_out

    def _init_weights(self, module: nn.Module) -> None:
        """None: the network has initialised itself."""

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **_: Any) -> None:
        """Recompute blocks in the backward pass."""
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
