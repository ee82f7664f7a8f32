"""Announcements, told in domain words: mark a change, page for a rollback, mark bursts of violations as they come and go.

Nothing here holds up what it tells of. A change that could not be told raises, and whoever keeps the changes tells it
again; every way of telling knows what it was told before. Bursts are looked for in the store, so a restart finds them.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from isolation_monitor.collector.announcements.alertmanager import Alertmanagers
from isolation_monitor.collector.announcements.domain import (
    Burst,
    Change,
    Links,
    Mark,
    alerts_of_change,
    bursts,
    mark_of_burst,
    mark_of_change,
)
from isolation_monitor.collector.announcements.grafana import Grafana, NotTold
from isolation_monitor.collector.announcements.repository import violations_since
from isolation_monitor.collector.background import whole
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.storage.database import Database

logger = logging.getLogger("isolation_monitor.collector")

PAUSE: Final = timedelta(seconds=60)
"""So long without a violation ends a burst: as long as their page stays."""
_LOOK_BACK: Final = timedelta(minutes=10)
_INTERVAL_S: Final = 2.0
_SAY_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Marked:
    """A burst that has its mark. `number` is the mark's id in Grafana."""

    number: int
    service: str
    mark: Mark


class AnnouncementService:
    def __init__(
        self, database: Database, clock: Clock, links: Links, grafana: Grafana | None, alertmanagers: Alertmanagers | None
    ) -> None:
        """None means that there is none to tell."""
        self._database = database
        self._clock = clock
        self._links = links
        self._grafana = grafana
        self._alertmanagers = alertmanagers
        self._looking = asyncio.Lock()
        self._marked: list[_Marked] = []
        self._complained_s = float("-inf")

    async def close(self) -> None:
        for told in (self._grafana, self._alertmanagers):
            if told is not None:
                await told.close()

    async def mark(self, change: Change) -> None:
        """Mark a change in Grafana.

        Raises:
            NotTold: it could not be marked this time.
        """
        if self._grafana is not None:
            await self._grafana.mark(mark_of_change(change, self._links))

    async def page(self, change: Change) -> None:
        """Page for a rollback, end its page when it is re-armed.

        Raises:
            NotTold: Alertmanager did not take it this time.
        """
        alerts = alerts_of_change(change, self._links, self._clock())
        if self._alertmanagers is not None and alerts:
            await self._alertmanagers.post(alerts)

    async def watch_bursts(self) -> None:
        """Mark bursts until cancelled; without a Grafana there is nothing to do."""
        while self._grafana is not None:
            try:
                await whole(self.mark_bursts())
            except Exception as error:
                # The store or Grafana is away: the next look finds the same rows again.
                self._complain(error)
            await asyncio.sleep(_INTERVAL_S)

    async def mark_bursts(self) -> None:
        """Mark the bursts of the last ten minutes; one that goes on has its mark extended.

        Raises:
            NotTold: Grafana did not take a mark this time.
            StoreUnavailable: the violations could not be read.
        """
        if self._grafana is None:
            return
        # Two looks at once would each make the same mark.
        async with self._looking:
            async with self._database.reading() as connection:
                found = await violations_since(connection, self._clock() - _LOOK_BACK)
            self._marked = [await self._mark_burst(burst, self._grafana) for burst in bursts(found, PAUSE)]

    async def _mark_burst(self, burst: Burst, grafana: Grafana) -> _Marked:
        mark = mark_of_burst(burst, self._links)
        for known in self._marked:
            # A burst longer than the look-back has lost its first violation: it is still the one that was marked.
            if known.service == burst.service and known.mark.time_ms <= mark.time_ms <= (known.mark.end_ms or 0):
                if mark.end_ms == known.mark.end_ms:
                    return known
                mark = replace(mark, key=known.mark.key, time_ms=known.mark.time_ms)
                await grafana.extend(known.number, mark)
                return _Marked(known.number, burst.service, mark)
        number = await grafana.mark(mark)
        if mark.end_ms != mark.time_ms:
            # It may be there from before a restart, and have grown since.
            await grafana.extend(number, mark)
        return _Marked(number, burst.service, mark)

    def _complain(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained_s >= _SAY_AGAIN_S:
            self._complained_s = now
            logger.warning("a burst of violations was not marked: %s", error if isinstance(error, NotTold) else type(error).__name__)
