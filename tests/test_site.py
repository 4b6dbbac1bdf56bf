"""The documentation site: built strictly, made from the code, and complete without a network."""

import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from site_tools import DOCS, ROOT, generated, hooks

CHROMIUM = shutil.which("chromium")
PHONE = 500  # pixels: the narrowest window that headless Chromium opens


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; a warning of any kind (a dead link, a page in no menu, an unknown reference) fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """What a test asks of a page: what a browser would fetch, its anchors, its words."""

    FETCHED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.fetched += [value for key, value in attrs if key == self.FETCHED.get(tag) and value]
        if known.get("id"):
            self.anchors.add(str(known["id"]))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def page(site: Path, name: str) -> Page:
    return Page((site / name).read_text(encoding="utf-8"))


def test_every_page_has_its_place(site):
    pages = {*DOCS.rglob("*.md"), *generated()}
    expected = {path.relative_to(DOCS).with_suffix(".html") for path in pages}
    assert {path.relative_to(site) for path in site.rglob("*.html")} == expected | {Path("404.html")}


def test_nothing_is_fetched_from_anywhere(site):
    """Neither by the pages nor by their style sheets, and every file that they name is there."""
    for path in site.rglob("*.html"):
        for target in Page(path.read_text(encoding="utf-8")).fetched:
            assert "//" not in target, (path.name, target)
            if path.name != "404.html":  # which names its files from the root of a server
                assert (path.parent / target.split("?")[0].split("#")[0]).exists(), (path.name, target)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?https?:", sheet.read_text(encoding="utf-8")), sheet.name


def test_both_palettes_are_there(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert 'data-md-color-scheme="default"' in text
    assert 'data-md-color-scheme="slate"' in text


def test_every_system_has_a_page():
    from infimum.recipes import RECIPES

    assert set(RECIPES) <= {path.stem for path in (DOCS / "systems").glob("*.md")}


def test_every_flag_of_every_command_is_documented(site):
    """From the dataclasses, not from the help text that the page is made of."""
    from infimum.cli import COMMANDS
    from infimum.cli.run import Options
    from infimum.recipes import RECIPES

    text = page(site, "cli.html").text
    for name in COMMANDS:
        assert f"$ infimum {name}" in text
    for name, entry in RECIPES.items():
        module, _, attribute = entry.target.partition(":")
        help_text = text.split(f"$ infimum run {name} --help")[1].split("$ infimum")[0]
        for field in (
            *dataclasses.fields(getattr(importlib.import_module(module), attribute)),
            *dataclasses.fields(Options),
        ):
            assert f"--{field.name.replace('_', '-')}" in help_text, (name, field.name)


@pytest.mark.parametrize("room", hooks.rooms())
def test_every_exported_name_is_in_the_reference(site, room):
    """The names of the imported package, each with an anchor and, where it takes arguments, a signature."""
    reference = page(site, f"api/{room}.html")
    package = importlib.import_module(f"infimum.{room}")
    for name in package.__all__:
        assert any(anchor.endswith(f".{name}") and anchor.startswith("infimum.") for anchor in reference.anchors), name


def test_shapes_are_printed_as_they_are_written(site):
    """griffe takes the quotes off shapes that happen to be Python expressions; the extension puts them back."""
    text = page(site, "api/evidence.html").text
    for shape in ('Float[Tensor, "B"]', 'Float[Tensor, "K B"]', 'Float[Tensor, "#K #B"]', 'Int[Tensor, "N"]'):
        assert shape in text
    assert not re.search(r"(Float|Int|Bool)\[Tensor, [^\"]", text)


def test_benchmark_tables_come_from_the_measurements(monkeypatch, tmp_path):
    """A changed JSON changes the page."""
    results = ROOT / "benchmarks" / "results"
    shutil.copytree(results, tmp_path / "results")
    changed = json.loads((results / "coverage.json").read_text(encoding="utf-8"))
    changed["replicates"] = 123456
    (tmp_path / "results" / "coverage.json").write_text(json.dumps(changed), encoding="utf-8")
    before = hooks.benchmarks()
    monkeypatch.setattr(sys.modules["table"], "RESULTS", tmp_path / "results")
    assert "123456 replicates" not in before
    assert "123456 replicates" in hooks.benchmarks()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [PHONE, 1280])
def test_no_page_is_wider_than_its_window(site, width, tmp_path):
    """In a real browser: the page's width is the window's, its title is there, and no script has failed."""
    probe = (
        "<script>window.addEventListener('error', e => document.body.dataset.error = e.message);"
        "window.addEventListener('load', () => { const page = document.documentElement;"
        "document.body.dataset.width = page.scrollWidth; document.body.dataset.window = window.innerWidth; });</script></head>"
    )
    for path in [site / name for name in ("cli.html", "benchmarks.html", "api/evidence.html")]:
        probed = path.with_name(f"probe-{path.name}")
        probed.write_text(path.read_text(encoding="utf-8").replace("</head>", probe, 1), encoding="utf-8")
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            f"--user-data-dir={tmp_path}", f"--window-size={width},1000", "--virtual-time-budget=2000", "--dump-dom",
            probed.as_uri(),
        ]  # fmt: skip
        dom = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
        probed.unlink()
        seen = dict(re.findall(r'data-(width|window|error)="([^"]*)"', dom))
        assert "error" not in seen, seen
        assert int(seen["width"]) <= int(seen["window"]), (path.name, seen)
        assert "<h1" in dom
