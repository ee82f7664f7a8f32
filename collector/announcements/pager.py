"""Pages for violations as soon as their records are stored: beside Prometheus, and also where a process dies before a scrape.

Alertmanager joins these alerts with those of the rules. What it does not take is told again until it does; what this process could not
tell before it ended, the next one finds in the store, of the two minutes before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from isolation_monitor.alerts.thresholds import load
from isolation_monitor.collector.announcements.alertmanager import Alertmanagers
from isolation_monitor.collector.announcements.domain import PAGE_LASTS, Links
from isolation_monitor.collector.announcements.grafana import NotTold
from isolation_monitor.collector.announcements.repository import to_page_for, to_page_for_since
from isolation_monitor.collector.announcements.violation_alerts import alert_of_violations
from isolation_monitor.collector.background import whole
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.new_violations import Key, NewViolations
from isolation_monitor.collector.storage.database import Database

logger = logging.getLogger("isolation_monitor.collector")

AGAIN_S: Final = 5.0
"""While violations go on, their alert is told again so often: it lasts much longer, and a storm of records is no storm of posts."""
FOUND_AGAIN: Final = timedelta(minutes=2)
"""After a start, what arrived so recently is told: the process before may have ended in between."""
_TOO_OLD: Final = PAGE_LASTS
"""Harm of longer ago wakes nobody: it comes out of a spool that lay somewhere, or out of another collector."""
_WAITING: Final = 1_000
"""Pairs of service and kind that may wait for an Alertmanager."""
_RAISED: Final = 1_000
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
_SAY_AGAIN_S: Final = 60.0


class Pager:
    """Built once for a process. `give` it what was stored, `run()` it in the event loop."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        links: Links,
        labels: dict[str, str],
        alertmanagers: Alertmanagers | None,
        count: Callable[[str], None] = lambda result: None,
    ) -> None:
        """`labels` are those that Prometheus adds to every alert; `count` is told `told`, `failed` or `dropped`.

        Without `alertmanagers` nobody is to be told.
        """
        self._database = database
        self._clock = clock
        self._links = links
        self._labels = labels
        self._alertmanagers = alertmanagers
        self._count = count
        self._thresholds = load()
        self._waiting: dict[Key, NewViolations] = {}
        self._raised: dict[str, None] = {}
        self._told_s: dict[Key, float] = {}
        self._given = asyncio.Event()
        self._complained_s = float("-inf")

    def give(self, violated: Sequence[NewViolations], raised: Sequence[str] = ()) -> None:
        """Take what was stored, and violations whose grade rose. Never waits and never fails: it stands in the path of records."""
        if self._alertmanagers is None:
            return
        for found in violated:
            known = self._waiting.get(found.key)
            if known is None and len(self._waiting) >= _WAITING:
                self._count("dropped")
                continue
            self._waiting[found.key] = found if known is None else known.with_more(found)
        for violation_id in raised[:_RAISED]:
            if len(self._raised) < _RAISED:
                self._raised[violation_id] = None
        self._given.set()

    async def run(self) -> None:
        """Page until cancelled."""
        if self._alertmanagers is None:
            return
        failures, wait_s, is_new = 0, 0.0, True
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._given.wait()
            self._given.clear()
            try:
                # What is new must not wait for a store that cannot look back.
                wait_s = await whole(self.tell())
                if is_new:
                    await whole(self.find_again())
                    is_new, wait_s = False, 0.0
                failures = 0
            except Exception as error:
                self._complain(error)
                wait_s = 0.0
                await asyncio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**failures))
                failures = min(failures + 1, 10)

    async def find_again(self) -> None:
        """Take what arrived just before this process began.

        Raises:
            StoreUnavailable: the store could not be read.
        """
        async with self._database.reading() as connection:
            found = await to_page_for_since(connection, self._clock() - FOUND_AGAIN)
        self.give(found)

    async def tell(self) -> float:
        """Tell of all that waits and is due, and return when more will be, in seconds; long when nothing waits.

        Raises:
            NotTold: no Alertmanager took it this time; it still waits.
            StoreUnavailable: what rose could not be looked up; it still waits, everything else was told.
        """
        await self._tell_waiting()
        if self._raised:
            ids = list(self._raised)
            async with self._database.reading() as connection:
                found = await to_page_for(connection, ids)
            for violation_id in ids:
                del self._raised[violation_id]
            self.give(found)
            await self._tell_waiting()
        now_s = asyncio.get_running_loop().time()
        due = [self._told_s.get(key, now_s) + AGAIN_S - now_s for key in self._waiting]
        return max(0.0, min(due)) if due else 3600.0

    async def _tell_waiting(self) -> None:
        now, now_s = self._clock(), asyncio.get_running_loop().time()
        self._told_s = {key: told_s for key, told_s in self._told_s.items() if now_s - told_s < AGAIN_S}
        due = [self._waiting.pop(key) for key in list(self._waiting) if key not in self._told_s]
        young = [found for found in due if now - found.last < _TOO_OLD]
        for _ in range(len(due) - len(young)):
            self._count("dropped")
        if not young or self._alertmanagers is None:
            return
        try:
            await self._alertmanagers.post(
                [alert_of_violations(found, self._links, self._labels, self._thresholds, now) for found in young]
            )
        except BaseException:
            self._count("failed")
            self.give(young)
            raise
        self._count("told")
        for found in young:
            self._told_s[found.key] = now_s

    def _complain(self, error: Exception) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._complained_s >= _SAY_AGAIN_S:
            self._complained_s = now_s
            logger.warning("nobody was paged for a violation yet: %s", error if isinstance(error, NotTold) else type(error).__name__)
