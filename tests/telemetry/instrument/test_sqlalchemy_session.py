"""Sessions and connections that two principals use are reported; ordinary ways to use them are not."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
import sqlalchemy.orm.session
from fastapi import Depends, FastAPI
from sqlalchemy import ForeignKey, create_engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.shared_connection import SharedConnection
from isolation_monitor.telemetry.lab import Lab


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.sqlite3'}", pool_size=20)
    async with made.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        for n in range(8):
            await connection.execute(text(f"INSERT INTO users VALUES ('user-{n}')"))
            await connection.execute(text(f"INSERT INTO notes VALUES ({n}, 'user-{n}')"))
    yield made
    await made.dispose()


@pytest.fixture
def sync_engine(tmp_path: Path, engine: AsyncEngine) -> Any:
    made = create_engine(f"sqlite:///{tmp_path / 'app.sqlite3'}", connect_args={"check_same_thread": False})
    yield made
    made.dispose()


def shared(watched: Any) -> list[Any]:
    return [v for v in watched.monitor.violations() if v.kind == names.SHARED_CONNECTION]


def serve(watched: Any, client: Any, engine: Any, endpoint: Callable[..., Any]) -> Any:
    app = FastAPI()
    app.get("/x")(endpoint)
    watched.monitor.instrument(app, engine=engine)
    return client(app)


async def in_turns(calls: Any, rounds: int = 2) -> None:
    for _ in range(rounds):
        await asyncio.gather(*(calls.get("/x", user=f"user-{n}") for n in range(4)), return_exceptions=True)


async def test_a_modules_session_used_by_two_at_once_is_reported_with_both_sides(watched: Any, client: Any, engine: AsyncEngine) -> None:
    """A session made at import: the second user's statement runs inside the first one's transaction."""
    session = AsyncSession(engine)

    async def read() -> dict[str, int]:
        found = (await session.execute(select(Note.id))).scalars().all()
        await asyncio.sleep(0.01)
        return {"n": len(found)}

    calls = serve(watched, client, engine, read)
    await calls.get("/x", user="ann")
    await calls.get("/x", user="bob")
    await session.close()

    violation = shared(watched)[0]
    assert violation.grade == "reachable"
    assert violation.victim.principal != violation.offender.principal
    assert any("test_sqlalchemy_session.py" in line and "read" in line for line in violation.offender.stack)


async def test_interleaved_use_is_seen_in_the_very_first_transaction(watched: Any, client: Any, engine: AsyncEngine) -> None:
    """Made in the lifespan and committed at the end of each request: no connection is ever left out, no object remains."""
    kept: list[AsyncSession] = []
    began, used = asyncio.Event(), asyncio.Event()
    app = FastAPI()

    @app.get("/first")
    async def first() -> dict[str, int]:
        await kept[0].execute(select(Note.id))
        began.set()
        await used.wait()
        return {"ok": 1}

    @app.get("/second")
    async def second() -> dict[str, int]:
        await began.wait()
        await kept[0].execute(select(Note.id))
        await kept[0].commit()
        used.set()
        return {"ok": 1}

    watched.monitor.instrument(app, engine=engine)
    calls = client(app)
    kept.append(contextvars.Context().run(AsyncSession, engine))
    await asyncio.gather(calls.get("/first", user="ann"), calls.get("/second", user="bob"))
    await kept[0].close()

    assert len(shared(watched)) == 1


async def test_a_session_cached_by_the_first_request_is_reported(watched: Any, client: Any, engine: AsyncEngine) -> None:
    cached: list[AsyncSession] = []
    held: list[Note] = []

    async def read() -> dict[str, int]:
        if not cached:
            cached.append(AsyncSession(engine, expire_on_commit=False))
        held.extend((await cached[0].execute(select(Note))).scalars().all())
        await cached[0].commit()
        return {"n": len(held)}

    calls = serve(watched, client, engine, read)
    for user in ("ann", "bob", "cy"):
        await calls.get("/x", user=user)
    await cached[0].close()

    assert shared(watched), "the second user works with a session full of the first one's objects"


async def test_a_core_connection_of_the_service_used_by_two_is_reported(watched: Any, client: Any, engine: AsyncEngine) -> None:
    made: list[Any] = []

    async def read() -> dict[str, int]:
        await made[0].execute(text("SELECT 1"))
        return {"ok": 1}

    calls = serve(watched, client, engine, read)
    made.append(await asyncio.get_running_loop().create_task(_connect(engine), context=contextvars.Context()))
    handle = made[0].sync_connection._dbapi_connection
    await watched.eventually(lambda: "cursor" in vars(handle), "a connection that lasts is followed")
    await calls.get("/x", user="ann")
    await calls.get("/x", user="bob")

    assert len(shared(watched)) == 1
    await made[0].close()


async def _connect(engine: AsyncEngine) -> Any:
    return await engine.connect()


async def test_a_thread_local_session_that_nobody_removes_is_reported(watched: Any, client: Any, sync_engine: Any) -> None:
    sessions = scoped_session(sessionmaker(sync_engine))

    async def read() -> dict[str, int]:
        return {"n": len(sessions.execute(select(Note)).scalars().all())}

    calls = serve(watched, client, sync_engine, read)
    await calls.get("/x", user="ann")
    await calls.get("/x", user="bob")
    sessions.remove()

    assert shared(watched)


async def test_a_thread_local_session_that_is_removed_is_fine(watched: Any, client: Any, sync_engine: Any) -> None:
    sessions = scoped_session(sessionmaker(sync_engine))

    async def read() -> dict[str, int]:
        found = len(sessions.execute(select(Note)).scalars().all())
        sessions.remove()
        return {"n": found}

    calls = serve(watched, client, sync_engine, read)
    await in_turns(calls)

    assert watched.monitor.violations() == []
    assert watched.errors() == 0


@pytest.mark.parametrize("ending", ["close", "commit", "rollback"])
async def test_one_session_in_turns_under_a_lock_is_fine(watched: Any, client: Any, engine: AsyncEngine, ending: str) -> None:
    session, lock = AsyncSession(engine), asyncio.Lock()

    async def read() -> dict[str, int]:
        async with lock:
            found = (await session.execute(select(Note.id))).scalars().all()
            await asyncio.sleep(0)
            await getattr(session, ending)()
        return {"n": len(found)}

    calls = serve(watched, client, engine, read)
    await in_turns(calls)
    await session.close()

    assert watched.monitor.violations() == []
    assert watched.errors() == 0


async def test_sessions_of_users_of_requests_and_of_workers_are_fine(watched: Any, client: Any, engine: AsyncEngine) -> None:
    """A session per user over several requests, one per request, and a worker's own that serves all users."""
    sessions = async_sessionmaker(engine)
    of_users: dict[int, AsyncSession] = {}
    orders: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()

    async def worker() -> None:
        async with sessions() as own:
            while True:
                order = await orders.get()
                order.set_result(len((await own.execute(select(Note.id))).scalars().all()))

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    async def read(session: AsyncSession = Depends(get_session)) -> dict[str, int]:
        request = CURRENT.get()
        assert request is not None
        assert request.principal is not None
        mine = of_users.setdefault(int(request.principal.id[-1]), sessions())
        await mine.execute(select(Note))
        await session.execute(select(Note))
        order: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        orders.put_nowait(order)
        return {"n": await order}

    calls = serve(watched, client, engine, read)
    task = asyncio.get_running_loop().create_task(worker(), context=contextvars.Context())
    await in_turns(calls, 3)
    task.cancel()
    await asyncio.wait([task])
    for session in of_users.values():
        await session.close()

    assert shared(watched) == []
    assert watched.errors() == 0


async def test_two_sessions_on_the_one_connection_of_a_test_database_are_fine(watched: Any, client: Any) -> None:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async def read() -> dict[str, int]:
        async with AsyncSession(engine) as session:
            await session.execute(select(Note))
            await asyncio.sleep(0.005)
            await session.execute(select(Note))
        return {"ok": 1}

    calls = serve(watched, client, engine, read)
    await in_turns(calls)
    await engine.dispose()

    assert shared(watched) == []


async def test_sqlalchemys_own_refusal_is_a_proof(watched: Any, client: Any, engine: AsyncEngine) -> None:
    """Two begin on one session at the same moment: SQLAlchemy refuses the second while the first waits for its connection."""
    cached: list[AsyncSession] = []
    both = asyncio.Barrier(2)

    async def read() -> dict[str, int]:
        if not cached:
            cached.append(AsyncSession(engine))
        await both.wait()
        await cached[0].execute(select(Note.id))
        return {"ok": 1}

    calls = serve(watched, client, engine, read)
    # A new connection takes a while: the second comes in the middle of it.
    await engine.dispose()
    answers = await asyncio.gather(*(calls.get("/x", user=f"user-{n}") for n in range(2)), return_exceptions=True)
    await cached[0].close()

    assert any(isinstance(answer, sqlalchemy.exc.InvalidRequestError) for answer in answers)
    assert shared(watched)


async def test_an_error_on_anothers_connection_is_a_proof(watched: Any, client: Any, engine: AsyncEngine) -> None:
    """The very first transaction of a session that the first request made: nothing but the driver's error tells."""
    cached: list[AsyncSession] = []
    began, failed = asyncio.Event(), asyncio.Event()
    app = FastAPI()

    @app.get("/first")
    async def first() -> dict[str, int]:
        cached.append(AsyncSession(engine))
        await cached[0].execute(text("SELECT 1"))
        began.set()
        await failed.wait()
        return {"ok": 1}

    @app.get("/second")
    async def second() -> dict[str, int]:
        await began.wait()
        try:
            await cached[0].execute(text("SELECT nothing FROM nowhere"))
        finally:
            failed.set()
        return {"ok": 1}

    watched.monitor.instrument(app, engine=engine)
    calls = client(app)
    answers = await asyncio.gather(calls.get("/first", user="ann"), calls.get("/second", user="bob"), return_exceptions=True)
    await cached[0].close()

    assert isinstance(answers[1], sqlalchemy.exc.OperationalError)
    assert "nowhere" in str(answers[1])
    assert [v.resource.name for v in shared(watched)] == ["sqlite"]


async def test_a_second_begin_on_a_modules_session_is_a_proof(watched: Any, client: Any, engine: AsyncEngine) -> None:
    """`async with session.begin()` by two: SQLAlchemy refuses the second before it sends anything."""
    session = AsyncSession(engine)

    async def write() -> dict[str, int]:
        async with session.begin():
            await session.execute(select(Note.id))
            await asyncio.sleep(0.05)
        return {"ok": 1}

    calls = serve(watched, client, engine, write)
    answers = await asyncio.gather(*(calls.get("/x", user=f"user-{n}") for n in range(2)), return_exceptions=True)
    await session.close()

    assert any(isinstance(answer, sqlalchemy.exc.InvalidRequestError) for answer in answers)
    assert shared(watched)


async def test_transactions_in_turns_by_begin_are_fine(watched: Any, client: Any, engine: AsyncEngine) -> None:
    session, lock = AsyncSession(engine), asyncio.Lock()

    async def write() -> dict[str, int]:
        async with lock, session.begin():
            await session.execute(select(Note.id))
            async with session.begin_nested():
                await session.execute(select(Note.id))
        return {"ok": 1}

    calls = serve(watched, client, engine, write)
    await in_turns(calls)
    await session.close()

    assert watched.monitor.violations() == []
    assert watched.errors() == 0


async def test_concurrent_misuse_by_one_user_is_no_leak(watched: Any, client: Any, engine: AsyncEngine) -> None:
    async def read() -> dict[str, int]:
        async with AsyncSession(engine) as session:
            await asyncio.gather(*(session.execute(select(Note.id)) for _ in range(2)), return_exceptions=True)
        return {"ok": 1}

    calls = serve(watched, client, engine, read)
    await in_turns(calls)

    assert shared(watched) == []


async def test_uninstrumenting_restores_sqlalchemy_exactly(watched: Any, client: Any, engine: AsyncEngine) -> None:
    def hooks() -> list[Any]:
        module = sqlalchemy.orm.session
        return [
            module._new_sessionid,
            vars(module.Session)["begin"],
            vars(module.SessionTransaction)["_raise_for_prerequisite_state"],
            vars(sqlalchemy.engine.base.Connection)["_handle_dbapi_exception"],
            vars(sqlalchemy.exc.IllegalStateChangeError).get("__init__"),
        ]

    before = hooks()
    session = AsyncSession(engine)

    async def read() -> dict[str, int]:
        await session.execute(select(Note.id))
        return {"ok": 1}

    calls = serve(watched, client, engine, read)
    await calls.get("/x", user="ann")
    handle = (await session.connection()).sync_connection._dbapi_connection
    assert "cursor" in vars(handle)

    watched.monitor.uninstrument()

    assert hooks() == before
    assert {"cursor", "commit", "rollback"}.isdisjoint(vars(handle))
    assert not list(session.sync_session.dispatch.after_begin)
    await session.close()


async def test_a_failing_detector_never_reaches_the_application(
    watched: Any, client: Any, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise LookupError("ours")

    monkeypatch.setattr(SharedConnection, "used", broken)
    monkeypatch.setattr(SharedConnection, "closed", broken)
    session = AsyncSession(engine)

    async def read() -> dict[str, int]:
        await session.execute(select(Note.id))
        await session.execute(select(Note.id))
        await session.commit()
        return {"ok": 1}

    calls = serve(watched, client, engine, read)
    answer = await calls.get("/x", user="ann")
    await session.close()

    assert answer.status == 200
    assert watched.errors() > 0


async def test_a_followed_handle_goes_back_as_soon_as_it_is_dropped(watched: Any, client: Any, sync_engine: Any) -> None:
    """Our wrappers must not keep the pool's handle alive until cycles are collected."""
    watched.monitor.instrument(lambda *_: None, engine=sync_engine)
    gc.collect()
    gc.disable()
    try:
        session = Session(sync_engine)
        lab = Lab(watched.monitor.principals)
        lab.inside(lab.request(), session.execute, text("SELECT 1"))
        assert "cursor" in vars(session.connection()._dbapi_connection)
        assert sync_engine.pool.checkedout() == 1
        session.close()
        assert sync_engine.pool.checkedout() == 0
    finally:
        gc.enable()
