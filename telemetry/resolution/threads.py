"""A few threads of our own for calls that may block: a database that hangs must not use up the host's own pool of threads.

They are daemons: a call that never returns does not keep the process from ending. Idle ones end by themselves.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

LIMIT: Final = 8
WAITING_LIMIT: Final = 1_000
IDLE_S: Final = 30.0

_Work = tuple["Future[Any]", Callable[[], Any]]


class BusyError(Exception):
    """All threads are at work and too many calls wait for them."""


class Threads:
    """Runs calls on at most `LIMIT` threads, in the order of their coming."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._waiting: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._count = 0
        self._idle = 0

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Return the future of a call; cancelled before a thread takes it, it is never run."""
        if self._pid != os.getpid():
            # A forked child has none of the threads, and perhaps a lock that somebody held.
            self._begin()
        future: Future[Any] = Future()
        with self._changed:
            if len(self._waiting) >= WAITING_LIMIT:
                future.set_exception(BusyError(f"{WAITING_LIMIT} calls wait already"))
                return future
            self._waiting.append((future, call))
            if len(self._waiting) > self._idle and self._count < LIMIT:
                self._count += 1
                threading.Thread(target=self._work, name="isolation-monitor-resolution", daemon=True).start()
            else:
                self._changed.notify()
        return future

    def _work(self) -> None:
        while (work := self._next()) is not None:
            future, call = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del work, future, call

    def _next(self) -> _Work | None:
        with self._changed:
            self._idle += 1
            try:
                if not self._waiting:
                    self._changed.wait_for(lambda: self._waiting, IDLE_S)
                if self._waiting:
                    return self._waiting.popleft()
                self._count -= 1
                return None
            finally:
                self._idle -= 1
