"""Synchronous engines, each pool class, what may happen to a connection while it is out, and engines that cannot be watched."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from fastapi import Depends, FastAPI
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DisconnectionError, PendingRollbackError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool, SingletonThreadPool, StaticPool

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.instrument import sqlalchemy as instrument
from tests.telemetry.instrument.pool_listeners import listeners_of

NOTE = text("SELECT 1")
POOLS = (QueuePool, NullPool, StaticPool, SingletonThreadPool)


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(pool: type = QueuePool, **arguments: Any) -> Engine:
        arguments.setdefault("connect_args", {"check_same_thread": False})
        engine = create_engine(f"sqlite:///{tmp_path / 'app.sqlite3'}", poolclass=pool, **arguments)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.dispose()


@pytest.fixture
def serve(watched: Any, client: Any) -> Callable[..., Any]:
    """Serve one function as an endpoint of a watched service; it is given the engine."""

    def serve(engine: Engine, endpoint: Callable[[Engine], Any]) -> Any:
        app = FastAPI()

        @app.get("/x")
        def x() -> dict[str, int]:
            endpoint(engine)
            return {"ok": 1}

        watched.monitor.instrument(app, engine=engine)
        return client(app)

    return serve


@pytest.mark.parametrize("pool", POOLS)
async def test_sound_sessions_of_every_pool_class_leak_nothing(watched: Any, serve: Any, make_engine: Any, pool: type) -> None:
    def sound(engine: Engine) -> None:
        with Session(engine) as session:
            session.execute(NOTE)
            session.rollback()
            session.execute(NOTE)

    calls = serve(make_engine(pool), sound)

    for _ in range(5):
        await calls.get("/x", user="ann")
    await watched.judged()

    assert (watched.leaked(), watched.passed()) == (0, 10)
    assert watched.errors() == 0
    assert watched.observed(names.DB_CONNECTION_USE, "sqlite") == 10
    assert watched.observed(names.DB_CONNECTION_WAIT, "sqlite") == 10


@pytest.mark.parametrize("pool", POOLS)
async def test_a_kept_session_of_every_pool_class_is_a_leak_until_it_is_closed(
    watched: Any, serve: Any, make_engine: Any, pool: type
) -> None:
    kept: list[Session] = []

    def leak(engine: Engine) -> None:
        kept.append(Session(engine))
        kept[-1].execute(NOTE)

    calls = serve(make_engine(pool), leak)
    await calls.get("/x", user="ann")
    await watched.eventually(watched.leaked, "the leak is counted")
    await watched.eventually(lambda: watched.connections("sqlite", "used") == 1, "the gauge shows it")

    assert any("test_sqlalchemy_pools.py" in line and "leak" in line for line in watched.monitor.violations()[0].offender.stack)
    kept.pop().close()
    assert watched.retracted() == 1


async def test_holders_of_one_static_connection_are_told_apart(watched: Any, serve: Any, make_engine: Any) -> None:
    """Two sessions hold the pool's only connection at once; the event at the end of the first must not clear the second."""
    kept: list[Session] = []

    def overlap(engine: Engine) -> None:
        with Session(engine) as first:
            first.execute(NOTE)
            kept.append(Session(engine))
            kept[-1].execute(NOTE)

    calls = serve(make_engine(StaticPool), overlap)
    await calls.get("/x", user="ann")
    await watched.eventually(watched.leaked, "the leak is counted")
    await watched.judged()

    assert watched.leaked() == 1
    kept.pop().close()


async def test_invalidated_connections_are_no_leaks(watched: Any, serve: Any, make_engine: Any) -> None:
    def invalidate(engine: Engine) -> None:
        with engine.connect() as connection:
            connection.execute(NOTE)
            connection.invalidate()
        with engine.connect() as connection:
            connection.connection.invalidate(soft=True)
        with Session(engine) as session:
            session.execute(NOTE)
            session.connection().invalidate()
            with pytest.raises(PendingRollbackError):
                session.execute(NOTE)

    calls = serve(make_engine(), invalidate)
    await calls.get("/x", user="ann")
    await watched.judged()

    assert (watched.leaked(), watched.errors()) == (0, 0)
    assert watched.monitor.leaks.out_of("sqlite") == 0


async def test_a_reconnection_during_checkout_is_one_connection(watched: Any, serve: Any, make_engine: Any) -> None:
    engine = make_engine()
    refused: list[int] = []

    def use(engine: Engine) -> None:
        with engine.connect() as connection:
            connection.execute(NOTE)

    calls = serve(engine, use)

    @event.listens_for(engine, "checkout")
    def refuse_once(*_: Any) -> None:
        if not refused:
            refused.append(1)
            raise DisconnectionError

    await calls.get("/x", user="ann")
    await watched.judged()

    assert refused
    assert watched.leaked() == 0
    assert watched.monitor.leaks.out_of("sqlite") == 0


async def test_a_detached_connection_is_owed_its_closing(watched: Any, serve: Any, make_engine: Any) -> None:
    kept: list[Any] = []

    def detach(engine: Engine) -> None:
        with engine.connect() as closed:
            closed.detach()
        kept.append(engine.connect())
        kept[-1].detach()

    calls = serve(make_engine(), detach)
    await calls.get("/x", user="ann")
    await watched.eventually(watched.leaked, "the leak is counted")

    assert [v.resource.detail["state"] for v in watched.monitor.violations()] == ["detached"]
    kept.pop().close()
    assert watched.retracted() == 1


async def test_a_dropped_synchronous_session_is_given_back_by_the_collector_in_time(watched: Any, serve: Any, make_engine: Any) -> None:
    def drop(engine: Engine) -> None:
        Session(engine).execute(NOTE)
        gc.collect()

    calls = serve(make_engine(), drop)
    await calls.get("/x", user="ann")
    await watched.judged()

    assert watched.leaked() == 0


async def test_connections_outside_requests_are_in_the_gauges_only(watched: Any, serve: Any, make_engine: Any) -> None:
    engine = make_engine()
    await serve(engine, lambda _: None).get("/x", user="ann")
    connection = contextvars.Context().run(engine.connect)

    await watched.eventually(lambda: watched.connections("sqlite", "used") == 1, "the gauge shows it")
    await watched.judged()
    connection.close()

    assert (watched.leaked(), watched.passed()) == (0, 0)


async def test_threads_of_many_requests_do_not_disturb_one_another(watched: Any, make_engine: Any, client: Any) -> None:
    # As many connections as requests: FastAPI's teardown of a generator needs a thread too, and those may all be waiting.
    app, engine = FastAPI(), make_engine(pool_size=100)

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    @app.get("/x")
    def x(session: Session = Depends(get_session)) -> dict[str, int]:
        return {"thread": threading.get_ident() if session.execute(NOTE).scalar() else 0}

    watched.monitor.instrument(app, engine=engine)
    calls = client(app)
    await asyncio.gather(*(calls.get("/x", user=f"user-{n}") for n in range(100)))
    await watched.judged()

    assert (watched.leaked(), watched.passed(), watched.errors()) == (0, 100, 0)


async def test_copies_with_execution_options_share_the_watch(watched: Any, make_engine: Any) -> None:
    engine = make_engine(pool_logging_name="one of a kind")
    monitor = watched.monitor

    monitor.instrument(lambda *_: None, engines=[engine, engine.execution_options(isolation_level="SERIALIZABLE")])

    assert len(listeners_of(engine.pool)) == 1
    assert "one of a kind" not in instrument.engines_seen()


async def test_engines_that_nobody_passed_are_seen_and_watched_ones_are_not(watched: Any, make_engine: Any) -> None:
    passed, forgotten = make_engine(), make_engine(pool_logging_name="reports")
    gc.collect()

    watched.monitor.instrument(lambda *_: None, engine=passed)
    assert "reports" in instrument.engines_seen()
    watched.monitor.uninstrument()
    assert {"reports", "sqlite"} <= set(instrument.engines_seen())
    del forgotten


async def test_two_pools_of_one_address_have_two_names(watched: Any, make_engine: Any) -> None:
    watched.monitor.instrument(lambda *_: None, engines=[make_engine(), make_engine()])

    pools = {patch.target.split(" of ")[-1] for patch in watched.monitor.patches if patch.target.startswith("pool")}

    assert pools == {"sqlite", "sqlite#2"}


def test_a_pools_name_holds_no_password_and_no_path() -> None:
    engine = create_async_engine("postgresql+asyncpg://app:hunter2@db.internal:6432/chat?ssl=require", poolclass=AsyncAdaptedQueuePool)

    assert instrument.name_of(engine.sync_engine) == "postgresql+asyncpg://db.internal:6432/chat"
    assert instrument.name_of(create_engine("sqlite:////srv/secret/place.db")) == "sqlite"


async def test_an_unsupported_version_is_left_alone_and_said_so(
    watched: Any, make_engine: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlalchemy, "__version__", "2.9.1")
    engine = make_engine()

    watched.monitor.instrument(lambda *_: None, engine=engine)

    patches = [patch for patch in watched.monitor.patches if patch.library == "sqlalchemy"]
    assert [(patch.active, "2.9.1 is not supported" in patch.note) for patch in patches] == [(False, True)]
    assert "2.9.1" in caplog.text
    assert not listeners_of(engine.pool)
    assert {"connect", "recreate"}.isdisjoint(vars(engine.pool))


def test_what_is_no_engine_is_refused_at_start(watched: Any) -> None:
    with pytest.raises(SettingsError, match="engine= got str"):
        watched.monitor.instrument(lambda *_: None, engine="sqlite://")


async def test_another_tools_wrapper_of_the_pool_survives(watched: Any, make_engine: Any) -> None:
    engine = make_engine()
    calls: list[int] = []
    plain = engine.pool.connect

    def theirs() -> Any:
        calls.append(1)
        return plain()

    engine.pool.connect = theirs
    watched.monitor.instrument(lambda *_: None, engine=engine)
    engine.connect().close()
    watched.monitor.uninstrument()
    engine.connect().close()

    assert len(calls) == 2
    assert engine.pool.connect is theirs
    del engine.pool.connect
