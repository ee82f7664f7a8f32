"""The pulse of the event loop: asked for a sign of life once a second, from another thread.

So who serves from a thread knows since when the loop has stood still, also when nobody asked before it did. Costs one wake-up of the
loop a second. Seconds are of `time.monotonic`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

REMEMBERED: Final = 60

clock = time.monotonic


class Pulse:
    """The pulse of one loop at a time."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = 0.0
        """Since when an answer is awaited; 0 while none is."""
        self._lags: deque[float] = deque(maxlen=REMEMBERED)

    def watch(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Ask this loop from now on; None for none."""
        self._loop, self._asked = loop, 0.0
        self._lags.clear()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that is asked."""
        return self._loop

    def ask(self) -> None:
        """Ask, unless an answer is still awaited. From any thread."""
        loop = self._loop
        if loop is None or self._asked:
            return
        self._asked = asked = clock()
        try:
            loop.call_soon_threadsafe(self._answer, asked)
        except RuntimeError:
            # Closed: nobody will answer, and nothing stands still.
            self.watch(None)

    def _answer(self, asked: float) -> None:
        if asked == self._asked:
            self._lags.append(clock() - asked)
            self._asked = 0.0

    @property
    def stalled_s(self) -> float:
        """Return how long the loop has owed an answer; 0 where it owes none."""
        asked = self._asked
        return clock() - asked if asked else 0.0

    @property
    def lag_s(self) -> float | None:
        """Return how late the latest answer came; None before the first."""
        return self._lags[-1] if self._lags else None

    @property
    def worst_lag_s(self) -> float | None:
        """Return the longest lag of the last minute."""
        return max(self._lags, default=None)
