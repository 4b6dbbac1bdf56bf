"""Ctrl-C and SIGTERM end a run between two steps."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopSignals"]


class StopSignals:
    """While the block lasts, the first SIGINT or SIGTERM only sets `asked`; a further Ctrl-C aborts at once.

    Outside the main thread Python cannot catch signals, and nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._on)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.asked:
            # print is not safe in a signal handler
            os.write(2, b"\nstopping after this step and saving; Ctrl-C again aborts at once\n")
        self.asked = True
