"""Databases for the registry: a real PostgreSQL and SQLite files, sync and async."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from isolation_monitor.telemetry.resolution.sql_registry import SqlRegistry
from tests.real_parts.postgres import Postgres, postgres

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The part of an address behind the driver's name."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'runs.sqlite3'}"
        return
    running: Postgres = request.getfixturevalue("cluster")
    name = f"runs_{next(_NUMBERS)}"
    yield running.create(name)
    running.drop(name)


def sync_url(database: str) -> str:
    return database.replace("+aiosqlite", "").replace("+asyncpg", "+psycopg")


@pytest.fixture(params=["sync", "async"])
async def make_registry(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that makes registries on one database, as several workers would."""
    engines: list[Any] = []

    async def make(**arguments: Any) -> SqlRegistry:
        engine: Any = create_engine(sync_url(database)) if request.param == "sync" else create_async_engine(database)
        engines.append(engine)
        registry = SqlRegistry(engine, **arguments)
        await settled(registry.create_table())
        return registry

    yield make
    for engine in engines:
        await settled(engine.dispose())


async def settled(value: Any) -> Any:
    """Return what a call of a sync or an async engine gives."""
    return await value if hasattr(value, "__await__") else value
