"""The recipe, small: what it writes, its intervals, resuming, evaluation of its models, and what it refuses."""

import json
from pathlib import Path

import pytest
from scipy import stats

from infimum.cli import main
from infimum.data.text import Vocabulary
from infimum.evidence import load_estimate
from infimum.recipes.dg_vae import MODELS, DgVae
from infimum.training.models import load_model

WORDS = {"the", "a", "cat", "dog", "bird", "sees", "likes", "red", "old"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "mine.txt"
    subjects = [f"{d} {a} {n}" for d in ("the", "a") for a in ("red", "old") for n in ("cat", "dog", "bird")]
    file.write_text("\n".join(f"{s} {v} {o}." for s in subjects for v in ("sees", "likes") for o in subjects), "utf-8")
    return file


def flags(corpus: Path) -> list[str]:
    return [
        "run", "dg-vae", "--data", str(corpus), "--models", "vae", "dg", "dg-vmf", "--seeds", "2", "--epochs", "2",
        "--anneal-epochs", "1", "--latent", "3", "--embedding", "8", "--hidden", "12", "--items", "20",
        "--eval-k", "4", "--longest", "8", "--quiet",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dg") / "run"
    assert main([*flags(corpus), "--out", str(out)]) == 0
    return out


def test_the_result_is_that_of_its_parts(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    parts = {
        name: [json.loads((run / f"{name}-{seed}" / "result.json").read_text()) for seed in (0, 1)]
        for name in ("vae", "dg", "dg-vmf")
    }
    for name, each in parts.items():
        for key in ("prior_ll", "post_ll", "divergence", "information", "active"):
            assert result[name][key]["values"] == [one[key] for one in each]
        for one in each:
            assert one["estimate"]["certificate"] < one["prior_ll"] < 0
            assert one["information"] < one["cap"] and one["bucketing"] == "random"
            assert (one["objective"] == "ELBO") == (name == "vae")
            assert len(one["interpolated"]) == 2 and len(one["interpolated"][0]) == 5
    got = result["dg minus"]["vae"]["prior_ll"]
    interval = stats.ttest_rel(
        *[[one["prior_ll"] for one in parts[name]] for name in ("dg", "vae")]
    ).confidence_interval(0.95)
    assert (got["low"], got["high"]) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert (run / "figures" / "models.png").stat().st_size > 0


def test_models_are_read_back_with_their_words(run: Path) -> None:
    model, data = load_model(run / "dg-vmf-0" / "checkpoint")
    assert set(model.vocabulary.words) > WORDS and data["name"] == "mine.txt"


def test_a_finished_run_resumes_to_the_same_result(run: Path, corpus: Path) -> None:
    before = json.loads((run / "result.json").read_text())
    assert main([*flags(corpus), "--out", str(run), "--resume"]) == 0
    assert json.loads((run / "result.json").read_text())["dg"] == before["dg"]


def test_the_official_schedule_ends_at_the_best_validation(corpus: Path, tmp_path: Path) -> None:
    """Two further regularisers by it: the model that is kept has the best validation loss of the run."""
    at = flags(corpus).index("--models")
    rest = flags(corpus)[at + 4 :]
    given = ["run", "dg-vae", "--data", str(corpus), "--models", "aae", "tc", *rest, "--seeds", "1", "--batch", "16"]
    assert main([*given, "--schedule", "plateau", "--epochs", "3", "--lr", "0.05", "--out", str(tmp_path / "run")]) == 0
    for name in ("aae", "tc"):
        folder = tmp_path / "run" / f"{name}-0"
        one = json.loads((folder / "result.json").read_text())
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses = [-line["validation"] for line in lines if "validation" in line]
        assert len(losses) == 3 and one["best_validation"] == pytest.approx(min(losses), rel=1e-6)
        assert one["consistent"] == one["consistent_at"][1] and "is not an ELBO" in one["objective"]
        assert one["outside"] == pytest.approx(one["divergence"] - one["information"], abs=1.0)
        assert ("discriminator" in lines[0]) == (name == "aae")


def test_the_command_evaluates_a_model_of_the_embedded_sentences(tmp_path: Path) -> None:
    short = [
        "--models",
        "vae",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--hidden",
        "4",
        "--embedding",
        "2",
        "--items",
        "4",
        "--batch",
        "500",
    ]
    assert main(["run", "dg-vae", *short, "--quiet", "--out", str(tmp_path / "run")]) == 0
    out = tmp_path / "e.json"
    assert (
        main(
            ["evidence", str(tmp_path / "run" / "vae-0"), "--split", "valid", "--k", "2", "--json", str(out), "--quiet"]
        )
        == 0
    )
    estimate = load_estimate(out)
    assert estimate.side == "lower" and estimate.certified


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--models", "gan"], "--models is gan, expected some of vae cyclic"),
        (["--models", "vae", "vae"], "each once"),
        (["--eval-k", "5"], "--eval-k is 5, expected an even number"),
        (["--models", "dg-8", "--batch", "12"], "a batch of 12 does not divide into parts of 8"),
        (["--batch", "1"], "the aggregated posterior of one item equals the VAE objective"),
        (["--models", "vmf", "--kappa", "-2"], "kappa is -2.0"),
        (["--models", "bn-2"], "--models is bn-2, expected some of vae cyclic beta-.8"),
        (["--anneal-epochs", "0"], "the weight rises for 0.0"),
        (["--data", "nowhere.txt"], "nowhere.txt: cannot be read"),
    ],
)
def test_refusals(wrong: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "dg-vae", *wrong, "--out", str(tmp_path / "r")]) == 2
    assert says in capsys.readouterr().err


def test_presets_are_configurations() -> None:
    for name in ("cpu", "gpu", "paper"):
        DgVae.preset(name).check()
    assert DgVae.preset("paper").models == tuple(MODELS) and DgVae.preset("paper").schedule == "plateau"


def test_models_are_those_with_official_parameters() -> None:
    """Section 5 of 2211.00321 and its code: every name says its number."""
    objective = {name: DgVae()._objective(name) for name in MODELS}
    assert [objective[f"beta-{b}"].beta for b in (".8", ".4", ".2", ".1", "0")] == [0.8, 0.4, 0.2, 0.1, 0.0]
    assert [objective[f"fb-{t}"].target for t in (4, 9, 16, 25, 36, 49)] == [4, 9, 16, 25, 36, 49]
    assert [objective[f"dg-{b}"].aggregate for b in (1, 2, 4, 8, 16)] == [1, 2, 4, 8, 16]
    vocabulary = Vocabulary.fit([["a"]])
    config = {name: DgVae(kappa=17.0)._config(name, vocabulary, 5) for name in MODELS}
    assert [config[f"bn-{g}"].gamma for g in (".7", ".9", "1.2", "1.5", "1.8")] == [0.7, 0.9, 1.2, 1.5, 1.8]
    for name in ("vmf", "dg-vmf"):
        assert [config[f"{name}-{k}"].kappa for k in (25, 50, 100, 200)] == [25, 50, 100, 200]
        assert config[name].kappa == 17
