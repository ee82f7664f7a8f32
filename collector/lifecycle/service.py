"""Starts and ends, told in domain words: what hangs now, what went wrong, and the story of one process."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Final

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.lifecycle.domain import LifecycleQuery, LifecycleRecord, Story, how_it_went_on, of_one_life, still_hanging
from isolation_monitor.collector.lifecycle.repository import LifecycleRepository
from isolation_monitor.collector.problems import NotFound
from isolation_monitor.collector.storage.database import Database

HANGS_SINCE: Final = timedelta(hours=1)
"""A process that was killed in the middle of its start tells nothing any more: what it said before is not believed for ever."""
_HANGS: Final = 200


class LifecycleService:
    """Every method raises StoreUnavailable where the store cannot answer now."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def find(self, query: LifecycleQuery) -> list[LifecycleRecord]:
        """Return starts and ends, newest first."""
        async with self._database.reading() as connection:
            return await LifecycleRepository(connection).find(query)

    async def hanging(self, service: str | None) -> list[LifecycleRecord]:
        """Return the phases that were told to hang within the last hour and whose start-up is not known to be over, newest first."""
        since = self._clock() - HANGS_SINCE
        async with self._database.reading() as connection:
            repository = LifecycleRepository(connection)
            hangs = await repository.find(LifecycleQuery(service, "hanging", since, limit=_HANGS))
            later = await repository.ends_of({one.instance for one in hangs}, since)
        return still_hanging(hangs, later)

    async def tell(self, record_id: str, services: Collection[str] | None = None) -> Story:
        """Return one record with what else its process told; only of `services`, where they are given.

        Raises:
            NotFound: there is none with this id.
        """
        async with self._database.reading() as connection:
            repository = LifecycleRepository(connection)
            record = await repository.get(record_id)
            if record is None or (services is not None and record.service not in services):
                raise NotFound("there is no start-up and no clean-up with this record id: GET /v1/lifecycle lists them")
            others = [one for one in of_one_life(record, await repository.around(record)) if one.id != record.id]
        return Story(record, others, how_it_went_on(record, others))
