"""``infimum list``."""

from collections.abc import Sequence

from infimum.errors import UserError
from infimum.recipes import RECIPES

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Print the recipes as a table."""
    if words and words[0] in ("-h", "--help"):
        print("usage: infimum list        the recipes, one a line")
        return 0
    if words:
        raise UserError(f"infimum list takes no arguments, got {words[0]!r}: use infimum run {words[0]} --help")
    rows = [("recipe", "arXiv", "task", "data", "minutes", "")]
    rows += [
        (name, entry.arxiv, entry.task, entry.data, f"{entry.minutes:g}", entry.title)
        for name, entry in RECIPES.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
