"""``infimum report RUN...``: the page of a run, or of several side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from infimum.cli.models import check_target
from infimum.cli.parsing import parse
from infimum.errors import UserError
from infimum.report import write_report

__all__ = ["main"]


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page: of one run, or of several side by side."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """run directories"""
    out: str | None = None
    """the file (default: report.html in the run directory; of several runs in the current one)"""
    delta: float = 0.05
    """probability that any of the comparisons between runs is wrong"""


def main(words: Sequence[str]) -> int:
    """Read the runs and write the page."""
    options = parse(Report, words, "infimum report")
    check_target("--out", options.out)
    if not 0 < options.delta < 1:
        raise UserError(f"--delta is {options.delta}, expected a probability between 0 and 1")
    if not options.runs:
        raise UserError("infimum report needs a run directory: infimum report RUN [RUN...]")
    print(f"report: {write_report(options.runs, options.out, delta=options.delta)}")
    return 0
