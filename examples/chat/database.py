"""The database: one engine per worker, one short session per unit of work.

A session lives inside one `async with`, which commits at its end, rolls back on an error, and always gives the
connection back. No session is held while the agent thinks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from chat.models import Base

PREPARE_LIMIT_S: Final = 30.0
_ADVISORY_LOCK: Final = 0x63686174  # "chat": any number that all workers agree on


class Database:
    """Engine, sessions and pool numbers of this worker."""

    def __init__(self, url: str, *, pool_size: int, max_overflow: int) -> None:
        self.engine: AsyncEngine = create_async_engine(
            url,
            poolclass=AsyncAdaptedQueuePool,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=10,
        )
        self._is_sqlite = self.engine.dialect.name == "sqlite"
        if self._is_sqlite:
            event.listen(self.engine.sync_engine, "connect", _set_up_sqlite)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """One unit of work: committed at the end of the block, rolled back when the block raises."""
        async with self._sessions() as session:
            yield session
            await session.commit()

    async def prepare(self) -> None:
        """Make the tables. Several workers may do so at once: the first does it while the others wait their turn.

        Raises:
            DBAPIError: the database cannot be reached, or stayed busy for `PREPARE_LIMIT_S`.
        """
        deadline = time.monotonic() + PREPARE_LIMIT_S
        while True:
            try:
                async with self.engine.connect() as connection:
                    await self._make_tables(connection)
                return
            except DBAPIError:
                # SQLite answers "locked" at once when two workers switch to its write-ahead log together.
                if not self._is_sqlite or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    async def _make_tables(self, connection: AsyncConnection) -> None:
        if self._is_sqlite:
            await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        await connection.run_sync(Base.metadata.create_all)
        await connection.commit()

    async def ping(self) -> None:
        """Ask the database for an answer.

        Raises:
            DBAPIError: there is none.
        """
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    def pool_numbers(self) -> dict[str, int]:
        """Return how many connections the pool keeps, how many are out now, and how many of these exceed its size."""
        pool = self.engine.pool
        if not isinstance(pool, AsyncAdaptedQueuePool):
            return {}
        return {"size": pool.size(), "checked_out": pool.checkedout(), "overflow": max(0, pool.overflow())}

    async def close(self) -> None:
        await self.engine.dispose()


def _set_up_sqlite(connection: Any, _record: Any) -> None:  # Any: each driver has a connection class of its own
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
