"""Queues, told in domain words: whose are the deepest now."""

from __future__ import annotations

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.queues.domain import ServiceQueues, UserQueue, by_service, deepest
from isolation_monitor.collector.queues.repository import statements
from isolation_monitor.collector.storage.database import Database


class QueueService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def deepest(self, service: str | None, limit: int) -> tuple[list[UserQueue], list[ServiceQueues]]:
        """Return at most `limit` users with the deepest queues, and the numbers of at most as many services.

        Raises:
            StoreUnavailable: the store cannot answer now.
        """
        async with self._database.reading() as connection:
            said = await statements(connection, service, self._clock())
        return deepest(said, limit), by_service(said)[:limit]
