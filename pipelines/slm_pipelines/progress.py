"""Progress as JSON lines on standard output, at most a few per second."""

import sys
import time
from typing import Literal

from slm_contract.results import Progress

MIN_INTERVAL_SECONDS = 0.2
"""Shortest time between two lines of one reporter: readers poll, so more would only fill logs."""

Unit = Literal["bytes", "tensors", "chunks", "files", ""]


class Reporter:
    """Prints Progress lines for one step."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._last = 0.0
        self._said = ""

    def report(self, message: str, done: int = 0, total: int = 0, unit: Unit = "") -> None:
        """Print a line unless one was printed just now; the first and the last (done == total) always are."""
        now = time.monotonic()
        if now - self._last < MIN_INTERVAL_SECONDS and done != total:
            return
        self._last = now
        progress = Progress(step=self._step, message=message, done=done, total=total, unit=unit)
        line = progress.model_dump_json(by_alias=True)
        if line != self._said:
            self._said = line
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
