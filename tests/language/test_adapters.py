"""Low-rank adapters, and mask predictors saved as the folders that they came from (00-masked-diffusion 3.7, 6.8, 6.12)."""

import inspect
import json
import shutil
import warnings

import pytest
import torch

pytest.importorskip("peft")

from peft import PeftModel
from safetensors.torch import load_file, save_file

from infimum.errors import UserError
from infimum.language import Converted, mask_predictor, masked_from_causal
from infimum.language.lora import add_lora
from language.folders import KINDS, V, causal, llada, write

Z = torch.randint(0, V, (2, 6), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        write(folder / kind, kind)
    return folder


def opened(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # untrained networks know no masks
        return mask_predictor(path)


def touched(network):
    """Adapters as after some training."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return network


def trained(found):
    """A step in place, through the network alone, as learners make it."""
    optimizer = torch.optim.SGD([p for p in found.network.parameters() if p.requires_grad], lr=0.05)
    before = found.network(Z).detach()
    found.network(Z).logsumexp(-1).mean().backward()
    optimizer.step()
    assert not torch.allclose(found.network(Z), before, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [False, True])
def test_what_was_trained_in_place_is_saved_as_its_folder(here, kind, lora, tmp_path):
    """The same logits, the same names, the same config.json but for what transformers adds."""
    found = opened(here / kind)
    if lora:
        adapter = add_lora(found.network, r=2, alpha=4)
        touched(found.network)
        trained(found)
        tuned = found.network(Z).detach()
        adapter.merge()
        torch.testing.assert_close(found.network(Z), tuned, rtol=1e-4, atol=1e-4)
    else:
        trained(found)
    found.save_pretrained(tmp_path / "new")
    again = opened(tmp_path / "new")
    assert torch.equal(again.network(Z), found.network(Z))
    assert (again.kind, again.masking, again.longest) == (found.kind, found.masking, found.longest)
    assert again.tokenizer.get_vocab() == found.tokenizer.get_vocab()
    files = [set(load_file(folder / "model.safetensors")) for folder in (here / kind, tmp_path / "new")]
    assert files[0] == files[1]
    settings = [json.loads((f / "config.json").read_text()) for f in (here / kind, tmp_path / "new")]
    assert settings[0]["model_type"] == settings[1]["model_type"]
    if kind == "dream":
        assert settings[0] == settings[1]
    again.save_pretrained(tmp_path / "new")  # over itself
    assert torch.equal(opened(tmp_path / "new").network(Z), found.network(Z))


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_beside_the_weights_are_not_saved_as_a_model(here, kind, tmp_path):
    found = opened(here / kind)
    add_lora(found.network, r=2)
    with pytest.raises(UserError, match=r"merge them with adapter.merge\(\)"):
        found.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_other_folders_are_not_written_over(here, kind, tmp_path):
    found = opened(here / kind)
    for name in ("other", "notes"):
        shutil.copytree(here / {"other": "llama", "notes": kind}[name], tmp_path / name)
    (tmp_path / "notes" / "modeling.py").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("other", "notes", "file"):
        with pytest.raises(UserError, match="holds something else than a"):
            found.save_pretrained(tmp_path / name)
    assert (tmp_path / "notes" / "modeling.py").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_merged_layers_are_the_layers_that_were(here, kind):
    found = opened(here / kind)
    names, before = list(found.model.state_dict()), found.network(Z).detach()
    adapter = add_lora(found.network, r=2)
    assert torch.equal(found.network(Z), before)
    with_adapter = touched(found.network)(Z).detach()
    with adapter.off():
        assert torch.equal(found.network(Z), before)
    adapter.merge()
    assert list(found.model.state_dict()) == names
    torch.testing.assert_close(found.network(Z), with_adapter, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(with_adapter, before, atol=1e-2)
    for refused in (adapter.merge, lambda: adapter.off().__enter__(), lambda: adapter.save("nowhere")):
        with pytest.raises(UserError, match="are merged into the weights"):
            refused()


@pytest.mark.parametrize("kind", KINDS)
def test_peft_puts_adapters_of_the_network_on_the_checkpoint(here, kind, tmp_path):
    """peft finds every key (else it warns), and gives the same logits; so does the library, which merges."""
    found = opened(here / kind)
    adapter = add_lora(found.network, r=2, alpha=4)
    want = touched(found.network)(Z).detach()
    adapter.save(tmp_path)
    other = opened(here / kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        PeftModel.from_pretrained(other.model, str(tmp_path))
    torch.testing.assert_close(other.network.eval()(Z), want, rtol=0, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        merged = mask_predictor(here / kind, tmp_path)
    torch.testing.assert_close(merged.network(Z), want, rtol=1e-4, atol=1e-4)
    assert all(p.requires_grad for p in merged.network.parameters())


def test_adapters_of_peft_itself_are_merged(here, tmp_path):
    """Made on the checkpoint's model, for layers by the ends of their names."""
    from peft import LoraConfig, get_peft_model

    found = opened(here / "llada")
    theirs = get_peft_model(found.model, LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "up_proj"]))
    want = touched(found.network).eval()(Z).detach()
    theirs.save_pretrained(tmp_path)
    torch.testing.assert_close(mask_predictor(here / "llada", tmp_path).network(Z), want, rtol=1e-4, atol=1e-4)


def test_a_prefix_of_ones_own(tmp_path):
    adapter = add_lora(llada().network, ("q_proj",), r=2, prefix="outer.")
    adapter.save(tmp_path)
    assert {k.split(".blocks")[0] for k in load_file(tmp_path / "adapter_model.safetensors")} == {
        "base_model.model.outer"
    }


@pytest.fixture
def saved(here, tmp_path):
    found = opened(here / "llada")
    adapter = add_lora(found.network, r=2, alpha=4)
    touched(found.network)
    return adapter.save(tmp_path / "adapter")


def broken(folder, how):
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    state, settings = load_file(weights), json.loads(config.read_text())
    first = sorted(state)[0]
    if how == "bytes":
        weights.write_bytes(b"\0" * 50)
    elif how == "missing":
        save_file({k: v for k, v in state.items() if k != first}, weights)
    elif how == "more":
        save_file(state | {first.replace("blocks.0", "blocks.7"): state[first].clone()}, weights)
    elif how == "magnitude":
        save_file(state | {first.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(16)}, weights)
    elif how == "shape":
        save_file(state | {first: torch.zeros(2, 5)}, weights)
    elif how == "empty":
        save_file({}, weights)
    elif how == "none":
        weights.unlink()
    elif how == "deep":
        config.write_text("[" * 100_000)
    elif how == "list":
        config.write_text("[]")
    else:
        config.write_text(json.dumps(settings | how))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("bytes", "cannot be read"),
        ("missing", "has no .*lora_"),
        ("more", "has adapters for model.transformer.blocks.7|has adapters for blocks.7"),
        ("magnitude", "no plain low-rank adapter"),
        ("shape", "does not fit"),
        ("empty", "holds no adapters"),
        ("none", "does not exist"),
        ("deep", "cannot be read"),
        ("list", "no JSON object"),
        ({"r": 3}, "expected rank 3"),
        ({"r": 10**12}, "expected rank"),
        ({"r": "x"}, "r 'x'"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"use_dora": True}, "use_dora True"),
        ({"use_rslora": True}, "use_rslora True"),
        ({"rank_pattern": {"q_proj": 3}}, "rank_pattern"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    ],
)
def test_broken_adapters_are_refused(here, saved, how, says):
    broken(saved, how)
    adapter = add_lora(opened(here / "llada").network, r=2, alpha=4)
    for read in (lambda: adapter.load(saved), lambda: mask_predictor(here / "llada", saved)):
        with pytest.raises(UserError, match=says) as error:
            read()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"r": 4, "alpha": 4}, "has r 2, and this adapter 4"),
        ({"r": 2, "alpha": 64}, "has alpha 4, and this adapter 64"),
        ({"r": 2, "alpha": 4, "targets": ("q_proj",)}, "has adapters for blocks.0.attn_out"),
    ],
)
def test_adapters_of_another_shape_are_not_loaded(here, saved, options, says):
    network = opened(here / "llada").network
    adapter = add_lora(network, **options)
    before = network(Z)
    with pytest.raises(UserError, match=says):
        adapter.load(saved)
    assert torch.equal(network(Z), before)


def test_an_adapter_of_fewer_layers_is_not_loaded(here, tmp_path):
    add_lora(opened(here / "llada").network, ("q_proj",), r=2, alpha=4).save(tmp_path)
    with pytest.raises(UserError, match=r"has no blocks.0.attn_out.lora_A.weight, which this network has"):
        add_lora(opened(here / "llada").network, r=2, alpha=4).load(tmp_path)


def test_an_adapter_of_another_model_is_refused(here, saved):
    with pytest.raises(UserError, match="which is no linear layer of this network's blocks"):
        mask_predictor(here / "llama", saved)


@pytest.mark.parametrize("options", [{"r": 2.5}, {"r": True}, {"alpha": float("nan")}, {"dropout": 1.0}])
def test_numbers_that_are_none_are_refused(options):
    unchecked = inspect.unwrap(add_lora)  # the tests' own check of types would come first
    with pytest.raises(UserError, match="expected a whole r of at least 1"):
        unchecked(llada().network, **options)


def test_gpt2s_layers_get_adapters(tmp_path):
    """They are no nn.Linear, and their weights lie the other way around."""
    found = masked_from_causal(causal("gpt2"))
    adapter = add_lora(found.network, r=2)
    assert {name.rsplit(".", 1)[-1] for name in adapter.matched} == {"c_attn", "c_proj", "c_fc"}
    with pytest.raises(UserError, match="merge them"):
        found.save_pretrained(tmp_path / "new")
    want = touched(found.network)(Z).detach()
    adapter.merge()
    found.save_pretrained(tmp_path / "new")
    torch.testing.assert_close(Converted.from_pretrained(tmp_path / "new").network(Z), want, rtol=1e-4, atol=1e-4)
