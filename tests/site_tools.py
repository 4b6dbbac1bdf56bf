"""The scripts that make the documentation, as modules."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def script(name: str) -> ModuleType:
    """A script of the docs folder."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks, outputs = script("hooks"), script("outputs")


@cache
def generated() -> frozenset[Path]:
    """The pages that the hook makes from the code."""
    return frozenset(DOCS / path for path in hooks.generated())
