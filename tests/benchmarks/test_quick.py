"""Every benchmark runs, and the tables shown are those of the committed results."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "alignment",
        "coverage",
        "dg",
        "diffusion",
        "evidence",
        "gradients",
        "masked",
        "mixture",
        "multimodal",
        "random",
        "selection",
        "training",
    ],
)
def test_quick(name, tmp_path):
    if name in ("evidence", "mixture", "multimodal", "training"):
        pytest.importorskip("pythae")
    if name == "multimodal" and find_spec("multivae") is None:
        pytest.skip("multivae is not installed")
    if name == "diffusion":
        pytest.importorskip("diffusers")
        pytest.importorskip("jax")
    if name == "masked":
        pytest.importorskip("gensim")
        pytest.importorskip("transformers")
    if name == "selection":
        pytest.importorskip("bayespy")
    before = {p: p.read_bytes() for p in (ROOT / "benchmarks" / "results").iterdir()}
    done = run(f"bench_{name}.py", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["command"] == f"python benchmarks/bench_{name}.py --quick"
    assert result["machine"]["threads"] == 1
    # The JSON has all that the table needs, and the committed results are as they were.
    import table

    lines = table.TABLES[name](result)
    assert any(line.startswith("| ") for line in lines)
    assert {p: p.read_bytes() for p in (ROOT / "benchmarks" / "results").iterdir()} == before


@pytest.mark.slow
def test_cost_of_counters(tmp_path):
    """ENGINE 2 [m]: a normal costs less than Philox4x32-10 in tensor operations would, and draws are a small share.

    Medians of three runs; the ratios measured (results/random.json) leave room for a busy machine.
    """
    assert run("bench_random.py", "--quick", "--out", str(tmp_path)).returncode == 0
    result = json.loads((tmp_path / "random.json").read_text())
    for sides in result["nanoseconds_a_normal"].values():
        assert sides["infimum (SplitMix64, 128-bit key)"] < sides["Philox4x32-10 in torch operations"]
        assert sides["torch.randn"] < sides["infimum (SplitMix64, 128-bit key)"]  # what purity costs is not hidden
    assert result["share_of_evaluation"]["20 latents, 784 pixels"] < 0.25


def test_tables_are_up_to_date():
    done = run("table.py", "--check")
    assert done.returncode == 0, done.stderr


def test_results_name_no_smoke_test():
    """What is committed was measured for real."""
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert "--quick" not in json.loads(path.read_text())["command"], path.name


def test_a_ratio_is_pairwise_and_its_interval_holds_it():
    import common

    r = common.ratio([2.0, 8.0], [1.0, 2.0])
    assert (r["median"], r["min"], r["max"], r["pairs"]) == (3.0, 2.0, 4.0, 2)
    assert r["geometric_mean"] == pytest.approx(8**0.5)
    # t = 12.706 for one degree of freedom; the log ratios log 2 and log 4 have a standard error of log(2) / 2.
    assert r["high"] / r["geometric_mean"] == pytest.approx(2 ** (12.7062 / 2), rel=1e-3)


def test_sides_take_turns_and_preparation_is_not_timed():
    import time

    import common

    order = []

    def side(name, pause):
        def prepare():
            time.sleep(0.02)
            return lambda: (order.append(name), time.sleep(pause))

        return prepare

    taken = common.paired({"a": side("a", 0.0), "b": side("b", 0.002)}, runs=2)
    assert order == ["b", "a", "a", "b", "b", "a"]  # a warm-up round, then two that count
    assert [len(times) for times in taken.values()] == [2, 2]
    assert max(taken["a"]) < 0.02
