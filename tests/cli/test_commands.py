"""The commands end to end, in this process: a run, its evidence, samples, comparison; and what is refused, by one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from infimum.cli import main
from infimum.evidence import Plan, evaluate, iwae, load_estimate
from infimum.training import load_model
from infimum.vae import defensive

SMALL = ["--steps", "40", "--every", "20", "--eval-k", "64", "--quiet", "--latent", "3", "--hidden", "16"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of every recipe."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["run", "vae", "--out", str(folder / "vae"), *SMALL]) == 0
    assert main(["run", "vae-iwae", "--out", str(folder / "pair"), "--k", "4", *SMALL]) == 0
    assert main(["run", "belief-net", "--out", str(folder / "belief"), *SMALL]) == 0
    assert main(["run", "vae", "--data", "wine", "--out", str(folder / "wine"), *SMALL]) == 0
    return folder


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a refusal: exit code 2, nothing but ``infimum: ...`` on standard error."""
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("infimum: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def test_a_run_leaves_everything(runs: Path) -> None:
    found = {p.relative_to(runs / "vae").as_posix() for p in (runs / "vae").rglob("*") if p.is_file()}
    for name in (
        "config.json", "metrics.jsonl", "result.json", "report.html", "evidence.json",
        "checkpoint/config.json", "checkpoint/data.json", "checkpoint/model.safetensors", "checkpoint/state.json",
        "checkpoint/optimizer-main.safetensors",
        "figures/curves.png", "figures/evidence.png", "figures/samples.png", "figures/reconstructions.png",
    ):  # fmt: skip
        assert name in found
    lines = [json.loads(line) for line in (runs / "vae" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 41))


def test_evidence_is_what_the_library_says(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command's estimate equals `evaluate` on the same items, keys and seed, bit for bit."""
    out, table = tmp_path / "e.json", tmp_path / "e.csv"
    assert main(["evidence", str(runs / "vae"), "--k", "64", "--json", str(out), "--csv", str(table), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "certified mean >=" in text
    assert "Pareto k" in text
    from infimum.data import load

    data = load("digits")
    model, _ = load_model(runs / "vae" / "best")
    expected = evaluate(defensive(model), data.test, Plan.iid(64), iwae, keys=data.test_ids)
    assert torch.equal(load_estimate(out).value, expected.value)
    rows = table.read_text().splitlines()
    assert rows[0].startswith("item,value_nats,stderr_nats")
    assert len(rows) == 1 + len(data.test)
    assert float(rows[1].split(",")[1]) == pytest.approx(float(expected.value[0]), abs=1e-9)


def test_recipe_and_command_agree(runs: Path, tmp_path: Path) -> None:
    """A run's own evidence.json is what ``infimum evidence`` finds with the same number of draws."""
    out = tmp_path / "e.json"
    assert main(["evidence", str(runs / "vae"), "--k", "64", "--json", str(out), "--quiet"]) == 0
    assert torch.equal(load_estimate(out).value, load_estimate(runs / "vae" / "evidence.json").value)


def test_units(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """bits/dim are nats / (64 log 2) for 8 x 8 digits."""
    values = []
    for unit in ("nats", "bits/dim"):
        assert main(["evidence", str(runs / "vae"), "--k", "64", "--unit", unit, "--quiet"]) == 0
        values.append(float(capsys.readouterr().out.split("IWAE-64 ")[1].split()[0]))
    assert values[1] == pytest.approx(values[0] / 64 / np.log(2), abs=1e-4)


def test_belief_net_prints_its_exact_evidence(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", str(runs / "belief"), "--k", "2000", "--quiet"]) == 0
    text = capsys.readouterr().out
    exact = float(text.split("log-sum ")[1].split()[0])
    line = text.split("IWAE-2000 ")[1]
    assert abs(float(line.split()[0]) - exact) < 5 * float(line.split("±")[1].split()[0])


def test_real_data_says_the_units_of_its_density(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", str(runs / "wine"), "--k", "64", "--quiet"]) == 0
    assert "standardised data" in capsys.readouterr().out


def test_a_users_file_goes_through_the_training_preprocessing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Raw grey levels in a file give the evidence of the thresholded items."""
    from sklearn.datasets import load_digits

    raw = load_digits().images[:20].reshape(20, 1, 8, 8)
    np.save(tmp_path / "mine.npy", raw)
    out = tmp_path / "e.json"
    assert (
        main(["evidence", str(runs / "vae"), "--data", str(tmp_path / "mine.npy"), "--k", "64", "--json", str(out)])
        == 0
    )
    model, _ = load_model(runs / "vae" / "best")
    x = torch.from_numpy((raw >= 8).astype("float32"))
    assert torch.equal(load_estimate(out).value, evaluate(defensive(model), x, Plan.iid(64)).value)


def test_one_item_can_be_evaluated(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "one.npy", np.zeros((1, 1, 8, 8)))
    assert main(["evidence", str(runs / "vae"), "--data", str(tmp_path / "one.npy"), "--k", "64", "--quiet"]) == 0
    assert "1 items" in capsys.readouterr().out


def test_checkpoints_are_readable_as_the_umask_says(runs: Path) -> None:
    folder = runs / "vae" / "checkpoint"
    modes = {file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert len(modes) == 1


def test_compare_is_antisymmetric(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opposite = {"better": "worse", "worse": "better", "undecided": "undecided"}
    answers = []
    for pair in (("vae", "iwae-4"), ("iwae-4", "vae")):
        capsys.readouterr()
        assert main(["compare", *(str(runs / "pair" / name) for name in pair)]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        answers.append(last.split(" is ")[1].split(":")[0].split(" ")[0])
    assert opposite[answers[0]] == answers[1]


def test_samples(runs: Path, tmp_path: Path) -> None:
    for name in ("s.png", "s.npy", "s.csv"):
        assert main(["sample", str(runs / "vae"), "--out", str(tmp_path / name), "--n", "10"]) == 0
    values = np.load(tmp_path / "s.npy")
    assert values.shape == (10, 1, 8, 8)
    assert set(np.unique(values)) <= {0.0, 1.0}
    assert np.array_equal(np.loadtxt(tmp_path / "s.csv", delimiter=",", skiprows=1), values.reshape(10, 64))


def test_samples_of_a_table_are_in_its_own_units(runs: Path, tmp_path: Path) -> None:
    from sklearn.datasets import load_wine

    assert main(["sample", str(runs / "wine"), "--out", str(tmp_path / "s.csv"), "--n", "500"]) == 0
    text = (tmp_path / "s.csv").read_text().splitlines()
    assert text[0].startswith("alcohol,")
    drawn = np.loadtxt(tmp_path / "s.csv", delimiter=",", skiprows=1)
    raw = load_wine().data
    assert (np.abs(drawn.mean(0) - raw.mean(0)) < raw.std(0)).all()


def test_rerun_from_config_gives_the_same_numbers(runs: Path, tmp_path: Path) -> None:
    assert (
        main(["run", "--config", str(runs / "vae" / "config.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    )
    first, again = (json.loads((folder / "result.json").read_text()) for folder in (runs / "vae", tmp_path / "again"))
    assert first["evidence"] == again["evidence"]
    assert torch.equal(
        load_estimate(runs / "vae" / "evidence.json").value, load_estimate(tmp_path / "again" / "evidence.json").value
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["frob"], "no command 'frob'"),
        (["evidense"], "did you mean 'evidence'"),
        (["list", "vae"], "takes no arguments"),
        (["run", "vea"], "did you mean 'vae'"),
        (["run", "--steps", "3"], "name comes first"),
        (["run", "vae", "--preset", "huge"], "cpu, gpu, paper"),
        (["run", "vae", "--preset"], "needs a value"),
        (["run", "--config", "nowhere.json"], "cannot be read"),
        (["run", "vae", "--device", "abacus"], "is no device"),
        (["run", "vae", "--data", "nothing.csv"], "no such file"),
        (["run", "vae", "--likelihood", "gaussian"], "does not fit binary data"),
        (["evidence", "nowhere"], "does not exist"),
        (["sample", "nowhere"], "does not exist"),
        (["compare", "nowhere", "elsewhere"], "cannot be read"),
    ],
)
def test_refusals(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(words, capsys)
    assert not list(tmp_path.rglob("config.json"))  # the mended command can use the same folder


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--k", "0"], "--k"),
        (["--delta", "1"], "--delta"),
        (["--rows", "0"], "--rows"),
        (["--plan", "sobol", "--replicates", "7", "--k", "64"], "must divide"),
        (["--plan", "antithetic", "--k", "5"], "even"),
        (["--data", "nothing.npy"], "no such file"),
        (["--json", "nowhere/e.json"], "does not exist"),
        (["--csv", "."], "is a folder"),
        (["--device", "banana"], "is no device"),
        (["--k", "100000000000"], "at most 1,000,000"),
    ],
)
def test_evidence_refusals(flags: list[str], says: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(["evidence", str(runs / "vae"), *flags], capsys)


@pytest.mark.parametrize(
    "field",
    [
        ("steps", "0"), ("lr", "-1"), ("lr", "nan"), ("delta", "2"), ("batch", "0"), ("ema", "1"), ("rule", "magic"),
        ("k", "1000000000000"), ("eval-k", "0"), ("seed", "-1"), ("seed", "99999999999999999999999"), ("split-seed", "-5"),
        ("trackers", "abacus"), ("out", "file/run"), ("precision", "bf16 "),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_and_leave_nothing(
    field: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    refused(["run", "vae", f"--{field[0]}", field[1]], capsys)
    assert not list(tmp_path.rglob("config.json"))


def test_resume_needs_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no config.json" in refused(["run", "vae", "--resume"], capsys)
    assert "no config.json" in refused(["run", "vae", "--resume", "--out", str(tmp_path / "typo")], capsys)


def test_a_belief_net_too_large_to_enumerate_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert "at most 16" in refused(["run", "belief-net", "--latent", "40"], capsys)


def test_conditional_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A conditional VAE from the command line: train, evaluate, sample by label."""
    out = tmp_path / "c"
    assert main(["run", "vae", "--conditional", "--accumulate", "2", "--out", str(out), *SMALL]) == 0
    assert main(["evidence", str(out), "--k", "64", "--quiet"]) == 0
    assert "log p(x|c)" in capsys.readouterr().out
    assert main(["sample", str(out), "--condition", "3", "--n", "4", "--out", str(tmp_path / "s.npy")]) == 0
    assert "needs --condition" in refused(["sample", str(out), "--out", str(tmp_path / "s.npy")], capsys)
    assert "0..9" in refused(["sample", str(out), "--condition", "12", "--out", str(tmp_path / "s.npy")], capsys)
    assert "numbers" in refused(
        ["run", "vae", "--data", "diabetes", "--conditional", "--out", str(tmp_path / "d")], capsys
    )


def test_bracket_on_simulated_items(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both sides with certificates; the belief net's exact evidence lies between them."""
    from infimum.training import load_model

    assert main(["evidence", str(runs / "belief"), "--simulate", "200", "--k", "100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    low, high = (float(line.split("certified mean ")[1].split()[1]) for line in lines[2:4])
    model, _ = load_model(runs / "belief" / "best")
    with torch.no_grad():
        exact = float(model.log_evidence(model.simulate(200, 0)[1]).value.mean())
    assert low < exact < high
    assert high - low < 1.0
    assert "at least 1" in refused(["evidence", str(runs / "belief"), "--simulate", "0"], capsys)


def test_few_items_get_the_split_certificate(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """00-bounds 3.1 e: 20 items, K = 1,000: five groups of 200, slack log(20) / 100."""
    from sklearn.datasets import load_digits

    np.save(tmp_path / "few.npy", load_digits().images[:20].reshape(20, 1, 8, 8))
    assert main(["evidence", str(runs / "vae"), "--data", str(tmp_path / "few.npy"), "--k", "1000", "--quiet"]) == 0
    line = next(text for text in capsys.readouterr().out.splitlines() if "mean of 5" in text)
    value, limit = float(line.split(") ")[1].split()[0]), float(line.split("certified mean >= ")[1].split()[0])
    assert value - limit == pytest.approx(np.log(20) / 100, abs=2e-4)


def test_hostile_checkpoints(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Truncated, foreign and swapped parts of a checkpoint each get a sentence."""
    import shutil

    def copy(name: str) -> Path:
        shutil.copytree(runs / "vae" / "best", tmp_path / name)
        return tmp_path / name

    folder = copy("truncated")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused(["evidence", str(folder)], capsys)
    folder = copy("pickle")
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    refused(["evidence", str(folder)], capsys)
    folder = copy("unknown")
    head = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**head, "model": "os:system"}))
    assert "unknown" in refused(["evidence", str(folder)], capsys)
    folder = copy("swapped")
    shutil.copy(runs / "belief" / "best" / "model.safetensors", folder / "model.safetensors")
    refused(["evidence", str(folder)], capsys)
    folder = copy("nodata")
    (folder / "data.json").unlink()
    assert "data.json" in refused(["evidence", str(folder)], capsys)


def test_doctor_finds_the_engine_exact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "engine on cpu: exact" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--precision", "bf16 "], "invalid choice 'bf16 ' for argument '--precision'. Expected one of ('float32', 'bf16')"),
        (["--nosuch", "1"], "Unrecognized options: --nosuch, 1"),
        (["--steps"], "Missing value for argument '--steps'. Expected 1 values"),
    ],
)  # fmt: skip
def test_a_flag_is_refused_alike_on_every_terminal(flags: list[str], says: str, encoding: str) -> None:
    """tyro draws another box where the terminal has only ASCII."""
    shell = subprocess.run(
        [sys.executable, "-m", "infimum", "run", "vae", *flags],
        env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shell.returncode == 2
    assert shell.stderr == f"infimum: {says}: see infimum run vae --help\n"
