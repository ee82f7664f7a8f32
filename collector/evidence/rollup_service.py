"""Rolling up, told in domain words: what is over is summed up once, by the replica that leads, so that long questions read little.

A day is summed up when it is over, and again when one of its violations comes late, changes or goes; on SQLite an hour's users, runs
and requests are indexed likewise. Nothing waits for it: until it is done, and whenever it cannot be, questions read the hourly counts
and the records themselves, and say the same.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Final

from isolation_monitor.collector.affected import Affected
from isolation_monitor.collector.background import whole
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.evidence.counts import full_hour
from isolation_monitor.collector.evidence.rollups import Key, RollupRepository, Span, Touched
from isolation_monitor.collector.evidence.touching import add_touched
from isolation_monitor.collector.storage.database import Database, StoreUnavailable
from isolation_monitor.collector.storage.days import hour_number, start_of
from isolation_monitor.collector.storage.rollup_models import DAY, HOUR

logger = logging.getLogger("isolation_monitor.collector")

INTERVAL_S: Final = 60.0
_RETRY_S: Final = 30.0
_SAY_AGAIN_S: Final = 600.0
_READ_S: Final = 60.0
"""An hour of records is read through in one go."""
_RESTING: Final = timedelta(minutes=5)
"""So long after its end most late records are there, and a span is not done twice."""
_RECORDS: Final = 1_000
"""Records whose mentions one transaction writes: SQLite's other writers wait for it about as many hundredths of a millisecond."""
_TRIES: Final = 20
_HOUR: Final = timedelta(hours=1)


class RollupService:
    def __init__(
        self,
        database: Database,
        leads: Callable[[], Coroutine[Any, Any, bool]],
        clock: Clock,
        keep_days: int,
        count: Callable[[str], None] = lambda result: None,
    ) -> None:
        """`leads` says whether this replica does the work now; older than `keep_days` nothing is summed up.

        `count` is told of each round whether it was `ok` or `failed`: as a whole, or for one day or hour.
        """
        self._database = database
        self._leads = leads
        self._clock = clock
        self._keep_days = keep_days
        self._count = count
        self._complained_s = float("-inf")
        self._is_ending = False

    async def run(self) -> None:
        """Roll up until cancelled, whenever this replica leads."""
        while True:
            pause_s = INTERVAL_S
            try:
                if await whole(self._leads()):
                    await whole(self.roll_up(), self._end)
            except Exception as error:
                pause_s = _RETRY_S
                self._complain(error)
            await asyncio.sleep(pause_s)

    async def roll_up(self) -> int:
        """Do what is over and not done, the newest first, and return how many days and hours that were.

        Raises:
            StoreUnavailable: the store is away, or too slow; what was done stays done.
        """
        try:
            done, failed = await self._round()
        except Exception:
            self._count("failed")
            raise
        if not self._is_ending:
            self._count("failed" if failed else "ok")
        return done

    async def _round(self) -> tuple[int, int]:
        """Return how many days and hours were done, and how many could not be."""
        now, done, failed = self._clock(), 0, 0
        first = start_of(now.date() - timedelta(days=self._keep_days + 1))
        for span in await self._due(first, now):
            if self._is_ending:
                break
            try:
                done += await self._do(span)
            except StoreUnavailable as error:
                # One that is too much for the store must not keep all others, nor what is to be forgotten.
                failed += 1
                self._complain(error)
        async with self._database.writing() as connection:
            repository = RollupRepository(connection)
            await repository.forget_marks_before(first)
            await repository.forget_stale_days()
        if self._database.dialect == "sqlite":
            await self._forget_mentions_of_nothing(first)
        return done, failed

    async def _due(self, first: datetime, now: datetime) -> list[Span]:
        async with self._database.reading(_READ_S) as connection:
            repository = RollupRepository(connection)
            hours = await repository.hours_with_violations(first, full_hour(now - _RESTING))
            spans = {Span(DAY, start_of(hour.date())) for hour in hours} - {Span(DAY, start) for start in await repository.done(DAY)}
            spans = {span for span in spans if span.end + _RESTING <= now}
            if self._database.dialect == "sqlite":
                spans |= {Span(HOUR, hour) for hour in hours} - {Span(HOUR, start) for start in await repository.done(HOUR)}
        return sorted(spans, key=lambda span: (span.start, span.kind), reverse=True)

    async def _do(self, span: Span) -> bool:
        """Roll up one span; False when its violations changed meanwhile: the next round does it again."""
        token = secrets.token_hex(16)
        async with self._database.writing() as connection:
            await RollupRepository(connection).begin(span, token)
        return await (self._sum_up(span, token) if span.kind == DAY else self._index(span, token))

    async def _sum_up(self, day: Span, token: str) -> bool:
        await self._wait_for_writers()
        async with self._database.reading(_READ_S) as connection:
            sums = await RollupRepository(connection).sums(day)
        touched: dict[Key, Touched] = {}
        hour = day.start
        while hour < day.end and not self._is_ending:
            async with self._database.reading(_READ_S) as connection:
                async for some in RollupRepository(connection).touched(hour, hour + _HOUR):
                    by_key: dict[Key, Affected] = {}
                    for key, ids in some:
                        add_touched(by_key.setdefault(key, Affected()), ids)
                    for key, affected in by_key.items():
                        touched.setdefault(key, Touched()).add(affected)
                    # Requests come first.
                    await asyncio.sleep(0)
            hour += _HOUR
        if self._is_ending:
            return False
        async with self._database.writing() as connection:
            repository = RollupRepository(connection)
            if not await repository.finish(day, token):
                return False
            await repository.publish(day, sums, {key: one.packed() for key, one in touched.items()})
        return True

    async def _wait_for_writers(self) -> None:
        for attempt in range(_TRIES):
            try:
                async with self._database.writing() as connection:
                    await RollupRepository(connection).wait_for_writers()
            except StoreUnavailable:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(0.05 * (attempt + 1))
            else:
                return

    async def _index(self, hour: Span, token: str) -> bool:
        """Write who is mentioned in an hour, in transactions that keep other writers waiting for some hundredths of a second."""
        await self._forget_mentions(hour.hour)
        since: datetime | None = hour.start
        while since is not None:
            if self._is_ending:
                return False
            async with self._database.reading() as connection:
                following = await RollupRepository(connection).time_after(since, hour.end, _RECORDS)
            started = time.perf_counter()
            async with self._database.writing() as connection:
                await RollupRepository(connection).mention(hour, since, following or hour.end)
            since = following
            await asyncio.sleep(time.perf_counter() - started)
        async with self._database.writing() as connection:
            return await RollupRepository(connection).finish(hour, token)

    async def _forget_mentions(self, hour: int) -> None:
        gone = 1
        while gone and not self._is_ending:
            async with self._database.writing() as connection:
                gone = await RollupRepository(connection).forget_mentions(hour)

    async def _forget_mentions_of_nothing(self, first: datetime) -> None:
        """Drop the index of hours whose violations are gone: they are too old, or went to make room."""
        async with self._database.reading(_READ_S) as connection:
            repository = RollupRepository(connection)
            there = {hour_number(hour) for hour in await repository.hours_with_violations(first, self._clock())}
            gone = [hour for hour in await repository.mentioned_hours() if hour not in there]
        for hour in gone:
            if not self._is_ending:
                await self._forget_mentions(hour)

    def _end(self) -> None:
        self._is_ending = True

    def _complain(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained_s >= _SAY_AGAIN_S:
            self._complained_s = now
            expected = isinstance(error, StoreUnavailable)
            logger.warning("violations could not be summed up: %s", error, exc_info=None if expected else error)
