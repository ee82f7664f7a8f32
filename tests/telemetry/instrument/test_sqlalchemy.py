"""Sessions of real applications on real databases: who leaks is named, and nobody else is."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from isolation_monitor.telemetry import names

NOTE = text("SELECT 1")


def make_app(engine: AsyncEngine, kept: list[Any]) -> FastAPI:
    """A service with sound and unsound ways to use a session; `kept` is where the unsound ones put theirs."""
    app = FastAPI()
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    @app.get("/sound")
    async def sound(session: AsyncSession = Depends(get_session)) -> dict[str, int]:
        await session.execute(NOTE)
        await asyncio.sleep(0)
        await session.execute(NOTE)
        await session.commit()
        return {"ok": 1}

    @app.get("/raises")
    async def raises(session: AsyncSession = Depends(get_session)) -> None:
        await session.execute(NOTE)
        raise LookupError("the application's own")

    @app.get("/bad-statement")
    async def bad_statement(session: AsyncSession = Depends(get_session)) -> None:
        await session.execute(text("SELECT nothing FROM nowhere"))

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async with sessions() as own:
                for n in range(5):
                    await own.execute(NOTE)
                    yield f"{n}\n"
                    await asyncio.sleep(0)

        return StreamingResponse(lines())

    @app.get("/hangs")
    async def hangs(session: AsyncSession = Depends(get_session)) -> None:
        await session.execute(NOTE)
        kept.append("hanging")
        await asyncio.sleep(3600)

    @app.get("/times-out")
    async def times_out(session: AsyncSession = Depends(get_session)) -> dict[str, int]:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                async with sessions() as own:
                    await own.execute(NOTE)
                    await asyncio.sleep(3600)
        return {"ok": 1}

    @app.get("/child")
    async def child() -> dict[str, int]:
        finish, began = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            async with sessions() as own:
                await own.execute(NOTE)
                began.set()
                await finish.wait()

        kept.append((asyncio.create_task(work()), finish))
        await began.wait()
        return {"ok": 1}

    @app.get("/leaks")
    async def leaks() -> dict[str, int]:
        session = sessions()
        await session.execute(NOTE)
        kept.append(session)
        return {"ok": 1}

    @app.get("/drops")
    async def drops() -> dict[str, int]:
        session = sessions()
        await session.execute(NOTE)
        return {"ok": 1}

    return app


@pytest.fixture
async def service(watched: Any, client: Any, async_engine: AsyncEngine) -> AsyncIterator[Any]:
    """The service under watch; whatever it kept is given back at the end."""
    kept: list[Any] = []
    app = make_app(async_engine, kept)
    watched.monitor.instrument(app, engine=async_engine)
    calls = client(app)
    calls.kept = kept
    yield calls
    for session in kept:
        if isinstance(session, AsyncSession):
            await session.close()


async def test_a_hundred_concurrent_requests_leak_nothing(watched: Any, service: Any) -> None:
    """Five connections for a hundred requests: they wait for one another, fail in the middle, and all come back."""
    paths = ["/sound", "/raises", "/sound", "/bad-statement", "/stream"]

    async def call(n: int) -> None:
        path = paths[n % len(paths)]
        with suppress(Exception) if path in ("/raises", "/bad-statement") else nullcontext():
            await service.get(path, user=f"user-{n}")

    await asyncio.gather(*(call(n) for n in range(100)))
    await watched.judged()

    assert watched.monitor.violations() == []
    assert watched.passed() >= 100
    assert watched.errors() == 0


async def test_a_session_that_is_kept_is_a_leak_with_the_endpoints_line(watched: Any, service: Any, async_engine: AsyncEngine) -> None:
    await service.get("/leaks", user="ann")

    await watched.eventually(watched.leaked, "the leak is counted")

    violation = watched.monitor.violations()[0]
    assert (violation.kind, violation.grade, violation.victim) == ("session_leak", "hygiene", None)
    assert violation.offender.route == "GET /leaks"
    assert violation.offender.principal == watched.monitor.hasher.hash("ann")
    assert violation.offender.stack[-1].endswith("make_app.<locals>.leaks")
    assert "test_sqlalchemy.py:" in violation.offender.stack[-1]
    url = async_engine.url
    assert str(url.password) not in violation.resource.name
    assert violation.resource.name.startswith(("sqlite", "postgresql+"))

    await service.kept.pop().close()
    assert watched.retracted() == 1


async def test_the_exception_path_gives_back(watched: Any, service: Any) -> None:
    with pytest.raises(LookupError):
        await service.get("/raises", user="ann")
    await watched.judged()

    assert (watched.leaked(), watched.passed()) == (0, 1)


async def test_the_cancel_path_gives_back(watched: Any, service: Any) -> None:
    task = asyncio.create_task(service.get("/hangs", user="ann"))
    await watched.eventually(lambda: service.kept, "the request holds its connection")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await watched.judged()

    assert watched.leaked() == 0


async def test_the_time_out_path_gives_back(watched: Any, service: Any) -> None:
    await service.get("/times-out", user="ann")
    await watched.judged()

    assert watched.leaked() == 0


async def test_a_stream_holds_its_connection_to_the_end_of_the_answer(watched: Any, service: Any) -> None:
    answer = await service.get("/stream", user="ann")
    await watched.judged()

    assert answer.body == b"0\n1\n2\n3\n4\n"
    assert watched.leaked() == 0


async def test_a_connection_held_by_a_live_child_task_is_no_leak(watched: Any, service: Any) -> None:
    await service.get("/child", user="ann")
    await watched.judged()
    await watched.judged()
    assert watched.leaked() == 0

    task, finish = service.kept.pop()
    finish.set()
    await task
    await watched.judged()

    assert (watched.leaked(), watched.passed()) == (0, 1)


async def test_a_session_dropped_without_closing_is_a_leak(
    watched: Any, service: Any, async_engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """The garbage collector cannot give an asynchronous connection back: it destroys it, and only a log line tells."""
    with warnings.catch_warnings(), caplog.at_level(logging.CRITICAL, logger="sqlalchemy.pool"):
        warnings.simplefilter("ignore")
        await service.get("/drops", user="ann")
        gc.collect()
        await watched.eventually(watched.leaked, "the leak is counted")

    violation = watched.monitor.violations()[0]
    assert violation.resource.detail["state"] == "reaped"
    assert violation.offender.stack[-1].endswith("make_app.<locals>.drops")
    assert watched.retracted() == 0
    del async_engine


async def test_requests_that_get_no_connection_are_not_contained(watched: Any, service: Any, async_engine: AsyncEngine) -> None:
    """Ann's leaks hold the whole pool; Bob's request fails for it: her failure was not contained."""
    async_engine.sync_engine.pool._timeout = 0.3
    for _ in range(5):
        await service.get("/leaks", user="ann")
    await watched.eventually(lambda: watched.leaked() == 5, "the leaks are counted")

    with pytest.raises(Exception, match="QueuePool limit"):
        await service.get("/sound", user="bob")

    assert watched.monitor.registry.value(names.FAILURES, outcome="escaped", arm="none") == 1


async def test_waiting_use_and_pool_are_measured(watched: Any, service: Any, async_engine: AsyncEngine) -> None:
    name = watched.monitor.patches[0].target.split(" of ")[-1]
    before = watched.observed(names.DB_CONNECTION_WAIT, name)
    await service.get("/sound", user="ann")
    await service.get("/leaks", user="ann")

    assert watched.observed(names.DB_CONNECTION_WAIT, name) == before + 2
    assert watched.observed(names.DB_CONNECTION_USE, name) == 1
    await watched.eventually(lambda: watched.connections(name, "used") == 1, "the gauge shows the connection that is out")
    assert watched.monitor.registry.value(names.DB_CONNECTION_MAX, db_client_connection_pool_name=name) == 5


async def test_disposing_of_the_pool_does_not_end_the_watch(watched: Any, service: Any, async_engine: AsyncEngine) -> None:
    name = watched.monitor.patches[0].target.split(" of ")[-1]
    for _ in range(2):
        await async_engine.dispose()
    before = watched.observed(names.DB_CONNECTION_WAIT, name)

    await service.get("/leaks", user="ann")
    await watched.eventually(watched.leaked, "the leak is counted")

    assert watched.leaked() == 1
    assert watched.observed(names.DB_CONNECTION_WAIT, name) == before + 1


async def test_uninstrumenting_leaves_the_engine_as_it_was(watched: Any, service: Any, async_engine: AsyncEngine) -> None:
    engine: Engine = async_engine.sync_engine
    await async_engine.dispose()

    watched.monitor.uninstrument()

    assert {"connect", "recreate"}.isdisjoint(vars(engine.pool))
    for event_name in ("checkout", "checkin", "invalidate", "detach", "close_detached"):
        assert not list(getattr(engine.pool.dispatch, event_name))
    await service.get("/leaks", user="ann")
    await watched.judged()
    assert watched.leaked() == 0
    assert not any(patch.active for patch in watched.monitor.patches)


async def test_a_failing_hook_never_reaches_the_application(watched: Any, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched.monitor.leaks, "_out", None)

    answer = await service.get("/sound", user="ann")

    assert answer.status == 200
    assert watched.errors() > 0
