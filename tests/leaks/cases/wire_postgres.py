"""Bugs around PostgreSQL connections: settings, roles, tables and transactions of one tenant that the next borrower inherits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import psycopg
import psycopg_pool
from fastapi import FastAPI, Request

from tests.leaks.backends import postgres_database, postgres_url
from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.service import Service
from tests.leaks.tenants import prepare_accounts, prepare_orders, prepare_schemas, schema_of

USERS = Users("wire-postgres", ids="uuid")


async def _look_at(service: Service, user: User, path: str) -> None:
    service.look(user, await service.get(user, path))


# --- asyncpg: SET survives because the pool's reset is switched off --------------------------------------------------------


class _PgBouncerConnection(asyncpg.Connection):  # type: ignore[misc]  # reason: asyncpg has no types
    """What guides for PgBouncer recommend: no `RESET ALL` when a connection goes back."""

    def get_reset_query(self) -> str:
        return ""


def _build_asyncpg_set(variant: Variant) -> Built:
    """The account page names its tenant; the export, written later, relies on the policy alone and forgets to."""
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        prepare_accounts(USERS, "account", "account")
        async with asyncpg.create_pool(postgres_url(), min_size=1, max_size=3, connection_class=_PgBouncerConnection) as pool:
            state["pool"] = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/account")
    async def account(request: Request) -> Any:
        tenant = USERS.of(request).id
        async with state["pool"].acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.tenant', $1, $2)", tenant, variant == "fixed")
            return [dict(row) for row in await connection.fetch("SELECT id, number FROM accounts")]

    @app.get("/account/export")
    async def export(request: Request) -> Any:
        tenant = USERS.of(request).id
        async with state["pool"].acquire() as connection, connection.transaction():
            if variant == "fixed":
                await connection.execute("SELECT set_config('app.tenant', $1, true)", tenant)
            return {"csv": "\n".join(row["number"] for row in await connection.fetch("SELECT number FROM accounts"))}

    return Built(app)


async def _drive_asyncpg_set(service: Service) -> list[str]:
    service.own_values("account", "account")

    async def look(user: User, round: int) -> None:
        await _look_at(service, user, "/account" if (user.number + round) % 2 else "/account/export")

    return await service.everybody(look, rounds=6)


# --- psycopg: search_path of a tenant with a schema of its own --------------------------------------------------------------


def _build_psycopg_path(variant: Variant) -> Built:
    """Large tenants have their own schema; the others find the public tables by the default path."""
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        prepare_schemas(USERS, "api secret")
        async with psycopg_pool.AsyncConnectionPool(postgres_url(), min_size=2, max_size=3, open=False) as pool:
            state["pool"] = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/branding")
    async def branding(request: Request) -> Any:
        number = USERS.of(request).number
        async with state["pool"].connection() as connection:
            if number < 3:
                local = "LOCAL " if variant == "fixed" else ""
                await connection.execute(f"SET {local}search_path TO {schema_of(number)}")
            row = await (await connection.execute("SELECT logo, api_secret FROM branding")).fetchone()
        return {"branding": {"logo": row[0], "secrets": [row[1]]}}

    return Built(app)


async def _drive_psycopg_path(service: Service) -> list[str]:
    service.own_values("api secret", "base32")
    for _ in range(3):
        await asyncio.gather(*(_look_at(service, USERS[n], "/branding") for n in range(3)))
        await asyncio.gather(*(_look_at(service, USERS[n], "/branding") for n in range(3, 8)))
    return service.proofs


# --- psycopg in threads: SET ROLE of the audit page ------------------------------------------------------------------------


def _build_set_role(variant: Variant) -> Built:
    """The auditor's page takes a role that sees all rows, and leaves it on the connection."""
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        prepare_accounts(USERS, "salary account", "uuid")
        with psycopg_pool.ConnectionPool(postgres_url(), min_size=2, max_size=3, open=False) as pool:
            state["pool"] = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/audit/count")
    def count(request: Request) -> Any:
        USERS.of(request)
        with state["pool"].connection() as connection:
            connection.execute(f"SET {'LOCAL ' if variant == 'fixed' else ''}ROLE leak_auditor")
            return {"accounts": connection.execute("SELECT count(*) FROM accounts").fetchone()[0]}

    @app.get("/salary")
    def salary(request: Request) -> Any:
        with state["pool"].connection() as connection:
            connection.execute("SELECT set_config('app.tenant', %s, true)", (USERS.of(request).id,))
            return [{"pays_to": row[0]} for row in connection.execute("SELECT number FROM accounts").fetchall()]

    return Built(app)


async def _drive_set_role(service: Service) -> list[str]:
    service.own_values("salary account", "uuid")
    auditor, others = USERS[0], [USERS[n] for n in range(1, 8)]
    for _ in range(3):
        await asyncio.gather(*(_look_at(service, user, "/salary") for user in others))
        await asyncio.gather(*(_look_at(service, auditor, "/audit/count") for _ in range(3)))
        await asyncio.gather(*(_look_at(service, user, "/salary") for user in others))
    return service.proofs


# --- a transaction left open, committed by the next borrower ----------------------------------------------------------------


def _build_open_transaction(variant: Variant) -> Built:
    """A pool of the service's own: connections in a queue, and an exception that skips the rollback."""
    idle: asyncio.Queue[Any] = asyncio.Queue()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        prepare_orders()
        connections = [await asyncpg.connect(postgres_url()) for _ in range(2)]
        for connection in connections:
            idle.put_nowait(connection)
        yield
        for connection in connections:
            await connection.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders")
    async def order(request: Request) -> Any:
        user, content = USERS.of(request), await request.json()
        connection = await idle.get()
        try:
            await connection.execute("BEGIN")
            try:
                await connection.execute("INSERT INTO orders (owner, reference) VALUES ($1, $2)", user.id, content["reference"])
                if content["amount"] > 100:
                    raise ValueError("over the limit")
            except ValueError:
                if variant == "fixed":
                    await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")
        except ValueError as error:
            return {"accepted": False, "detail": str(error)}
        finally:
            idle.put_nowait(connection)
        return {"accepted": True}

    @app.get("/orders")
    async def orders(request: Request) -> Any:
        connection = await idle.get()
        try:
            rows = await connection.fetch("SELECT reference FROM orders WHERE owner = $1", USERS.of(request).id)
        finally:
            idle.put_nowait(connection)
        return [row["reference"] for row in rows]

    return Built(app)


async def _drive_open_transaction(service: Service) -> list[str]:
    for round in range(3):
        refused = USERS[round]
        reference = service.minted(refused, "token")
        answer = await service.post(refused, "/orders", json={"reference": reference, "amount": 5_000})
        assert answer.json()["accepted"] is False
        others = [USERS[n] for n in range(3, 8)]
        mine = {user.id: service.minted(user, "token") for user in others}
        await asyncio.gather(*(service.post(user, "/orders", json={"reference": mine[user.id], "amount": 5}) for user in others))
        if reference in (await service.get(refused, "/orders")).json():
            service.harm(f"u{refused.number}'s refused order was booked by the commit of another user")
        for user in others:
            service.look(user, await service.get(user, "/orders"))
    return service.proofs


# --- a temporary table that the next borrower finds -------------------------------------------------------------------------


def _build_temp_table(variant: Variant) -> Built:
    """A statement is built up in a temporary table; asyncpg's reset does not drop it."""
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        prepare_accounts(USERS, "statement", "hex")
        async with asyncpg.create_pool(postgres_url(), min_size=2, max_size=2) as pool:
            state["pool"] = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/statement")
    async def statement(request: Request) -> Any:
        tenant = USERS.of(request).id
        async with state["pool"].acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.tenant', $1, true)", tenant)
            drop = " ON COMMIT DROP" if variant == "fixed" else ""
            await connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS lines{drop} AS SELECT number FROM accounts")
            rows = await connection.fetch("SELECT number FROM lines")
        return {"lines": [[row["number"], 1] for row in rows]}

    return Built(app)


async def _drive_temp_table(service: Service) -> list[str]:
    service.own_values("statement", "hex")

    async def look(user: User, round: int) -> None:
        await _look_at(service, user, "/statement")

    return await service.everybody(look, rounds=3)


# --- one connection for all requests ----------------------------------------------------------------------------------------


def _build_one_connection(variant: Variant) -> Built:
    """One psycopg connection serves the process. Its lock keeps statements apart, not the tenants between them."""
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        prepare_accounts(USERS, "policy", "base32")
        async with await psycopg.AsyncConnection.connect(postgres_url(), autocommit=True) as connection:
            state["connection"] = connection
            yield

    app = FastAPI(lifespan=lifespan)

    async def numbers(connection: Any, tenant: str) -> list[str]:
        await connection.execute("SELECT set_config('app.tenant', %s, false)", (tenant,))
        found = await connection.execute("SELECT number FROM accounts ORDER BY id")
        return [row[0] for row in await found.fetchall()]

    @app.get("/policies")
    async def policies(request: Request) -> Any:
        tenant = USERS.of(request).id
        if variant == "buggy":
            return {"policies": await numbers(state["connection"], tenant)}
        async with await psycopg.AsyncConnection.connect(postgres_url(), autocommit=True) as own:
            return {"policies": await numbers(own, tenant)}

    return Built(app)


async def _drive_one_connection(service: Service) -> list[str]:
    service.own_values("policy", "base32")

    async def look(user: User, round: int) -> None:
        await _look_at(service, user, "/policies")

    return await service.everybody(look, rounds=6)


def _case(name: str, summary: str, build: Any, drive: Any, *needs: str) -> Case:
    return Case(f"wire-postgres-{name}", "postgres", summary, USERS, build, drive, needs=needs, parts=postgres_database)


CASES = [
    _case("set-survives", "SET of the tenant stays on an asyncpg pool's connection", _build_asyncpg_set, _drive_asyncpg_set, "asyncpg"),
    _case("search-path", "search_path stays on a psycopg pool's connection", _build_psycopg_path, _drive_psycopg_path, "psycopg_pool"),
    _case("set-role", "the auditor's role stays on a connection of a threaded pool", _build_set_role, _drive_set_role, "psycopg_pool"),
    _case(
        "open-transaction",
        "a refused order's transaction stays open, and the next borrower commits it",
        _build_open_transaction,
        _drive_open_transaction,
        "asyncpg",
    ),
    _case("temp-table", "a temporary table of the first tenant serves the next", _build_temp_table, _drive_temp_table, "asyncpg"),
    _case("one-connection", "all tenants interleave on one connection", _build_one_connection, _drive_one_connection, "psycopg"),
]
