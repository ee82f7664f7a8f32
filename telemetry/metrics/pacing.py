"""Pacing: long work in slices, so that the thread of the event loop never waits for the interpreter."""

from __future__ import annotations

import time
from typing import Final

SLICE_S: Final = 0.001
_PAUSE_S: Final = 0.00005


class Pacer:
    """Call it between small steps: after a millisecond of this thread's own CPU time it lets other threads run.

    `longest_s` is the longest stretch of CPU time without such a pause, the figure that the benchmark reports.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._since = time.thread_time()

    def __call__(self) -> None:
        """Pause if a slice is over."""
        stretch = time.thread_time() - self._since
        if stretch > self.longest_s:
            self.longest_s = stretch
        if stretch > SLICE_S:
            # Not sleep(0): this thread would take the interpreter back before the waiting one has woken up.
            time.sleep(_PAUSE_S)
            self._since = time.thread_time()
