"""Damaged folders of language models, odd texts and flags: exit code 2 and one sentence, and no file is lost."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")

from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from infimum.cli import main
from infimum.data import DataSpec
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, completions, exact_elbo
from infimum.evidence import load_estimate
from infimum.language import mask_predictor
from infimum.language.lora import add_lora
from infimum.training import save_model
from language.folders import V, change, words, write

pytestmark = pytest.mark.filterwarnings("ignore:.*know.* less of masks", "ignore:.*predictions on a canvas")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for kind in ("llada", "dream", "llama"):
        write(folder / kind, kind)
    (folder / "texts.txt").write_text("a cat sat\na dog ran on .\n")
    (folder / "pairs.jsonl").write_text(
        '{"prompt": "a cat", "completion": "sat on"}\n{"prompt": "", "completion": "a dog"}\n'
    )
    return folder


@pytest.fixture
def here(whole, tmp_path, monkeypatch) -> Path:
    """A copy, to be damaged."""
    shutil.copytree(whole, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def refused(flags: list[str], says: str, capsys) -> None:
    assert main(flags) == 2
    said = capsys.readouterr().err.strip().splitlines()
    told = [line for line in said if line.startswith("infimum: ")]
    others = [line for line in said if not line.startswith(("infimum: ", "Loading weights", "\r"))]
    assert len(told) == 1 and not others, said
    assert says in told[0], told[0]


SETTINGS = [
    ("dream", {"hidden_size": "x"}, "hidden_size"),
    ("dream", {"rope_parameters": {"rope_type": "yarn"}}, "Missing required keys"),
    ("dream", {"rope_parameters": [1]}, "rope_parameters"),
    ("dream", {"num_attention_heads": 0}, "division"),
    ("dream", {"num_hidden_layers": 1}, "num_hidden_layers"),
    ("dream", {"layer_types": ["x"]}, "layer_type"),
    ("dream", {"hidden_act": "bogus"}, "bogus"),
    ("dream", {"dtype": "bogus"}, "bogus"),
    ("dream", {"max_position_embeddings": "x"}, "max_position_embeddings"),
    ("dream", {"vocab_size": 500}, "other shapes"),
    ("dream", {"eos_token_id": [1, V]}, "is that of padding or of the end of the text too"),
    (
        "dream",
        {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
        "weights that its config.json has no place for",
    ),
    ("llama", {"hidden_size": "x"}, "hidden_size"),
    ("llama", {"num_attention_heads": 0}, "modulo by zero"),
    ("llama", {"attention_dropout": "a"}, "attention_dropout"),
    ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "Missing required keys"),
    ("llama", {"model_type": "nonesuch"}, "nonesuch"),
    ("llada", {"mask_token_id": 11.0}, "mask_token_id"),
    ("llada", {"max_sequence_length": "32"}, "max_sequence_length"),
    ("llada", {"rope_theta": "z"}, "rope_theta"),
    ("llada", {"vocab_size": "12"}, "vocab_size"),
    ("llada", {"eos_token_id": [1, V]}, "one of its own"),
    ("llada", {"n_layers": 1}, "weights that its config.json has no place for"),
    ("llada", {"dtype": "bogus"}, "bogus"),
]


@pytest.mark.parametrize(("kind", "settings", "says"), SETTINGS)
def test_settings_that_are_wrong(here, kind, settings, says, capsys) -> None:
    change(here / kind, **settings)
    refused(["evidence", kind, "--data", "texts.txt", "--k", "4"], says, capsys)


def test_a_tokenizer_without_an_unknown_token(here, capsys) -> None:
    inner = Tokenizer(Unigram([("a", -1.0), ("c", -2.0), ("at", -2.0)]))
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="a").save_pretrained(here / "llada")
    refused(
        ["evidence", "llada", "--data", "texts.txt"], "texts.txt: the text of item 0 cannot be cut into tokens", capsys
    )
    refused(["sample", "llada", "--prompt", "zebra"], "--prompt cannot be cut into tokens", capsys)


def test_a_padding_token_without_a_row(here, capsys) -> None:
    """Nothing sees it, and its vector is looked up: another one stands in."""
    flags = ["evidence", "llada", "--data", "texts.txt", "--k", "16", "--quiet", "--csv"]
    assert main([*flags, "before.csv"]) == 0
    tokenizer = words(more=("<x>", "<y>", "<pad>"))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.pad_token_id > V
    tokenizer.save_pretrained(here / "llada")
    assert main([*flags, "after.csv"]) == 0
    assert Path("before.csv").read_text() == Path("after.csv").read_text()


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in", "cannot be put into the tokenizer's chat template"),
        ("{{ raise_exception('no users here') }}", "no users here"),
        ("{{ messages[0]['content']['x']['y'] }}", "cannot be put into the tokenizer's chat template"),
    ],
)
def test_chat_templates_that_are_broken(here, template, says, capsys) -> None:
    words(chat=template).save_pretrained(here / "llada")
    refused(["sample", "llada", "--chat", "--prompt", "a cat"], says, capsys)
    refused(["evidence", "llada", "--data", "pairs.jsonl", "--chat"], says, capsys)


def test_texts_that_are_no_utf8(here, capsys) -> None:
    Path("half.jsonl").write_text('{"text": "a cat"}\n{"text": "a \\ud800 cat"}\n')
    refused(["evidence", "llada", "--data", "half.jsonl"], "half.jsonl: the text of item 1 holds '\\ud800'", capsys)
    prompt = b"a \xff cat".decode("utf-8", "surrogateescape")  # as Python reads such an argument
    refused(
        ["sample", "llada", "--prompt", prompt], "--prompt holds '\\udcff', half of a character, at place 2", capsys
    )
    refused(["sample", "llada", "--chat", "--prompt", prompt], "--prompt holds '\\udcff'", capsys)


@pytest.mark.parametrize("device", ["mps", "cuda:7", ""])
def test_devices_that_are_not_there(here, device, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for flags in (["evidence", "llada", "--data", "texts.txt"], ["sample", "llada"]):
        refused([*flags, "--device", device], f"--device {device}", capsys)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--block-length", "0"], "--block-length is how many tokens a block has, at least 1, got 0: use 1 to 8"),
        (["--block-length", "-2"], "at least 1, got -2: use 1 to 8"),
        (["--steps", "0"], "--steps is how many steps all 1 blocks take together, got 0: use 1 to 8"),
        (["--steps", "-1", "--block-length", "3"], "all 3 blocks take together, got -1: use 3 to 8"),
        (["--steps", "0", "--order", "ancestral"], "got 0"),
        (["--threshold", "0.5"], "--threshold is for --order threshold"),
        (["--threshold", "nan", "--order", "threshold"], "from 0 to 1, got nan"),
        (["--threshold", "1.5", "--order", "threshold"], "from 0 to 1, got 1.5"),
        (["--steps", "4", "--order", "threshold"], "takes as many as it needs"),
    ],
)
def test_ways_of_decoding_that_there_are_not(here, flags, says, capsys) -> None:
    refused(["sample", "llada", "--length", "8", *flags], says, capsys)


def test_a_threshold_is_given(here, capsys) -> None:
    """At 1 a token a step, at 0 all of a block at once."""
    steps = {}
    for threshold in ("1", "0"):
        flags = ["--length", "8", "--block-length", "4", "--order", "threshold", "--threshold", threshold]
        assert main(["sample", "llada", *flags]) == 0
        first = capsys.readouterr().out.split("\n", 1)[0]
        assert f"threshold {float(threshold)}" in first
        steps[threshold] = int(first.split("steps ")[1].split(",")[0])
    assert steps == {"1": 8, "0": 2}


@pytest.mark.parametrize("flag", ["--csv", "--json", "--parquet"])
def test_the_data_are_not_written_over(here, flag, capsys) -> None:
    before = Path("texts.txt").read_bytes()
    Path("link").symlink_to("texts.txt")
    Path("hard").hardlink_to("texts.txt")
    for name in ("texts.txt", "./llada/../texts.txt", str(here / "texts.txt"), "link", "hard"):
        refused(["evidence", "llada", "--data", "texts.txt", flag, name], "is read as --data texts.txt", capsys)
    assert Path("texts.txt").read_bytes() == before


def test_outputs_are_not_written_over_one_another(here, capsys) -> None:
    flags = ["evidence", "llada", "--data", "texts.txt"]
    for one, two in (("--csv", "--json"), ("--csv", "--parquet"), ("--parquet", "--json")):
        refused([*flags, one, "out", two, "./out"], f"{one} and {two} both name ./out", capsys)
    for name in ("tokenizer.json", "config.json", "tokenizer_config.json"):
        refused([*flags, "--json", f"llada/{name}"], "would be lost", capsys)
    Path("folder").mkdir()
    Path("folder/a.npy").write_text("x")
    refused(["evidence", "llada", "--data", "folder", "--csv", "folder/a.npy"], "is read as --data folder", capsys)


@pytest.fixture
def adapter(here) -> Path:
    found = mask_predictor(here / "llada")
    made = add_lora(found.network, r=2, alpha=4)
    with torch.no_grad():
        for name, p in found.network.named_parameters():
            if "lora_B" in name:
                p.fill_(0.2)
    return made.save(here / "adapter")


def test_adapters_are_used(here, adapter, capsys) -> None:
    """The evidence is the bound of the merged network, and not that of the base; texts are those of its folder."""
    flags = ["--data", "pairs.jsonl", "--plan", "stratified", "--k", "512", "--quiet", "--json"]
    assert main(["evidence", "llada", "--adapter", "adapter", *flags, "with.json"]) == 0
    assert main(["evidence", "llada", *flags, "without.json"]) == 0
    x = completions([[3, 4], []], [[6, 8], [3, 5]], pad_id=1)
    for name, folder in (("with", adapter), ("without", None)):
        found = mask_predictor(here / "llada", folder)
        exact = exact_elbo(MaskedDiffusion(MaskedDiffusionConfig(**found.masking), found.network).eval(), x).value
        told = load_estimate(here / f"{name}.json")
        assert bool(((told.value - exact).abs() < 4.5 * told.stderr + 1e-5).all())
    tables = [load_estimate(here / f"{name}.json").value for name in ("with", "without")]
    assert not torch.allclose(*tables, atol=0.05)
    mask_predictor(here / "llada", adapter).save_pretrained(here / "merged")
    capsys.readouterr()
    said = []
    for model in (["llada", "--adapter", "adapter"], ["merged"], ["llada"]):
        assert main(["sample", *model, "--prompt", "a cat", "--length", "6"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


def test_adapters_that_are_none(here, adapter, capsys) -> None:
    for command in (["evidence", "llada", "--data", "texts.txt"], ["sample", "llada"]):
        refused([*command, "--adapter", "nowhere"], "does not exist", capsys)
        (adapter / "adapter_model.safetensors").write_bytes(b"\0" * 50)
        refused([*command, "--adapter", "adapter"], "cannot be read", capsys)
    config = MaskedDiffusionConfig(vocabulary=3, length=4, width=8, blocks=1, heads=2, characters="abc")
    spec = DataSpec("letters", "integer", (4,), levels=3)
    save_model(here / "own", MaskedDiffusion(config), "masked-diffusion", json.loads(spec.to_json()))
    refused(["sample", "own", "--adapter", "adapter"], "--adapter is for folders of language models", capsys)


def test_prompts_in_the_chat_template(here, capsys) -> None:
    """`<start> a cat .` in front of the completion; a text without a prompt has nothing to be put there."""
    Path("one.jsonl").write_text('{"prompt": "a cat", "completion": "sat on"}')
    flags = ["evidence", "llada", "--data", "one.jsonl", "--plan", "stratified", "--k", "512", "--quiet", "--json"]
    assert main([*flags, "chat.json", "--chat"]) == 0
    found = mask_predictor(here / "llada")
    model = MaskedDiffusion(MaskedDiffusionConfig(**found.masking), found.network).eval()
    told = load_estimate(here / "chat.json")
    exact = exact_elbo(model, completions([[2, 3, 4, 10]], [[6, 8]], pad_id=1)).value
    assert bool(((told.value - exact).abs() < 4.5 * told.stderr + 1e-5).all())
    refused(["evidence", "llada", "--data", "texts.txt", "--chat"], "item 0 has no prompt for --chat", capsys)


def test_characters_that_the_terminal_has_not(here, monkeypatch) -> None:
    """They are escaped, in texts and in the numbers' plus-minus."""
    tokenizer = words()
    tokens = tokenizer.get_vocab()
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    inner["model"]["vocab"] = {("日本" if i > 2 else name) + (str(i) if i > 2 else ""): i for name, i in tokens.items()}
    file = here / "llada" / "tokenizer.json"
    file.write_text(json.dumps(inner))
    said = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said, encoding="ascii", errors="strict"))
    assert main(["sample", "llada", "--length", "4", "--order", "random"]) == 0
    assert main(["evidence", "llada", "--data", "texts.txt", "--k", "4"]) == 0
    sys.stdout.flush()
    text = said.getvalue().decode("ascii")
    assert "\\u65e5" in text and "\\xb1" in text
