"""Folders of small mask predictors of each kind, as their libraries publish them, and a tokenizer."""

import json

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from infimum.language import LladaConfig, LladaForMaskedDiffusion, masked_from_causal

WORDS = ["<unk>", "<end>", "<start>", "a", "cat", "dog", "sat", "ran", "on", "mat", "."]
V = len(WORDS)
KINDS = ("llada", "dream", "llama", "gpt2")
SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 32, "initializer_range": 0.5, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip


def words(unk=True, chat="{% for m in messages %}<start> {{ m['content'] }} . {% endfor %}", more=()):
    """A tokenizer of whole words."""
    known = {"unk_token": "<unk>"} if unk else {}
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate([*WORDS, *more])}, **known))
    inner.pre_tokenizer = Whitespace()
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<end>", bos_token="<start>", clean_up_tokenization_spaces=False, **known
    )
    found.chat_template = chat
    return found


def llada(**changes):
    """Weights far from their start, so that places and tokens matter."""
    torch.manual_seed(0)
    sizes = {"vocab_size": V + 1, "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 24}
    special = {"mask_token_id": V, "pad_token_id": 1, "eos_token_id": 1, "max_sequence_length": 32}
    model = LladaForMaskedDiffusion(LladaConfig(**sizes | special | changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model


def causal(kind="llama"):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=V, **SIZES)
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5, bos_token_id=2, eos_token_id=1
        )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def write(folder, kind):
    """The folder of a model of this kind, with a tokenizer."""
    if kind == "llada":
        llada().save_pretrained(folder)
    elif kind == "dream":
        torch.manual_seed(0)
        Qwen2ForCausalLM(Qwen2Config(vocab_size=V + 1, **SIZES)).save_pretrained(folder)
        change(
            folder, model_type="Dream", architectures=["DreamModel"], mask_token_id=V, pad_token_id=1, eos_token_id=1,
            auto_map={"AutoModel": "modeling_dream.DreamModel"},
        )  # fmt: skip
    else:
        masked_from_causal(causal(kind), tokenizer=words()).save_pretrained(folder)
        return folder
    words().save_pretrained(folder)
    return folder


def change(folder, **settings):
    """Other settings in ``config.json``."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
