"""Every Python block of README and docs runs as it stands, and every command that they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        exec(compile(block, page.name, "exec"), names)


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
        assert (page.parent / target).exists(), target


def test_readme_lists_every_recipe() -> None:
    from infimum.recipes import RECIPES

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in RECIPES:
        assert f"`{name}`" in text
