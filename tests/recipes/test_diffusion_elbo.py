"""The recipe `diffusion-elbo`, small: what it writes, what follows from what, the commands on its checkpoints, what it refuses."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from infimum.cli import main
from infimum.data import load
from infimum.evidence import Plan, elbo, evaluate, load_estimate
from infimum.recipes.diffusion_elbo import DiffusionElbo, anchors
from infimum.training import load_model

FLAGS = [
    "run", "diffusion-elbo", "--seeds", "2", "--steps", "8", "--weighted-steps", "4", "--weightings", "elbo", "edm", "--width",
    "16", "--blocks", "1", "--eval-k", "2", "--flow-items", "2", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("diffusion") / "run"
    assert main([*FLAGS, "--out", str(out)]) == 0
    return out


def test_bits_are_those_of_the_saved_models(run: Path) -> None:
    """Evaluated again from the checkpoints, whose weights are the averaged ones."""
    result = json.loads((run / "result.json").read_text())
    data = load("digits", kind="integer")
    for name, told in (("learned-1", result["learned"][1]), ("edm-0", result["weightings"]["edm"][0])):
        model = load_model(run / name / "checkpoint")[0].eval()
        again = evaluate(model, data.test, Plan.stratified(2, replicates=2), elbo, keys=data.test_ids)
        torch.testing.assert_close(load_estimate(run / name / "evidence.json").value, again.value)
        assert told["bits"] == pytest.approx(-float(again.value.mean()) / 64 / math.log(2))
        assert told["bits"] > told["reconstruction"] + told["prior"] > 0
    gap = result["elbo minus"]["edm"]["difference"]
    means = [sum(m["bits"] for m in result["weightings"][name]) / 2 for name in ("elbo", "edm")]
    assert gap == pytest.approx(means[0] - means[1])
    assert result["depth"]["16"] > result["depth"]["256"]
    draw = result["times"]["draw"]
    spread = math.hypot(draw["linear"]["stderr"], draw["adaptive"]["stderr"])
    assert abs(draw["linear"]["mean"] - draw["adaptive"]["mean"]) < 5 * spread
    assert draw["adaptive"]["variance"] < draw["linear"]["variance"]
    for name in ("weightings", "samples"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 0


def test_the_commands_know_the_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(run / "learned-0")
    assert main(["evidence", folder, "--k", "8", "--plan", "stratified", "--unit", "bits/dim", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "ELBO" in said and "bits/dim" in said and "certified" not in said
    assert main(["sample", folder, "--n", "4", "--out", str(tmp_path / "drawn.csv")]) == 0
    rows = (tmp_path / "drawn.csv").read_text().splitlines()
    assert len(rows) == 5 and {float(v) for v in rows[1].split(",")} <= set(range(17))


def test_anchors_are_what_they_say() -> None:
    """One pixel by hand: counts with one added."""
    data = load("digits", kind="integer")
    told = anchors(data)
    train, test = data.train[:, 0, 3, 3].long(), data.test[:, 0, 3, 3].long()
    counts = torch.bincount(train, minlength=17) + 1.0
    by_hand = -float((counts / counts.sum()).log2()[test].mean())
    cut = {name: getattr(data, name)[:, :, 3:4, 3:4] for name in ("train", "valid", "test")}
    one = dataclasses.replace(data, **cut)
    assert anchors(one)["histogram of each pixel"] == pytest.approx(by_hand, rel=1e-6)
    assert told["mixture of histograms of the classes"] < told["histogram of each pixel"]


def test_a_finished_run_resumes_to_the_same_result(run: Path) -> None:
    before = json.loads((run / "result.json").read_text())
    assert main([*FLAGS, "--out", str(run), "--resume"]) == 0
    after = json.loads((run / "result.json").read_text())
    assert [m["bits"] for m in after["learned"]] == [m["bits"] for m in before["learned"]]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--flow-items", "-1"], "--flow-items is -1"),
        (["--high", "-7"], "the first above the"),
        (["--dropout", "1.5"], "dropout is 1.5"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(flags, words, tmp_path, capsys) -> None:
    assert main(["run", "diffusion-elbo", *flags, "--out", str(tmp_path / "no")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert DiffusionElbo().steps == 3000
