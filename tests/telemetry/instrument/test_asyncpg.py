"""asyncpg on a real server: settings and roles handed over, transactions entered by another, and the right ways to share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import asyncpg.pool
import pytest
from asyncpg.protocol import Protocol

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.instrument import asyncpg as integration
from isolation_monitor.telemetry.instrument.integrations import Installed
from tests.real_parts.postgres import Postgres
from tests.telemetry.acting import Acting, gathered, hooked


@pytest.fixture(scope="module")
def address(postgres: Postgres) -> str:
    return postgres.create("asyncpg_hooks").replace("postgresql+asyncpg", "postgresql")


@pytest.fixture
def installed(monitor: IsolationMonitor) -> Iterator[Installed]:
    with hooked(integration.install, monitor) as one:
        yield one


@pytest.fixture
def acting(monitor: IsolationMonitor, installed: Installed) -> Acting:
    return Acting(monitor)


async def keep(connection: Any) -> None:
    """A pool's reset that clears nothing, as poolers outside of the process do."""


@pytest.fixture
async def careless(address: str, installed: Installed) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(address, min_size=1, max_size=1, reset=keep) as pool:
        yield pool


@pytest.fixture
async def pool(address: str, installed: Installed) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(address, min_size=1, max_size=2) as one:
        yield one


async def test_a_tenant_that_stays_set_is_reported(careless: asyncpg.Pool, acting: Acting) -> None:
    async def enters(user: str) -> None:
        async with careless.acquire() as connection:
            await connection.execute(f"SET app.tenant = '{user}'")

    async def looks() -> Any:
        async with careless.acquire() as connection:
            return await connection.fetchval("SELECT current_setting('app.tenant', true)")

    await acting.act("u-one", enters, "u-one")
    assert await acting.act("u-two", looks) == "u-one"

    assert [violation.grade for violation in acting.found(names.DIRTY_HANDOVER)] == ["reachable"]


async def test_the_pools_own_reset_clears_it(pool: asyncpg.Pool, acting: Acting) -> None:
    async def enters(user: str) -> None:
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT set_config('app.tenant', $1, false)", user)
            await connection.execute("CREATE TEMP TABLE IF NOT EXISTS mine (a text)")
            await connection.execute("SELECT pg_advisory_lock(1)")
            assert await connection.fetchval("SELECT current_setting('app.tenant', true)") == user

    for number in range(8):
        await acting.act(f"u-{number}", enters, f"u-{number}")

    assert acting.found() == []
    assert acting.errors() == 0


async def test_the_pools_reset_keeps_the_role(pool: asyncpg.Pool, acting: Acting) -> None:
    """RESET ALL does not take a role back: a known trap of PostgreSQL."""
    await pool.execute("DROP ROLE IF EXISTS role_u_one")
    await pool.execute("CREATE ROLE role_u_one")
    await pool.execute("GRANT role_u_one TO current_user")

    async def becomes() -> None:
        async with pool.acquire() as connection:
            await connection.execute("SET ROLE role_u_one")

    async def looks() -> Any:
        async with pool.acquire() as connection:
            return await connection.fetchval("SELECT current_user")

    await acting.act("u_one", becomes)
    who = await acting.act("u_two", looks)

    assert who == "role_u_one"
    assert len(acting.found(names.DIRTY_HANDOVER)) == 1


async def test_a_tenant_of_the_transaction_is_right(careless: asyncpg.Pool, acting: Acting) -> None:
    async def works(user: str) -> None:
        async with careless.acquire() as connection, connection.transaction():
            await connection.fetchval("SELECT set_config('app.tenant', $1, true)", user)
            assert await connection.fetchval("SELECT current_setting('app.tenant', true)") == user

    for number in range(8):
        await acting.act(f"u-{number}", works, f"u-{number}")

    assert acting.found() == []


async def test_setting_it_at_each_checkout_is_right(careless: asyncpg.Pool, acting: Acting) -> None:
    async def works(user: str) -> None:
        async with careless.acquire() as connection:
            await connection.execute(f"SET app.tenant = '{user}'")
            assert await connection.fetchval("SELECT current_setting('app.tenant', true)") == user

    for number in range(8):
        await acting.act(f"u-{number}", works, f"u-{number}")

    assert acting.found() == []


async def test_another_principals_statement_inside_of_a_transaction_is_reported(address: str, acting: Acting) -> None:
    """One connection for the whole service: the second user's statements belong to the first one's transaction."""
    connection = await asyncpg.connect(address)
    is_open, is_seen = asyncio.Event(), asyncio.Event()

    async def transfers() -> None:
        async with connection.transaction():
            await connection.fetchval("SELECT 1")
            is_open.set()
            await is_seen.wait()

    async def looks() -> None:
        await is_open.wait()
        await connection.fetchval("SELECT 2")
        is_seen.set()

    await gathered(acting.act("u1", transfers), acting.act("u2", looks))

    (violation,) = acting.found(names.SHARED_CONNECTION)
    assert violation.grade == "reachable"
    await connection.close()


@pytest.mark.parametrize("who", ["nobody", "another"])
async def test_a_transaction_that_was_left_open_and_rolled_back_by_others_is_over(address: str, acting: Acting, who: str) -> None:
    """What a leaked session began is ended by a collection of garbage, in whatever request that happens; then it is used again."""
    connection = await asyncpg.connect(address)
    try:

        async def leaves() -> None:
            await connection.execute("BEGIN")
            await connection.fetchval("SELECT 1")

        async def uses() -> None:
            assert await connection.fetchval("SELECT 2") == 2

        async def ends() -> None:
            await connection.execute("ROLLBACK")

        await acting.act("u-one", leaves)
        await (ends() if who == "nobody" else acting.act("u-three", ends))
        await acting.act("u-two", uses)

        assert acting.found(names.SHARED_CONNECTION) == []
        assert acting.errors() == 0
    finally:
        await connection.close()


async def test_two_statements_at_a_time_on_one_connection_are_reported(address: str, acting: Acting) -> None:
    connection = await asyncpg.connect(address)

    outcomes = await gathered(*(acting.act(user, connection.fetchval, "SELECT pg_sleep(0.05)") for user in ("u1", "u2")))

    assert any(isinstance(outcome, asyncpg.InterfaceError) for outcome in outcomes)
    assert len(acting.found(names.SHARED_CONNECTION)) == 1
    await connection.close()


async def test_one_connection_under_a_lock_is_right(address: str, acting: Acting) -> None:
    """Poor, but nobody sees anything of another: each statement or transaction is over before the next begins."""
    connection, lock = await asyncpg.connect(address), asyncio.Lock()

    async def works(user: str) -> None:
        for _ in range(3):
            async with lock:
                await connection.fetchval("SELECT $1::text", user)
            async with lock, connection.transaction():
                await connection.fetchval("SELECT $1::text", user)

    for outcome in await gathered(*(acting.act(f"u{n}", works, f"u{n}") for n in range(6))):
        assert outcome is None

    assert acting.found() == []
    assert acting.errors() == 0
    await connection.close()


async def test_many_users_of_one_pool_are_right(pool: asyncpg.Pool, acting: Acting) -> None:
    async def works(user: str) -> None:
        async with pool.acquire() as connection:
            statement = await connection.prepare("SELECT $1::text AS who")
            assert await statement.fetchval(user) == user
            async with connection.transaction():
                async for row in connection.cursor("SELECT generate_series(1, 3) AS n"):
                    assert row["n"]
            await connection.executemany("SELECT $1::int", [(1,), (2,)])
            with pytest.raises(asyncpg.PostgresError):
                await connection.fetch("SELECT 1 / 0")
        slow = asyncio.create_task(pool.fetch("SELECT pg_sleep(10)"))
        await asyncio.sleep(0.01)
        slow.cancel()
        await gathered(slow)

    for outcome in await gathered(*(acting.act(f"u{n}", works, f"u{n}") for n in range(6))):
        assert outcome is None, outcome

    assert acting.found() == []
    assert acting.errors() == 0


async def test_rows_and_what_they_were_asked_with_are_noted(pool: asyncpg.Pool, acting: Acting) -> None:
    request = acting.request("u1")

    await acting.task(request, pool.fetch, "SELECT $1::text AS value", "token-4711")

    assert request.fetched is not None
    read = next(one for one in request.fetched if one.store == "sql")
    assert list(read.key) == ["token-4711"]  # type: ignore[call-overload]  # the driver's sequence of parameters
    assert read.values[0]["value"] == "token-4711"  # type: ignore[index]  # the driver's rows


async def test_a_connection_that_was_not_given_back_is_a_leak(address: str, make_monitor: Any) -> None:
    monitor = make_monitor(leak_grace_s=0.05)
    acting = Acting(monitor)
    with hooked(integration.install, monitor):
        async with asyncpg.create_pool(address, min_size=1, max_size=2) as pool:
            kept: list[Any] = []

            async def takes() -> None:
                kept.append(await pool.acquire(timeout=5))

            async def uses() -> None:
                await pool.fetchval("SELECT 1")

            await acting.act("u1", uses)
            await acting.act("u1", takes)
            for _ in range(500):
                if acting.found(names.SESSION_LEAK):
                    break
                await asyncio.sleep(0.02)
            await pool.release(kept.pop())

    assert len(acting.found(names.SESSION_LEAK)) == 1


async def test_statements_work_when_our_part_fails(pool: asyncpg.Pool, acting: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("planted")

    detection = acting.monitor.detection
    for detector, methods in ((detection.shared_connection, ("used", "idle", "closed")), (detection.dirty_handover, ("statement",))):
        for method in methods:
            monkeypatch.setattr(detector, method, breaks)

    assert await acting.act("u1", pool.fetchval, "SELECT 1") == 1
    assert acting.errors() > 0
    monkeypatch.undo()


def test_uninstrument_restores_the_library(monitor: IsolationMonitor) -> None:
    classes = (Protocol, asyncpg.pool.Pool, asyncpg.pool.PoolConnectionHolder)
    before = [dict(vars(cls)) for cls in classes]

    with hooked(integration.install, monitor) as installed:
        assert len(installed.patches) == 9
        assert [dict(vars(cls)) for cls in classes] != before

    assert [dict(vars(cls)) for cls in classes] == before


def test_an_unknown_version_is_left_alone(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncpg, "__version__", "9.0.0")
    before = dict(vars(Protocol))

    installed = integration.install(monitor.detection)

    assert [patch.active for patch in installed.patches] == [False]
    assert dict(vars(Protocol)) == before
