"""The schema's version: migrate up and down, and tell whether a database is at the version this code needs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from isolation_monitor.collector.storage.database import create_engine, was_taken_back
from isolation_monitor.collector.storage.urls import async_url

logger = logging.getLogger("isolation_monitor.collector")

_TRIES: Final = 5
_PAUSE_S: Final = 0.5
_MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


def newest_revision() -> str:
    """Return the revision that this code needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("the package holds no migration")
    return head


async def revision_of(connection: AsyncConnection) -> str | None:
    """Return the revision a database is at; None when it was never migrated."""
    return await connection.run_sync(_revision)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def migrate(url: str, to: str = "head", *, down: bool = False, timeout_s: float = 60.0) -> tuple[str | None, str | None]:
    """Move the database at `url` to revision `to` and return the revisions before and after.

    Replicas may start it at the same time: one works, the others wait and find nothing to do. Beside replicas that serve, which lock
    the same tables in an order of their own, it may be taken back; it then begins again, five times in all.

    Raises:
        alembic.util.CommandError: there is no such revision.
        sqlalchemy.exc.SQLAlchemyError, OSError: the database refused or is away; nothing was changed.
    """
    engine = create_engine(async_url(url), timeout_s, writer=True)
    try:
        for tries_left in reversed(range(_TRIES)):
            try:
                return await _moved(engine, to, down)
            except DBAPIError as error:
                if not was_taken_back(error) or not tries_left:
                    raise
                logger.warning("migrating met another transaction in a deadlock and begins again, %d tries are left", tries_left)
                # Whoever it met goes on meanwhile.
                await asyncio.sleep(_PAUSE_S)
        raise AssertionError("unreachable")
    finally:
        await engine.dispose()


async def _moved(engine: AsyncEngine, to: str, down: bool) -> tuple[str | None, str | None]:
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(7341000)"))
            # Rewriting a month of evidence takes as long as it takes.
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
        before = await revision_of(connection)
        await connection.run_sync(_run, to, down)
        return before, await revision_of(connection)


def _run(connection: Connection, to: str, down: bool) -> None:
    config = _config()
    config.attributes["connection"] = connection
    (command.downgrade if down else command.upgrade)(config, to)


def _config() -> Config:
    config = Config()
    # A percent sign in a path would be read as interpolation.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
