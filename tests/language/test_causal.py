"""Causal models that see all: which are refused, what training keeps in memory, and greedy writing beside padding."""

import copy
import warnings

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from transformers import AutoModelForCausalLM

from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, completions, fill
from infimum.errors import UserError
from infimum.evidence import Plan
from infimum.language import mask_predictor, masked_from_causal
from infimum.testing import peak_saved_bytes
from language.folders import KINDS, V, causal, write

SIZES = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.5, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8}
HYBRIDS = {
    "JambaConfig": {
        "num_experts": 1, "num_experts_per_tok": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False,
        "attn_layer_period": 2, "attn_layer_offset": 1,
    },
    "Lfm2Config": {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3, "block_ff_dim": 24},
    "BambaConfig": {"attn_layer_indices": [1], **MAMBA},
    "FalconH1Config": {**MAMBA, "mamba_d_ssm": 16, "mamba_n_heads": 2},
    "MiniMaxConfig": {
        "head_dim": 4, "layer_types": ["linear_attention", "full_attention"], "num_local_experts": 2, "num_experts_per_tok": 1,
        "block_size": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", HYBRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_with_a_state_are_refused(name, dtype):
    """Their vectors change with the padding: an item would be worth something else in a batch than alone."""
    torch.manual_seed(0)
    config = getattr(transformers, name)(**SIZES | HYBRIDS[name])
    with pytest.raises(UserError, match="change with padding beside the text"):
        masked_from_causal(AutoModelForCausalLM.from_config(config).eval().to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_attention_passes_in_every_precision(dtype):
    assert masked_from_causal(causal().to(dtype)).network.rows == V + 1


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("training", [False, True])
def test_layers_are_recomputed_in_either_mode(kind, training):
    """Less is kept between the passes, by more than the layers' number; loss and gradients stay, with padding too."""
    network = masked_from_causal(causal(kind)).network
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    network.train(training)
    z = torch.randint(0, V, (4, 24), generator=torch.Generator().manual_seed(0))
    present = torch.arange(24) >= torch.tensor([[0], [3], [0], [9]])

    def step():
        network.zero_grad()
        with peak_saved_bytes(network) as kept:
            loss = network(z, present).square().mean()
        loss.backward()
        return kept.bytes, loss.item(), [p.grad.clone() for p in network.parameters()]

    plain = step()
    network.gradient_checkpointing_enable()
    assert network.is_gradient_checkpointing
    small = step()
    network.gradient_checkpointing_disable()
    again = step()
    assert small[0] < 0.35 * plain[0] and again[0] == plain[0]
    assert small[1] == plain[1] and all(torch.equal(a, b) for a, b in zip(small[2], plain[2], strict=True))
    copy.deepcopy(network)  # nothing is left on the layers
    assert not any("forward" in vars(m) for m in network.modules())


def test_recomputed_layers_serve_a_frozen_base_with_adapters():
    """Gradients of adapters flow although nothing that enters the layers has any."""
    pytest.importorskip("peft")
    from infimum.language.lora import add_lora

    network = masked_from_causal(causal()).network
    add_lora(network, r=2, dropout=0.0)
    z, found = torch.arange(8)[None] % V, []
    for network.remember in (True, False):
        network.zero_grad()
        network(z).square().mean().backward()
        found.append([p.grad.clone() for p in network.parameters() if p.requires_grad])
    assert len(found[0]) == 28 and all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert any(bool((g != 0).any()) for g in found[0])


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_writing_does_not_see_padding(kind, tmp_path):
    """6.9, for loaded folders: a batch of unequal prompts writes what each of them writes alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = mask_predictor(write(tmp_path / kind, kind))
    model = MaskedDiffusion(MaskedDiffusionConfig(**found.masking), found.network).eval()
    prompts = [[3, 4, 5, 6, 7, 8, 9], [4], [9, 2, 7]]  # masks alone would be ties

    def written(some):
        x = completions(some, 6, pad_id=1, fill=model.config.mask)
        draws = Plan.iid(1).draws(torch.arange(len(some)))
        return fill(model, x, draws, temperature=0.0, block_length=3).tokens[0, :, -6:]

    batch = written(prompts)
    assert torch.equal(batch, torch.cat([written([prompt]) for prompt in prompts]))
    assert len(batch.unique(dim=0)) > 1
