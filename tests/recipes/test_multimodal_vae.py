"""The two multimodal recipes, small: what they write, what follows from what, resuming, and what they refuse."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from infimum.cli import main
from infimum.data.polydigits import polydigits
from infimum.evidence import Plan, evaluate, load_estimate
from infimum.recipes.multimodal_gap import MultimodalGap, summary
from infimum.recipes.multimodal_table import panel
from infimum.recipes.multimodal_vae import MultimodalVae
from infimum.testing.oracles.multimodal import LinearGaussianModalities
from infimum.training import load_model
from infimum.vae.multimodal import conditional_evidence, linear_moments

FLAGS = [
    "run", "multimodal-vae", "--modalities", "2", "--models", "mvae", "mopoe", "--latent", "2", "--hidden", "4", "4",
    "--width", "16", "--epochs", "2", "--batch", "200", "--eval-k", "10", "--eval-items", "20", "--samples", "50",
    "--judge-steps", "2", "--judge-least", "0", "--beta", "2.5", "--quiet",
]  # fmt: skip
GAP = [
    "run",
    "multimodal-gap",
    "--modalities",
    "2",
    "--models",
    "mvae",
    "mmvae",
    "--seeds",
    "2",
    "--steps",
    "100",
    "--quiet",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("multimodal") / "run"
    assert main([*FLAGS, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def test_the_evidence_is_that_of_the_saved_models(run: Path, result: dict) -> None:
    """Evaluated again from the checkpoint; unimodal VAEs are independent, so that theirs add up."""
    data = polydigits(2)
    x = {f"m{i}": data.test[:20, i] for i in range(2)}
    for name in ("mvae-2m", "mopoe-2m"):
        model, spec = load_model(run / name / "checkpoint")
        again = evaluate(model, x, Plan.iid(10), keys=data.test_ids[:20])
        torch.testing.assert_close(load_estimate(run / name / "evidence.json").value, again.value)
        told = result[name]["evidence"]["joint"]
        assert told["value"] == pytest.approx(float(again.value.mean())) and told["certificate"] < told["value"]
        assert spec["shape"] == [2, 3, 16, 16] and panel(result[name], "evidence") == told["value"] / 2
    alone = [load_estimate(run / f"unimodal-{i}" / "evidence.json").mean(0.025) for i in range(2)]
    total = result["unimodal-2m"]["sum_of_unimodal"]
    assert total["value"] == pytest.approx(sum(one.value for one in alone))
    assert total["certificate"] == pytest.approx(sum(one.certificate for one in alone))
    assert total["stderr"] == pytest.approx(math.hypot(*(one.stderr for one in alone)))


def test_what_is_measured_is_in_its_range(run: Path, result: dict) -> None:
    for name in ("mvae-2m", "mopoe-2m"):
        row = result[name]
        assert list(row["conditional_coherence"]) == ["1"]
        assert len(row["coherence_stderr"]) == 2
        assert 0 <= row["joint_coherence"] <= 1 and -1e-9 <= row["label_entropy"] <= math.log(10) + 1e-9
        assert row["frechet"] == pytest.approx(np.mean(list(row["frechet_each"].values()))) and row["frechet"] > 0
        assert (run / name / "figures" / "samples.png").stat().st_size > 0
    assert math.isnan(panel(result["unimodal-2m"], "given_one"))
    assert set(result["judges"]) == set(result["floor"]) == {"m0", "m1"}
    assert (run / "figures" / "models.png").stat().st_size > 0


def test_the_command_line_takes_its_checkpoints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``infimum evidence`` on the test tuples that the run wrote down."""
    child = run / "mopoe-2m"
    assert main(["evidence", str(child), "--data", str(child / "test.npy"), "--k", "5", "--quiet"]) == 0
    assert "IWAE-5" in capsys.readouterr().out


def test_a_finished_run_resumes_to_the_same_result(run: Path, result: dict) -> None:
    assert main([*FLAGS, "--out", str(run), "--resume"]) == 0
    again = json.loads((run / "result.json").read_text())
    for name in ("unimodal-2m", "mvae-2m", "mopoe-2m"):
        for key in ("frechet", "probe_one"):
            assert again[name][key] == pytest.approx(result[name][key])
    assert again["mvae-2m"]["evidence"] == result["mvae-2m"]["evidence"]


def test_a_scaled_loss_is_said_to_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*FLAGS[:-1], "--models", "mmvae", "--epochs", "2", "--translated", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "note: the training objective was subsampled_elbo with beta=2.5" in said and "not a bound" in said
    assert "translated-polydigits, 397 test tuples" in said and "mmvae-2m" in said


@pytest.fixture(scope="module")
def gap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gap") / "run"
    assert main([*GAP, "--out", str(out)]) == 0
    return out


def test_divergences_are_exact_and_follow_from_the_checkpoints(gap: Path) -> None:
    """Against a Monte Carlo mean of log p / q over 20,000 items of the world (|z| < 5.5)."""
    result = json.loads((gap / "result.json").read_text())
    assert (gap / "figures" / "divergences.png").stat().st_size > 0
    for member in ("mvae", "mmvae"):
        told = result[f"{member}-2m"]["divergence"]
        assert told == summary(told["values"], 0.05) | {"values": told["values"]}
        for seed in (0, 1):
            world = LinearGaussianModalities.world(2, seed)
            with torch.no_grad():
                mean, covariance = linear_moments(load_model(gap / f"{member}-2m-{seed}" / "checkpoint")[0])
            _, x = world.simulate(20_000, seed=99)
            items = torch.cat(list(x.values()), 1)
            ratio = world.log_evidence(x) - torch.distributions.MultivariateNormal(mean, covariance).log_prob(items)
            assert abs(float(ratio.mean()) - told["values"][seed]) / float(ratio.std() / 20_000**0.5) < 5.5
    assert result["mmvae-2m"]["divergence"]["mean"] > result["mvae-2m"]["divergence"]["mean"]  # 100 steps tell already


def test_the_interval_over_seeds_is_scipys() -> None:
    values = [5.2, 6.1, 4.9, 5.5]
    got = summary(values, 0.1)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (got["low"], got["high"]) == pytest.approx((expected.low, expected.high))
    assert summary([1.0], 0.1)["low"] is None


@pytest.mark.parametrize(
    ("recipe", "flags", "says"),
    [
        ("multimodal-vae", ["--modalities", "1", "2"], "--modalities is (1, 2), expected numbers from 2 to 5"),
        ("multimodal-vae", ["--modalities", "2", "2"], "each of them once"),
        ("multimodal-vae", ["--epochs", "1"], "--epochs is 1, expected a whole number of at least 2"),
        ("multimodal-vae", ["--copies", "0"], "--copies is 0"),
        ("multimodal-vae", ["--judge-least", "2"], "--judge-least is 2.0, expected an accuracy from 0 to 1"),
        ("multimodal-vae", ["--scale", "-1"], "positive scale, got -1.0"),
        ("multimodal-gap", ["--modalities", "13"], "expected numbers from 1 to 12"),
        ("multimodal-gap", ["--seeds", "0"], "--seeds is 0"),
        ("multimodal-gap", ["--models", "mvae", "mvae"], "each of them once"),
    ],
)
def test_refusals(recipe: str, flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, *flags, "--out", str(tmp_path / "r")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_presets_are_configurations() -> None:
    for recipe in (MultimodalVae, MultimodalGap):
        for name in ("cpu", "gpu", "paper"):
            recipe.preset(name).check()
    paper = MultimodalVae.preset("paper")
    assert (paper.latent, paper.beta, paper.lr, paper.batch, paper.epochs) == (512, 2.5, 5e-4, 256, 300)


def test_conditional_evidence_by_the_command(run: Path, result: dict, tmp_path: Path, capsys) -> None:
    """The command prints what the function finds: on the test data, and certified on items of the model's own."""
    folder = str(run / "mopoe-2m")
    data = polydigits(2)
    model = load_model(run / "mopoe-2m" / "checkpoint")[0].eval()
    np.save(tmp_path / "few.npy", data.test[:6].numpy())
    flags = ["evidence", folder, "--given", "m0", "--k", "20", "--quiet"]
    assert main([*flags, "--data", str(tmp_path / "few.npy")]) == 0
    few = capsys.readouterr().out.strip()
    x = {f"m{i}": data.test[:6, i] for i in range(2)}
    told = conditional_evidence(model, x, ["m0"], plan=Plan.iid(20))
    assert few == str(told)
    assert main(flags) == 0  # the held-out split, made again
    x = {f"m{i}": data.test[:, i] for i in range(2)}
    whole = conditional_evidence(model, x, ["m0"], plan=Plan.iid(20), keys=data.test_ids)
    assert capsys.readouterr().out.strip() == str(whole)
    assert main([*flags, "--simulate", "5", "--target", "m1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("log p(m1 | m0)") and "(certified)" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--given", "m7"], "the model's modalities are m0, m1"),
        (["--given", "m0", "--target", "m9"], "--target m9: the model's modalities are m0, m1"),
        (["--given", "m0", "--target", "m0"], "both given and a target"),
        (["--target", "m0"], "give both, or neither"),
        (["--given", "m0", "m1"], "nothing is left to tell: m0, m1 are given"),
        (["--given", "m0", "m0"], "'m0' is named twice"),
        (["--given", "m0", "--proposal", "defensive"], "leave one of them out"),
        (["--given", "m0", "--json", "a.json"], "leave out --json"),
        (["--given", "m0", "--method", "smc"], "leave out --method smc"),
        (["--given", "m0", "--unit", "bits"], "leave out --unit bits"),
    ],
)
def test_refusals_of_conditional_evidence(flags: list[str], says: str, run: Path, capsys) -> None:
    assert main(["evidence", str(run / "mopoe-2m"), *flags]) == 2
    assert says in capsys.readouterr().err


def test_samples_of_several_modalities_are_written(run: Path, tmp_path: Path) -> None:
    """Side by side, as the data are."""
    out = tmp_path / "drawn.npy"
    assert main(["sample", str(run / "mopoe-2m"), "--n", "3", "--out", str(out)]) == 0
    assert np.load(out).shape == (3, 2, 3, 16, 16)
