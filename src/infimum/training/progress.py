"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

__all__ = ["Progress"]

SECONDS = 5.0
"""Least time between two plain lines."""


class Progress:
    """Rate and time left of a run of `steps` steps that starts at `start`.

    Args:
        bar: draw a live bar (a terminal); otherwise at most one line every five seconds, and one at the end.
        quiet: neither bar nor lines, but what `say` is given.
        silent: show nothing at all (every process but the first).
    """

    def __init__(self, *, start: int, steps: int, bar: bool, quiet: bool = False, silent: bool = False) -> None:
        self.start, self.step, self.steps, self.quiet, self.silent = start, start, steps, quiet, silent
        self.began = self.said = time.monotonic()
        self.metrics: Mapping[str, float] = {}
        self.bar: Any = None
        if bar and not (quiet or silent):
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = "step", MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[rate]}")
            self.bar = Bar(*columns, TimeRemainingColumn(), TextColumn("{task.fields[metrics]}"))
            self.task = self.bar.add_task("train", total=steps, completed=start, rate="", metrics="")

    def __enter__(self) -> "Progress":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif kind is None and self.step > self.start:
            self._line()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Steps a second since the start; 0 before the first step."""
        return (self.step - self.start) / max(self.seconds, 1e-9)

    def advance(self, step: int, metrics: Mapping[str, float]) -> None:
        self.step, self.metrics = step, metrics
        if self.bar is not None:
            text = "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:3])
            self.bar.update(self.task, completed=step, rate=f"{self.rate:.3g}/s", metrics=text)
        elif time.monotonic() - self.said >= SECONDS:
            self._line()

    def say(self, text: str) -> None:
        """One sentence, above the bar if there is one."""
        if self.silent:
            return
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)

    def _line(self) -> None:
        self.said = time.monotonic()
        if self.quiet:
            return
        values = "  ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        left = (self.steps - self.step) / max(self.rate, 1e-9)
        self.say(f"step {self.step}/{self.steps}  {values}  {self.rate:.3g} steps/s  {left:.0f} s left")


def on_terminal() -> bool:
    """Whether the standard output is a terminal."""
    return sys.stdout.isatty()
