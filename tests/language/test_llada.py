"""LLaDA's checkpoints: names, round trips, transformers' classes, and the bound of a loaded model."""

import inspect
import json
import logging

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, completions, exact_elbo
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate
from infimum.language import LladaConfig, LladaForMaskedDiffusion, mask_predictor, masked_from_causal
from infimum.nets.llada import Kept
from infimum.testing import peak_saved_bytes

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
    for auto in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM):
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
    """Less is kept between the passes, and loss and gradients stay, in evaluation mode as in training."""
    llm = LladaForMaskedDiffusion.from_pretrained(folder).eval()
    z = torch.randint(0, 13, (4, 24), generator=torch.Generator().manual_seed(0))

    def step():
        llm.zero_grad()
        with peak_saved_bytes(llm) as kept:
            loss = llm(z).logits.square().mean()
        loss.backward()
        return kept.bytes, loss.item(), [p.grad.clone() for p in llm.parameters()]

    assert not llm.is_gradient_checkpointing
    plain = step()
    llm.gradient_checkpointing_enable()
    assert llm.is_gradient_checkpointing and llm.is_activation_checkpointing
    small = step()
    assert small[0] < 0.35 * plain[0] and small[1] == plain[1]
    assert all(torch.equal(a, b) for a, b in zip(small[2], plain[2], strict=True))
    llm.gradient_checkpointing_disable()
    assert not llm.is_gradient_checkpointing and step()[0] == plain[0]


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
        ({"eos_token_id": [1, 11]}, "one of its own"),
        ({"pad_token_id": [11]}, "one of its own"),
        ({"eos_token_id": ["x"]}, "eos_token_id is \\['x'\\] in the configuration, expected the number of a token"),
        ({"mask_token_id": 11.0}, "mask_token_id is 11.0 in the configuration, expected a whole number"),
        ({"mask_token_id": None}, "mask_token_id is None"),
        ({"mask_token_id": -1}, "mask_token_id is -1 in the configuration, which is too small"),
        ({"max_sequence_length": "32"}, "max_sequence_length is '32'"),
        ({"max_sequence_length": 3.5}, "max_sequence_length is 3.5"),
        ({"max_sequence_length": 0}, "max_sequence_length is 0"),
        ({"rope_theta": "z"}, "rope_theta is 'z' in the configuration, expected a number above 0"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"vocab_size": "13", "embedding_size": None}, "vocab_size is '13'"),
        ({"n_layers": True}, "n_layers is True"),
        ({"vocab_size": 14}, "embedding_size is 13, below vocab_size 14"),
    ],
)
def test_what_it_is_not_is_refused(changes, words):
    def build():
        config = LladaConfig.__new__(LladaConfig)
        inspect.unwrap(LladaConfig.__init__)(
            config, **PUBLISHED | TINY | changes
        )  # beside the tests' own check of types
        return LladaForMaskedDiffusion(config)

    with pytest.raises(UserError, match=words):
        build()


def test_longer_texts_than_it_knows_are_refused(folder):
    """By the network too, which samplers and bounds call; padding does not count."""
    llm, z = LladaForMaskedDiffusion.from_pretrained(folder).eval(), torch.zeros(1, 40, dtype=torch.long)
    present = torch.arange(40)[None] >= 8
    kept = [Kept() for _ in llm.network.blocks]
    for call in (llm, llm.network, llm.network.features, lambda z: llm.network.windowed(z, None, kept, 0)):
        with pytest.raises(UserError, match="40 tokens is longer than the model's 32"):
            call(z)
    with pytest.raises(UserError, match="33 tokens is longer"):
        llm.network(z, torch.arange(40)[None] >= 7)
    alone = llm.network(z[:, 8:])
    torch.testing.assert_close(llm.network(z, present)[:, 8:], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(llm(z, attention_mask=present).logits[:, 8:], alone, rtol=1e-4, atol=1e-5)


LLAMA = {
    "wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head", "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm", "attn_out": "self_attn.o_proj", "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj", "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj",
}  # fmt: skip


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_it_is_a_llama_that_sees_all(kv_heads):
    """6.12: the code of another library, with renamed weights and a full mask; and with padding that nothing sees."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 20,
        "d_model": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": kv_heads,
        "mlp_hidden_size": 48,
    }
    special = {"mask_token_id": 19, "pad_token_id": 1, "eos_token_id": 1, "max_sequence_length": 64}
    llm = LladaForMaskedDiffusion(LladaConfig(**sizes | special)).eval()
    with torch.no_grad():
        for p in llm.parameters():
            p.copy_(torch.randn_like(p) * 0.4 + (p.ndim == 1))
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=kv_heads, rms_norm_eps=1e-5, max_position_embeddings=64, rope_theta=500_000.0,
        )
    ).eval()  # fmt: skip
    state = {}
    for name, weight in llm.state_dict().items():
        *front, leaf, _ = name.removeprefix("model.transformer.").split(".")
        inner = "mlp.down_proj" if front and leaf == "ff_out" else LLAMA[leaf]
        state[f"model.layers.{front[1]}.{inner}.weight" if front else f"{inner}.weight"] = weight
    other.load_state_dict(state)
    z, full = torch.randint(0, 19, (2, 11)), torch.ones(2, 1, 11, 11, dtype=torch.bool)
    want = other(z, attention_mask=full).logits
    torch.testing.assert_close(llm(z).logits, want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other(z).logits, want, atol=0.1)  # its own mask is causal
    full[1, ..., :3] = False
    full[1, 0].fill_diagonal_(True)
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, :3] = 0
    want = other(z, attention_mask=full).logits
    torch.testing.assert_close(llm(z, attention_mask=mask).logits[1, 3:], want[1, 3:], rtol=1e-4, atol=1e-5)


def test_shards_are_read(folder, tmp_path):
    """As the 8B is published: several files and an index."""
    llm, z = LladaForMaskedDiffusion.from_pretrained(folder).eval(), torch.randint(0, 13, (2, 5))
    llm.save_pretrained(tmp_path / "parts", max_shard_size="3KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 2
    for again in (
        LladaForMaskedDiffusion.from_pretrained(tmp_path / "parts").eval(),
        mask_predictor(tmp_path / "parts").model,
    ):
        assert torch.equal(again(z).logits, llm(z).logits)


def test_what_callers_of_transformers_pass(folder):
    llm, z = LladaForMaskedDiffusion.from_pretrained(folder).eval(), torch.randint(0, 13, (2, 5))
    want = llm(z).logits
    (logits,) = llm(z, return_dict=False)
    assert torch.equal(logits, want)
    same = llm(
        input_ids=z, attention_mask=torch.ones_like(z), token_type_ids=torch.zeros_like(z), use_cache=True, labels=None
    )
    assert torch.equal(same.logits, want)
    for given, says in (
        ({"labels": z}, "labels were given, and the loss of masked diffusion weights"),
        ({"inputs_embeds": torch.zeros(2, 5, 16)}, "got inputs_embeds"),
        ({"position_ids": z}, "got position_ids"),
        ({"output_hidden_states": True}, "got output_hidden_states"),
    ):
        with pytest.raises(UserError, match=says):
            llm(z, **given)
    with pytest.raises(UserError, match=r"attention_mask has shape \(2, 4\)"):  # beside the tests' own check of shapes
        inspect.unwrap(LladaForMaskedDiffusion.forward)(llm, z, torch.ones(2, 4, dtype=torch.long))
    with pytest.raises(UserError, match="got inputs_embeds"):
        llm(inputs_embeds=torch.zeros(2, 5, 16))


def test_the_embedding_grows(folder, tmp_path):
    """Old tokens mean what they did, and the larger model is saved and loaded."""
    llm, z = LladaForMaskedDiffusion.from_pretrained(folder).eval(), torch.randint(0, 13, (2, 5))
    want = llm(z).logits
    llm.resize_token_embeddings(16)
    assert llm.network.wte.weight.shape == llm.network.ff_out.weight.shape == (16, 16)
    torch.testing.assert_close(llm(z).logits[..., :13], want)
    assert llm.masking == {"vocabulary": 16, "mask_id": 11, "logit_shift": 0}
    llm.save_pretrained(tmp_path / "more")
    assert torch.equal(LladaForMaskedDiffusion.from_pretrained(tmp_path / "more").eval()(z).logits, llm(z).logits)
    with pytest.raises(UserError, match="an embedding of 11 rows has none for mask id 11"):
        llm.resize_token_embeddings(11)


def test_a_mask_predictor_is_not_converted(folder):
    with pytest.raises(UserError, match="is a mask predictor already"):
        masked_from_causal(folder)


def test_weights_without_a_place_are_refused(folder):
    """A layer less in config.json would be another model; and transformers' report of many lines is not printed."""
    settings = json.loads((folder / "config.json").read_text())
    told, handler = [], logging.Handler(logging.WARNING)
    handler.emit = told.append
    logging.getLogger("transformers").addHandler(handler)
    for layers, says in (
        (1, "holds 9 weights that its config.json has no place for, such as model.transformer.blocks.1"),
        (3, "lacks 9"),
    ):
        (folder / "config.json").write_text(json.dumps(settings | {"n_layers": layers}))
        with pytest.raises(UserError, match=says) as error:
            mask_predictor(folder)
        assert "\n" not in str(error.value)
    logging.getLogger("transformers").removeHandler(handler)
    assert not told
