"""psycopg and its pool on a real server: settings handed over, transactions entered by another, and the right ways to share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg import sql

from isolation_monitor.telemetry import IsolationMonitor, names, provenance
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.instrument import psycopg as integration
from isolation_monitor.telemetry.instrument import psycopg_pool as pool_integration
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.provenance import was_fetched
from tests.real_parts.postgres import Postgres
from tests.telemetry.acting import Acting, gathered, hooked

CLASSES = tuple(
    dict.fromkeys(
        cls
        for top in (psycopg.Cursor, psycopg.AsyncCursor, psycopg.ClientCursor, psycopg.Connection)
        for cls in top.__mro__
        if cls.__module__.startswith("psycopg")
    )
)


@pytest.fixture(scope="module")
def address(postgres: Postgres) -> str:
    return postgres.create("psycopg_hooks").replace("postgresql+asyncpg", "postgresql")


@pytest.fixture
def installed(monitor: IsolationMonitor) -> Iterator[Installed]:
    with hooked(integration.install, monitor) as one, hooked(pool_integration.install, monitor):
        yield one


@pytest.fixture
def acting(monitor: IsolationMonitor, installed: Installed) -> Acting:
    return Acting(monitor)


@pytest.fixture
async def pool(address: str, installed: Installed) -> AsyncIterator[psycopg_pool.AsyncConnectionPool[Any]]:
    async with psycopg_pool.AsyncConnectionPool(address, min_size=1, max_size=1, open=False) as one:
        yield one


async def who(connection: Any) -> Any:
    cursor = await connection.execute("SELECT current_setting('app.tenant', true)")
    return (await cursor.fetchone())[0]


@pytest.mark.parametrize("way", ["text", "composed", "parameter"])
async def test_a_tenant_that_stays_set_is_reported(pool: psycopg_pool.AsyncConnectionPool[Any], acting: Acting, way: str) -> None:
    async def enters(user: str) -> None:
        async with pool.connection() as connection:
            if way == "text":
                await connection.execute(f"SET app.tenant = '{user}'")
            elif way == "composed":
                await connection.execute(sql.SQL("SET app.tenant = {}").format(sql.Literal(user)))
            else:
                await connection.execute("SELECT set_config('app.tenant', %s, false)", (user,))

    async def looks() -> Any:
        async with pool.connection() as connection:
            return await who(connection)

    await acting.act("u-one", enters, "u-one")
    assert await acting.act("u-two", looks) == "u-one"

    assert [violation.grade for violation in acting.found(names.DIRTY_HANDOVER)] == ["reachable"]
    assert acting.errors() == 0


async def test_a_rolled_back_setting_harms_nobody(pool: psycopg_pool.AsyncConnectionPool[Any], acting: Acting) -> None:
    async def fails(user: str) -> None:
        async with pool.connection() as connection:
            await connection.execute(f"SET app.tenant = '{user}'")
            raise ValueError("the handler failed")

    async def looks() -> Any:
        async with pool.connection() as connection:
            return await who(connection)

    await gathered(acting.act("u-one", fails, "u-one"))
    assert not await acting.act("u-two", looks)

    assert acting.found() == []


async def test_a_pool_that_resets_is_right(address: str, acting: Acting) -> None:
    async def reset(connection: Any) -> None:
        await connection.set_autocommit(True)
        await connection.execute("DISCARD ALL")
        await connection.set_autocommit(False)

    async def works(pool: Any, user: str) -> None:
        async with pool.connection() as connection:
            await connection.execute("SELECT set_config('app.tenant', %s, false)", (user,))
            assert await who(connection) == user

    async with psycopg_pool.AsyncConnectionPool(address, min_size=1, max_size=1, open=False, reset=reset) as pool:
        for number in range(6):
            await acting.act(f"u-{number}", works, pool, f"u-{number}")

    assert acting.found() == []
    assert acting.errors() == 0


async def test_a_tenant_of_the_transaction_is_right(pool: psycopg_pool.AsyncConnectionPool[Any], acting: Acting) -> None:
    async def works(user: str) -> None:
        async with pool.connection() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.tenant', %s, true)", (user,))
            assert await who(connection) == user

    for outcome in await gathered(*(acting.act(f"u-{n}", works, f"u-{n}") for n in range(8))):
        assert outcome is None

    assert acting.found() == []
    assert acting.errors() == 0


async def test_another_principals_statement_inside_of_a_transaction_is_reported(address: str, acting: Acting) -> None:
    """One connection for the service, which begins a transaction by itself: nobody's work is its own."""
    connection = await psycopg.AsyncConnection.connect(address)

    async def works() -> None:
        await connection.execute("SELECT 1")

    await acting.act("u1", works)
    await acting.act("u2", works)

    (violation,) = acting.found(names.SHARED_CONNECTION)
    assert violation.grade == "reachable"
    await connection.close()


async def test_one_connection_in_autocommit_is_right(address: str, acting: Acting) -> None:
    """Its own lock lets one statement through at a time, and none leaves anything behind."""
    connection = await psycopg.AsyncConnection.connect(address, autocommit=True)

    async def works(user: str) -> None:
        for _ in range(3):
            cursor = await connection.execute("SELECT %s::text", (user,))
            assert await cursor.fetchone() == (user,)

    for outcome in await gathered(*(acting.act(f"u{n}", works, f"u{n}") for n in range(6))):
        assert outcome is None

    assert acting.found() == []
    await connection.close()


async def test_a_committed_transaction_is_over(address: str, acting: Acting) -> None:
    connection = await psycopg.AsyncConnection.connect(address)

    async def works() -> None:
        await connection.execute("SELECT 1")
        await connection.commit()

    for number in range(4):
        await acting.act(f"u{number}", works)

    assert acting.found() == []
    await connection.close()


async def test_rows_are_noted_however_they_are_fetched(pool: psycopg_pool.AsyncConnectionPool[Any], acting: Acting) -> None:
    async def reads(fetch: str, token: str, name: str) -> None:
        async with pool.connection() as connection, connection.cursor(name) as cursor:
            await cursor.execute("SELECT %s::text", (token,))
            if fetch == "iterate":
                assert [row async for row in cursor] == [(token,)]
            else:
                await getattr(cursor, fetch)()

    # A cursor with a name is one of the server's, of a class of its own.
    for number, (fetch, name) in enumerate(itertools.product(("fetchone", "fetchmany", "fetchall", "iterate"), ("", "of_the_server"))):
        request = acting.request("u1")

        await acting.task(request, reads, fetch, f"token-{number}", name)

        assert was_fetched(request, f"token-{number}"), fetch
        assert request.fetched is not None
        assert request.fetched[-1].key == (f"token-{number}",)


async def test_an_export_that_is_streamed_row_by_row_does_not_pile_up(
    pool: psycopg_pool.AsyncConnectionPool[Any], acting: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export of a million rows holds a page of them at a time."""
    monkeypatch.setattr(integration, "ROWS_LIMIT", 100)
    monkeypatch.setattr(provenance, "ROWS_LIMIT", 100)
    most = 0

    async def streams(fetch: str) -> None:
        nonlocal most
        async with pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT n::text FROM generate_series(1, 1000) AS n")
            while await cursor.fetchone() if fetch == "fetchone" else await cursor.fetchmany(30):
                request = CURRENT.get()
                assert request is not None
                most = max(most, *(len(read.values) for read in request.fetched or () if type(read.values) is list), 0)

    for fetch in ("fetchone", "fetchmany"):
        request = acting.request("u1")
        await acting.task(request, streams, fetch)

        assert was_fetched(request, "nobody knows what it read")

    assert 100 <= most <= 200


def test_the_blocking_client_and_pool_are_watched_alike(address: str, acting: Acting) -> None:
    def enters(pool: Any, user: str) -> None:
        with pool.connection() as connection:
            connection.execute(f"SET app.tenant = '{user}'")

    def looks(pool: Any) -> Any:
        with pool.connection() as connection:
            return connection.execute("SELECT current_setting('app.tenant', true)").fetchall()

    with psycopg_pool.ConnectionPool(address, min_size=1, max_size=1, open=True) as pool:
        acting.inside(acting.request("u-one"), enters, pool, "u-one")
        assert acting.inside(acting.request("u-two"), looks, pool) == [("u-one",)]

    assert len(acting.found(names.DIRTY_HANDOVER)) == 1
    assert acting.errors() == 0


async def test_a_connection_that_was_not_given_back_is_a_leak(address: str, make_monitor: Any) -> None:
    monitor = make_monitor(leak_grace_s=0.05)
    acting = Acting(monitor)
    with hooked(pool_integration.install, monitor):
        async with psycopg_pool.AsyncConnectionPool(address, min_size=1, max_size=2, open=False) as pool:
            kept: list[Any] = []

            async def takes() -> None:
                kept.append(await pool.getconn())

            async def uses() -> None:
                async with pool.connection() as connection:
                    await connection.execute("SELECT 1")

            await acting.act("u1", uses)
            await acting.act("u1", takes)
            for _ in range(500):
                if acting.found(names.SESSION_LEAK):
                    break
                await asyncio.sleep(0.02)
            await pool.putconn(kept.pop())

    assert len(acting.found(names.SESSION_LEAK)) == 1


async def test_statements_work_when_our_part_fails(
    pool: psycopg_pool.AsyncConnectionPool[Any], acting: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("planted")

    detection = acting.monitor.detection
    for part, methods in (
        (detection.shared_connection, ("used", "closed")),
        (detection.dirty_handover, ("statement",)),
        (detection.stores, ("read",)),
    ):
        for method in methods:
            monkeypatch.setattr(part, method, breaks)

    async def works() -> Any:
        async with pool.connection() as connection:
            return await (await connection.execute("SELECT 1")).fetchone()

    assert await acting.act("u1", works) == (1,)
    assert acting.errors() > 0
    monkeypatch.undo()


def test_uninstrument_restores_the_library(monitor: IsolationMonitor) -> None:
    classes = (*CLASSES, psycopg_pool.ConnectionPool, psycopg_pool.AsyncConnectionPool)
    before = [dict(vars(cls)) for cls in classes]

    with hooked(integration.install, monitor) as installed, hooked(pool_integration.install, monitor) as pools:
        assert len(installed.patches) >= 9
        assert len(pools.patches) == 4
        assert [dict(vars(cls)) for cls in classes] != before

    assert [dict(vars(cls)) for cls in classes] == before


def test_an_unknown_version_is_left_alone(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg, "__version__", "4.0.0")
    monkeypatch.setattr(psycopg_pool, "__version__", "4.0.0")
    before = [dict(vars(cls)) for cls in CLASSES]

    for one in (integration, pool_integration):
        installed = one.install(monitor.detection)
        assert [patch.active for patch in installed.patches] == [False]

    assert [dict(vars(cls)) for cls in CLASSES] == before
