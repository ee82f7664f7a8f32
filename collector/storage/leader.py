"""Which replica does the work that one alone should do: expiry, partitions, reconciliation.

On PostgreSQL it is whoever holds an advisory lock of a connection of its own: the lock is gone with the connection, so a replica that
dies, or loses the database, leads no longer without anybody noticing it. SQLite has one collector, which always leads.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from isolation_monitor.collector.storage.database import Database, StoreUnavailable, translated

_LOCK: Final = 7341003


class Leader:
    """Asked before each piece of work: `async with database...` only when `await leads()` said yes a moment ago.

    Work must be harmless when two do it all the same: a connection may be cut while the old leader is in the middle of something.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: AsyncConnection | None = None
        self._asking = asyncio.Lock()
        self.is_leading = False
        """As of the last time that somebody asked."""

    async def leads(self) -> bool:
        """Say whether this replica leads now; it begins to when nobody else does. False while the store is away."""
        if self._database.dialect == "sqlite":
            self.is_leading = True
            return True
        # Several kinds of work share the one connection that holds the lock.
        async with self._asking:
            try:
                with translated():
                    self.is_leading = await self._holds()
            except StoreUnavailable:
                await self.close()
        return self.is_leading

    async def close(self) -> None:
        """Stop leading; another replica takes over the next time that it asks."""
        connection, self._connection, self.is_leading = self._connection, None, False
        if connection is None:
            return
        try:
            # Given back, or the lock would live on in the pool.
            await connection.execute(text(f"SELECT pg_advisory_unlock({_LOCK})"))
        except Exception:
            # It is lost, and the lock with it.
            await connection.invalidate()
        await connection.close()

    async def _holds(self) -> bool:
        if self._connection is not None:
            await self._connection.execute(text("SELECT 1"))
            return True
        connection = await self._database.lasting()
        try:
            held = bool((await connection.execute(text(f"SELECT pg_try_advisory_lock({_LOCK})"))).scalar_one())
        except BaseException:
            await connection.close()
            raise
        if held:
            self._connection = connection
        else:
            await connection.close()
        return held
