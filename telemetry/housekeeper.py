"""The housekeeper: one daemon thread for everything that is due later, so that requests never wait and the loop is never asked.

Jobs are due once (`after`) or each second (`every_second`). It sleeps while nothing is due, and starts with its first job.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Final

TICK_S: Final = 1.0


class Housekeeper:
    """Runs small jobs off the request path. A job that raises is counted by `on_error` and never ends the thread."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._ticks: list[Callable[[float], None]] = []
        self._serial = itertools.count()
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._is_at_work = False

    def after(self, delay_s: float, job: Callable[[], None]) -> None:
        """Run `job` once, `delay_s` seconds from now, on the housekeeper's thread."""
        with self._wake:
            heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._serial), job))
            self._ensure_running()
            self._wake.notify()

    def every_second(self, job: Callable[[float], None]) -> None:
        """Run `job(monotonic time)` about once a second while the monitor lives."""
        self._ticks.append(job)

    def start(self) -> None:
        with self._wake:
            self._ensure_running()

    def settle(self, within_s: float) -> None:
        """Return when every job that was due, or falls due `within_s` from now, has run: here or on the housekeeper's thread.

        For tests, which have to know what was found before they end. Waits for the due times: a job run early would judge early.
        """
        until = time.monotonic() + within_s
        while True:
            with self._wake:
                while self._is_at_work and self._thread is not threading.current_thread():
                    self._wake.wait(0.05)
                if not self._due or self._due[0][0] > until:
                    return
                at, _, job = heapq.heappop(self._due)
            time.sleep(max(0.0, at - time.monotonic()))
            try:
                job()
            except Exception as error:
                self._on_error(error)

    def close(self) -> None:
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def _ensure_running(self) -> None:
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name="isolation-monitor-housekeeper", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        next_tick = time.monotonic() + TICK_S
        while True:
            with self._wake:
                now = time.monotonic()
                until = min(next_tick, self._due[0][0]) if self._due else next_tick
                if until > now and not self._stopped:
                    self._wake.wait(until - now)
                if self._stopped:
                    return
                now = time.monotonic()
                ready = []
                while self._due and self._due[0][0] <= now:
                    ready.append(heapq.heappop(self._due)[2])
                self._is_at_work = bool(ready)
            for job in ready:
                try:
                    job()
                except Exception as error:
                    self._on_error(error)
            self._is_at_work = False
            if now >= next_tick:
                next_tick = now + TICK_S
                for tick in self._ticks:
                    try:
                        tick(now)
                    except Exception as error:
                        self._on_error(error)
