"""Recipe model-selection: the worlds are what they say, the shares follow from the choices, and a run leaves its files."""

import json
from pathlib import Path

import numpy as np
import pytest

from infimum.cli import main
from infimum.recipes.model_selection import REFERENCE
from infimum.recipes.selection_worlds import NOISES, RULES, choices, hit_rates, simulate
from infimum.selection import VariationalPPCA


@pytest.mark.parametrize("noise", NOISES)
def test_worlds_have_the_covariance_that_they_claim(noise: str) -> None:
    """Eigenvalues of the population: squared loadings + noise variance. z-test at 5 standard errors, 5 worlds: 3e-6 false alarms.

    Each noise is checked by its mean square (its variance over columns and rows is 1 but for heteroscedastic 1.06 and contaminated
    2.2), with the standard error from rows, whose own spread is estimated.
    """
    n = 40_000
    noisy = NOISES[noise](np.random.default_rng(0), n, 10)
    square = (noisy**2).mean(1)
    truth = {"hetero": float((np.linspace(0.6, 1.4, 10) ** 2).mean()), "contaminated": 0.95 + 0.05 * 25}.get(noise, 1.0)
    if noise != "t3":  # whose squares have no variance
        assert abs(square.mean() - truth) < 5 * square.std() / np.sqrt(n)
    else:  # its quartile is known: t3 has 0.7649 / sqrt(3)
        below = (noisy < 0.764892 / np.sqrt(3)).mean()
        assert abs(below - 0.75) < 5 * np.sqrt(0.75 * 0.25 / noisy.size)


def test_factors_have_the_loadings_that_they_claim() -> None:
    x = simulate("gauss", 200_000, np.random.default_rng(1))
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    expected = np.concatenate((1 + np.linspace(2.5, 1.25, 3) ** 2, np.ones(7)))
    # A sample eigenvalue of a simple population eigenvalue has a relative standard deviation of sqrt(2 / n) (Anderson 1963).
    assert np.abs(values[:3] / expected[:3] - 1).max() < 5 * np.sqrt(2 / len(x))
    assert values[3:].mean() == pytest.approx(1, abs=5 * np.sqrt(2 / (7 * len(x))))


def test_choices_are_those_of_the_estimators() -> None:
    x = simulate("hetero", 80, np.random.default_rng(2))
    found = choices(x, RULES)
    for name, settings in RULES.items():
        for orbit, key in ((False, name), (True, f"{name} + orbit")):
            fitted = VariationalPPCA(max_components=9, random_state=0, orbit=orbit, **settings).fit(x)
            assert found[key] == fitted.n_components_
    assert len({found[key] for key in found}) > 1  # the rules do differ here


def test_hit_rates_follow_from_the_choices() -> None:
    table = hit_rates(4, seed=3, worlds={"small": (40, "gauss")})["small"]
    each = [choices(simulate("gauss", 40, np.random.default_rng([3, 0, r])), RULES) for r in range(4)]
    for rule, row in table.items():
        chosen = np.array([one[rule] for one in each])
        assert row["hits"] == (chosen == 3).mean() and row["mean"] == chosen.mean()
        assert row["stderr"] == pytest.approx(np.sqrt(row["hits"] * (1 - row["hits"]) / 4))


def test_well_specified_worlds_are_found() -> None:
    """200 Gaussian rows show 3 factors to every rule but parallel analysis and strong tempering; one of six may be missed."""
    table = hit_rates(6, seed=5, worlds={"200 Gauss": (200, "gauss")})["200 Gauss"]
    for rule in ("a=1", "a=1 + orbit", "default", "minka", "bic"):
        assert table[rule]["hits"] >= 5 / 6
    assert REFERENCE["200 Gauss"]["a=1"] == 1.0


def test_a_run_leaves_everything_and_its_claims_hold(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--replicates", "1", "--certificates", "6", "--clusters", "4", "--tables", "iris", "--quiet"]
    assert main(["run", "model-selection", "--out", str(out), *flags]) == 0
    for name in ("config.json", "result.json", "table.txt", "metrics.jsonl", "figures/hit-rates.png"):
        assert (out / name).exists(), name
    result = json.loads((out / "result.json").read_text())
    for one in result["certificate"].values():  # the theorem, with room for the Monte Carlo error of 6 data sets
        assert one["slack"] > -4 * one["stderr"] and one["replicates"] == 6
        assert one["slack"] == pytest.approx(one["limit"] - one["risk"])
    one = result["prediction"]
    assert one["chosen"] <= one["best"] and one["loss"] < 0.02
    wine = result["wine with missing cells"]
    assert min(row["nll"] for row in wine["by_components"].values()) == wine["rules"]["best in hindsight"]["nll"]
    assert wine["rules"]["evidence"]["rmse"] < wine["by_components"]["0"]["rmse"]  # better than the columns' means
    assert result["three clusters"]["chosen"]["criterion"] == 3
    text = (out / "table.txt").read_text()
    assert "oracle inequality" in text and f"{wine['rules']['evidence']['rmse']:.3f}" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--replicates", "0"], "--replicates is 0"), (["--rows", "3"], "--rows is (3,)"), (["--missing", "0.9"], "--missing is 0.9"),
     (["--certificates", "1"], "--certificates is 1"), (["--clusters", "2"], "--clusters is 2"),
     (["--tables", "mice"], "--tables is mice")],
)  # fmt: skip
def test_what_cannot_run_is_refused(flags: list[str], words: str, tmp_path: Path, capsys) -> None:
    assert main(["run", "model-selection", "--out", str(tmp_path / "r"), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
