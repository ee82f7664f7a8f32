"""Every query on containers, their engines, what happened to them and what was done to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.containers.domain import Action, EngineState, Happening, Tracked
from isolation_monitor.collector.storage.database import insert_into
from isolation_monitor.collector.storage.models import (
    Base,
    ContainerActionRow,
    ContainerEngineRow,
    ContainerEventRow,
    ContainerRow,
)

Json = dict[str, Any]  # Any: JSON

_MOMENTS: Final = frozenset(field.name for field in fields(Tracked) if "datetime" in str(field.type))
_ACTED_ON: Final = ("stop", "kill", "stop_sigkill", "removal", "death")
"""Kinds of events that an action of somebody explains."""


@dataclass(frozen=True, slots=True)
class EventQuery:
    """What is asked of events: `None` for all."""

    since: datetime | None = None
    until: datetime | None = None
    kind: str | None = None
    container: str | None = None
    """A name, or the beginning of an id."""
    engine: str | None = None
    forced: bool | None = None
    limit: int = 100
    after: tuple[datetime, str] | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """One event as it is stored, with the machine on which it was asked for, where that is known."""

    happening: Happening
    host: str | None
    received_at: datetime


class ContainerRepository:
    """Statements on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def engines(self) -> list[EngineState]:
        """Return all engines, by name."""
        table = ContainerEngineRow.__table__
        return [_engine(row._mapping) for row in await self._connection.execute(select(table).order_by(ContainerEngineRow.name))]

    async def tracked(self, engine: str | None, removed_since: datetime | None = None) -> list[tuple[str, Tracked]]:
        """Return containers with the name of their engine, by name: those that are there, and those that went since then."""
        row = ContainerRow
        there = row.removed_at.is_(None) if removed_since is None else row.removed_at.is_(None) | (row.removed_at >= removed_since)
        statement = select(row.engine, row.facts).where(there).order_by(row.name, row.id)
        if engine is not None:
            statement = statement.where(row.engine == engine)
        return [(name, _tracked(facts)) for name, facts in await self._connection.execute(statement)]

    async def save_engine(self, state: EngineState) -> None:
        values = asdict(state) | {"unused_volumes": {name: since.isoformat() for name, since in state.unused_volumes.items()}}
        statement = insert_into(self._connection, ContainerEngineRow).values(values)
        await self._connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))

    async def save_containers(self, engine: str, tracked: Iterable[Tracked], now: datetime) -> None:
        for one in tracked:
            values = {
                "engine": engine,
                "id": one.id,
                "name": one.name[:300],
                "status": one.status,
                "updated_at": now,
                "removed_at": one.removed_at,
                "facts": _facts(one),
            }
            statement = insert_into(self._connection, ContainerRow).values(values)
            await self._connection.execute(statement.on_conflict_do_update(index_elements=["engine", "id"], set_=values))

    async def add_events(self, happened: Sequence[Happening], hosts: Sequence[str | None], now: datetime) -> set[str]:
        """Store what is not there yet and return the ids of it."""
        values = [
            asdict(one) | {"received_at": now, "host": host, "container": None if one.container is None else one.container[:300]}
            for one, host in zip(happened, hosts, strict=True)
        ]
        return await self._add(ContainerEventRow, values)

    async def add_actions(self, actions: Sequence[Action], now: datetime) -> set[str]:
        """Store what is not there yet and return the ids of it."""
        return await self._add(ContainerActionRow, [asdict(one) | {"received_at": now} for one in actions])

    async def _add(self, table: type[Base], values: list[Json]) -> set[str]:
        added: set[str] = set()
        # By chunks: SQLite takes some thousand variables a statement.
        for start in range(0, len(values), 50):
            statement = insert_into(self._connection, table).values(values[start : start + 50])
            unless_there = statement.on_conflict_do_nothing(index_elements=["id"]).returning(table.__table__.c.id)
            added.update((await self._connection.execute(unless_there)).scalars())
        return added

    async def actions(self, since: datetime, until: datetime) -> list[Action]:
        """Return what somebody did in this time, refused attempts too."""
        row = ContainerActionRow
        statement = select(row.__table__).where(row.time >= since, row.time <= until).order_by(row.time.desc()).limit(1000)
        return [_action(found._mapping) for found in await self._connection.execute(statement)]

    async def find_actions(self, since: datetime | None, limit: int, after: tuple[datetime, str] | None) -> list[Action]:
        row = ContainerActionRow
        statement = select(row.__table__).order_by(row.time.desc(), row.id.desc()).limit(limit)
        if since is not None:
            statement = statement.where(row.time >= since)
        if after is not None:
            statement = statement.where(tuple_(row.time, row.id) < after)
        return [_action(found._mapping) for found in await self._connection.execute(statement)]

    async def unexplained(self, since: datetime, until: datetime) -> list[Happening]:
        """Return what happened in this time at the hands of nobody knows whom."""
        row = ContainerEventRow
        wanted = [row.time >= since, row.time <= until, row.actor.is_(None), row.kind.in_(_ACTED_ON)]
        statement = select(row.__table__).where(*wanted).order_by(row.time.desc()).limit(1000)
        return [_received(found._mapping).happening for found in await self._connection.execute(statement)]

    async def explain(self, event_id: str, actor: str, host: str) -> None:
        """Write down who it was."""
        row = ContainerEventRow
        await self._connection.execute(update(row).where(row.id == event_id, row.actor.is_(None)).values(actor=actor, host=host))

    async def find(self, query: EventQuery) -> list[Received]:
        """Return events, newest first."""
        row = ContainerEventRow
        statement = select(row.__table__).order_by(row.time.desc(), row.id.desc()).limit(query.limit)
        if query.since is not None:
            statement = statement.where(row.time >= query.since)
        if query.until is not None:
            statement = statement.where(row.time < query.until)
        if query.kind is not None:
            statement = statement.where(row.kind == query.kind)
        if query.container is not None:
            by_id = row.container_id.startswith(query.container, autoescape=True)
            statement = statement.where((row.container == query.container) | by_id)
        if query.engine is not None:
            statement = statement.where(row.engine == query.engine)
        if query.forced is not None:
            statement = statement.where(row.forced.is_(query.forced))
        if query.after is not None:
            statement = statement.where(tuple_(row.time, row.id) < query.after)
        return [_received(found._mapping) for found in await self._connection.execute(statement)]


def explains(kind: str) -> bool:
    """Say whether an action of somebody can be behind an event of this kind."""
    return kind in _ACTED_ON


def around(times: Iterable[datetime]) -> tuple[datetime, datetime]:
    """Return the time in which actions lie that may explain what happened at `times`."""
    those = sorted(times)
    return those[0] - timedelta(minutes=1), those[-1] + timedelta(minutes=1)


def _engine(values: Any) -> EngineState:  # Any: a row
    # None where a version that kept no volumes has written it.
    unused = {name: datetime.fromisoformat(since) for name, since in (values["unused_volumes"] or {}).items()}
    return EngineState(**{**values, "unused_volumes": unused})


def _facts(one: Tracked) -> Json:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(one).items()}


def _tracked(facts: Json) -> Tracked:
    known = {field.name for field in fields(Tracked)}
    # A newer collector may remember more, an older one less.
    values: Json = {name: value for name, value in facts.items() if name in known}
    for name in _MOMENTS & values.keys():
        if values[name] is not None:
            values[name] = datetime.fromisoformat(values[name])
    return Tracked(**values)


def _action(values: Any) -> Action:  # Any: a row
    return Action(**{field.name: values[field.name] for field in fields(Action)})


def _received(values: Any) -> Received:  # Any: a row
    return Received(Happening(**{field.name: values[field.name] for field in fields(Happening)}), values["host"], values["received_at"])
