"""The reproduction recipe, small: what it writes, its intervals against scipy's, resuming, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from infimum.cli import main
from infimum.evidence import load_estimate
from infimum.recipes.iwae import Iwae, paired

FLAGS = [
    "run", "iwae", "--ks", "1", "3", "--seeds", "2", "--epochs", "3", "--latent", "2", "--hidden", "16", "--eval-k", "50",
    "--simulate", "40", "--anneal", "10", "--chains", "2", "--temperatures", "4", "--belief-steps", "30", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("iwae") / "run"
    assert main([*FLAGS, "--out", str(out)]) == 0
    return out


def test_the_result_is_that_of_its_parts(run: Path) -> None:
    """Means over seeds, differences and intervals follow from the evidence.json of every model."""
    result = json.loads((run / "result.json").read_text())
    values = {
        name: [load_estimate(run / f"{name}-{seed}" / "evidence.json").mean().value for seed in (0, 1)]
        for name in ("vae", "iwae-3")
    }
    for name, each in values.items():
        assert result["seeds"][name]["values"] == pytest.approx(each, abs=1e-12)
        assert result["seeds"][name]["mean"] == pytest.approx(np.mean(each))
        assert result[f"{name}-0"]["evidence"]["iwae"]["certificate"] < each[0]
        assert each[0] != each[1]  # the seeds are different trainings, evaluated by different draws
    one = result["ranking"]["iwae-3 - vae"]
    assert one["difference"] == pytest.approx(np.mean(values["iwae-3"]) - np.mean(values["vae"]))


def test_brackets_and_the_belief_net(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    for name in ("vae", "iwae-3"):
        for how, items in (("weighted", 40), ("annealed", 10)):
            one = result[f"{name}-simulated"][how]
            assert one["items"] == items and one["lower"]["side"] == "lower" and one["upper"]["side"] == "upper"
            assert one["width"] == pytest.approx(one["upper"]["certificate"] - one["lower"]["certificate"])
            assert one["gap"] == pytest.approx(one["upper"]["value"] - one["lower"]["value"], abs=1e-9)
    belief = result["belief-net"]
    low, high = belief["certified"]
    assert belief["inside"] == (low <= belief["exact"]["value"] <= high)
    assert belief["inside"] and belief["evidence"]["iwae"]["delta"] == 0.025
    assert (run / "figures" / "evidence.png").stat().st_size > 0


def test_a_finished_run_resumes_to_the_same_result(run: Path) -> None:
    before = json.loads((run / "result.json").read_text())
    assert main([*FLAGS, "--out", str(run), "--resume"]) == 0
    after = json.loads((run / "result.json").read_text())
    for name in ("seeds", "ranking", "vae-simulated"):
        assert before[name] == after[name]


def test_the_paired_interval_is_scipys() -> None:
    """A second formula: the confidence interval of a paired t-test."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(-17, 0.2, 5), generator.normal(-17.3, 0.2, 5)
    for delta in (0.05, 0.2):
        got = paired(list(first), list(second), delta)
        expected = stats.ttest_rel(first, second).confidence_interval(1 - delta)
        assert (got["low"], got["high"]) == pytest.approx((expected.low, expected.high))
    assert paired([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], 0.05)["answer"] == "better"
    assert paired([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], 0.05)["answer"] == "worse"
    assert paired([0.0, 5.0], [1.0, 2.0], 0.05)["answer"] == "undecided"
    assert paired([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], 0.05, slack=1.5)["answer"] == "undecided"
    alone = paired([1.0], [0.0], 0.05)
    assert alone["low"] is alone["high"] is None
    assert alone["answer"] == "undecided: one seed has no interval"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--ks", "5", "1"], "increasing numbers of draws"),
        (["--ks", "0", "1"], "increasing numbers of draws"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--anneal", "2000"], "from 1 to --simulate 1000"),
        (["--belief-steps", "-1"], "--belief-steps is -1"),
        (["--epochs", "0"], "--epochs is 0"),
    ],
)
def test_refusals(flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "iwae", *flags, "--out", str(tmp_path / "r")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_presets_are_configurations() -> None:
    for name in ("cpu", "gpu", "paper"):
        Iwae.preset(name).check()
    assert Iwae.preset("paper").epochs == 3280
