"""The numbers of all suites as `/metrics` shows them, read from the store at each scrape."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

from isolation_monitor.collector.ci.domain import Suite
from isolation_monitor.collector.ci.service import CiService
from isolation_monitor.collector.ci_metrics import DURATION, FLAKY_RATIO, LAST_RUN, MEMORY, PASS_RATIO, SHOWN_FOR, TREND, SuiteNumbers
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.storage.database import StoreUnavailable

_WAIT_S: Final = 3.0
"""A scrape waits no longer than this for the store: the collector's own metrics must be there when that is away.

On a busy machine a second was too short now and then, and what had just been reported waited for the next scrape, 15 s later.
"""


class SuiteWatch:
    """Reads the suites whenever somebody looks, once at a time."""

    def __init__(self, service: CiService, clock: Clock, show: Callable[[list[SuiteNumbers]], None]) -> None:
        self._service = service
        self._clock = clock
        self._show = show
        self._task: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Show what the store says now; what it said last where it does not answer soon."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read())
        # Not cancelled when it takes longer: a statement that is cut off costs its connection.
        await asyncio.wait({self._task}, timeout=_WAIT_S)

    async def close(self) -> None:
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _read(self) -> None:
        with suppress(StoreUnavailable):
            self._show(shown(await self._service.suites(with_recent=False), self._clock()))


def shown(suites: list[Suite], now: datetime) -> list[SuiteNumbers]:
    """Return what is shown of each suite that is still in use."""
    return [_numbers(suite) for suite in suites if suite.reference_at is not None and suite.reference_at > now - SHOWN_FOR]


def _numbers(suite: Suite) -> SuiteNumbers:
    now = suite.numbers
    gauges: dict[str, float | None] = {
        PASS_RATIO: now.pass_ratio,
        FLAKY_RATIO: now.flaky_ratio,
        DURATION: now.duration_s,
        TREND: now.trend_ratio,
        MEMORY: now.memory_peak_bytes,
        LAST_RUN: None if suite.reference_at is None else suite.reference_at.timestamp(),
    }
    results = {"pass": suite.passed, "fail": suite.failed, "error": suite.errors, "skip": suite.skipped}
    return SuiteNumbers(suite.name, results, {name: value for name, value in gauges.items() if value is not None})
