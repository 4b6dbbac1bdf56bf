"""The recipe `mulan`, small: what it writes, what follows from what, the commands on its checkpoints, what it refuses."""

import json
import math
from pathlib import Path

import pytest
import torch

from infimum.cli import main
from infimum.data import load
from infimum.diffusion import Mulan
from infimum.evidence import Plan, elbo, evaluate
from infimum.training import load_model

FLAGS = [
    "run", "mulan", "--seeds", "2", "--steps", "8", "--longer", "1.5", "--width", "16", "--blocks", "1", "--encoder-width", "8",
    "--schedule-width", "8", "--size", "4", "--active", "2", "--eval-k", "2", "--flow-items", "2", "--lr", "1e-2", "--ema", "0.5",
    "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mulan") / "run"
    assert main([*FLAGS, "--out", str(out)]) == 0
    return out


def test_bits_are_those_of_the_saved_models(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    data = load("digits", kind="integer")
    plan = Plan.stratified(2, replicates=2)
    for name, each in result["models"].items():
        told = each[1]
        model = load_model(run / f"{name}-1" / "checkpoint")[0].eval()
        again = evaluate(model, data.test, plan, elbo, keys=data.test_ids)
        assert told["bits"] == pytest.approx(-float(again.value.mean()) / 64 / math.log(2))
        assert told["parameters"] == sum(p.numel() for p in model.parameters())
        assert told["steps"] == (12 if name == "longer" else 8)
    mean = {name: sum(m["bits"] for m in each) / 2 for name, each in result["models"].items()}
    for base in ("vdm", "longer"):
        assert result[f"less {base}"]["mulan"]["bits"]["difference"] == pytest.approx(mean["mulan"] - mean[base])
    assert result["models"]["multivariate"][0]["divergence"] == 0 < result["models"]["mulan"][0]["divergence"]
    for one in result["flow"].values():
        assert one["flow"] < one["certified"]
    for name in ("mulan", "schedules", "samples"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 0


def test_the_published_divergence_is_that_of_one_category(run: Path) -> None:
    """sum_i pi_i log(m pi_i), pi the softmax of the logits; at two of four numbers it is not the divergence of the set."""
    told = json.loads((run / "result.json").read_text())["models"]["mulan"][0]
    model = load_model(run / "mulan-0" / "checkpoint")[0].eval()
    assert isinstance(model, Mulan)
    x = load("digits", kind="integer").test
    with torch.no_grad():
        pi = model.encode(x)[1].double().softmax(-1)
    wanted = float((pi * (4 * pi).log()).sum(-1).mean()) / 64 / math.log(2)
    assert told["published divergence"] == pytest.approx(wanted, rel=1e-4)
    assert abs(told["divergence"] - wanted) > 0.05 * wanted


def test_the_commands_know_the_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(run / "mulan-0")
    assert main(["evidence", folder, "--k", "8", "--plan", "stratified", "--unit", "bits/dim", "--quiet"]) == 0
    assert "ELBO" in capsys.readouterr().out
    assert main(["sample", folder, "--n", "4", "--out", str(tmp_path / "drawn.csv")]) == 0
    assert len((tmp_path / "drawn.csv").read_text().splitlines()) == 5


def test_a_finished_run_resumes_to_the_same_result(run: Path) -> None:
    before = json.loads((run / "result.json").read_text())
    assert main([*FLAGS, "--out", str(run), "--resume"]) == 0
    after = json.loads((run / "result.json").read_text())
    assert [m["bits"] for m in after["models"]["mulan"]] == [m["bits"] for m in before["models"]["mulan"]]


def test_images_networks_and_published_choices(tmp_path: Path) -> None:
    flags = [
        "--network",
        "unet",
        "--encoder",
        "conv",
        "--noise",
        "sog",
        "--divergence",
        "deterministic",
        "--models",
        "mulan",
    ]
    short = [
        "--seeds",
        "1",
        "--steps",
        "1",
        "--width",
        "4",
        "--blocks",
        "1",
        "--encoder-width",
        "4",
        "--eval-k",
        "1",
        "--quiet",
    ]
    assert main(["run", "mulan", *flags, *short, "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "less vdm" not in result and result["flow"] == {}
    log = math.log(math.comb(16, 4)) / 64 / math.log(2)
    assert result["models"]["mulan"][0]["divergence"] == pytest.approx(log)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--flow-items", "-1"], "--flow-items is -1"),
        (["--longer", "0.5"], "--longer is 0.5"),
        (["--models", "vdm", "vdm"], "at most once"),
        (["--active", "17"], "17"),
        (["--noise", "sog"], "sog"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(flags, words, tmp_path, capsys) -> None:
    assert main(["run", "mulan", *flags, "--out", str(tmp_path / "no")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "no").exists()
