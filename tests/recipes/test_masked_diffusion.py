"""The recipe `masked-diffusion`, small: what it writes, what follows from what, the commands on its checkpoints, refusals."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from infimum.cli import main
from infimum.data import load
from infimum.evidence import Plan, elbo, evaluate
from infimum.training import load_model

FLAGS = [
    "--seeds", "2", "--steps", "6", "--width", "16", "--heads", "2", "--blocks", "1", "--items", "12", "--eval-k", "2",
    "--orders", "2", "--order-items", "3", "--ema", "0.5", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences of 7 tokens of 5 kinds, from a chain that mostly counts up."""
    g = np.random.default_rng(0)
    rows = (g.integers(0, 5, (200, 1)) + np.cumsum(g.random((200, 7)) < 0.8, 1)) % 5
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(path, rows)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, table: Path) -> Path:
    out = tmp_path_factory.mktemp("masked") / "run"
    assert main(["run", "masked-diffusion", "--data", str(table), *FLAGS, "--out", str(out)]) == 0
    return out


def test_bits_are_those_of_the_saved_models(run: Path, table: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    data = load(table, kind="integer")
    some = slice(0, 12 * (len(data.test) // 12), len(data.test) // 12)
    x, keys = data.test[some].long(), data.test_ids[some]
    model = load_model(run / "masked-1" / "checkpoint")[0].eval()
    again = evaluate(model, x, Plan.stratified(2, replicates=2), elbo, keys=keys)
    told = result["models"]["masked"][1]
    assert told["bits"] == pytest.approx(-float(again.value.mean()) / 7 / math.log(2))
    twin = load_model(run / "autoregressive-1" / "checkpoint")[0].eval()
    exact = result["models"]["autoregressive"][1]
    with torch.no_grad():
        assert exact["bits"] == pytest.approx(-float(twin.log_prob(x).mean()) / 7 / math.log(2))
    assert exact["bits_stderr"] == 0 and told["parameters"] == exact["parameters"]
    gap = result["masked less autoregressive"]["difference"]
    means = [sum(m["bits"] for m in result["models"][name]) / 2 for name in ("masked", "autoregressive")]
    assert gap == pytest.approx(means[0] - means[1])
    assert result["orders"]["unrolled"] < result["orders"]["certified"]
    assert result["estimators"]["count"]["variance"] > 0
    assert (run / "figures" / "masked-diffusion.png").stat().st_size > 0


def test_anchors_by_hand(run: Path, table: Path) -> None:
    data = load(table, kind="integer")
    train, test = data.train.long(), data.test.long()
    single = [int((train == i).sum()) + 1 for i in range(5)]
    bits = -sum(math.log2(single[int(t)] / sum(single)) for t in test.flatten()) / test.numel()
    anchors = json.loads((run / "result.json").read_text())["anchors"]
    assert anchors["counts of tokens"] == pytest.approx(bits)
    total = 0.0
    for row in test.tolist():
        total += math.log2(single[row[0]] / sum(single))
        for a, b in pairwise(row):
            both = int(((train[:, :-1] == a) & (train[:, 1:] == b)).sum()) + 1
            total += math.log2(both / (int((train[:, :-1] == a).sum()) + 5))
    assert anchors["counts of pairs"] == pytest.approx(-total / test.numel())


def test_the_commands_know_the_checkpoints(run: Path, table: Path, tmp_path: Path, capsys) -> None:
    folder = str(run / "masked-0")
    flags = ["--data", str(table), "--k", "8", "--plan", "stratified", "--replicates", "2", "--quiet"]
    assert main(["evidence", folder, *flags, "--orders", "4"]) == 0
    out = capsys.readouterr().out
    assert "log p(x), random order" in out and "IWAE-4" in out and "no certificate" in out
    assert main(["evidence", str(run / "autoregressive-0"), "--data", str(table), "--quiet"]) == 0
    assert "autoregressive" in capsys.readouterr().out
    for name in ("masked-0", "autoregressive-0"):
        assert main(["sample", str(run / name), "--n", "4", "--out", str(tmp_path / f"{name}.csv")]) == 0
        rows = np.loadtxt(tmp_path / f"{name}.csv", delimiter=",", skiprows=1)
        assert rows.shape == (4, 7) and set(rows.flatten()) <= set(range(5))
    assert main(["evidence", str(run / "autoregressive-0"), "--data", str(table), "--orders", "2"]) == 2
    assert "--orders is 2 for a Autoregressive" in capsys.readouterr().err


def test_characters_are_written_as_text(tmp_path: Path, capsys) -> None:
    pytest.importorskip("gensim")
    short = [
        "--models",
        "masked",
        "--seeds",
        "1",
        "--steps",
        "1",
        "--items",
        "2",
        "--order-items",
        "1",
        "--width",
        "8",
        "--heads",
        "1",
    ]
    assert main(["run", "masked-diffusion", *FLAGS, *short, "--orders", "0", "--out", str(tmp_path / "run")]) == 0
    assert "drawn, masked:" in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "run" / "masked-0"), "--n", "3", "--out", str(tmp_path / "drawn.txt")]) == 0
    lines = (tmp_path / "drawn.txt").read_text().splitlines()
    assert len(lines) == 3 and all(
        len(line) == 64 and set(line) <= set(" abcdefghijklmnopqrstuvwxyz") for line in lines
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--orders", "-1"], "--orders is -1"),
        (["--models", "masked", "masked"], "at most once"),
        (["--width", "20", "--heads", "3"], "--width 20"),
        (["--data", "digits"], "expected sequences"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(flags, words, tmp_path, capsys) -> None:
    assert main(["run", "masked-diffusion", *flags, "--out", str(tmp_path / "no")]) == 2
    assert words in capsys.readouterr().err
