"""Containers, told in domain words: what there is, what happened, who did it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.containers.domain import Action, EngineState, Rules, Tracked
from isolation_monitor.collector.containers.repository import ContainerRepository, EventQuery, Received, around
from isolation_monitor.collector.containers.storms import who
from isolation_monitor.collector.storage.database import Database

_GONE: Final = timedelta(days=1)


class ContainerService:
    def __init__(self, database: Database, clock: Clock, rules: Rules) -> None:
        self._database = database
        self._clock = clock
        self.rules = rules

    async def engines(self) -> list[EngineState]:
        """Return the engines that are or were followed.

        Raises:
            StoreUnavailable: the store cannot answer now; so do all methods here.
        """
        async with self._database.reading() as connection:
            return await ContainerRepository(connection).engines()

    async def containers(self, engine: str | None, *, removed: bool = False) -> list[tuple[str, Tracked]]:
        """Return containers with the name of their engine; `removed` adds those that went within a day."""
        async with self._database.reading() as connection:
            return await ContainerRepository(connection).tracked(engine, self._clock() - _GONE if removed else None)

    async def events(self, query: EventQuery) -> list[Received]:
        """Return what happened, newest first."""
        async with self._database.reading() as connection:
            return await ContainerRepository(connection).find(query)

    async def actions(self, since: datetime | None, limit: int, after: tuple[datetime, str] | None) -> list[Action]:
        """Return what was done and what was refused, newest first."""
        async with self._database.reading() as connection:
            return await ContainerRepository(connection).find_actions(since, limit, after)

    async def keep(self, actions: Sequence[Action]) -> int:
        """Store what somebody did, write his name to what came of it, and return how many were new."""
        if not actions:
            return 0
        async with self._database.writing() as connection:
            repository = ContainerRepository(connection)
            new = await repository.add_actions(actions, self._clock())
            if new:
                for happened in await repository.unexplained(*around(action.time for action in actions)):
                    action = who(actions, happened.container_id, happened.container, happened.time)
                    if action is not None:
                        await repository.explain(happened.id, action.actor, action.host)
        return len(new)
