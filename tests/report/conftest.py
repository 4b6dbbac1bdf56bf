"""Short runs of the recipes, made once, and a browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infimum.cli import main

SMALL = ["--steps", "60", "--every", "20", "--eval-k", "64", "--quiet", "--latent", "3", "--hidden", "16"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the runs "vae", "pair" (a vae and an iwae-4) and "belief"."""
    folder = tmp_path_factory.mktemp("reports")
    assert main(["run", "vae", "--out", str(folder / "vae"), *SMALL]) == 0
    assert main(["run", "vae-iwae", "--out", str(folder / "pair"), "--k", "4", *SMALL]) == 0
    assert main(["run", "belief-net", "--out", str(folder / "belief"), *SMALL]) == 0
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """The same runs, to be damaged."""
    for name in ("vae", "pair", "belief"):
        shutil.copytree(runs / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of this system."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own sandbox refuses to start for root
        browser = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()
