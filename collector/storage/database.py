"""The engine and the two ways to use it: `reading()` and `writing()`.

Durability: SQLite runs in WAL mode with `synchronous=FULL`, PostgreSQL with `synchronous_commit=on`, and `writing()`
commits before it returns, so whoever answers afterwards answers about something on disk. Everything that may go well
on a second try comes out as `StoreUnavailable`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from isolation_monitor.collector.storage.models import Base
from isolation_monitor.collector.storage.reasons import reason
from isolation_monitor.collector.storage.urls import async_url

_TRANSIENT_SQLSTATES = ("08", "40", "53", "55", "57")
"""PostgreSQL classes: connection lost, deadlock and serialization, no resources, lock not available, shutting down."""

_TAKEN_BACK = ("40001", "40P01")

_NO_PARTITION = "23514"
"""A violated check. None is ours: a partition was attached in the same moment, and the row belongs there the next time."""


_LOOK_AT_CLOCK_EVERY = 50_000
"""Steps of SQLite's machine between two looks: about a millisecond."""


class StoreUnavailable(Exception):
    """The store cannot answer now. The text names the class of trouble, never data."""

    was_deadlock = False
    """Two transactions waited for each other and this one was taken back: it may be tried again at once."""


class RefusedByStore(Exception):
    """The store does not take these values, now or later. The text names the class of trouble, never data."""


class Database:
    """One store. Build it, `await close()` it."""

    def __init__(self, url: str, timeout_s: float = 5.0) -> None:
        """`timeout_s` bounds the wait for a connection, for SQLite's lock and for a PostgreSQL statement."""
        self.url = async_url(url)
        self._timeout_s = timeout_s
        self.dialect = "sqlite" if self.url.startswith("sqlite") else "postgresql"
        self._reader = create_engine(self.url, timeout_s)
        # SQLite has one writer at a time anyway: queueing in the pool is fair, waiting for the file's lock is not.
        self._writer = create_engine(self.url, timeout_s, writer=True) if self.dialect == "sqlite" else self._reader

    @asynccontextmanager
    async def reading(self, timeout_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Give a connection whose changes are thrown away. A `timeout_s` of its own is for work that nobody waits for.

        Raises:
            StoreUnavailable: the store is away, busy, full or not migrated.
        """
        with translated():
            async with self._reader.connect() as connection:
                if self.dialect == "postgresql":
                    # As SQLite's: what one statement says holds for the next one, such as which days are summed up.
                    await connection.execution_options(isolation_level="REPEATABLE READ")
                await self._limit_time(connection, timeout_s)
                try:
                    yield connection
                finally:
                    _deadline(connection).clear()

    async def _limit_time(self, connection: AsyncConnection, timeout_s: float | None) -> None:
        """Let reading on SQLite end after the time that PostgreSQL's statement_timeout gives a statement there."""
        if self.dialect == "sqlite":
            _deadline(connection)[:] = [time.monotonic() + (timeout_s or self._timeout_s)]
        elif timeout_s is not None:
            await connection.execute(text(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}"))

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection with one transaction; it is on disk when the block has ended without an exception.

        Raises:
            StoreUnavailable: nothing was kept; trying again may succeed.
        """
        with translated():
            async with self._writer.begin() as connection:
                yield connection

    async def lasting(self) -> AsyncConnection:
        """Return a connection that commits each statement by itself; the caller closes it. For locks that last, and for DDL."""
        connection = await self._reader.connect()
        return await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def close(self) -> None:
        await self._reader.dispose()
        if self._writer is not self._reader:
            await self._writer.dispose()


def create_engine(url: str, timeout_s: float, *, writer: bool = False) -> AsyncEngine:
    """Return an engine with this product's durability. A `writer` of SQLite takes the lock when a transaction begins.

    A new file of SQLite is open to its owner alone, and so are the files that SQLite puts beside it.
    """
    arguments: dict[str, Any] = {
        "pool_timeout": timeout_s,
        "json_serializer": partial(json.dumps, allow_nan=False, ensure_ascii=False),
        # An error's text ends in the log: evidence does not.
        "hide_parameters": True,
    }
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
    event.listen(engine.sync_engine, "do_connect", partial(_made_private, make_url(url).database))
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_immediate if writer else _begin)
    return engine


def _made_private(path: str | None, *_about: object) -> None:
    """Make the file before SQLite does, which would leave it to the umask who may read all evidence."""
    if path is None or path.startswith("file:"):
        return
    # What is wrong with the path SQLite says better.
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _deadline(connection: AsyncConnection) -> list[float]:
    """Return the list that holds until when this connection may read, in seconds of the monotonic clock; empty: as long as it takes."""
    found: list[float] = connection.sync_connection.connection.info.setdefault("deadline", []) if connection.sync_connection else []
    return found


def _set_up_sqlite(connection: Any, record: Any) -> None:  # Any: the adapter of a driver without types, and its pool's record
    deadline: list[float] = []
    record.info["deadline"] = deadline

    def is_late() -> bool:
        return bool(deadline) and time.monotonic() > deadline[0]

    connection.run_async(lambda driver: driver.set_progress_handler(is_late, _LOOK_AT_CLOCK_EVERY))
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


class translated:
    """Turn what may go well later into `StoreUnavailable`; let defects through."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        cause = error.orig if isinstance(error, DBAPIError) else error
        if _is_refused(error):
            raise RefusedByStore(f"the store does not take it ({type(cause).__name__})") from error
        if _is_transient(error):
            unavailable = StoreUnavailable(f"the store is not available: {reason(error, cause)}")
            unavailable.was_deadlock = was_taken_back(error)
            raise unavailable from error


def _is_refused(error: BaseException) -> bool:
    if _sqlstate(error) == _NO_PARTITION:
        return False
    if isinstance(error, DBAPIError):
        # asyncpg finds values out of range by itself, and says so by an error of its interface that is also a ValueError.
        by_driver = isinstance(getattr(error.orig, "__cause__", None), ValueError)
        return isinstance(error, (DataError, IntegrityError)) or by_driver or _sqlstate(error).startswith("22")
    # What sqlite3 says of numbers beyond 64 bits, and of text that has no UTF-8.
    return isinstance(error, (OverflowError, UnicodeEncodeError))


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, (OperationalError, InterfaceError, PoolTimeoutError, TimeoutError, OSError)):
        return True
    if isinstance(error, DBAPIError):
        state = _sqlstate(error)
        # 42P01, 42703: a table or a column is missing, so the schema has yet to be migrated.
        is_older = isinstance(error, ProgrammingError) and state in ("42P01", "42703")
        return error.connection_invalidated or state.startswith((*_TRANSIENT_SQLSTATES, _NO_PARTITION)) or is_older
    return False


def was_taken_back(error: BaseException) -> bool:
    """Say whether PostgreSQL took a transaction back for another one's sake: the same may succeed at once."""
    return _sqlstate(error) in _TAKEN_BACK


def _sqlstate(error: BaseException) -> str:
    return str(getattr(error.orig, "sqlstate", "") or "") if isinstance(error, DBAPIError) else ""


def insert_into(connection: AsyncConnection, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """Return an insert that can say what to do with a row that is there already: each database has its own kind of it."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


async def serialize_amendments(connection: AsyncConnection, *, exclusive: bool) -> None:
    """On PostgreSQL, keep batches that amend violations apart from batches that bring them, until the transaction ends.

    Two open transactions do not see each other's rows: an escalation and its violation arriving at the same moment
    would each miss the other. SQLite has one writer and needs nothing.
    """
    if connection.dialect.name == "postgresql":
        function = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
        await connection.execute(text(f"SELECT {function}(7341001)"))
