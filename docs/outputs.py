"""Runs the Python blocks of a page; a ```text block right below one holds what it prints.

    python docs/outputs.py            # writes the outputs anew
    python docs/outputs.py --check    # exits with 1 where a page holds another output

The tests do the same for every page.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?P<output>\n```text\n.*?```\n)?", re.S)


def refreshed(page: str, name: str = "page") -> str:
    """The page with every output as its block prints it now; the blocks of a page share their names.

    Blocks that do not show an output are run as well.
    """
    names: dict[str, object] = {"__name__": name}

    def run(found: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(found["code"], name, "exec"), names)  # noqa: S102 - a page of ours
        if found["output"] is None:
            return found[0]
        return f"```python\n{found['code']}```\n\n```text\n{printed.getvalue().rstrip()}\n```\n"

    return BLOCK.sub(run, page)


def main() -> int:
    """Every page of the folder."""
    stale = []
    for path in sorted(DOCS.rglob("*.md")):
        before = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            after = refreshed(before, path.name)
        if after == before:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(after, encoding="utf-8")
            os.replace(temporary, path)
    print(f"pages with another output: {', '.join(stale) or 'none'}")
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
