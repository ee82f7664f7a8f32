"""The flags of the moment, and waiting for them to change.

One look at the store serves everybody who asks within `LOOK_EVERY_S`: a thousand providers that wait cost five queries a second,
and a change made by another replica is seen as soon as one of our own. While the store is away the last known rules are
answered: an outage of the monitor changes nothing for users.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from isolation_monitor.collector.flags.domain import FlagSource, Snapshot, snapshot_of
from isolation_monitor.collector.storage.database import StoreUnavailable

LOOK_EVERY_S: Final = 0.2
LONGEST_WAIT_S: Final = 25.0
SERVICES: Final = 1_000
"""Services whose flags are remembered; beyond it the one asked for longest ago is forgotten."""


class FlagService:
    """The flags of all services, as the source knows them."""

    def __init__(self, source: FlagSource) -> None:
        self._source = source
        self._watches: dict[str | None, _Watch] = {}

    async def current(self, service: str | None) -> Snapshot:
        """Return the flags of a service, or of all, not older than `LOOK_EVERY_S` while the store answers.

        Raises:
            StoreUnavailable: the store is away, and was never asked for these.
        """
        return await self._watch(service).current()

    async def changed(self, service: str | None, *, after: int | None, etags: str | None, wait_s: float) -> Snapshot:
        """Return the flags as soon as they differ from what somebody has, at the latest after `wait_s`.

        Raises:
            StoreUnavailable: as `current`.
        """
        watch = self._watch(service)
        found = await watch.current()
        deadline = time.monotonic() + min(wait_s, LONGEST_WAIT_S)
        while found.is_what(after, etags) and (left := deadline - time.monotonic()) > 0:
            found = await watch.next(found, left)
        return found

    def look(self) -> None:
        """Whoever waits looks at once: the caller has just changed something."""
        for watch in self._watches.values():
            watch.hurry.set()

    def _watch(self, service: str | None) -> _Watch:
        watch = self._watches.pop(service, None) or _Watch(self._source, service)
        self._watches[service] = watch
        while len(self._watches) > SERVICES:
            self._watches.pop(next(iter(self._watches)))
        return watch


class _Watch:
    """The flags of one service. Looks at the store while somebody waits."""

    def __init__(self, source: FlagSource, service: str | None) -> None:
        self._source = source
        self._service = service
        self._known: Snapshot | None = None
        self._looked_at = 0.0
        self._waiting = 0
        self._looker: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self.hurry = asyncio.Event()

    async def current(self) -> Snapshot:
        async with self._lock:
            known = self._known
            if known is not None and time.monotonic() - self._looked_at < LOOK_EVERY_S and not self.hurry.is_set():
                return known
            self.hurry.clear()
            try:
                revision, flags = await self._source.rules(self._service)
            except StoreUnavailable:
                if known is None:
                    raise
                return known
            self._looked_at = time.monotonic()
            found = snapshot_of(revision, flags)
            if known is not None and known.etag == found.etag:
                return known
            self._known = found
            self._news.set()
            self._news = asyncio.Event()
            return found

    async def next(self, known: Snapshot, wait_s: float) -> Snapshot:
        """Return the flags when they are no longer `known`, or after `wait_s`."""
        news = self._news
        if self._known is not known:
            return self._known or known
        self._waiting += 1
        if self._looker is None:
            self._looker = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(wait_s):
                await news.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
        return self._known or known

    async def _look(self) -> None:
        try:
            while self._waiting:
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self.hurry.wait()
                except TimeoutError:
                    pass
                if self._waiting:
                    await self.current()
        finally:
            self._looker = None
