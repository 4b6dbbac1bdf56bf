"""``infimum compare A B``: which of two runs has the higher mean evidence on the same items."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from infimum.cli.parsing import parse
from infimum.errors import UserError
from infimum.evidence import Estimate, compare, load_estimate

__all__ = ["main"]


@dataclass(frozen=True)
class Compare:
    """Say whether the first is better than the second, worse, or whether that is undecided."""

    first: tyro.conf.Positional[str]
    """run directory, or a file of infimum evidence --json"""
    second: tyro.conf.Positional[str]
    """the other"""
    delta: float = 0.05
    """probability that a certified or asymptotic answer is wrong"""


def _estimate(path: str) -> Estimate:
    place = Path(path)
    if place.is_dir():
        if not (place / "evidence.json").exists():
            inner = sorted(p.parent.name for p in place.glob("*/evidence.json"))
            hint = (
                f"it holds the runs {', '.join(inner)}: name one" if inner else "run infimum evidence --json FILE first"
            )
            raise UserError(f"{path} has no evidence.json: {hint}")
        place = place / "evidence.json"
    return load_estimate(place)


def main(words: Sequence[str]) -> int:
    """Compare and print."""
    options = parse(Compare, words, "infimum compare")
    first, second = _estimate(options.first), _estimate(options.second)
    print(f"{options.first}: {first.mean(options.delta)}")
    print(f"{options.second}: {second.mean(options.delta)}")
    print(f"\n{options.first} is {compare(first, second, delta=options.delta)}")
    return 0
