"""LLaDA's checkpoints: names, round trips, transformers' classes, and the bound of a loaded model."""

import json

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, completions, exact_elbo
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate
from infimum.language import LladaConfig, LladaForMaskedDiffusion

TINY = {
    "vocab_size": 13, "d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 24, "mask_token_id": 11, "pad_token_id": 12,
    "eos_token_id": 12,
}  # fmt: skip
PUBLISHED = {
    "activation_type": "silu", "alibi": False, "architectures": ["LLaDAModelLM"], "attention_dropout": 0.0, "block_type": "llama",
    "embedding_size": 13, "include_bias": False, "include_qkv_bias": False, "layer_norm_type": "rms", "model_type": "llada",
    "multi_query_attention": None, "rope": True, "rope_full_precision": True, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
    "use_cache": False, "weight_tying": False, "scale_logits": False, "input_emb_norm": False, "max_sequence_length": 32,
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"},
}  # fmt: skip


def names():
    """As published."""
    block = ("attn_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_norm", "ff_proj", "up_proj", "ff_out")
    inner = [f"blocks.{i}.{name}" for i in range(2) for name in block]
    return {f"model.transformer.{name}.weight" for name in ("wte", "ln_f", "ff_out", *inner)}


def shape(name):
    last = name.split(".")[-2]
    if last in ("attn_norm", "ff_norm", "ln_f"):
        return (16,)
    if last == "wte" or name == "model.transformer.ff_out.weight":
        return (13, 16)
    return {"ff_proj": (24, 16), "up_proj": (24, 16), "ff_out": (16, 24)}.get(last, (16, 16))


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in the published format, that no code of ours wrote."""
    g = torch.Generator().manual_seed(0)
    weights = {
        name: 0.3 * torch.randn(shape(name), generator=g) + (1.0 if len(shape(name)) == 1 else 0.0) for name in names()
    }
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED | TINY))
    return tmp_path


def test_a_published_checkpoint_loads_by_its_names(folder):
    model, told = LladaForMaskedDiffusion.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    weights = load_file(folder / "model.safetensors")
    assert set(model.state_dict()) == set(weights) == names()
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)


def test_auto_classes_know_it_without_remote_code(folder):
    z = torch.randint(0, 13, (2, 5))
    want = LladaForMaskedDiffusion.from_pretrained(folder).eval()(z).logits
    assert type(AutoConfig.from_pretrained(folder)) is LladaConfig
    for auto in (AutoModel, AutoModelForMaskedLM):
        model = auto.from_pretrained(folder)
        assert type(model) is LladaForMaskedDiffusion and torch.equal(model.eval()(z).logits, want)


def test_saved_and_loaded_it_is_the_same(folder, tmp_path):
    model = LladaForMaskedDiffusion.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    assert set(load_file(tmp_path / "again" / "model.safetensors")) == names()
    again = LladaForMaskedDiffusion.from_pretrained(tmp_path / "again")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert again.config.mask_token_id == 11 and again.config.max_sequence_length == 32


def test_its_bound_is_that_of_its_network(folder):
    """From prompts of unequal length; the estimate agrees with the sum over all masks (|z| < 4.5)."""
    llm = LladaForMaskedDiffusion.from_pretrained(folder).eval()
    model = MaskedDiffusion(MaskedDiffusionConfig(**llm.masking), llm.network).eval()
    x = completions([[1, 2, 3], [4]], [[5, 6, 7, 8], [9, 10, 0]], pad_id=12)
    exact = exact_elbo(model, x).value.detach()
    found = evaluate(model, x, Plan.stratified(16, replicates=50), elbo)
    assert bool(((found.value - exact).abs() < 4.5 * found.stderr).all())


def test_padding_is_not_seen(folder):
    llm = LladaForMaskedDiffusion.from_pretrained(folder).eval()
    z = torch.randint(0, 11, (1, 5))
    padded = torch.cat((torch.full((1, 7), 12), z), 1)
    mask = torch.tensor([[0] * 7 + [1] * 5])
    torch.testing.assert_close(llm(padded, attention_mask=mask).logits[:, 7:], llm(z).logits, rtol=1e-4, atol=1e-5)


def test_recomputation_is_switched_as_in_transformers(folder):
    llm = LladaForMaskedDiffusion.from_pretrained(folder)
    llm.gradient_checkpointing_enable()
    assert not llm.network.remember
    llm.gradient_checkpointing_disable()
    assert llm.network.remember


def test_a_wrong_mask_shows(folder):
    """A predictor that is sure of text and unsure of masks; with a word for a mask it is the other way around."""
    llm = LladaForMaskedDiffusion.from_pretrained(folder)
    with torch.no_grad():
        for p in llm.parameters():
            p.zero_()
        llm.network.wte.weight[:, 0] = 1.0
        llm.network.wte.weight[11, 0] = -1.0
        llm.network.ln_f.weight.fill_(1.0)
        llm.network.ff_out.weight[3, 0] = 5.0
        llm.network.ff_out.weight[:, 1] = 0.0
    masks, text = llm.mask_entropy(torch.randint(0, 10, (2, 6)))
    llm.config.mask_token_id = 3
    wrong, same = llm.mask_entropy(torch.full((2, 6), 3))
    assert float(masks) > float(text) + 0.5 and float(wrong) == pytest.approx(float(same))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_token_id": 13}, "mask id 13 >= vocab 13"),
        ({"mask_token_id": 12}, "one of its own"),
        ({"activation_type": "gelu"}, "activation_type is 'gelu'"),
        ({"weight_tying": True}, "weight_tying is True"),
        ({"n_heads": 3}, "a transformer needs"),
    ],
)
def test_what_it_is_not_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        LladaForMaskedDiffusion(LladaConfig(**PUBLISHED | TINY | changes))


def test_longer_texts_than_it_knows_are_refused(folder):
    with pytest.raises(UserError, match="40 tokens is longer than the model's 32"):
        LladaForMaskedDiffusion.from_pretrained(folder)(torch.zeros(1, 40, dtype=torch.long))
