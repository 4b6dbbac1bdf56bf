"""`infimum evidence` and `infimum sample` on folders of language models."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from infimum.cli import main
from infimum.discrete import MaskedDiffusion, MaskedDiffusionConfig, completions, exact_elbo, fill
from infimum.evidence import Plan, elbo, evaluate, load_estimate
from infimum.language import LladaConfig, LladaForMaskedDiffusion, mask_predictor, masked_from_causal

WORDS = ["<unk>", "<end>", "<start>", "a", "cat", "dog", "sat", "ran", "on", "mat", "."]
V = len(WORDS)
PAIRS = [("a cat", "sat on a mat ."), ("a dog ran", "on ."), ("", "a dog sat .")]
TEMPLATE = "{% for m in messages %}<start> {{ m['content'] }} . {% endfor %}"


def words(start: bool = False) -> PreTrainedTokenizerFast:
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    if start:
        inner.post_processor = TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 2)])
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        eos_token="<end>",
        bos_token="<start>",
        clean_up_tokenization_spaces=False,
    )
    found.chat_template = TEMPLATE
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted Llama, a LLaDA, and texts."""
    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, initializer_range=0.5,
            max_position_embeddings=32, bos_token_id=2, eos_token_id=1,
        )
    )  # fmt: skip
    masked_from_causal(model.eval(), tokenizer=words()).save_pretrained(folder / "llama")
    llada = LladaForMaskedDiffusion(
        LladaConfig(
            vocab_size=V + 1, d_model=16, n_layers=1, n_heads=2, mlp_hidden_size=24, mask_token_id=V, pad_token_id=1,
            eos_token_id=1, max_sequence_length=32,
        )
    )  # fmt: skip
    llada.save_pretrained(folder / "llada")
    words(start=True).save_pretrained(folder / "llada")
    rows = [{"prompt": p, "completion": c} for p, c in PAIRS]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": c}) for _, c in PAIRS), encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(c for _, c in PAIRS) + "\n", encoding="utf-8")
    return folder


def model_of(folder: Path) -> MaskedDiffusion:
    found = mask_predictor(folder)
    return MaskedDiffusion(MaskedDiffusionConfig(**found.masking), found.network).eval()


@pytest.mark.parametrize("name", ["llama", "llada"])
def test_evidence_is_the_bound_of_completions_given_prompts(here, name, monkeypatch, capsys) -> None:
    """By the command and by hand from the same draws, and the sum over all masks within its error (|z| < 4.5)."""
    monkeypatch.chdir(here)
    flags = ["--data", "pairs.jsonl", "--plan", "stratified", "--k", "512", "--seed", "3", "--json", f"{name}.json"]
    assert main(["evidence", name, *flags]) == 0
    said = capsys.readouterr().out
    assert f"MaskedDiffusion of {name} on pairs.jsonl (3 items, 11 tokens)" in said and "log p(x), random order" in said
    found, tokenizer = load_estimate(here / f"{name}.json"), words()
    start = [2] if name == "llada" else []
    ids = [[tokenizer(text).input_ids for text in texts] for texts in zip(*PAIRS, strict=True)]
    x = completions([start + p for p in ids[0]], ids[1], pad_id=1)
    model = model_of(here / name)
    again = evaluate(model, x, Plan.stratified(64, replicates=8), elbo, seed=3)
    torch.testing.assert_close(found.value, again.value, rtol=0, atol=1e-5)
    exact = exact_elbo(model, x).value
    assert bool(((found.value - exact).abs() < 4.5 * found.stderr).all())
    assert f"11 tokens: at least {float(found.value.sum()) / 11:.4f} ± " in said
    power = float((-found.value.sum() / 11).exp())
    assert f"nats a token, perplexity at most {power:.4g} ± " in said


def test_texts_are_read_line_by_line(here, monkeypatch, capsys) -> None:
    """Both ways to write them; 128 draws; in bits, the line a token stays in nats."""
    monkeypatch.chdir(here)
    said = []
    for data in ("texts.jsonl", "texts.txt"):
        assert main(["evidence", "llama", "--data", data, "--quiet", "--unit", "bits", "--json", f"{data}.out"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "bits, 3 items" in said[0] and "nats a token" in said[0]
    assert load_estimate(here / "texts.txt.out").draws == 128


def test_all_orders_are_unrolled(here, monkeypatch, capsys) -> None:
    monkeypatch.chdir(here)
    assert main(["evidence", "llama", "--data", "pairs.jsonl", "--k", "8", "--orders", "16", "--quiet"]) == 0
    assert "certified mean >=" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "cache"), [("llama", "none"), ("llada", "none"), ("llada", "dual")])
def test_samples_come_with_their_decoding(here, name, cache, monkeypatch, capsys) -> None:
    """What is printed is what `fill` writes, up to the first end."""
    monkeypatch.chdir(here)
    rule = {"steps": 4, "block_length": 4, "temperature": 0.0, "order": "confidence"}
    flags = ["--length", "8", "--steps", "4", "--block-length", "4", "--temperature", "0", "--order", "confidence"]
    flags += ["--cache", cache]
    assert main(["sample", name, "--prompt", "a cat", *flags]) == 0
    first, text = capsys.readouterr().out.split("\n", 1)
    assert first == (
        f"decoding: order confidence, steps 4, block length 4, temperature 0.0, guidance 0.0, cache {cache}, length 8, seed 0, "
        "chat False"
    )
    model, start = model_of(here / name), [2] if name == "llada" else []
    x = completions([[*start, 3, 4]], 8, pad_id=1, fill=model.config.mask)
    draws = Plan.iid(1).draws(torch.arange(1), seed=0, salt="sample")
    ids = fill(model, x, draws, cache=cache, **rule).tokens[0, 0, len(start) + 2 :].tolist()
    ids = ids[: ids.index(1)] if 1 in ids else ids
    assert text == words().decode(ids, skip_special_tokens=True) + "\n"


def test_samples_are_written_as_json_lines(here, monkeypatch, capsys) -> None:
    """Several differ, and the seed gives them back; in a chat template the model reads something else."""
    monkeypatch.chdir(here)
    flags = ["--prompt", "a cat", "--n", "5", "--temperature", "1", "--length", "6", "--order", "random"]
    rows = {}
    for out, more in (("a", []), ("b", []), ("c", ["--chat"])):
        assert main(["sample", "llama", *flags, *more, "--seed", "3", "--out", f"{out}.jsonl"]) == 0
        rows[out] = [json.loads(line) for line in (here / f"{out}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert "5 texts written to c.jsonl" in capsys.readouterr().out
    assert rows["a"] == rows["b"] and len({row["completion"] for row in rows["a"]}) > 1
    assert rows["a"][0]["prompt"] == "a cat" and rows["a"][0]["decoding"]["steps"] == 6
    model = model_of(here / "llama")
    x = completions([[3, 4]] * 5, 6, pad_id=1, fill=model.config.mask)
    draws = Plan.iid(1).draws(torch.arange(5), seed=3, salt="sample")
    ids = fill(model, x, draws, order="random", temperature=1.0).tokens[0, :, 2:].tolist()
    texts = [words().decode(row[: row.index(1)] if 1 in row else row, skip_special_tokens=True) for row in ids]
    assert [r["completion"] for r in rows["a"]] == texts
    assert [r["completion"] for r in rows["a"]] != [r["completion"] for r in rows["c"]]
    assert main(["sample", "llama", "--n", "2", "--length", "3"]) == 0
    assert "--- 2 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["evidence", "llama"], "give --data FILE"),
        (["evidence", "llama", "--data", "none.jsonl"], "none.jsonl: cannot be read"),
        (["evidence", "llama", "--data", "empty.txt"], "holds no texts"),
        (["evidence", "llama", "--data", "bad.jsonl"], "bad.jsonl, line 2: completion is null, expected text"),
        (["evidence", "llama", "--data", "broken.jsonl"], "broken.jsonl, line 1: expected a JSON object"),
        (["evidence", "llama", "--data", "deep.jsonl"], "deep.jsonl, line 1: expected a JSON object"),
        (["evidence", "deep", "--data", "texts.txt"], "deep/config.json cannot be read as JSON"),
        (["evidence", "llama", "--data", "long.txt"], "item 0 has 40 tokens and the model takes 32"),
        (["evidence", "llama", "--data", "texts.csv"], "ends in '.csv', expected .jsonl"),
        (["evidence", "llama", "--data", "hollow.jsonl"], "item 0 has no tokens"),
        (["evidence", "llama", "--data", "masked.txt"], "the mask, token 11, stands among the data of item 0"),
        (["evidence", "llama", "--data", "texts.txt", "--unit", "bits/dim"], "use nats or bits"),
        (["evidence", "llama", "--data", "texts.txt", "--method", "ais"], "needs log_joint"),
        (["evidence", "causal", "--data", "texts.txt"], "no mask predictor: convert"),
        (["evidence", "dumb", "--data", "texts.txt"], "has no tokenizer"),
        (["sample", "llama", "--length", "40"], "exceed the model's 32"),
        (["sample", "llama", "--length", "0"], "at least 1, got 0"),
        (["sample", "llama", "--length", "6", "--steps", "4", "--block-length", "2"], "4 steps do not divide among 3 blocks"),
        (["sample", "llama", "--out", "x.txt"], "written as .jsonl"),
        (["sample", "llama", "--length", "4", "--cache", "dual"], "a FullAttention keeps no keys and values"),
        (["sample", "llama", "--length", "4", "--cache", "dual", "--order", "random"], "no cache 'dual' for order 'random'"),
        (["sample", "llama", "--condition", "1"], "--condition is for other models"),
        (["sample", "llama", "--length", "4", "--temperature", "-1"], "temperature is -1.0"),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence(here, flags, says, monkeypatch, capsys) -> None:
    monkeypatch.chdir(here)
    (here / "empty.txt").write_text("\n \n")
    (here / "bad.jsonl").write_text('{"text": "a cat"}\n{"prompt": "a", "completion": null}\n')
    (here / "broken.jsonl").write_text("a cat\n")
    (here / "deep.jsonl").write_text("[" * 100_000)
    (here / "deep").mkdir(exist_ok=True)
    (here / "deep" / "config.json").write_text("[" * 100_000)
    (here / "long.txt").write_text("a cat " * 20)
    (here / "hollow.jsonl").write_text('{"text": ""}')
    (here / "masked.txt").write_text("a <|mask|> cat")
    (here / "texts.csv").write_text("text\na cat\n")
    for name, without in (("causal", "infimum.json"), ("dumb", "tokenizer")):
        (here / name).mkdir(exist_ok=True)
        for file in (here / "llama").iterdir():
            if not file.name.startswith(without):
                (here / name / file.name).write_bytes(file.read_bytes())
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and len(said.strip().splitlines()) == 1


def test_flags_of_language_models_are_refused_elsewhere(tmp_path, monkeypatch, capsys) -> None:
    from infimum.data import DataSpec
    from infimum.training import save_model

    config = MaskedDiffusionConfig(vocabulary=3, length=4, width=8, blocks=1, heads=2, characters="abc")
    spec = DataSpec("letters", "integer", (4,), levels=3)
    save_model(tmp_path / "own", MaskedDiffusion(config), "masked-diffusion", json.loads(spec.to_json()))
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "own", "--n", "2"]) == 0
    assert (tmp_path / "samples.txt").exists()
    for flags in (["--prompt", "a"], ["--chat"], ["--block-length", "2"], ["--temperature", "0"]):
        assert main(["sample", "own", *flags]) == 2
        assert f"{flags[0]} is for language models, and this is a MaskedDiffusion" in capsys.readouterr().err
