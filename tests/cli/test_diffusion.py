"""Diffusion models from the command line: bits a dimension, samplers, labels and guidance."""

from pathlib import Path

import numpy as np
import pytest
import torch

from infimum.cli import main
from infimum.data import load
from infimum.diffusion import DiffusionConfig, DiffusionLearner, GaussianDiffusion, Mulan, MulanConfig
from infimum.recipes.base import spec_json
from infimum.training import Run, train


def trained(folder: Path, model: GaussianDiffusion, **learner: object) -> Path:
    dataset = load("digits", kind="integer")
    labels = dataset.train_labels if model.config.classes else None
    train(DiffusionLearner(model, dataset.train, labels=labels, lr=4e-3, clip=1.0, **learner), steps=150,
          run=Run(folder, quiet=True), data=spec_json(dataset))  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = DiffusionConfig((1, 8, 8), levels=17, high=7.0, width=64, blocks=2, classes=10)
    return trained(tmp_path_factory.mktemp("runs") / "labelled", GaussianDiffusion(config), drop=0.1)


def drawn(folder: Path, out: Path, *words: str) -> np.ndarray:
    assert main(["sample", str(folder), "--n", "12", "--out", str(out), *words]) == 0
    return np.load(out)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("infimum: ") and error.count("\n") == 1 and "Traceback" not in error
    return error


def test_labels_and_guidance(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = ["--sampler", "ddim", "--steps", "10"]
    zero, one, again = (drawn(labelled, tmp_path / "s.npy", "--condition", c, *fast) for c in ("0", "1", "1"))
    assert np.array_equal(one, again) and not np.array_equal(zero, one)
    guided = drawn(labelled, tmp_path / "s.npy", "--condition", "1", "--guidance", "2", *fast)
    assert not np.array_equal(guided, one)
    assert "needs --condition" in refused(["sample", str(labelled), "--out", str(tmp_path / "s.npy")], capsys)
    words = ["sample", str(labelled), "--condition", "12", "--out", str(tmp_path / "s.npy")]
    assert "0 .. 9" in refused(words, capsys)
    words = ["sample", str(labelled), "--condition", "1", "--guidance", "-1", "--out", str(tmp_path / "s.npy")]
    assert "guidance is -1" in refused(words, capsys)


def test_evidence_given_the_label(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", str(labelled), "--plan", "stratified", "--k", "8", "--unit", "bits/dim", "--quiet"]) == 0
    assert "log p(x|c)" in capsys.readouterr().out


def test_learned_noise_and_a_divergence_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The evidence of a published checkpoint has no side, and says why."""
    for divergence, says in (("subset", "<= log p(x)"), ("categorical", "categorical draw")):
        torch.manual_seed(0)
        config = MulanConfig((1, 8, 8), levels=17, high=7.0, head="v", width=32, blocks=1, divergence=divergence)
        with pytest.warns(UserWarning, match="dimensions are the same"):
            folder = trained(tmp_path / divergence, Mulan(config))
        assert main(["evidence", str(folder), "--plan", "stratified", "--k", "8", "--quiet"]) == 0
        out = capsys.readouterr().out
        assert says in out and ("<= log p(x)" in out) == (divergence == "subset")
    assert drawn(folder, tmp_path / "s.npy", "--sampler", "dpmpp-2m", "--steps", "5").shape == (12, 1, 8, 8)
    words = ["sample", str(folder), "--condition", "1", "--out", str(tmp_path / "s.npy")]
    assert "takes no --condition" in refused(words, capsys)


def test_samplers_are_for_diffusion_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "vae"
    assert (
        main(
            [
                "run",
                "vae",
                "--steps",
                "2",
                "--eval-k",
                "2",
                "--quiet",
                "--latent",
                "2",
                "--hidden",
                "8",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    for flag in (["--steps", "3"], ["--guidance", "1"], ["--sampler", "heun"]):
        assert "is for diffusion models" in refused(
            ["sample", str(out), *flag, "--out", str(tmp_path / "s.npy")], capsys
        )
