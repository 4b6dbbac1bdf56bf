"""`infimum evidence` and `infimum sample` on a model of the user's own text."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from infimum.cli import main
from infimum.data import read_text
from infimum.data.text import SPECIAL
from infimum.evidence import Plan, evaluate, iwae, load_estimate
from infimum.training import load_model
from infimum.vae.text import with_prior

SENTENCES = [f"the {a} {b} {c}" for a in ("red", "old", "big", "sad") for b in ("cat", "dog", "bird") for c in "xyzuvw"]
FLAGS = [
    "--models", "dg", "--seeds", "1", "--epochs", "1", "--batch", "8", "--hidden", "8", "--embedding", "4", "--latent", "2",
    "--items", "4", "--eval-k", "2", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, the same as a table, and a model trained on each."""
    here = tmp_path_factory.mktemp("text")
    (here / "mine.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    (here / "mine.csv").write_text(
        "id,said\n" + "\n".join(f"{i},{s}" for i, s in enumerate(SENTENCES)), encoding="utf-8"
    )
    for name, data in (("run", "mine.txt"), ("table", "mine.csv:said")):
        command = [sys.executable, "-m", "infimum", "run", "dg-vae", "--data", data, *FLAGS, "--out", name]
        assert subprocess.run(command, cwd=here, capture_output=True, check=False).returncode == 0
    return here


def test_the_test_split_of_the_own_text(folder: Path, monkeypatch, capsys) -> None:
    """By the command and by hand, from the same file; with the prior's share of the draws, certified."""
    monkeypatch.chdir(folder)
    for name in ("run", "table"):
        assert main(["evidence", f"{name}/dg-0", "--k", "8", "--quiet", "--json", f"{name}.json"]) == 0
        assert "certified mean >=" in capsys.readouterr().out
    found = load_estimate(folder / "run.json")
    model = load_model(folder / "run" / "dg-0" / "checkpoint")[0].eval()
    corpus = read_text(folder / "mine.txt", words=model.vocabulary)
    at = [corpus.raw.ids.tolist().index(key) for key in found.keys.tolist()]
    x = torch.from_numpy(corpus.raw.values).float()[at][:, : model.config.length]
    again = evaluate(with_prior(model), x, Plan.iid(8), iwae, keys=found.keys)
    torch.testing.assert_close(found.value, again.value)


def test_new_text_is_read_in_the_models_words(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    new = ["the red dog x", "the old cat y", "the big unicorn z", "no"]
    (folder / "new.txt").write_text("\n".join(new), encoding="utf-8")
    assert main(["evidence", "run/dg-0", "--k", "4", "--data", "new.txt"]) == 0
    said = capsys.readouterr().out
    assert "new.txt (3 sentences, 1 left out as too short, too long or repeated; 8.3% of the words unknown)" in said


def test_sentences_are_drawn_as_text(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    assert main(["sample", "run/dg-0", "--n", "5"]) == 0
    lines = (folder / "samples.txt").read_text(encoding="utf-8").splitlines()
    words = {word for sentence in SENTENCES for word in sentence.split()}
    assert len(lines) == 5 and {word for line in lines for word in line.split()} <= words | set(SPECIAL)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["evidence", "run/dg-0", "--data", "none.txt"], "none.txt: cannot be read"),
        (["evidence", "run/dg-0", "--data", "empty.txt"], "expected at least 2"),
        (["evidence", "run/dg-0", "--data", "foreign.txt"], "does not know 100% of the words"),
        (["evidence", "run/dg-0", "--data", "mine.csv"], "name the column"),
        (["evidence", "run/dg-0", "--data", "mine.csv:words"], "there is no column 'words', expected one of id, said"),
        (["sample", "run/dg-0", "--out", "some.png"], "use .txt, .npy or .csv"),
        (["evidence", "changed/dg-0"], "does not hold the sentences that the model was trained on"),
        (["evidence", "moved/dg-0"], "which is not there seen from this folder"),
    ],
)
def test_refusals_are_one_sentence(folder: Path, flags: list[str], says: str, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty.txt").write_text("", encoding="utf-8")
    (folder / "foreign.txt").write_text("eine andere Sprache\nnoch ein Satz hier", encoding="utf-8")
    (folder / "other.txt").write_text("\n".join(SENTENCES[:-3]), encoding="utf-8")
    for name, source in (("changed", "other.txt"), ("moved", "gone.txt")):
        target = folder / name / "dg-0" / "checkpoint"
        target.mkdir(parents=True, exist_ok=True)
        for file in (folder / "run" / "dg-0" / "checkpoint").iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        spec = json.loads((target / "data.json").read_text())
        (target / "data.json").write_text(json.dumps(spec | {"source": source}))
        (target.parent / "result.json").write_text("{}")
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and len(said.strip().splitlines()) == 1
