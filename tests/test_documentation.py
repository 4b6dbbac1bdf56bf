"""Every Python block of README and docs runs as it stands and prints what the page says; every command and file exists."""

import re
from pathlib import Path

import pytest

from site_tools import DOCS, ROOT, generated, outputs

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run_and_print_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch) -> None:
    """`python docs/outputs.py` writes the outputs anew."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert outputs.refreshed(text, page.name) == text


def test_another_output_is_seen() -> None:
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    assert outputs.refreshed(page) == page.replace("3", "2")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_files_exist(page: Path) -> None:
    from infimum.cli import COMMANDS
    from infimum.recipes import RECIPES

    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"^\s*(?:\$ )?infimum (\w[\w-]*)(?: ([\w-]+))?", text, re.M):
        assert line[0] in COMMANDS
        if line[0] == "run" and line[1] and line[1] != "NAME":
            assert line[1] in RECIPES
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        file = (page.parent / target).resolve()
        assert file.exists() or file in generated(), target


def test_readme_lists_every_recipe() -> None:
    from infimum.recipes import RECIPES

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in RECIPES:
        assert f"`{name}`" in text
