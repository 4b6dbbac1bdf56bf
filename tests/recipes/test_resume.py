"""A run of the command line that was killed, resumed, and came to the same numbers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from infimum.evidence import load_estimate

FLAGS = [
    "vae-iwae", "--k", "4", "--steps", "600", "--every", "50", "--eval-k", "32", "--latent", "3", "--hidden", "16", "--quiet",
]  # fmt: skip


def start(out: Path, *extra: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "infimum", "run", *FLAGS, "--out", str(out), *extra],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_in_either_model_and_resumed(tmp_path: Path) -> None:
    """kill -9 while the first model trains, SIGTERM while the second does; the resumed run equals the unbroken one."""
    whole = start(tmp_path / "whole")
    broken = start(tmp_path / "broken")
    wait_for(tmp_path / "broken" / "vae" / "checkpoint" / "model.safetensors", broken)
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    assert not (tmp_path / "broken" / "result.json").exists()

    broken = start(tmp_path / "broken", "--resume")
    wait_for(tmp_path / "broken" / "iwae-4" / "checkpoint" / "model.safetensors", broken)
    broken.send_signal(signal.SIGTERM)
    said, errors = broken.communicate(timeout=120)
    assert broken.returncode == 130
    assert "--resume" in said
    assert "Traceback" not in errors

    done = start(tmp_path / "broken", "--resume")
    assert done.wait(timeout=200) == 0
    assert whole.wait(timeout=200) == 0
    for name in ("vae", "iwae-4"):
        first, again = (load_estimate(tmp_path / folder / name / "evidence.json") for folder in ("whole", "broken"))
        assert torch.equal(first.value, again.value)
        lines = [
            (tmp_path / folder / name / "metrics.jsonl").read_text().splitlines() for folder in ("whole", "broken")
        ]
        assert len(lines[0]) == len(lines[1]) == 600
    for process in (whole, done):
        process.communicate()
