"""Pages for violations as soon as their records are stored: beside Prometheus, and also where a process dies before a scrape.

Alertmanager joins these alerts with those of the rules. What it does not take is told again until it does. A row that is written with
the violations reminds of each page until it was told: what a process could not tell before it ended, its next start, or the replica
that leads, finds there and tells. Telling twice is harmless; so rows go after the page, never before.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from isolation_monitor.alerts.thresholds import load
from isolation_monitor.collector.announcements.alertmanager import Alertmanagers
from isolation_monitor.collector.announcements.domain import PAGE_LASTS, Links
from isolation_monitor.collector.announcements.grafana import NotTold
from isolation_monitor.collector.announcements.kinds import Kinds
from isolation_monitor.collector.announcements.repository import forget_pages_due, pages_beyond, pages_due
from isolation_monitor.collector.announcements.violation_alerts import alert_of_violations
from isolation_monitor.collector.background import whole
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.new_violations import Key, NewViolations, joined
from isolation_monitor.collector.storage.database import Database

logger = logging.getLogger("isolation_monitor.collector")

AGAIN_S: Final = 5.0
"""While violations go on, their alert is told again so often: it lasts much longer, and a storm of records is no storm of posts.

Nor one of rows: what comes so soon after a page is part of what that page tells of.
"""
_REMINDED_AGAIN_S: Final = 60.0
"""So often a pair that still waits gets another row: the rows of a long outage stay few, and the newest is never too old."""
LOOK_S: Final = 30.0
"""So often the replica that leads looks for what was not told."""
OVERDUE: Final = timedelta(seconds=15)
"""So long whoever stored it has time to tell it."""
_TOO_OLD: Final = PAGE_LASTS
"""Harm of longer ago wakes nobody: it comes out of a spool that lay somewhere, or out of another collector."""
_WAITING: Final = 1_000
"""Pairs of service and kind that may wait for an Alertmanager."""
_ROWS_READ: Final = 5_000
ROWS_KEPT: Final = 10_000
"""Beyond it the oldest rows go untold."""
_ROWS_FORGOTTEN: Final = 500
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
_LAST_S: Final = 2.0
_SAY_AGAIN_S: Final = 60.0


class Pager:
    """Built once for a process. `give` it what was stored, `run()` it in the event loop."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        links: Links,
        labels: dict[str, str],
        alertmanagers: Alertmanagers,
        leads: Callable[[], Coroutine[Any, Any, bool]],
        count: Callable[[str], None] = lambda result: None,
    ) -> None:
        """`labels` are those that Prometheus adds to every alert; `count` is told `told`, `failed` or `dropped`.

        `leads` says whether this replica looks after what others left.
        """
        self._database = database
        self._clock = clock
        self._links = links
        self._labels = labels
        self._alertmanagers = alertmanagers
        self._leads = leads
        self._count = count
        self._thresholds = load()
        self._kinds = Kinds()
        self._waiting: dict[Key, NewViolations] = {}
        self._posting: list[NewViolations] = []
        self._told_s: dict[Key, float] = {}
        self._reminded_s: dict[Key, float] = {}
        """When the last row of a pair was written, or its page told."""
        self._settled: dict[str, None] = {}
        """Rows that nobody needs any longer."""
        self._given = asyncio.Event()
        self._is_settled = asyncio.Event()
        self._complained_s: dict[str, float] = {}

    def noted(self, violated: Sequence[NewViolations]) -> list[NewViolations]:
        """Return what is about to be stored as it will be told, with an id in `due_ids` where a row must remind of it until then."""
        named = [(one, self._kinds.label(one.service, one.kind)) for one in violated]
        told = joined(one if one.kind == kind else replace(one, kind=kind) for one, kind in named)
        now, now_s = self._clock(), time.monotonic()
        return [
            replace(one, due_ids=(secrets.token_hex(16),)) if now - one.last < _TOO_OLD and not self._is_reminded(one.key, now_s) else one
            for one in told
        ]

    def _is_reminded(self, key: Key, now_s: float) -> bool:
        waiting = self._waiting.get(key)
        lasts_s = _REMINDED_AGAIN_S if waiting is not None and waiting.due_ids else AGAIN_S
        return now_s - self._reminded_s.get(key, float("-inf")) < lasts_s

    def give(self, violated: Sequence[NewViolations]) -> None:
        """Take what was stored, and its rows with it. Never waits and never fails: it stands in the path of records."""
        now_s = time.monotonic()
        for found in violated:
            if found.due_ids:
                self._reminded_s[found.key] = now_s
            known = self._waiting.get(found.key)
            if known is None and len(self._waiting) >= _WAITING:
                # One with a row is found there when there is room.
                if not found.due_ids:
                    self._count("dropped")
                continue
            self._waiting[found.key] = found if known is None else known.with_more(found)
        self._given.set()

    async def run(self) -> None:
        """Page until cancelled."""
        try:
            async with asyncio.TaskGroup() as both:
                # Apart: what is new must not wait for a store that cannot say what is old.
                both.create_task(self._run_telling())
                both.create_task(self._run_looking())
        finally:
            # Told just now: the next start need not tell it again.
            with suppress(Exception):
                await asyncio.wait_for(self.forget(), _LAST_S)

    async def _run_telling(self) -> None:
        failures, wait_s = 0, 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._given.wait()
            self._given.clear()
            try:
                wait_s = await whole(self.tell())
                failures = 0
            except Exception as error:
                self._complain("nobody was paged for a violation yet", error)
                wait_s = 0.0
                await asyncio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**failures))
                failures = min(failures + 1, 10)

    async def _run_looking(self) -> None:
        is_new, look_s, failures = True, 0.0, 0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, look_s - time.monotonic())):
                    await self._is_settled.wait()
            self._is_settled.clear()
            try:
                await whole(self.forget())
                if time.monotonic() >= look_s:
                    # Who starts does not ask how old: it may be what this replica itself left a moment ago.
                    if is_new or await whole(self._leads()):
                        await whole(self.look(timedelta(0) if is_new else OVERDUE))
                    is_new, look_s = False, time.monotonic() + LOOK_S
                failures = 0
            except Exception as error:
                self._complain("what is left to be paged for could not be looked up, or cleared", error)
                self._is_settled.set()
                await asyncio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**failures))
                failures = min(failures + 1, 10)

    async def look(self, overdue: timedelta = OVERDUE) -> None:
        """Take what was to be told so long ago and was not, whoever stored it.

        Raises:
            StoreUnavailable: the store could not be read.
        """
        async with self._database.reading() as connection:
            found = await pages_due(connection, self._clock() - overdue, _ROWS_READ)
            excess = await pages_beyond(connection, ROWS_KEPT, _ROWS_READ)
        known = {due_id for one in (*self._waiting.values(), *self._posting) for due_id in one.due_ids} | self._settled.keys()
        for due_id in excess:
            if due_id not in known:
                self._count("dropped")
                self._settle((due_id,))
        self.give([one for one in found if known.isdisjoint(one.due_ids) and self._settled.keys().isdisjoint(one.due_ids)])

    async def forget(self) -> None:
        """Delete the rows of what was told.

        Raises:
            StoreUnavailable: the store is away; they are tried again.
        """
        while ids := list(self._settled)[:_ROWS_FORGOTTEN]:
            async with self._database.writing() as connection:
                await forget_pages_due(connection, ids)
            for due_id in ids:
                self._settled.pop(due_id, None)

    async def tell(self) -> float:
        """Tell of all that waits and is due, and return when more will be, in seconds; long when nothing waits.

        Raises:
            NotTold: no Alertmanager took it this time; it still waits.
        """
        now_s = time.monotonic()
        self._told_s = {key: told_s for key, told_s in self._told_s.items() if now_s - told_s < AGAIN_S}
        self._reminded_s = {key: at_s for key, at_s in self._reminded_s.items() if now_s - at_s < _REMINDED_AGAIN_S}
        await self._tell_waiting()
        now_s = time.monotonic()
        due = [self._told_s.get(key, now_s) + AGAIN_S - now_s for key in self._waiting]
        return max(0.0, min(due)) if due else 3600.0

    async def _tell_waiting(self) -> None:
        now = self._clock()
        due = [self._waiting.pop(key) for key in list(self._waiting) if key not in self._told_s]
        young = [found for found in due if now - found.last < _TOO_OLD]
        for found in due:
            if now - found.last >= _TOO_OLD:
                self._count("dropped")
                self._settle(found.due_ids)
        if not young:
            return
        self._posting = young
        try:
            await self._alertmanagers.post(
                [alert_of_violations(found, self._links, self._labels, self._thresholds, now) for found in young]
            )
        except BaseException:
            self._count("failed")
            self._take_back(young)
            raise
        finally:
            self._posting = []
        self._count("told")
        told_s = time.monotonic()
        for found in young:
            self._told_s[found.key] = self._reminded_s[found.key] = told_s
            self._settle(found.due_ids)

    def _take_back(self, untold: Sequence[NewViolations]) -> None:
        for found in untold:
            since = self._waiting.get(found.key)
            self._waiting[found.key] = found if since is None else found.with_more(since)
        self._given.set()

    def _settle(self, due_ids: Sequence[str]) -> None:
        if due_ids:
            self._settled |= dict.fromkeys(due_ids)
            self._is_settled.set()

    def _complain(self, what: str, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s - self._complained_s.get(what, float("-inf")) >= _SAY_AGAIN_S:
            self._complained_s[what] = now_s
            logger.warning("%s: %s", what, error if isinstance(error, NotTold) else type(error).__name__)
