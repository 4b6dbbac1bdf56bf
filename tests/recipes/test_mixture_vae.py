"""The recipe, small: what it writes, its ratios against scipy's, resuming, and what it refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from infimum.cli import main
from infimum.evidence import load_estimate
from infimum.recipes.mixture_vae import OBJECTIVES, MixtureVae
from infimum.training.models import load_model

FLAGS = [
    "run", "mixture-vae", "--seeds", "2", "--epochs", "1", "--latent", "3", "--hidden", "16", "--eval-k", "20", "--texture", "1",
    "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mixture") / "run"
    assert main([*FLAGS, "--out", str(out)]) == 0
    return out


def test_the_result_is_that_of_its_parts(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    parts = {
        name: [json.loads((run / f"{name}-{seed}" / "result.json").read_text()) for seed in (0, 1)]
        for name in OBJECTIVES
    }
    for name, each in parts.items():
        for key in ("mae", "variance", "aggregate", "evidence"):
            values = [one[key] for one in each]
            assert result[name][key]["values"] == pytest.approx(values, rel=1e-6)
            assert result[name][key]["sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-4, abs=1e-6)
            assert values[0] != values[1]
        for one in each:
            assert one["aggregate"] == pytest.approx(one["variance"] + one["spread"], rel=1e-5)
            assert one["estimate"]["certificate"] < one["evidence"]
            assert (one["objective"] == "ELBO") == (name == "kl")
    for name in set(OBJECTIVES) - {"kl"}:
        got = result["mae ratio to kl"][name]
        logs = [[math.log(one["mae"]) for one in parts[which]] for which in (name, "kl")]
        interval = stats.ttest_rel(*logs).confidence_interval(0.95)
        assert (got["low"], got["high"]) == pytest.approx((math.exp(interval.low), math.exp(interval.high)), rel=1e-6)
    for texture in result["texture"].values():
        logs = [np.log(texture[which]["sharpness"]) for which in ("with", "without")]
        interval = stats.ttest_rel(*logs).confidence_interval(0.95)
        got = texture["ratio"]["sharpness"]
        assert (got["low"], got["high"]) == pytest.approx((math.exp(interval.low), math.exp(interval.high)), rel=1e-6)
    assert (run / "figures" / "objectives.png").stat().st_size > 0
    for name in ("samples", "reconstructions", "interpolations", "curves"):
        for data in ("faces", "photographs"):
            assert (run / f"{data}-with-0" / "figures" / f"{name}.png").stat().st_size > 0


def test_a_model_with_residual_networks_is_read_back(run: Path) -> None:
    model, _ = load_model(run / "faces-with-0" / "checkpoint")
    assert model.config.stages == 3 and not model.config.input_norm and not model.training


def test_the_command_evaluates_what_was_trained(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.json"
    assert main(["evidence", str(run / "means-0"), "--k", "20", "--json", str(out), "--quiet"]) == 0
    assert load_estimate(out).side == "lower"


def test_a_finished_run_resumes_to_the_same_result(run: Path) -> None:
    before = json.loads((run / "result.json").read_text())
    assert main([*FLAGS, "--out", str(run), "--resume"]) == 0
    after = json.loads((run / "result.json").read_text())
    for name in OBJECTIVES:
        assert before[name] == after[name]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--objectives", "median"], "--objectives is median, expected some of kl means no-penalty total joint"),
        (["--objectives", "kl", "kl"], "each once"),
        (["--batch", "3"], "--batch is 3, expected at least 4"),
        (["--r", "0"], "--r must be positive"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--data", "wine"], "wine"),
        (["--network", "resnet", "--stages", "4"], "multiples of 16"),
    ],
)
def test_refusals(flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mixture-vae", *flags, "--epochs", "1", "--out", str(tmp_path / "r")]) == 2
    assert says in capsys.readouterr().err


def test_presets_are_configurations() -> None:
    for name in ("cpu", "gpu", "paper"):
        MixtureVae.preset(name).check()
    assert MixtureVae.preset("paper").batch == 10
