"""A collector in this process on a real database: SQLite files always, PostgreSQL where it is installed."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from isolation_monitor.collector.app import create_app
from isolation_monitor.collector.clock import Clock, rfc3339
from isolation_monitor.collector.keys import digest_of
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.retention.domain import Policy
from isolation_monitor.collector.retention.service import RetentionService
from isolation_monitor.collector.settings import CollectorSettings, load_settings
from isolation_monitor.collector.storage.database import Database
from isolation_monitor.collector.storage.leader import Leader
from isolation_monitor.collector.storage.models import Base
from isolation_monitor.collector.storage.schema import migrate
from tests.real_parts.postgres import Postgres
from tests.real_parts.postgres import postgres as running_postgres

SEND, READ = "token-that-sends", "token-that-reads"
PERSON = {"actor": "ann", "reason": "because"}
STAGES = [
    {"name": "internal", "kind": "internal", "soak": "1m", "minimum": {"exposed_requests": 20}},
    {"name": "canary", "percent": 10, "soak": "1m"},
    {"name": "full", "percent": 100, "soak": "1m", "advance": "manual"},
]
START = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)

MIGRATED = "migrated"
"""A PostgreSQL database to copy: no test writes to it, so that a copy holds nothing of another test."""

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One cluster for the session, with a migrated database that tests empty and use in turn."""
    with running_postgres() as cluster:
        asyncio.run(_with_partitions(cluster.create(MIGRATED)))
        cluster.create("shared", template=MIGRATED)
        yield cluster


async def _with_partitions(url: str) -> None:
    """Migrate, and make the partitions of the tests' time once: the first collector to come would make them while it is tested."""
    await migrate(url)
    database = Database(url, 60)
    keeper = RetentionService(database, Leader(database), CollectorMetrics(), lambda: START, Policy(), 600)
    try:
        await keeper.keep_house()
    finally:
        await database.close()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "collector.sqlite3"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """The address of a migrated SQLite database without a row, for what no database decides."""
    return f"sqlite+aiosqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'collector.sqlite3')}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a migrated database without a row, on either kind."""
    if request.param == "sqlite":
        copy = shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "collector.sqlite3")
        return f"sqlite+aiosqlite:///{copy}"
    cluster: Postgres = request.getfixturevalue("postgres")
    url = cluster.url("shared")
    asyncio.run(emptied(url))
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def own_database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a migrated database whose schema the test may change."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    cluster: Postgres = request.getfixturevalue("postgres")
    name = f"test_{next(_numbers)}"
    yield cluster.create(name, template=MIGRATED)
    cluster.drop(name)


async def emptied(url: str) -> None:
    # TRUNCATE makes new files for each table, index and partition, which takes far longer than most tests.
    deletes = " ".join(f"DELETE FROM {table.name};" for table in reversed(Base.metadata.sorted_tables))
    database = Database(url)
    try:
        async with database.writing() as connection:
            await connection.execute(text(f"DO $$ BEGIN {deletes} END $$"))
    finally:
        await database.close()


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """The address of an SQLite database that was never migrated."""
    return f"sqlite+aiosqlite:///{tmp_path / 'empty.sqlite3'}"


@dataclass
class FrozenClock:
    """A clock that moves only when told."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@dataclass
class Api:
    """A client of one collector, with both tokens at hand."""

    client: httpx2.AsyncClient
    app: Any
    clock: FrozenClock
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def send(self, *records: object, **envelope: object) -> httpx2.Response:
        return await self.client.post("/v1/records", json=self.batch(*records, **envelope), headers=bearer(SEND))

    async def get(self, path: str, token: str | None = READ) -> httpx2.Response:
        return await self.client.get(path, headers=bearer(token) if token else {})

    async def post(self, path: str, body: object, token: str = READ) -> httpx2.Response:
        return await self.client.post(path, json=body, headers=bearer(token))

    def batch(self, *records: object, **envelope: object) -> dict[str, Any]:
        return {
            "schema": "records/1",
            "service": "chat",
            "instance": "host:1:1",
            "sent_at": rfc3339(self.clock()),
            "records": list(records),
        } | envelope

    def violation(self, **changes: object) -> dict[str, Any]:
        """Return a valid violation record with an id of its own, happening now."""
        return {
            "type": "violation",
            "id": f"violation-{next(self._ids):06d}",
            "time": rfc3339(self.clock()),
            "kind": "instance_reuse",
            "grade": "reachable",
            "detector": "instance_reuse",
            "arm": "none",
            "synthetic": False,
            "summary": "agent: one instance was given to two requests",
            "fingerprint": "9f2c000000000000",
            "count": 1,
            "resource": {"type": "instance", "name": "agent", "detail": {"serial": 12}},
            "victim": self.side("a1b2c3d4e5f60718"),
            "offender": self.side("18070f6e5d4c3b2a"),
            "detail": {},
        } | changes

    def side(self, principal: str) -> dict[str, Any]:
        return {
            "principal": principal,
            "request_id": "1-1",
            "run_id": None,
            "connection_id": None,
            "transport": "websocket",
            "route": "/ws",
            "time": rfc3339(self.clock()),
            "stack": ["examples/chat/agents.py:40 create_agent"],
        }

    def escalation(self, violation_id: str, **changes: object) -> dict[str, Any]:
        about = {"violation_id": violation_id, "grade": "crossed", "reason": "the answer left"}
        return {"type": "escalation", "id": f"escalation-{next(self._ids):06d}", "time": rfc3339(self.clock()), **about} | changes

    def retraction(self, violation_id: str, **changes: object) -> dict[str, Any]:
        about = {"violation_id": violation_id, "reason": "the connection came back after 2.1 s"}
        return {"type": "retraction", "id": f"retraction-{next(self._ids):06d}", "time": rfc3339(self.clock()), **about} | changes

    async def start_rollout(self, name: str = "canary-1", **plan: object) -> dict[str, Any]:
        answer = await self.post("/v1/rollouts", {"name": name, "service": "chat", **plan})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def apply(self, name: str = "checkout", **changes: object) -> httpx2.Response:
        """Apply a file with three stages of a minute each, the first for internal users."""
        spec = {"rollout": name, "service": "chat", "internal_users": ["ann"], "stages": STAGES} | changes
        return await self.client.put(f"/v1/rollouts/{name}", json={"spec": spec, **PERSON}, headers=bearer(READ))

    async def step(self, step: str, name: str = "checkout", **about: object) -> httpx2.Response:
        return await self.post(f"/v1/rollouts/{name}/{step}", PERSON | about)

    async def state(self, name: str = "checkout") -> dict[str, Any]:
        return dict((await self.get(f"/v1/rollouts/{name}")).json()["state"])

    async def history(self, name: str = "checkout") -> list[dict[str, Any]]:
        return list((await self.get(f"/v1/rollouts/{name}/history")).json()["items"])

    async def gate(self, name: str = "canary-1") -> dict[str, Any]:
        answer = await self.get(f"/v1/gates/{name}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def stored_ids(self) -> set[str]:
        answer = await self.get("/v1/violations?limit=1000")
        return {item["id"] for item in answer.json()["items"]}


async def until(holds: Callable[[], bool | Awaitable[bool]], within_s: float = 60.0) -> None:
    """Return when `holds` does, asked again and again.

    Raises:
        TimeoutError: it did not within `within_s` seconds.
    """
    async with asyncio.timeout(within_s):
        while not await _answered(holds()):  # noqa: ASYNC110 - the other side is a task that knows no event of ours
            await asyncio.sleep(0.01)


async def _answered(answer: bool | Awaitable[bool]) -> bool:
    return answer if isinstance(answer, bool) else await answer


def scopes_of(settings: CollectorSettings, token: str) -> frozenset[str]:
    """Return what a token opens by these settings; nothing for an unknown one."""
    return frozenset[str]().union(*(key.scopes for key in settings.load_keys() if key.digest == digest_of(token)))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def make_api(clock: FrozenClock) -> Callable[..., Any]:
    """Return an async context manager that runs a collector with these settings."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def build(database_url: str, now: Clock = clock, **settings: object) -> AsyncIterator[Api]:
        chosen = load_settings(database_url=database_url, send_token=SEND, read_token=READ, **settings)
        app = create_app(chosen, now)
        # A defect must come out as an answer here too, as it does over HTTP.
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url="http://collector") as client:
            yield Api(client, app, clock)

    return build


@pytest.fixture
async def api(make_api: Callable[..., Any], database_url: str) -> AsyncIterator[Api]:
    async with make_api(database_url) as running:
        yield running
