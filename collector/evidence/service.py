"""Evidence, told in domain words: keep a batch, find violations."""

from __future__ import annotations

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.evidence.domain import Amendment, Batch, Group, Origin, Stored, Violation, ViolationQuery
from isolation_monitor.collector.evidence.repository import EvidenceRepository
from isolation_monitor.collector.problems import NotFound
from isolation_monitor.collector.storage.database import Database


class EvidenceService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def keep(self, batch: Batch) -> Stored:
        """Store a batch. When this returns, all of it is on disk.

        Raises:
            StoreUnavailable: nothing of it was stored.
        """
        if not len(batch):
            return Stored(0, 0)
        # The block commits at its end, before the answer is made. A dependency of the framework would commit after it was sent.
        async with self._database.writing() as connection:
            return await EvidenceRepository(connection).store(batch, Origin(batch.service, batch.instance, self._clock()))

    async def find(self, query: ViolationQuery) -> list[Violation]:
        async with self._database.reading() as connection:
            return await EvidenceRepository(connection).violations(query)

    async def groups(self, query: ViolationQuery) -> list[Group]:
        async with self._database.reading() as connection:
            return await EvidenceRepository(connection).groups(query)

    async def violation(self, violation_id: str) -> tuple[Violation, list[Amendment]]:
        """Return a violation with its escalations and retractions.

        Raises:
            NotFound: there is none with this id.
        """
        async with self._database.reading() as connection:
            repository = EvidenceRepository(connection)
            found = await repository.violation(violation_id)
            if found is None:
                raise NotFound("there is no violation with this id; one that was just found may still be on its way")
            return found, await repository.amendments(violation_id)
