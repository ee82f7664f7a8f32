"""Retention, told in domain words: forget what is older than it is kept, make room, have partitions ready.

Writers never wait long: each transaction is small, and a pause as long as the transaction follows it. A round that fails is
tried again at the next one; everything here may be done twice.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url

from isolation_monitor.collector.background import whole
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.retention.domain import Chunk, Disk, Policy, Round, too_many_days, wanted_partitions
from isolation_monitor.collector.retention.repository import Expiring, RetentionRepository, expiring
from isolation_monitor.collector.storage.database import Database, StoreUnavailable
from isolation_monitor.collector.storage.leader import Leader

logger = logging.getLogger("isolation_monitor.collector")

_RETRY_S: Final = 30.0
_SAY_AGAIN_S: Final = 600.0
_TRIES: Final = 20
_LONG_S: Final = 5.0
_VACUUM_PAGES: Final = 200
_LOOK_AT_DISK_S: Final = 1.0
_SHORTEST_PAUSE_S: Final = 0.005


class RetentionService:
    def __init__(
        self,
        database: Database,
        leader: Leader,
        metrics: CollectorMetrics,
        clock: Clock,
        policy: Policy,
        interval_s: float,
    ) -> None:
        self._database = database
        self._leader = leader
        self._metrics = metrics
        self._clock = clock
        self._policy = policy
        self._interval_s = interval_s
        self._complained_s = float("-inf")
        self._working = asyncio.Lock()
        self._is_ending = False
        self.rounds = 0
        """Rounds that came to their end, since the process started."""
        metrics.keeps_house_every(interval_s)

    @property
    def is_working(self) -> bool:
        """Whether a round is under way."""
        return self._working.locked()

    async def run(self) -> None:
        """Keep house until cancelled, whenever this replica leads."""
        while True:
            pause_s = self._interval_s
            try:
                if await whole(self._leader.leads()):
                    await whole(self.keep_house(), self._end)
            except Exception as error:
                pause_s = min(self._interval_s, _RETRY_S)
                self._complain(error)
            self._metrics.leading(self._leader.is_leading)
            await asyncio.sleep(pause_s)

    def _end(self) -> None:
        self._is_ending = True

    def _go_on(self) -> None:
        """Called between two transactions: what is not begun can wait for the next start, who stops the collector cannot."""
        if self._is_ending:
            raise asyncio.CancelledError

    async def keep_house(self) -> Round:
        """Do one round: expiry, size, partitions.

        Raises:
            StoreUnavailable: the store is away or others hold its tables; what was done stays done.
        """
        async with self._working:
            done = await self._round()
        self.rounds += 1
        return done

    async def _round(self) -> Round:
        done, now = Round(), self._clock()
        await self._expire(done, self._policy.first_kept(now), now)
        if self._policy.max_bytes:
            await self._make_room(done, now)
        if self._database.dialect == "postgresql":
            # Last: what cannot be made today must not keep what is too old.
            await self._make_partitions(done, now)
        if self._database.dialect == "sqlite":
            await self._vacuum(done)
        self._metrics.house_kept(done.expired, done.partitions_dropped, now.timestamp(), await self._bytes())
        return done

    async def _make_partitions(self, done: Round, now: datetime) -> None:
        """Make each partition that is missing, the days ahead first: they are empty, and soon needed.

        Raises:
            StoreUnavailable: some could not be made; the others were.
        """
        failed: list[tuple[str, Exception]] = []
        days = sorted(wanted_partitions(now), key=lambda day: (day <= now.date(), day))
        for table, there in (await self._partitions()).items():
            for day in days:
                if day in there:
                    continue
                self._go_on()
                try:
                    await self._insist(done, lambda repository, t=table, d=day: repository.add_partition(t, d))  # type: ignore[misc]
                except Exception as error:
                    failed.append((f"{table} of {day}", error))
                else:
                    done.partitions_made += 1
        if failed:
            what, first = failed[0]
            raise StoreUnavailable(f"{len(failed)} partitions could not be made, first {what} ({type(first).__name__})") from first

    async def _expire(self, done: Round, first_kept: date, now: datetime) -> None:
        if self._database.dialect == "postgresql":
            for table, there in (await self._partitions()).items():
                for day in there:
                    if day < first_kept:
                        self._go_on()
                        await self._drop_partition(done, table, day)
            self._go_on()
            async with self._database.reading() as connection:
                left_over = await RetentionRepository(connection).left_over()
            for name in left_over:
                await self._insist(done, lambda repository, n=name: repository.drop(n))  # type: ignore[misc]
        cutoff = now - timedelta(days=self._policy.days)
        for what in expiring(first_kept, cutoff, now.date()):
            await self._expire_table(done, what)

    async def _drop_partition(self, done: Round, table: str, day: date) -> None:
        async def detach(repository: RetentionRepository) -> None:
            if table == "violations":
                await repository.forget_counts(day)
            await repository.detach(table, day)

        await self._insist(done, detach)
        await self._insist(done, lambda repository: repository.drop(f"{table}_d{day:%Y%m%d}"))
        done.partitions_dropped += 1

    async def _expire_table(self, done: Round, what: Expiring) -> None:
        chunk = Chunk()
        while True:
            self._go_on()
            # Looked up where nobody waits; by key, the transaction that makes writers wait is short.
            async with self._database.reading() as connection:
                keys = await RetentionRepository(connection).oldest(what, chunk.rows)
            if not keys:
                return
            async with self._timed(done, what.name) as (repository, counted):
                counted.append(await repository.remove(what, keys))
            chunk.took(self._last_s)
            await asyncio.sleep(max(_SHORTEST_PAUSE_S, self._last_s))

    @asynccontextmanager
    async def _timed(self, done: Round, table: str) -> AsyncIterator[tuple[RetentionRepository, list[int]]]:
        """Give a transaction, and tell how long it kept writers waiting: from the lock to the end of the commit."""
        counted: list[int] = []
        started = time.perf_counter()
        async with self._database.writing() as connection:
            started = time.perf_counter()
            yield RetentionRepository(connection), counted
        self._last_s = time.perf_counter() - started
        done.add(table, sum(counted), self._last_s)

    _last_s = 0.0

    async def _insist(self, done: Round, work: Callable[[RetentionRepository], object]) -> None:
        """Do work that waits for locks briefly; while others hold them, try again a little later."""
        for attempt in range(_TRIES):
            started = time.perf_counter()
            try:
                async with self._database.writing() as connection:
                    # A connection that is waited for blocks nobody else.
                    started = time.perf_counter()
                    await work(RetentionRepository(connection))  # type: ignore[misc]
            except StoreUnavailable:
                # What was stopped after it had its locks would be stopped again, and keep writers waiting each time.
                if attempt == _TRIES - 1 or time.perf_counter() - started > _LONG_S:
                    raise
                await asyncio.sleep(0.05 * (attempt + 1))
            else:
                done.longest_s = max(done.longest_s, time.perf_counter() - started)
                return

    async def _make_room(self, done: Round, now: datetime) -> None:
        """Drop the oldest days while the store is larger than it may be."""
        used = await self._bytes()
        if used <= self._policy.max_bytes:
            return
        async with self._database.reading() as connection:
            rows = await RetentionRepository(connection).day_rows()
        weights = {day: used * records // max(1, sum(rows.values())) for day, records in rows.items()}
        if self._database.dialect == "postgresql":
            weights = {}
            for there in (await self._partitions()).values():
                for day, size in there.items():
                    weights[day] = weights.get(day, 0) + size
        gone = too_many_days(weights, used, self._policy.max_bytes, now.date())
        if gone:
            logger.warning("the store has %d bytes, %d are allowed: the evidence until %s goes", used, self._policy.max_bytes, gone[-1])
            first = gone[-1] + timedelta(days=1)
            await self._expire(done, first, now)

    async def _vacuum(self, done: Round) -> None:
        left, before = 1, 0
        while left and left != before:
            before = left
            self._go_on()
            async with self._timed(done, "") as (repository, _):
                left = await repository.vacuum(_VACUUM_PAGES)
            await asyncio.sleep(max(_SHORTEST_PAUSE_S, self._last_s))

    async def _partitions(self) -> dict[str, dict[date, int]]:
        async with self._database.reading() as connection:
            return await RetentionRepository(connection).partitions()

    async def _bytes(self) -> int:
        if self._database.dialect == "postgresql":
            return sum(size for there in (await self._partitions()).values() for size in there.values())
        async with self._database.reading() as connection:
            return await RetentionRepository(connection).sqlite_bytes()

    def _complain(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained_s >= _SAY_AGAIN_S:
            self._complained_s = now
            expected = isinstance(error, StoreUnavailable)
            logger.warning("retention did not come to its end: %s", error, exc_info=None if expected else error)


class DiskGuard:
    """Knows whether there is room for more. Looks at most once a second: it stands in the path of records."""

    def __init__(self, database_url: str, limit: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`limit` is the used share of the disk, 0-1, from which nothing more is taken. PostgreSQL's disk is not ours to see."""
        url = make_url(database_url)
        self._folder = Path(url.database or ".").absolute().parent if url.get_backend_name() == "sqlite" else None
        self._limit = limit
        self._monotonic = monotonic
        self._looked_s = float("-inf")
        self._disk: Disk | None = None

    def look(self) -> Disk | None:
        """Return how full the disk is; None where there is none to look at, or it does not say."""
        now = self._monotonic()
        if self._folder is not None and now - self._looked_s >= _LOOK_AT_DISK_S:
            self._looked_s = now
            try:
                usage = shutil.disk_usage(self._folder)
            except OSError:
                self._disk = None
            else:
                # What is free for us: a share of the disk is kept for root.
                self._disk = Disk(1 - usage.free / usage.total if usage.total else 0.0, self._limit)
        return self._disk
