"""``infimum evidence --method``: what it prints is what the library says, and contradictions are one sentence each."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars
import pytest
import torch

from cli.sequential_model import TinyChain, TinyChainConfig
from infimum.cli import main
from infimum.data import DataSpec, load
from infimum.evidence import Plan, ais, annealed_smc, evaluate, gibbs, iwae, load_estimate, sigmoid_betas, smc, tune
from infimum.training import load_model, save_model
from infimum.training.models import MODELS
from infimum.vae import VAE, BeliefNet, BeliefNetConfig, VAEConfig

DIGITS = load("digits")


def save(path: Path, model, name: str, spec: DataSpec) -> str:
    import json

    save_model(path, model, name, json.loads(spec.to_json()))
    return str(path)


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> str:
    """A checkpoint of an untrained VAE: an encoder that is off, so that methods differ."""
    torch.manual_seed(0)
    model = VAE(VAEConfig(shape=(1, 8, 8), latent=2, hidden=(16,)))
    return save(tmp_path_factory.mktemp("vae") / "c", model, "vae", DIGITS.spec)


@pytest.fixture(scope="module")
def belief(tmp_path_factory) -> str:
    """A checkpoint of an untrained belief net, whose evidence is a sum over 16 states."""
    torch.manual_seed(0)
    model = BeliefNet(BeliefNetConfig(shape=(1, 8, 8), latent=4, hidden=(16,)))
    with torch.no_grad():
        model.decoder[-1].weight.mul_(8)
    return save(tmp_path_factory.mktemp("belief") / "c", model, "belief-net", DIGITS.spec)


@pytest.fixture
def chain(tmp_path, monkeypatch) -> tuple[str, str]:
    """A registered model with sequential latents, and 30 rows of data."""
    monkeypatch.setitem(MODELS, "tiny-chain", "cli.sequential_model:TinyChain")
    rows = np.random.default_rng(0).integers(0, 4, (30, 6))
    np.save(tmp_path / "rows.npy", rows)
    spec = DataSpec("rows", "integer", (6,), levels=4)
    return save(tmp_path / "chain", TinyChain(TinyChainConfig()), "tiny-chain", spec), str(tmp_path / "rows.npy")


def refused(words: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(["evidence", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("infimum: ") and error.count("\n") == 1
    return error


def said(words: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(["evidence", *words]) == 0
    return capsys.readouterr().out


def limits(text: str) -> list[float]:
    return [float(v) for v in re.findall(r"certified mean [<>]= (-?[\d.]+)", text)]


def test_stratified_is_importance_sampling_under_a_stratified_plan(vae, tmp_path, capsys):
    for name, flags in (("a", ["--method", "stratified"]), ("b", ["--plan", "stratified", "--replicates", "8"])):
        said([vae, *flags, "--k", "64", "--json", str(tmp_path / name), "--quiet"], capsys)
    first, again = (load_estimate(tmp_path / name) for name in "ab")
    assert torch.equal(first.value, again.value)


def test_annealing_of_held_out_items_is_what_the_library_says(belief, tmp_path, capsys):
    """Forward only, with a certificate; the same numbers as `tune` and `ais` by hand; below the exact evidence, above ELBO."""
    out = tmp_path / "e.json"
    flags = ["--method", "ais", "--k", "4", "--temperatures", "6", "--quiet"]
    text = said([belief, *flags, "--json", str(out)], capsys)
    assert (
        "AIS-4 over 6 temperatures" in text and "certified mean >=" in text and "<=" in text and ">= log p" not in text
    )
    model, _ = load_model(belief)
    x, keys = DIGITS.test, DIGITS.test_ids
    path = tune(model, x, Plan.iid(4).draws(keys, salt="pilot"), sigmoid_betas(6), gibbs())
    table = ais(model, x, Plan.iid(4).draws(keys, salt="eval"), path.betas, path.kernels)
    assert torch.equal(load_estimate(out).value, iwae(table).value)
    with torch.no_grad():
        exact = float(model.log_evidence(x).value.mean())
    single = float(evaluate(model, x, Plan.iid(4), iwae, keys=keys).value.mean())
    value = float(load_estimate(out).value.mean())
    assert single < value < exact + 0.1
    assert limits(text)[0] < exact


def test_bdmc_brackets_simulated_items(belief, tmp_path, capsys):
    """Both certificates around the exact evidence; the table of items has both sides."""
    table = tmp_path / "t.csv"
    flags = ["--method", "bdmc", "--simulate", "60", "--k", "4", "--temperatures", "8", "--csv", str(table)]
    text = said([belief, *flags, "--parquet", str(tmp_path / "t.parquet")], capsys)
    model, _ = load_model(belief)
    with torch.no_grad():
        exact = float(model.log_evidence(model.simulate(60, 0)[1]).value.mean())
    low, high = limits(text)
    assert low < exact < high
    gap = float(re.search(r"gap (-?[\d.]+)", text).group(1))
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 60
    sides = [np.mean([float(row[f"{side}_value_nats"]) for row in rows]) for side in ("lower", "upper")]
    assert sides[1] - sides[0] == pytest.approx(gap, abs=1e-4)
    frame = polars.read_parquet(tmp_path / "t.parquet")
    assert frame["lower_value_nats"].to_list() == [float(row["lower_value_nats"]) for row in rows]
    assert not list(tmp_path.glob(".*.tmp"))


def test_bdmc_with_data_reports_forward_and_the_gap_as_calibration(belief, tmp_path, capsys):
    np.save(tmp_path / "few.npy", np.zeros((5, 1, 8, 8)))
    words = [belief, "--method", "bdmc", "--data", str(tmp_path / "few.npy"), "--simulate", "20", "--k", "2"]
    text = said(
        [*words, "--temperatures", "3", "--csv", str(tmp_path / "t.csv"), "--json", str(tmp_path / "e.json")], capsys
    )
    first = text[: text.index("on 20 items of its own")]
    assert "5 items" in first and ">= log p" not in first
    assert "only their forward side stands" in text
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 6  # the table is of the user's items
    assert load_estimate(tmp_path / "e.json").side == "lower"


def test_every_kernel_and_schedule_of_a_vae(vae, tmp_path, capsys):
    """Each leaves the certificates on their sides: the lower limit of one never exceeds the upper limit of another."""
    seen = []
    for flags in (
        ["--kernel", "hmc", "--leapfrog", "3"],
        ["--kernel", "mala", "--schedule", "linear"],
        ["--kernel", "metropolis", "--schedule", "adaptive", "--proposal", "defensive"],
    ):
        words = [vae, "--method", "bdmc", "--simulate", "20", "--k", "2", "--temperatures", "4", "--quiet", *flags]
        seen.append(limits(said(words, capsys)))
    weighted = limits(said([vae, "--simulate", "20", "--k", "500", "--quiet"], capsys))
    for low, _ in [*seen, weighted]:
        for _, high in [*seen, weighted]:
            assert low < high


def test_smc_of_a_registered_sequential_model(chain, tmp_path, capsys):
    """The table is the library's; the exact evidence by the forward algorithm is above the certificate and near the value."""
    path, data = chain
    words = [path, "--method", "smc", "--data", data, "--k", "64", "--replicates", "4"]
    text = said([*words, "--json", str(tmp_path / "e.json")], capsys)
    assert "FIVO (64 particles, 4 systems)" in text and "SMC (64 particles, 4 systems)" in text
    x = torch.from_numpy(np.load(data)).float()
    model, _ = load_model(path)
    with torch.no_grad():
        exact = model.exact(x)
        table = smc(model, x, Plan(replicates=4, levels=64).draws(torch.arange(30), salt="eval"))
    estimate = load_estimate(tmp_path / "e.json")
    assert torch.equal(estimate.value, iwae(table).value)
    mean = estimate.mean(1e-3)
    assert mean.certificate < float(exact.mean())
    assert abs(mean.value - float(exact.mean())) < 5 * mean.stderr + 0.02
    assert "use --method smc" in refused([path, "--data", data], capsys)
    assert "--temperatures is for annealing" in refused([*words, "--temperatures", "5"], capsys)


def test_smc_anneals_a_model_whose_latents_have_no_steps(belief, tmp_path, capsys):
    """The table is the library's `annealed_smc`; the enumerated evidence is above the certificate and near the value."""
    words = [belief, "--method", "smc", "--k", "16", "--replicates", "4", "--temperatures", "8", "--quiet"]
    text = said([*words, "--json", str(tmp_path / "e.json")], capsys)
    assert "SMC (16 particles, 4 systems, 8 temperatures)" in text
    model, _ = load_model(belief)
    x, keys = DIGITS.test, DIGITS.test_ids
    mean = load_estimate(tmp_path / "e.json").mean(1e-3)
    with torch.no_grad():
        draws = Plan(replicates=4, levels=16).draws(keys, salt="eval")
        pilot = Plan.iid(16).draws(keys, salt="pilot")
        path = tune(model, x, pilot, sigmoid_betas(8), gibbs())
        table = annealed_smc(model, x, draws, path.betas, path.kernels)
        exact = model.log_evidence(x).value
    assert torch.equal(load_estimate(tmp_path / "e.json").value, iwae(table).value)
    assert mean.certificate < float(exact.mean())
    assert abs(mean.value - float(exact.mean())) < 5 * mean.stderr + 0.02


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "smc", "--k", "0"], "at least 1"),
        (["--method", "smc", "--replicates", "0"], "at least 1"),
        (["--method", "stratified", "--plan", "sobol"], "--plan is for --method is"),
        (["--method", "smc", "--simulate", "5"], "--simulate is for --method is or stratified or bdmc"),
        (["--method", "ais", "--simulate", "5"], "--simulate is for --method"),
        (["--temperatures", "5"], "--temperatures is for --method ais or smc or bdmc, and this is --method is"),
        (["--kernel", "hmc"], "--kernel is for --method ais or smc or bdmc"),
        (["--method", "ais", "--kernel", "mala", "--leapfrog", "3"], "--leapfrog is for --kernel hmc"),
        (["--method", "ais", "--replicates", "3"], "--replicates is for --method"),
        (["--method", "ais", "--temperatures", "0"], "at least 1"),
        (["--method", "ais", "--leapfrog", "0"], "at least 1"),
        (["--method", "ais", "--k", "1", "--schedule", "adaptive"], "use --k 2 or more"),
        (["--method", "ais", "--kernel", "gibbs"], "this model's are not: use hmc"),
        (["--method", "stratified", "--k", "7"], "must divide"),
        (["--replicates", "4"], "--replicates is for stratified and Sobol plans"),
        (["--simulate", "5", "--split", "train"], "leave --data and --split out"),
        (["--simulate", "0"], "at least 1"),
        (["--simulate", "5", "--json", "x.json"], "use --csv"),
        (["--data", "a.npy", "--split", "train"], "leave one of them out"),
        (["--parquet", "nowhere/t.parquet"], "does not exist"),
        (["--given", "m0"], "--given names modalities, and a VAE has none: leave it out"),
    ],
)
def test_contradictions_are_one_sentence(flags, says, vae, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refused([vae, *flags], capsys)
    assert not list(tmp_path.iterdir())


def test_bits_and_continuous_kernels_are_kept_apart(belief, capsys):
    assert "use the gibbs kernel" in refused([belief, "--method", "ais", "--kernel", "hmc"], capsys)
    assert "this model's latents are bits" in refused([belief, "--method", "ais", "--leapfrog", "3"], capsys)


def test_units_of_a_bracket(belief, capsys):
    words = [belief, "--method", "bdmc", "--simulate", "10", "--k", "2", "--temperatures", "2", "--quiet"]
    nats, dims = (
        [float(v) for v in re.search(r"\[(-[\d.]+), (-[\d.]+)\]", said([*words, "--unit", u], capsys)).groups()]
        for u in ("nats", "bits/dim")
    )
    assert np.allclose(np.array(nats) / 64 / np.log(2), dims, atol=1e-4)


def test_interrupting_leaves_nothing_behind(vae, tmp_path):
    """Ctrl-C in the middle of a long annealing run: one line, exit code 130, no file."""
    words = ["evidence", vae, "--method", "ais", "--temperatures", "100000", "--csv", str(tmp_path / "t.csv")]
    process = subprocess.Popen(
        [sys.executable, "-m", "infimum", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    try:
        assert "items" in process.stdout.readline()  # it has begun
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "infimum: interrupted"
    assert not list(tmp_path.iterdir())
