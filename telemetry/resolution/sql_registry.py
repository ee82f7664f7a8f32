"""The registry of several workers: one table of the application's own database, PostgreSQL or SQLite, by SQLAlchemy 2.

Not imported by the rest of telemetry, which loads no database library:

    from isolation_monitor.telemetry.resolution.sql_registry import SqlRegistry

Workers agree by the table's primary key: of two that register a run at once, one wins and both learn which. What this process
has read or written once it remembers (in a `MemoryRegistry`), because it never changes, and asks the database no more for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Column, Connection, Engine, Float, Index, MetaData, String, Table, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.resolution.registry import LONGEST_ID, Entry, MemoryRegistry

TABLE: Final = "isolation_run"
SWEEP_EVERY: Final = 500
"""Registrations of this process after which old rows are deleted."""
SWEEP_ROWS: Final = 5_000
"""Rows that one sweep deletes at most: a long delete would hold its locks for as long."""

_READ: Final = text(f"SELECT thread_id, owner, source, expires_at FROM {TABLE} WHERE run_id = :run_id AND expires_at > :now")
# A row that has expired and was not swept yet is as good as none: it is written over.
_WRITE: Final = text(
    f"INSERT INTO {TABLE} (run_id, thread_id, owner, source, expires_at) VALUES (:run_id, :thread_id, :owner, :source, :expires_at)\n"
    "ON CONFLICT (run_id) DO UPDATE SET thread_id = excluded.thread_id, owner = excluded.owner, source = excluded.source,\n"
    f"expires_at = excluded.expires_at WHERE {TABLE}.expires_at <= :now"
)
_OWN: Final = text(f"UPDATE {TABLE} SET owner = :owner WHERE run_id = :run_id AND owner IS NULL")
_EXPIRED: Final = text(
    f"DELETE FROM {TABLE} WHERE run_id IN (SELECT run_id FROM {TABLE} WHERE expires_at <= :now ORDER BY expires_at LIMIT :rows)"
)
_BEYOND: Final = text(
    f"DELETE FROM {TABLE} WHERE run_id IN (SELECT run_id FROM (SELECT run_id, expires_at FROM {TABLE} ORDER BY expires_at DESC\n"
    "LIMIT :rows OFFSET :kept) AS old)"
)


def registry_table(metadata: MetaData) -> Table:
    """Add the registry's table to an application's own metadata, so that its migrations make it."""
    table = Table(
        TABLE,
        metadata,
        Column("run_id", String(LONGEST_ID), primary_key=True),
        Column("thread_id", String(LONGEST_ID), nullable=False),
        Column("owner", String(LONGEST_ID)),
        Column("source", String(16), nullable=False),
        Column("expires_at", Float(53), nullable=False),
    )
    Index(f"{TABLE}_expires_at", table.c.expires_at)
    return table


class SqlRegistry:
    """Which thread a run belongs to, for all workers on one database.

    Args:
        engine: the application's own, sync or async; of PostgreSQL or SQLite.
        limit: rows kept; the oldest are swept first, now and then, so there may be some thousand more.
        ttl_s: how long a run is kept, seconds.
        remembered: runs that this process remembers without asking.
        clock: Unix time in seconds; the workers' clocks should agree within minutes.

    Raises:
        SettingsError: the engine is no SQLAlchemy engine, or of another database.
    """

    is_local = False

    def __init__(
        self,
        engine: Engine | AsyncEngine,
        *,
        limit: int = 1_000_000,
        ttl_s: float = 86_400.0,
        remembered: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(engine, (Engine, AsyncEngine)):
            raise SettingsError(f"SqlRegistry got {type(engine).__qualname__}: pass a SQLAlchemy Engine or AsyncEngine")
        if engine.dialect.name not in ("postgresql", "sqlite"):
            raise SettingsError(f"SqlRegistry knows PostgreSQL and SQLite, and this engine is of {engine.dialect.name}: use one of these")
        self.is_async = isinstance(engine, AsyncEngine)
        self.limit = limit
        self.ttl_s = ttl_s
        self._engine = engine
        self._clock = clock
        self._memory = MemoryRegistry(remembered, ttl_s, clock)
        self._put_count = 0

    def create_table(self) -> Any:
        """Make the table where it is missing; several workers may do so at once. Of an async engine: await the result.

        Raises:
            DBAPIError: the database refuses or cannot be reached.
        """
        if isinstance(self._engine, AsyncEngine):
            return self._create_table_async(self._engine)
        try:
            with self._engine.begin() as connection:
                _create(connection)
        except DBAPIError:
            with self._engine.connect() as connection:
                if not _exists(connection):
                    raise
        return None

    def peek(self, run_id: str) -> Entry | None:
        return self._memory.peek(run_id)

    def get(self, run_id: str) -> Any:
        if isinstance(self._engine, AsyncEngine):
            return self._get_async(self._engine, run_id)
        with self._engine.connect() as connection:
            found = connection.execute(_READ, {"run_id": run_id, "now": self._clock()}).mappings().first()
        return self._remember(run_id, found)

    def put(self, entry: Entry) -> Any:
        if isinstance(self._engine, AsyncEngine):
            return self._put_async(self._engine, entry)
        with self._engine.begin() as connection:
            return self._written(connection, entry)

    async def _create_table_async(self, engine: AsyncEngine) -> None:
        try:
            async with engine.begin() as connection:
                await connection.run_sync(_create)
        except DBAPIError:
            async with engine.connect() as connection:
                if not await connection.run_sync(_exists):
                    raise

    async def _get_async(self, engine: AsyncEngine, run_id: str) -> Entry | None:
        async with engine.connect() as connection:
            found = (await connection.execute(_READ, {"run_id": run_id, "now": self._clock()})).mappings().first()
        return self._remember(run_id, found)

    async def _put_async(self, engine: AsyncEngine, entry: Entry) -> Entry:
        async with engine.begin() as connection:
            return await connection.run_sync(self._written, entry)

    def _written(self, connection: Connection, entry: Entry) -> Entry:
        """Write an entry unless the run has one, within one transaction; return the one that holds."""
        now = self._clock()
        values = {"thread_id": entry.thread_id, "owner": entry.owner, "source": entry.source, "expires_at": entry.expires_at}
        connection.execute(_WRITE, {"run_id": entry.run_id, **values, "now": now})
        holds: Mapping[Any, Any] | None = connection.execute(_READ, {"run_id": entry.run_id, "now": now}).mappings().first()
        if holds is not None and holds["owner"] is None and entry.owner is not None and holds["thread_id"] == entry.thread_id:
            connection.execute(_OWN, {"run_id": entry.run_id, "owner": entry.owner})
            holds = {**holds, "owner": entry.owner}
        self._put_count += 1
        if self._put_count % SWEEP_EVERY == 0:
            connection.execute(_EXPIRED, {"now": now, "rows": SWEEP_ROWS})
            connection.execute(_BEYOND, {"kept": self.limit, "rows": SWEEP_ROWS})
        return self._remember(entry.run_id, holds) or entry

    def _remember(self, run_id: str, found: Mapping[Any, Any] | None) -> Entry | None:
        if found is None:
            return None
        read = Entry(run_id, found["thread_id"], found["owner"], found["source"], float(found["expires_at"]))
        held = self._memory.put(read)
        if not held.says_the_same(read):
            # The database holds for all workers; the memory of this one gives way.
            self._memory.forget(run_id)
            held = self._memory.put(read)
        return held


def _create(connection: Connection) -> None:
    metadata = MetaData()
    registry_table(metadata)
    metadata.create_all(connection, checkfirst=True)


def _exists(connection: Connection) -> bool:
    return inspect(connection).has_table(TABLE)
