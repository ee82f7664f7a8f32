"""A circuit: a source that fails again and again is left alone for a while, so that nobody waits for it.

Closed, it lets every call through. After `FAILURES` failures in a row it opens: calls are refused at once. After `open_s` seconds it
lets one call through; when that succeeds it closes, otherwise it stays open for twice as long, at most a minute.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

FAILURES: Final = 5
OPEN_S: Final = 2.0
LONGEST_OPEN_S: Final = 60.0


class Circuit:
    """One source's circuit; `clock` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reset()
        if hasattr(os, "register_at_fork"):
            reference = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _reset_in_child(reference))

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._open_s = OPEN_S
        self._opened_at: float | None = None
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        return self._opened_at is not None

    def allows(self) -> bool:
        """Return whether a call may be made now; who is told so says `succeeded`, `failed` or `gave_up` afterwards."""
        if not self.is_open:
            return True
        with self._lock:
            if self._opened_at is None:
                return True
            if self._is_probing or self._clock() - self._opened_at < self._open_s:
                return False
            self._is_probing = True
            return True

    def succeeded(self) -> None:
        if not self._failures and self._opened_at is None:
            return
        with self._lock:
            self._failures, self._opened_at, self._open_s, self._is_probing = 0, None, OPEN_S, False

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            if self._opened_at is not None:
                if self._is_probing:
                    self._open_s = min(2 * self._open_s, LONGEST_OPEN_S)
                    self._opened_at, self._is_probing = self._clock(), False
            elif self._failures >= FAILURES:
                self._opened_at, self._is_probing = self._clock(), False

    def gave_up(self) -> None:
        """The caller went away before the call ended: nothing is known, another may try."""
        with self._lock:
            self._is_probing = False


def _reset_in_child(reference: weakref.ref[Circuit]) -> None:
    made = reference()
    if made is not None:
        made._reset()
