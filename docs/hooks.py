"""What mkdocs calls while it builds the site: pages that are made from the code, so that they cannot differ from it."""

import ast
import io
import os
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
DOCS, PACKAGE = ROOT / "docs", ROOT / "src" / "infimum"
COLUMNS = 88  # of the help texts


def on_config(config: Any) -> Any:
    """Fill the lists of systems and of rooms."""
    systems = [f"systems/{page.name}" for page in sorted((DOCS / "systems").glob("*.md"))]
    filled = {"Systems": systems, "API": [f"api/{name}.md" for name in rooms()]}
    config.nav = [{title: filled.get(title, page) for title, page in entry.items()} for entry in config.nav]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code."""
    for path, content in generated().items():
        files.append(File.generated(config, path, content=content))
    return files


def generated() -> dict[str, str]:
    """Path and Markdown of every page that no file holds."""
    pages = {"cli.md": command_line(), "benchmarks.md": benchmarks()}
    return pages | {f"api/{name}.md": room(name) for name in rooms()}


def exported(module: str) -> dict[str, str]:
    """The names in a package's ``__all__``, each with the dotted path of its definition."""
    file = ROOT / "src" / Path(*module.split(".")) / "__init__.py"
    if not file.exists():
        return {}
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names: list[str] = []
    home: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
            names = ast.literal_eval(node.value)
        if isinstance(node, ast.ImportFrom):
            source = f"{module}.{node.module}" if node.level else str(node.module)
            home |= {alias.asname or alias.name: source for alias in node.names}
    found = {name: f"{home.get(name, module)}.{name}" for name in names}
    return found | {
        name: exported(home[name]).get(name, found[name]) for name in names if home.get(name, module) != module
    }


def rooms() -> list[str]:
    """Every package of the library that exports names."""
    found = (path.parent.name for path in sorted(PACKAGE.glob("*/__init__.py")))
    return [name for name in found if exported(f"infimum.{name}") and name not in ("cli", "recipes")]


def room(name: str) -> str:
    """The page of one package."""
    summary = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))) or ""
    entries = [f"::: {path}" for path in exported(f"infimum.{name}").values()]
    return "\n\n".join([f"# infimum.{name}", summary, *entries]) + "\n"


def spoken(*words: str) -> str:
    """What the command line prints."""
    from infimum.cli import main

    out = io.StringIO()
    with redirect_stdout(out), suppress(SystemExit):  # --help exits
        main(words)
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def command_line() -> str:
    """The help of every command and recipe, printed by their own parsers."""
    from infimum.cli import COMMANDS
    from infimum.recipes import RECIPES

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(COLUMNS)
    try:
        parts = ["# Command line", block("infimum --help"), "A mistake ends in one sentence and exit code 2."]
        for name, (_, summary) in COMMANDS.items():
            parts += [f"## infimum {name}", f"{summary[0].upper()}{summary[1:]}.", block(f"infimum {name} --help")]
            if name == "list":
                parts.append(block("infimum list"))
            if name == "run":
                for recipe, entry in RECIPES.items():
                    parts += [f"### infimum run {recipe}", f"{entry.title} (arXiv {entry.arxiv})"]
                    parts.append(block(f"infimum run {recipe} --help"))
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return "\n\n".join(parts) + "\n"


def block(command: str) -> str:
    """A command with what it prints."""
    return f"```console\n$ {command}\n{spoken(*command.split()[1:])}\n```"


def benchmarks() -> str:
    """benchmarks/README.md, its tables made anew from the JSON of the measurements."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        from table import filled
    finally:
        sys.path.remove(folder)
    return str(filled((ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")))
