"""Engines on real databases: SQLite files always, PostgreSQL by two drivers where it is installed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from isolation_monitor.telemetry import IsolationMonitor, names
from tests.real_parts.postgres import Postgres
from tests.real_parts.postgres import postgres as running_postgres

LIMIT_S = 20.0
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg"])
async def async_engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """An asynchronous engine with a pool of 3 + 2 and a short time-out, on each database and driver."""
    driver: str = request.param
    cluster: Postgres | None = None
    name = f"sessions_{next(_numbers)}"
    if driver.startswith("sqlite"):
        url = f"{driver}:///{tmp_path / 'app.sqlite3'}"
    else:
        if driver.endswith("psycopg"):
            pytest.importorskip("psycopg")
        cluster = request.getfixturevalue("postgres")
        url = cluster.create(name).replace("postgresql+asyncpg", driver)
    engine = create_async_engine(url, pool_size=3, max_overflow=2, pool_timeout=60)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100))"))
    yield engine
    await engine.dispose()
    if cluster is not None:
        await asyncio.to_thread(cluster.drop, name)


class Watched:
    """What a monitor found about sessions, read as its users do."""

    def __init__(self, monitor: IsolationMonitor) -> None:
        self.monitor = monitor

    def leaked(self) -> float:
        return sum(self.monitor.registry.value(names.SESSION_LEAKS, arm=arm) for arm in names.ARMS)

    def retracted(self) -> float:
        return sum(self.monitor.registry.value(names.SESSION_LEAKS_RETRACTED, arm=arm) for arm in names.ARMS)

    def passed(self) -> float:
        return self.monitor.registry.value(names.CHECKS, detector="session_leak", result="pass")

    def errors(self) -> float:
        return sum(self.monitor.registry.value(names.MONITOR_ERRORS, hook=hook) for hook in names.HOOKS)

    def observed(self, metric: names.Metric, pool: str) -> float:
        return self.monitor.registry.value(metric, db_client_connection_pool_name=pool)

    def connections(self, pool: str, state: str) -> float:
        return self.monitor.registry.value(names.DB_CONNECTION_COUNT, db_client_connection_pool_name=pool, db_client_connection_state=state)

    async def judged(self) -> None:
        """Let every deadline that is set now pass."""
        done: list[bool] = []
        self.monitor.housekeeper.after(self.monitor.settings.leak_grace_s + 0.1, lambda: done.append(True))
        await self.eventually(lambda: done, "the housekeeper's next job")

    async def eventually(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {what}; violations: {self.monitor.violations()}"
            await asyncio.sleep(0.01)


@pytest.fixture
def watched(make_monitor: Callable[..., IsolationMonitor]) -> Watched:
    return Watched(make_monitor(leak_grace_s=0.2))
