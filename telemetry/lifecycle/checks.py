"""Checks of whether the application can serve: its own functions, asked together, each with a limit of time and a memory.

A check is asked once at a time: while one that hangs is out, nobody asks it again, so that no number of probes adds load.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Final

from isolation_monitor.telemetry.errors import LifecycleError, NotReadyError
from isolation_monitor.telemetry.lifecycle.work import Function, Work, begin, check_function

DETAIL_LIMIT: Final = 4_096
"""Characters of a check's detail as JSON."""
REASON_LIMIT: Final = 200

logger = logging.getLogger("isolation_monitor")
clock = time.monotonic


@dataclass(frozen=True, slots=True)
class Result:
    """What a check said. `reason` is empty where it is well; `at` is on the clock of `time.monotonic`."""

    is_well: bool
    reason: str
    duration_s: float
    at: float
    detail: dict[str, Any] = field(default_factory=dict)


class Check:
    """One check. `is_required`: the application is not ready while it fails."""

    def __init__(self, name: str, function: Function, *, timeout_s: float, cache_s: float, is_required: bool) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.is_required = is_required
        self._function = function
        self._cache_s = cache_s
        self._latest: Result | None = None
        self._work: Work | None = None
        self._began = 0.0

    def ask(self, home: asyncio.AbstractEventLoop | None) -> futures.Future[Any] | None:
        """Return what to wait for; None where the latest answer is fresh enough, or nobody knows how long one is to come."""
        self._take()
        # The thread of `health_port` asks, too: what is read twice may be another the second time.
        work, now = self._work, clock()
        if work is None:
            if self._latest is not None and now - self._latest.at < self._cache_s:
                return None
            self._began = now
            self._work = work = begin(self._function, home, f"check {self.name}")
        return None if self._is_late(now) else work.future

    def wait_s(self) -> float:
        """Return how much longer the check that is out may take."""
        return max(0.0, self._began + self.timeout_s - clock())

    def result(self) -> Result:
        """Return the answer as it stands now."""
        self._take()
        work, now = self._work, clock()
        if work is None:
            return self._latest or Result(False, "was not asked", 0.0, now)
        if self._is_late(now):
            work.cancel()
            self._keep(Result(False, f"timed out: no answer for {now - self._began:.1f} s", now - self._began, now))
        return self._latest or Result(False, "no answer yet", now - self._began, now)

    def _take(self) -> None:
        """Keep the answer of a call that is over: one that took too long is a failure, whenever somebody comes for it."""
        work = self._work
        if work is None or not work.future.done():
            return
        self._work = None
        took_s = work.ended - self._began
        if took_s >= self.timeout_s:
            self._keep(Result(False, f"timed out: it took {took_s:.1f} s", took_s, work.ended))
        else:
            self._keep(self._judge(work.future, took_s, work.ended))

    def _is_late(self, now: float) -> bool:
        return now - self._began >= self.timeout_s

    def _keep(self, result: Result) -> None:
        was_well = self._latest is None or self._latest.is_well
        if was_well and not result.is_well:
            logger.warning("isolation monitor: the health check %r fails: %s", self.name, result.reason)
        elif not was_well and result.is_well:
            logger.info("isolation monitor: the health check %r is well again", self.name)
        self._latest = result

    def _judge(self, future: futures.Future[Any], duration_s: float, now: float) -> Result:
        error = future.exception()
        if isinstance(error, NotReadyError):
            return Result(False, str(error)[:REASON_LIMIT], duration_s, now)
        if error is not None:
            # The class alone: texts of errors name hosts, users and passwords.
            logger.debug("isolation monitor: the health check %r raised", self.name, exc_info=error)
            return Result(False, type(error).__name__, duration_s, now)
        value = future.result()
        detail = value if type(value) is dict else {}
        if value is False:
            return Result(False, "said no", duration_s, now)
        if not _is_json(detail):
            return Result(True, "", duration_s, now, {"detail": "not shown: it is no JSON, or too long"})
        return Result(True, "", duration_s, now, detail)


class Checks:
    """All checks of one application."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def declare(self, name: str, function: Function, *, timeout_s: float, cache_s: float, is_required: bool) -> None:
        """Declare a check.

        Raises:
            LifecycleError: the name is taken, a time is none, or the function cannot be called.
        """
        check_function(function, f"check {name!r}")
        if not isinstance(name, str) or not name.strip() or name in self._checks:
            raise LifecycleError(f"check {name!r}: give each check a name of its own")
        if not 0 < timeout_s < float("inf") or not 0 <= cache_s < float("inf"):
            raise LifecycleError(f"check {name!r}: timeout_s={timeout_s!r} must be above 0 s, and cache_s={cache_s!r} not below")
        self._checks[name] = Check(name, function, timeout_s=timeout_s, cache_s=cache_s, is_required=is_required)

    async def ask(self, home: asyncio.AbstractEventLoop | None) -> dict[str, Result]:
        """Ask all checks at once, on the event loop, and return their answers by name."""
        out = self._ask(home)
        if out:
            waiting = [asyncio.wrap_future(one) for one in out.values()]
            for one in waiting:
                one.add_done_callback(_seen)
            await asyncio.wait(waiting, timeout=max(check.wait_s() for check in out))
        return self._results()

    def ask_from_thread(self, home: asyncio.AbstractEventLoop | None) -> dict[str, Result]:
        """As `ask`, from a thread that may wait."""
        out = self._ask(home)
        if out:
            futures.wait(out.values(), timeout=max(check.wait_s() for check in out))
        return self._results()

    def is_required(self, name: str) -> bool:
        return self._checks[name].is_required

    def _ask(self, home: asyncio.AbstractEventLoop | None) -> dict[Check, futures.Future[Any]]:
        """Return, by check, what is to be waited for."""
        return {check: one for check in self if (one := check.ask(home)) is not None}

    def _results(self) -> dict[str, Result]:
        return {check.name: check.result() for check in self}

    def __iter__(self) -> Iterator[Check]:
        return iter(list(self._checks.values()))

    def __len__(self) -> int:
        return len(self._checks)


def _seen(future: asyncio.Future[Any]) -> None:
    """Asyncio logs errors that nobody asked for, with their texts: the check has judged it by itself."""
    if not future.cancelled():
        future.exception()


def _is_json(detail: dict[str, Any]) -> bool:
    try:
        return len(json.dumps(detail, allow_nan=False)) <= DETAIL_LIMIT
    except (TypeError, ValueError, RecursionError):
        return False
