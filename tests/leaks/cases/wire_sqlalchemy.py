"""Bugs around SQLAlchemy: sessions shared by requests, settings left in the pool, sessions kept, queries without their tenant."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker, with_loader_criteria
from sqlalchemy.pool import StaticPool

from tests.leaks.backends import postgres_database, postgres_url
from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.service import Service
from tests.leaks.tenants import prepare_accounts

if TYPE_CHECKING:
    from isolation_monitor.telemetry import IsolationMonitor

USERS = Users("wire-sqlalchemy")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    reference: Mapped[str]


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    iban: Mapped[str]


def _file_engine(folder: str, **options: Any) -> Any:
    return create_async_engine(f"sqlite+aiosqlite:///{Path(folder) / 'app.sqlite3'}", **options)


async def _make_tables(engine: Any) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add_all([Invoice(id=100 + user.number, owner=user.id, iban=user.value("iban", "account")) for user in USERS])
        await session.commit()


def _built(make_app: Any, **options: Any) -> Built:
    """Build an application on an SQLite file of its own: `make_app(engine, app)` adds the routes."""
    folder = tempfile.TemporaryDirectory(prefix="leaks-db-")
    engine = _file_engine(folder.name, **options)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await _make_tables(engine)
        yield
        await engine.dispose()
        folder.cleanup()

    app = FastAPI(lifespan=lifespan)
    make_app(engine, app)
    return Built(app, engine)


# --- one AsyncSession for all requests -------------------------------------------------------------------------------------


def _build_global_session(variant: Variant) -> Built:
    """Orders wait for a fraud check between `add` and `commit`, in the session of the process."""

    def routes(engine: Any, app: FastAPI) -> None:
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        shared = sessions()

        async def place(session: AsyncSession, user: User, content: dict[str, Any]) -> Any:
            session.add(Order(owner=user.id, reference=content["reference"]))
            await asyncio.sleep(content["check_s"])
            if content["amount"] > 100:
                await session.rollback()
                return {"accepted": False}
            await session.commit()
            return {"accepted": True}

        @app.post("/orders")
        async def order(request: Request) -> Any:
            user, content = USERS.of(request), await request.json()
            if variant == "buggy":
                return await place(shared, user, content)
            async with sessions() as own:
                return await place(own, user, content)

        @app.get("/orders")
        async def orders(request: Request) -> Any:
            async with sessions() as own:
                return list(await own.scalars(select(Order.reference).where(Order.owner == USERS.of(request).id)))

    return _built(routes)


def _build_shared_sqlite(variant: Variant) -> Built:
    """One SQLite connection under all sessions: transactions of different users run into each other."""

    def routes(engine: Any, app: FastAPI) -> None:
        sessions = async_sessionmaker(engine)

        @app.post("/orders")
        async def order(request: Request) -> Any:
            user, content = USERS.of(request), await request.json()
            async with sessions() as session:
                session.add(Order(owner=user.id, reference=content["reference"]))
                if content["amount"] <= 100:
                    await session.commit()
                    return {"accepted": True}
                await session.flush()
                if variant == "fixed":
                    # The verdict is known before anything else is awaited, so no writer waits for this transaction.
                    await session.rollback()
                await asyncio.sleep(content["check_s"])
                await session.rollback()
                return {"accepted": False}

        @app.get("/orders")
        async def orders(request: Request) -> Any:
            async with sessions() as session:
                return list(await session.scalars(select(Order.reference).where(Order.owner == USERS.of(request).id)))

    return _built(routes, poolclass=StaticPool) if variant == "buggy" else _built(routes)


async def _drive_orders(service: Service) -> list[str]:
    """A refused order's fraud check is slow; the others order, and commit, in the meantime."""
    for round in range(3):
        refused, others = USERS[round], [USERS[n] for n in range(3, 8)]
        reference = service.minted(refused, "uuid")
        slow = asyncio.create_task(service.post(refused, "/orders", json={"reference": reference, "amount": 5_000, "check_s": 0.5}))
        await asyncio.sleep(0.1)
        for user in others:
            mine = service.minted(user, "hex")
            await service.post(user, "/orders", json={"reference": mine, "amount": 5, "check_s": 0})
        await slow
        if reference in (await service.get(refused, "/orders")).json():
            service.harm(f"u{refused.number}'s refused order was booked by the commit of another user")
        await asyncio.gather(*(_look_at(service, user, "/orders") for user in others))
    return service.proofs


async def _look_at(service: Service, user: User, path: str) -> None:
    service.look(user, await service.get(user, path))


# --- scoped_session by thread, under asyncio -------------------------------------------------------------------------------


def _build_scoped_session(variant: Variant) -> Built:
    """The tenant filter reads `session.info`; by thread, there is one session for all requests of the event loop."""
    folder = tempfile.TemporaryDirectory(prefix="leaks-db-")
    engine = create_engine(f"sqlite:///{Path(folder.name) / 'app.sqlite3'}")
    factory = sessionmaker(engine)
    sessions = scoped_session(factory, scopefunc=asyncio.current_task if variant == "fixed" else None)

    @event.listens_for(factory, "do_orm_execute")
    def only_own(state: Any) -> None:
        tenant = state.session.info.get("tenant")
        state.statement = state.statement.options(with_loader_criteria(Invoice, Invoice.owner == tenant))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        Base.metadata.create_all(engine)
        with factory() as session:
            session.add_all([Invoice(id=100 + user.number, owner=user.id, iban=user.value("iban", "account")) for user in USERS])
            session.commit()
        yield
        engine.dispose()
        folder.cleanup()

    app = FastAPI(lifespan=lifespan)

    @app.get("/invoices")
    async def invoices(request: Request) -> Any:
        sessions().info["tenant"] = USERS.of(request).id
        try:
            await asyncio.sleep(0.01)
            return [{"id": invoice.id, "pay_to": {"iban": invoice.iban}} for invoice in sessions().scalars(select(Invoice))]
        finally:
            sessions.remove()

    return Built(app, engine)


async def _drive_scoped_session(service: Service) -> list[str]:
    service.own_values("iban", "account")

    async def look(user: User, round: int) -> None:
        await _look_at(service, user, "/invoices")

    return await service.everybody(look, rounds=6)


# --- SET of the tenant, committed, in SQLAlchemy's pool --------------------------------------------------------------------


def _build_set_in_pool(variant: Variant) -> Built:
    """A dependency sets the tenant for the session and commits; pages without the dependency inherit it."""
    engine = create_async_engine(postgres_url("asyncpg"), pool_size=3, max_overflow=0)
    sessions = async_sessionmaker(engine)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        prepare_accounts(USERS, "ledger account", "token")
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    async def set_tenant(session: AsyncSession, tenant: str) -> None:
        is_local = variant == "fixed"
        await session.execute(text("SELECT set_config('app.tenant', :tenant, :is_local)"), {"tenant": tenant, "is_local": is_local})
        if not is_local:
            await session.commit()

    @app.get("/ledger")
    async def ledger(request: Request) -> Any:
        async with sessions() as session:
            await set_tenant(session, USERS.of(request).id)
            return [row.number for row in await session.execute(text("SELECT number FROM accounts"))]

    @app.get("/ledger/widget")
    async def widget(request: Request) -> Any:
        tenant = USERS.of(request).id
        async with sessions() as session:
            if variant == "fixed":
                await set_tenant(session, tenant)
            rows = (await session.execute(text("SELECT number FROM accounts ORDER BY id LIMIT 3"))).all()
        return {"widget": {"title": "Ledger", "rows": [{"n": n, "account": row.number} for n, row in enumerate(rows)]}}

    return Built(app, engine)


async def _drive_set_in_pool(service: Service) -> list[str]:
    service.own_values("ledger account", "token")

    async def look(user: User, round: int) -> None:
        await _look_at(service, user, "/ledger" if (user.number + round) % 2 else "/ledger/widget")

    return await service.everybody(look, rounds=6)


# --- sessions kept after an exception, until the pool starves --------------------------------------------------------------


def _build_kept_sessions(variant: Variant) -> Built:
    """Imports keep their session by id until they are done; one that fails is never done."""

    def routes(engine: Any, app: FastAPI) -> None:
        running: dict[str, AsyncSession] = {}

        @app.post("/imports")
        async def run_import(request: Request) -> Any:
            user, content = USERS.of(request), await request.json()
            session = running[content["id"]] = AsyncSession(engine)
            try:
                await session.execute(select(Invoice.id).where(Invoice.owner == user.id))
                if content["rows"] < 0:
                    raise HTTPException(422, "no such rows")
            except PoolTimeout:
                return JSONResponse({"detail": "the database is busy"}, status_code=503)
            except HTTPException:
                if variant == "fixed":
                    await running.pop(content["id"]).close()
                raise
            await running.pop(content["id"]).close()
            return {"imported": content["rows"]}

    return _built(routes, pool_size=3, max_overflow=0, pool_timeout=1.0)


async def _drive_kept_sessions(service: Service) -> list[str]:
    for n in range(4):
        await service.post(USERS[0], "/imports", json={"id": f"i-{n}", "rows": -1})

    async def import_rows(user: User, round: int) -> None:
        if user.number == 0:
            return
        answer = await service.post(user, "/imports", json={"id": service.minted(user, "uuid"), "rows": 5})
        if answer.status_code == 503:
            service.harm(f"u{user.number}'s import was refused because u0's failed ones hold every connection")

    return await service.everybody(import_rows, rounds=2)


# --- an advisory lock kept by a failed request ------------------------------------------------------------------------------


def _build_advisory_lock(variant: Variant) -> Built:
    """Payouts run one at a time under a session-level lock, which an exception leaves locked on the pooled connection."""
    engine = create_async_engine(postgres_url("psycopg"), pool_size=4, max_overflow=0)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/payouts")
    async def payout(request: Request) -> Any:
        USERS.of(request)
        content = await request.json()
        async with engine.connect() as connection:
            for _ in range(40):
                if (await connection.execute(text("SELECT pg_try_advisory_lock(4711)"))).scalar():
                    break
                await asyncio.sleep(0.03)
            else:
                return JSONResponse({"detail": "another payout is running"}, status_code=503)
            try:
                if content["cents"] < 0:
                    raise HTTPException(422, "cents must be positive")
            except HTTPException:
                if variant == "fixed":
                    await connection.execute(text("SELECT pg_advisory_unlock(4711)"))
                raise
            await asyncio.sleep(0.002)
            await connection.execute(text("SELECT pg_advisory_unlock(4711)"))
        return {"paid": content["cents"]}

    return Built(app, engine)


async def _drive_advisory_lock(service: Service) -> list[str]:
    # Two users borrow two connections at first, so that the lock's connection is not the only one in the pool.
    await asyncio.gather(*(service.post(USERS[n], "/payouts", json={"cents": 5}) for n in range(1, 5)))
    await service.post(USERS[0], "/payouts", json={"cents": -1})

    async def pay(user: User, round: int) -> None:
        if user.number and (await service.post(user, "/payouts", json={"cents": 7})).status_code == 503:
            service.harm(f"u{user.number}'s payout was refused because u0's failed one still holds the lock")

    return await service.everybody(pay, rounds=1)


# --- a query without its tenant -----------------------------------------------------------------------------------------------


def _build_missing_filter(variant: Variant) -> Built:
    """The invoice is loaded by its number, whoever asks."""

    def routes(engine: Any, app: FastAPI) -> None:
        @app.get("/invoices/{number}")
        async def invoice(number: int, request: Request) -> Any:
            async with AsyncSession(engine) as session:
                wanted = select(Invoice).where(Invoice.id == number)
                if variant == "fixed":
                    wanted = wanted.where(Invoice.owner == USERS.of(request).id)
                found = (await session.scalars(wanted)).one_or_none()
            if found is None:
                raise HTTPException(404)
            return {"id": found.id, "iban": found.iban}

    return _built(routes)


def _annotate_invoices(monitor: IsolationMonitor, built: Built) -> None:
    monitor.owns(Invoice, by="owner")


async def _drive_missing_filter(service: Service) -> list[str]:
    service.own_values("iban", "account")

    async def browse(user: User, round: int) -> None:
        await _look_at(service, user, f"/invoices/{100 + (user.number + round) % 8}")

    return await service.everybody(browse, rounds=4)


def _case(name: str, summary: str, build: Any, drive: Any, *needs: str, **more: Any) -> Case:
    return Case(f"wire-sqlalchemy-{name}", "sqlalchemy", summary, USERS, build, drive, needs=("sqlalchemy", *needs), **more)


CASES = [
    _case("global-session", "one AsyncSession serves all requests", _build_global_session, _drive_orders, "aiosqlite"),
    _case("shared-sqlite", "one SQLite connection is under all sessions", _build_shared_sqlite, _drive_orders, "aiosqlite"),
    _case("scoped-by-thread", "scoped_session by thread, under asyncio", _build_scoped_session, _drive_scoped_session),
    _case(
        "set-in-pool", "SET of the tenant is committed and stays in the pool",
        _build_set_in_pool, _drive_set_in_pool, "asyncpg", parts=postgres_database,
    ),
    _case(
        "kept-sessions", "failed requests keep their sessions until the pool starves",
        _build_kept_sessions, _drive_kept_sessions, "aiosqlite", expects="hygiene",
    ),
    _case(
        "advisory-lock", "a failed request leaves an advisory lock on the pooled connection",
        _build_advisory_lock, _drive_advisory_lock, "psycopg", parts=postgres_database,
    ),
    _case(
        "missing-filter", "a row is loaded by its id without its owner",
        _build_missing_filter, _drive_missing_filter, "aiosqlite", annotate=_annotate_invoices,
    ),
]  # fmt: skip
