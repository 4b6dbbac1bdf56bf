"""The recipe `diffenc`, small: what it writes, what follows from what, the commands on its checkpoints, what it refuses."""

import json
import math
from pathlib import Path

import pytest

from infimum.cli import main
from infimum.data import load
from infimum.diffusion import DiffEnc
from infimum.evidence import Plan, elbo, evaluate
from infimum.recipes.diffenc import encodings
from infimum.training import load_model

FLAGS = [
    "run", "diffenc", "--seeds", "2", "--steps", "8", "--longer", "1.2", "--width", "16", "--blocks", "1", "--encoder-width", "8",
    "--eval-k", "2", "--flow-items", "2", "--lr", "1e-2", "--ema", "0.5", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("diffenc") / "run"
    assert main([*FLAGS, "--out", str(out)]) == 0
    return out


def test_bits_are_those_of_the_saved_models(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    data = load("digits", kind="integer")
    plan = Plan.stratified(2, replicates=2)
    for name in ("vdm", "diffenc", "scaled"):
        told = result["models"][name][1]
        model = load_model(run / f"{name}-1" / "checkpoint")[0].eval()
        again = evaluate(model, data.test, plan, elbo, keys=data.test_ids)
        assert told["bits"] == pytest.approx(-float(again.value.mean()) / 64 / math.log(2))
        assert told["bits"] == pytest.approx(told["diffusion"] + told["reconstruction"] + told["prior"])
        assert told["parameters"] == sum(p.numel() for p in model.parameters())
    gap = result["less vdm"]["scaled"]["prior"]["difference"]
    means = [sum(m["prior"] for m in result["models"][name]) / 2 for name in ("scaled", "vdm")]
    assert gap == pytest.approx(means[0] - means[1]) and gap < 0  # alpha^2 f at the noisy end is nearer to 0
    assert max(result["counter-term"]["moved"]) > 0
    depth = result["depth"]
    assert depth["16"]["optimal"] < depth["16"]["posterior"] and depth["256"]["posterior"] < depth["16"]["posterior"]
    first = load_model(run / "diffenc-0" / "checkpoint")[0].eval()
    plain = evaluate(first.without_encoder(), data.test, plan, elbo, keys=data.test_ids)
    assert result["bounds"]["plain bound"]["bits"] == pytest.approx(-float(plain.value.mean()) / 64 / math.log(2))
    assert "flow, exact determinant, IWAE-8" in result["bounds"]
    for name in ("diffenc", "encodings", "samples"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 0


def test_the_picture_of_the_encodings(run: Path) -> None:
    """Clean on the left: the image itself, stretched to [0, 1]."""
    model = load_model(run / "diffenc-0" / "checkpoint")[0].eval()
    assert isinstance(model, DiffEnc)
    x = load("digits", kind="integer").test[:3]
    drawn = encodings(model, x, 5)
    assert drawn.shape == (15, 1, 8, 8) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    flat = x.flatten(1)
    least, most = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    assert (
        float((drawn[::5].flatten(1) - (flat - least) / (most - least)).abs().max()) < 0.01
    )  # sigma^2 = .0003 at the clean end


def test_the_commands_know_the_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(run / "diffenc-0")
    assert main(["evidence", folder, "--k", "8", "--plan", "stratified", "--unit", "bits/dim", "--quiet"]) == 0
    assert "bits/dim" in capsys.readouterr().out
    assert main(["sample", folder, "--n", "4", "--out", str(tmp_path / "drawn.csv")]) == 0
    assert len((tmp_path / "drawn.csv").read_text().splitlines()) == 5


def test_a_finished_run_resumes_to_the_same_result(run: Path) -> None:
    before = json.loads((run / "result.json").read_text())
    assert main([*FLAGS, "--out", str(run), "--resume"]) == 0
    after = json.loads((run / "result.json").read_text())
    assert [m["bits"] for m in after["models"]["diffenc"]] == [m["bits"] for m in before["models"]["diffenc"]]


def test_networks_for_images_and_learned_ends(tmp_path: Path) -> None:
    flags = [
        "--network",
        "unet",
        "--encoder",
        "unet",
        "--encoder-width",
        "4",
        "--ends",
        "learned",
        "--models",
        "diffenc",
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
        "--eval-k",
        "1",
        "--flow-items",
        "0",
        "--quiet",
    ]
    assert main(["run", "diffenc", *flags, *short, "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "less vdm" not in result and result["models"]["diffenc"][0]["high"] != 8.0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--flow-items", "-1"], "--flow-items is -1"),
        (["--models", "vdm", "vdm"], "at most once"),
        (["--encoder-blocks", "0"], "--encoder-blocks 0"),
        (["--high", "-7"], "the first above the"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(flags, words, tmp_path, capsys) -> None:
    assert main(["run", "diffenc", *flags, "--out", str(tmp_path / "no")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "no").exists()
