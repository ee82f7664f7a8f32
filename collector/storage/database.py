"""The engine and the two ways to use it: `reading()` and `writing()`.

Durability: SQLite runs in WAL mode with `synchronous=FULL`, PostgreSQL with `synchronous_commit=on`, and `writing()`
commits before it returns, so whoever answers afterwards answers about something on disk. Everything that may go well
on a second try comes out as `StoreUnavailable`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from isolation_monitor.collector.storage.urls import async_url

_TRANSIENT_SQLSTATES = ("08", "40", "53", "55", "57")
"""PostgreSQL classes: connection lost, deadlock and serialization, no resources, lock not available, shutting down."""


class StoreUnavailable(Exception):
    """The store cannot answer now. The text names the class of trouble, never data."""


class Database:
    """One store. Build it, `await close()` it."""

    def __init__(self, url: str, timeout_s: float = 5.0) -> None:
        """`timeout_s` bounds the wait for a connection, for SQLite's lock and for a PostgreSQL statement."""
        self.url = async_url(url)
        self.dialect = "sqlite" if self.url.startswith("sqlite") else "postgresql"
        self._reader = create_engine(self.url, timeout_s)
        # SQLite has one writer at a time anyway: queueing in the pool is fair, waiting for the file's lock is not.
        self._writer = create_engine(self.url, timeout_s, writer=True) if self.dialect == "sqlite" else self._reader

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection whose changes are thrown away.

        Raises:
            StoreUnavailable: the store is away, busy, full or not migrated.
        """
        with _translated():
            async with self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection with one transaction; it is on disk when the block has ended without an exception.

        Raises:
            StoreUnavailable: nothing was kept; trying again may succeed.
        """
        with _translated():
            async with self._writer.begin() as connection:
                yield connection

    async def close(self) -> None:
        await self._reader.dispose()
        if self._writer is not self._reader:
            await self._writer.dispose()


def create_engine(url: str, timeout_s: float, *, writer: bool = False) -> AsyncEngine:
    """Return an engine with this product's durability. A `writer` of SQLite takes the lock when a transaction begins."""
    arguments: dict[str, Any] = {"pool_timeout": timeout_s, "json_serializer": partial(json.dumps, allow_nan=False, ensure_ascii=False)}
    if make_url(url).get_backend_name() == "postgresql":
        seconds = str(int(timeout_s * 1000))
        arguments |= {"pool_size": 10, "max_overflow": 5, "pool_pre_ping": True}
        arguments["connect_args"] = {
            "timeout": timeout_s,
            "server_settings": {"synchronous_commit": "on", "statement_timeout": seconds, "application_name": "isolation-monitor"},
        }
        return create_async_engine(url, **arguments)
    arguments |= {"pool_size": 1 if writer else 5, "max_overflow": 0, "connect_args": {"timeout": timeout_s}}
    engine = create_async_engine(url, **arguments)
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_immediate if writer else _begin)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:  # Any: the adapter of a driver without types
    # The driver's own BEGIN comes too late (before the first write only); ours comes from the "begin" event.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        # Only in a new file: later the pragma would write, and every new connection wait for the lock.
        cursor.execute("PRAGMA page_count")
        if not cursor.fetchone()[0]:
            cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except Exception:
        # The pool forgets a connection whose set-up failed; its thread would live on.
        connection.close()
        raise


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediate(connection: Connection) -> None:
    # A deferred transaction that reads first and writes later can fail at once, without waiting, when another wrote between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class _translated:
    """Turn what may go well later into `StoreUnavailable`; let defects through."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if error is None or not _is_transient(error):
            return
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise StoreUnavailable(f"the store is not available ({type(cause).__name__})") from error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, (OperationalError, InterfaceError, PoolTimeoutError, TimeoutError, OSError)):
        return True
    if isinstance(error, DBAPIError):
        state = str(getattr(error.orig, "sqlstate", "") or "")
        # 42P01: a table is missing, so the schema has yet to be migrated.
        missing_table = isinstance(error, ProgrammingError) and state == "42P01"
        return error.connection_invalidated or state.startswith(_TRANSIENT_SQLSTATES) or missing_table
    return False


async def serialize_amendments(connection: AsyncConnection, *, exclusive: bool) -> None:
    """On PostgreSQL, keep batches that amend violations apart from batches that bring them, until the transaction ends.

    Two open transactions do not see each other's rows: an escalation and its violation arriving at the same moment
    would each miss the other. SQLite has one writer and needs nothing.
    """
    if connection.dialect.name == "postgresql":
        function = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
        await connection.execute(text(f"SELECT {function}(7341001)"))
