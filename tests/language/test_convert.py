"""Causal models of transformers as mask predictors, and folders that hold mask predictors (00-masked-diffusion, 3.7, 6.9,
6.12, 9).
"""

import copy
import json
import warnings

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, completions, exact_elbo
from infimum.errors import UserError
from infimum.evidence import Plan, elbo, evaluate
from infimum.language import (
    Converted,
    LladaConfig,
    LladaForMaskedDiffusion,
    check_mask,
    mask_predictor,
    masked_from_causal,
)
from infimum.language.checks import SENTENCE

V = 12
ROTARY = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 32, "initializer_range": 0.5, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
FAMILIES = {
    "llama": LlamaConfig(**ROTARY),
    "qwen2": Qwen2Config(**ROTARY),
    "qwen2-sliding": Qwen2Config(**ROTARY, use_sliding_window=True, sliding_window=3, max_window_layers=0),
    "qwen3": Qwen3Config(**ROTARY, tie_word_embeddings=True),
    "gpt2": GPT2Config(
        vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5, bos_token_id=None, eos_token_id=None
    ),
}  # fmt: skip


def causal(family="llama", seed=0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(copy.deepcopy(FAMILIES[family])).eval()


def words(*extra, mask=None, size=None):
    """A tokenizer of whole words: those of the sentence that the mask is checked by, in the order they come in."""
    known = dict.fromkeys(["<unk>", "<end>", *extra, *SENTENCE.replace(",", " ,").replace(".", " .").split()])
    kept = list(known)[:size]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(kept)}, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", mask_token=mask)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_position_sees_every_token(family):
    network = masked_from_causal(causal(family)).network
    z = torch.arange(10)[None] % V
    other = z.clone()
    other[0, -1] = 3
    assert not torch.allclose(network(z)[:, 0], network(other)[:, 0], atol=1e-4)
    network.causal = True
    torch.testing.assert_close(network(z)[:, :-1], network(other)[:, :-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_causal_mask_it_is_the_model_that_it_was(family):
    model, z = causal(family), torch.randint(0, V, (3, 3), generator=torch.Generator().manual_seed(1))
    own = copy.deepcopy(model)(z).logits  # three tokens: no window is shorter
    network = masked_from_causal(model).network
    network.causal = True
    torch.testing.assert_close(network(z)[..., :V], own, rtol=0, atol=1e-5)
    assert network(z).shape == (3, 3, V + 1)
    h = network.features(z)
    torch.testing.assert_close(network.head(h[:, 1]), network(z)[:, 1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pads", [1, 7])
def test_padding_changes_nothing(family, pads):
    """On the left, and on the right; and the vector from which the first token is predicted, one place in front of it."""
    network = masked_from_causal(causal(family)).network
    z = torch.randint(0, V, (2, 6), generator=torch.Generator().manual_seed(2))
    want = network(z)
    padded = torch.cat((torch.full((2, pads), 5), z, torch.full((2, 2), 5)), 1)
    present = (torch.arange(pads + 8) >= pads) & (torch.arange(pads + 8) < pads + 6)
    found = network(padded, present.expand(2, -1))
    torch.testing.assert_close(found[:, pads : pads + 6], want, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:, pads - 1], want[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_weight(family):
    found = masked_from_causal(causal(family))
    model = MaskedDiffusion(MaskedDiffusionConfig(**found.masking), found.network)
    x = completions([[1, 2, 3], [4]], [[5, 6, 7], [9, 10, 0, 1]], pad_id=0)
    draws = Plan.iid(4).draws(torch.arange(2))
    model.terms(x, model.encode(x), draws).mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in found.network.parameters())
    mask = found.network.model.get_input_embeddings().weight.grad[found.mask_id]
    assert bool((mask != 0).any())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_its_bound_agrees_with_the_sum_over_all_masks(family):
    """|z| < 4.5, from prompts of unequal length, one of them empty; and an item is worth alone what it is in the batch."""
    found = masked_from_causal(causal(family))
    model = MaskedDiffusion(MaskedDiffusionConfig(**found.masking), found.network).eval()
    prompts, answers = [[1, 2, 3], [4], []], [[5, 6, 7, 8], [9, 10, 0], [2, 3]]
    x = completions(prompts, answers, pad_id=0)
    exact = exact_elbo(model, x).value.detach()
    estimate = evaluate(model, x, Plan.stratified(16, replicates=50), elbo)
    assert bool(((estimate.value - exact).abs() < 4.5 * estimate.stderr).all())
    alone = [exact_elbo(model, completions([p], [a], pad_id=0)).value for p, a in zip(prompts, answers, strict=True)]
    torch.testing.assert_close(exact, torch.cat(alone).detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_it_is_the_same(family, tmp_path):
    found = masked_from_causal(causal(family), tokenizer=words(size=V))
    folder = tmp_path / "converted"
    found.save_pretrained(folder)
    assert sorted(p.suffix for p in folder.iterdir() if p.suffix not in (".json", ".jinja")) == [".safetensors"]
    assert json.loads((folder / "config.json").read_text())["model_type"] == FAMILIES[family].model_type
    again, by_folder = Converted.from_pretrained(folder), mask_predictor(folder)
    z = torch.randint(0, V + 1, (2, 6))
    for other in (again, by_folder):
        assert torch.equal(other.network(z), found.network(z)) and other.masking == found.masking
        assert other.tokenizer.mask_token_id == found.mask_id and not other.network.training
    again.save_pretrained(folder)  # over itself
    assert not list(tmp_path.glob("converted.*")) and Converted.from_pretrained(folder).mask_id == V


def test_where_the_mask_goes():
    """A new row, a row to spare, the tokenizer's own mask, a name, a number; the new row is the mean of the others."""
    model = causal()
    old = {part: getattr(model, f"get_{part}_embeddings")().weight.detach().clone() for part in ("input", "output")}
    found = masked_from_causal(model)
    assert found.masking == {"vocabulary": V, "mask_id": V, "logit_shift": 1}
    for part, weight in old.items():
        new = getattr(model, f"get_{part}_embeddings")().weight
        assert torch.equal(new[:V], weight)
        torch.testing.assert_close(new[V], weight.mean(0))
    spare = masked_from_causal(causal(), tokenizer=words(size=7))
    assert (spare.vocabulary, spare.mask_id, spare.network.rows) == (
        7,
        7,
        V,
    ) and spare.tokenizer.mask_token == "<|mask|>"
    own = masked_from_causal(causal(), tokenizer=words("<m>", mask="<m>", size=7))
    assert (own.vocabulary, own.mask_id) == (7, 2)
    named = masked_from_causal(causal(), tokenizer=words("<m>", size=7), mask_token="<m>")
    assert (named.vocabulary, named.mask_id, named.tokenizer.mask_token) == (7, 2, "<m>")
    number = masked_from_causal(causal(), tokenizer=words(size=7), mask_token=9)
    assert (number.vocabulary, number.mask_id, number.network.rows) == (9, 9, V)
    for each in (found, spare, own, named, number):
        MaskedDiffusionConfig(**each.masking)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mask_token": V + 1}, "mask id 13 > vocab 12"),
        ({"mask_token": "<m>"}, "is a name"),
        ({"tokenizer": words()}, "give the model's own tokenizer"),
        ({"tokenizer": words(size=7), "mask_token": 1}, "mask id 1 is the eos_token_id too"),
    ],
)
def test_masks_that_are_none_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        masked_from_causal(causal(), **options)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (GraniteConfig(**ROTARY, logits_scaling=2.0), "are more than its head"),
        (Gemma2Config(**ROTARY, query_pre_attn_scalar=4), "cannot be given full attention"),
        (MambaConfig(vocab_size=V, hidden_size=16, num_hidden_layers=1), "cannot be given full attention|does not depend"),
    ],
)  # fmt: skip
def test_models_of_another_kind_are_refused(config, says):
    torch.manual_seed(0)
    with pytest.raises(UserError, match=says):
        masked_from_causal(AutoModelForCausalLM.from_config(config))


def test_longer_texts_than_it_knows_are_refused():
    network = masked_from_causal(causal("gpt2")).network
    with pytest.raises(UserError, match="40 tokens is longer than the model's 32"):
        network(torch.zeros(1, 40, dtype=torch.long))


def dream(folder, **changes):
    """A checkpoint as published: Qwen2's names, the model_type and the code of Dream."""
    model = causal("qwen2")
    model.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text()) | {
        "model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 11, "pad_token_id": 9, "eos_token_id": 9,
        "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings | changes))
    return model


def test_dream_is_a_qwen2_that_sees_all(tmp_path):
    model = dream(tmp_path)
    found = mask_predictor(tmp_path)
    assert found.masking == {"vocabulary": V, "mask_id": 11, "logit_shift": 1} and found.tokenizer is None
    z = torch.randint(0, V, (2, 6))
    want = model(z, attention_mask=torch.ones(2, 1, 6, 6, dtype=torch.bool)).logits
    torch.testing.assert_close(found.network(z), want, rtol=0, atol=1e-5)
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(load_file(tmp_path / "model.safetensors"))


def test_dreams_tokenizer_is_qwen2s_without_its_code(tmp_path):
    """As published: vocab.json, merges.txt, and special tokens with their numbers in tokenizer_config.json."""
    dream(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate("abcdefgh")} | {"ab": 8}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    special = {9: "<|endoftext|>", 10: "<|beginoftext|>", 11: "<|mask|>"}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings = {
        "tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "added_tokens_decoder": {str(i): {"content": name, **plain} for i, name in special.items()},
        "bos_token": "<|beginoftext|>", "eos_token": "<|endoftext|>", "mask_token": "<|mask|>", "pad_token": "<|endoftext|>",
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = mask_predictor(tmp_path)
    assert found.tokenizer("abc<|mask|>").input_ids == [8, 2, 11]
    assert (found.tokenizer.mask_token_id, found.tokenizer.pad_token_id) == (11, 9)


def llada(folder, **changes):
    torch.manual_seed(0)
    model = LladaForMaskedDiffusion(
        LladaConfig(vocab_size=60, d_model=16, n_layers=1, n_heads=2, mlp_hidden_size=24, mask_token_id=59, pad_token_id=1,
                    eos_token_id=1, max_sequence_length=32)
    )  # fmt: skip
    model.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))
    return model


def test_llada_is_found_by_its_folder(tmp_path):
    model = llada(tmp_path)
    words().save_pretrained(tmp_path)
    found = mask_predictor(tmp_path)
    z = torch.randint(0, 60, (2, 6))
    assert (
        torch.equal(found.network(z), model.eval()(z).logits) and found.masking == model.masking and found.longest == 32
    )
    assert found.tokenizer("train the coast").input_ids == words()("train the coast").input_ids


def broken(folder, how):
    if how == "nothing":
        return
    folder.mkdir()
    if how in ("bert", "causal"):
        causal("qwen2").save_pretrained(folder)
    elif how == "dream":
        dream(folder, mask_token_id=V)
    elif how == "dream-pad":
        dream(folder, mask_token_id=9)
    elif how == "record":
        masked_from_causal(causal()).save_pretrained(folder)
        (folder / "infimum.json").write_text(
            json.dumps({"format": 1, "logit_shift": 1, "vocabulary": 40, "mask_id": 40})
        )
    elif how == "pickle":
        llada(folder)
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    else:
        llada(folder, **({"mask_token_id": 60} if how == "mask" else {}))
    if how == "weight":
        weights = load_file(folder / "model.safetensors")
        weights.pop("model.transformer.blocks.0.q_proj.weight")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if how == "tokenizer":
        (folder / "tokenizer.json").write_text("{")
    if how == "empty":
        (folder / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("nothing", "is not a folder"),
        ("empty", "no config.json with a model_type"),
        ("causal", "type 'qwen2', which is no mask predictor: convert"),
        ("mask", "mask id 60 >= vocab 60"),
        ("dream", "mask id 12 >= vocab 12"),
        ("dream-pad", "mask id 9 is that of padding"),
        ("record", "mask id 40 and vocabulary 40 do not fit an embedding of 13 rows"),
        ("weight", "lacks 1 weights of its config.json, such as model.transformer.blocks.0.q_proj.weight"),
        ("pickle", "no weights as safetensors"),
        ("tokenizer", "its tokenizer cannot be read"),
    ],
)
def test_folders_that_cannot_be_read_are_refused(tmp_path, how, says):
    broken(tmp_path / "it", how)
    with pytest.raises(UserError, match=says) as error:
        mask_predictor(tmp_path / "it")
    assert "\n" not in str(error.value)


def test_other_folders_are_not_written_over(tmp_path):
    causal().save_pretrained(tmp_path)
    found = masked_from_causal(tmp_path)
    with pytest.raises(UserError, match="choose another folder"):
        found.save_pretrained(tmp_path)
    found.save_pretrained(tmp_path / "new")
    with pytest.raises(UserError, match="is converted already"):
        masked_from_causal(tmp_path / "new")


class Sure(torch.nn.Module):
    """A trained predictor in small: what it sees it repeats, and at the mask it knows little."""

    def __init__(self, mask, size, sharp=8.0):
        super().__init__()
        self.mask, self.size, self.sharp = mask, size, torch.nn.Parameter(torch.tensor(sharp))

    def forward(self, z, present=None):
        seen = torch.nn.functional.one_hot(z, self.size).float()
        return self.sharp * seen * (z != self.mask)[..., None]


def test_a_wrong_mask_is_warned_of():
    tokenizer = words()
    size = len(tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_mask(Sure(size, size + 1), tokenizer, size, size, name="it") is True
        assert check_mask(Sure(size, size + 1, 0.01), tokenizer, size, size, name="random") is None
        assert check_mask(Sure(size, size + 1), None, size, size, name="it") is None
        assert check_mask(Sure(size, size + 1), words(size=4), size, size, name="foreign") is None
    with pytest.warns(UserWarning, match="it: predictions on a canvas of mask id 1 "):
        assert check_mask(Sure(size, size + 1), tokenizer, 1, size, name="it") is False
