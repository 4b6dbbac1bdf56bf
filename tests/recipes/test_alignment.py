"""The recipes `spg`, `gdpo`, `bgpo` and `vrpo`, small: what they write, the commands on their checkpoints, refusals."""

import json
import math
from pathlib import Path

import pytest
import torch

from infimum.alignment import Sampling, preference_score
from infimum.cli import main
from infimum.evidence import Plan
from infimum.language.tasks import puzzles, valid_grids
from infimum.recipes.sudoku_base import solved, sudoku_prompts
from infimum.recipes.tiny_world import every_sequence, markov_log_prob, markov_sequences, tiny_world
from infimum.recipes.vrpo import preference_pairs
from infimum.training import Run, load_model

SMALL = ["--seeds", "2", "--steps", "4", "--base-steps", "20", "--items", "24", "--quiet"]
ONLINE = [*SMALL, "--every", "2", "--batch", "3", "--num-generations", "4", "--blanks", "8"]
RUNS = {
    "spg": [*ONLINE, "--negatives", "elbo", "eubo"],
    "gdpo": [*ONLINE, "--compared", "gauss", "mean-field", "--repeats", "3"],
    "bgpo": [*ONLINE, "--n-t", "2", "--memory-ks", "1", "4"],
    "vrpo": [*SMALL, "--pairs", "64", "--batch", "16", "--blanks", "8", "--report-pairs", "6", "--repeats", "3"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alignment")
    for name, flags in RUNS.items():
        assert main(["run", name, *flags, "--out", str(folder / name)]) == 0
    return folder


@pytest.mark.parametrize("name", ["spg", "gdpo", "bgpo"])
def test_measures_are_those_of_the_saved_policies(runs: Path, name: str) -> None:
    result = json.loads((runs / name / "result.json").read_text())
    test = sudoku_prompts(24, 8, held_out=True, seed=0)
    found = 0
    for folder in runs.joinpath(name).iterdir():
        if not (folder / "checkpoint").exists() or folder.name == "base":
            continue
        model = load_model(folder / "checkpoint")[0].eval()
        told = json.loads((folder / "result.json").read_text())
        share = float(solved(model, test, Sampling(steps=4, temperature=0.0)).double().mean())
        assert told["greedy"] == share and told["curve"][-1] == [4, share] and [s for s, _ in told["curve"]] == [2, 4]
        found += 1
    assert found == sum(map(len, result["methods"].values())) >= 4
    assert (runs / name / "figures" / "learning-curves.png").stat().st_size > 0
    if name == "spg":
        both = result["sandwich"]
        assert both["ELBO below"] > 0 and both["EUBO"]["8"]["above"] > 0 and both["EUBO"]["8"]["certified"]
    if name == "gdpo":
        assert result["estimators"]["mean field (diffu-GRPO)"]["variance"] == pytest.approx(0, abs=1e-10)
    if name == "bgpo":
        assert result["memory"]["bgpo"]["4"] <= 1.05 * result["memory"]["bgpo"]["1"] < result["memory"]["graph"]["4"]


def test_resumed_runs_tell_what_they_cost(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished run that is taken up again ends in the same result."""
    before = json.loads((runs / "gdpo" / "result.json").read_text())
    assert main(["run", "gdpo", *RUNS["gdpo"], "--resume", "--out", str(runs / "gdpo")]) == 0
    after = json.loads((runs / "gdpo" / "result.json").read_text())
    assert all(after[name] == before[name] for name in ("base", "methods", "estimators"))
    one = before["methods"]["GDPO, Gauss-3"][0]
    # 4 steps: 12 completions by 4 calls each, and 4 updates of 3 masks for as many as have an advantage, 3 times before them
    assert one["steps_per_second"] > 0 and 4 * 12 * 4 <= one["calls"] <= 4 * 12 * (4 + 7 * 3)


def test_long_completions_leave_exact_sums_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*SMALL, "--every", "2", "--batch", "3", "--blanks", "14", "--seeds", "1", "--negatives", "elbo"]
    assert main(["run", "spg", *flags, "--out", str(tmp_path / "run")]) == 0
    assert "no sums over all masks of 14 blanks" in capsys.readouterr().out
    assert "sandwich" not in json.loads((tmp_path / "run" / "result.json").read_text())


def test_preferences(runs: Path) -> None:
    """Pairs are what they are called; scores of the saved policy are those that were told."""
    result = json.loads((runs / "vrpo" / "result.json").read_text())
    base = load_model(runs / "vrpo" / "base" / "checkpoint")[0].eval()
    pairs = preference_pairs(base, 24, 8, held_out=True, seed=0)
    assert bool(valid_grids(pairs["chosen/tokens"]).all()) and not bool(valid_grids(pairs["rejected/tokens"]).any())
    given = ~pairs["chosen/target"]
    assert torch.equal(pairs["chosen/tokens"][given], pairs["rejected/tokens"][given])
    policy = load_model(runs / "vrpo" / "8-masks-shared-1" / "checkpoint")[0].eval()
    draws = Plan.stratified(16).draws(torch.arange(24), seed=1, salt="eval")
    margin = preference_score(policy, base, preference_pairs(base, 24, 8, held_out=True, seed=0), draws).margin
    told = result["methods"]["8 masks, shared"][1]
    assert told["margin"] == pytest.approx(float(margin.mean()), abs=1e-4)
    first = [m["first_loss"] for m in result["methods"]["1 mask, shared"]]
    assert first == pytest.approx([0.693147] * 2, abs=1e-5)
    assert result["methods"]["1 mask, not shared"][0]["first_loss"] != pytest.approx(0.693147, abs=1e-3)
    assert len(result["variances"]) == 7


def test_grids_for_training_and_held_out_ones_are_apart() -> None:
    """No held-out solution is ever a training solution, in either form."""
    mine, theirs = ({row["solution"] for row in puzzles(2000, held_out=h, unique=False)} for h in (False, True))
    assert not mine & theirs and len(mine) <= 200 and len(theirs) <= 88


def test_samples_are_digits(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "drawn.txt"
    assert main(["sample", str(runs / "spg" / "elbo-0"), "--n", "3", "--out", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert len(lines) == 3 and all(len(line) == 16 and set(line) <= set("1234") for line in lines)


def test_tiny_world(tmp_path: Path) -> None:
    """Probabilities of all sequences add up to 1, and training has done something."""
    from infimum.discrete import exact_log_likelihood

    model = tiny_world(Run(tmp_path / "run", quiet=True), steps=150)
    assert model is not None
    with torch.no_grad():
        log_p = exact_log_likelihood(model, every_sequence()).value
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    truth = markov_log_prob(every_sequence())
    assert float(truth.exp().sum()) == pytest.approx(1, abs=1e-6)
    gap = float(
        (truth.exp() * (truth - log_p)).sum()
    )  # Kullback-Leibler, in nats; 6 log 3 less the entropy at the start
    assert 0 < gap < 0.2 * (6 * math.log(3) + float((truth.exp() * truth).sum()))
    x = markov_sequences(40_000, seed=3)
    one = (x[:, 3] == 1).double().mean()
    exact = float((truth.exp() * (every_sequence()[:, 3] == 1)).sum())
    assert abs(float(one) - exact) < 4.5 * (exact * (1 - exact) / 40_000) ** 0.5


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["spg", "--eubo-beta", "0.5"], "Renyi order"),
        (["spg", "--blanks", "9"], "multiple of --cells 2"),
        (["spg", "--num-generations", "1"], "--num-generations is 1"),
        (["spg", "--temperature", "0"], "--temperature is 0"),
        (["spg", "--network", "transformer", "--width", "30"], "does not divide into 4 heads"),
        (["gdpo", "--points", "0"], "points is 0"),
        (["bgpo", "--n-t", "0"], "--n-t is"),
        (["vrpo", "--repeats", "1"], "--repeats is 1"),
        (["vrpo", "--beta", "0"], "positive strength"),
    ],
)
def test_refusals(flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *flags, "--out", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()
