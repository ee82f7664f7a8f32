"""A transaction that is left open on a pooled connection is found by the next user only where the pool does not reset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, create_engine, event

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from tests.telemetry.instrument.pool_listeners import listeners_of


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**arguments: Any) -> Engine:
        url = f"sqlite:///{tmp_path / 'app.sqlite3'}"
        made.append(create_engine(url, pool_size=1, max_overflow=0, connect_args={"check_same_thread": False}, **arguments))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


def found(watched: Any) -> list[Any]:
    return [v for v in watched.monitor.violations() if v.kind == names.DIRTY_HANDOVER]


async def visit(watched: Any, client: Any, engine: Engine, *users: str, ending: str = "") -> None:
    app = FastAPI()

    @app.get("/x")
    async def x() -> dict[str, int]:
        connection = engine.raw_connection()
        connection.cursor().execute("CREATE TABLE IF NOT EXISTS notes (text)")
        connection.cursor().execute("INSERT INTO notes VALUES ('mine')")
        if ending:
            getattr(connection, ending)()
        connection.close()
        return {"ok": 1}

    watched.monitor.instrument(app, engine=engine)
    calls = client(app)
    for user in users:
        assert (await calls.get("/x", user=user)).status == 200


async def test_an_open_transaction_that_the_next_user_gets_is_reported(watched: Any, client: Any, make_engine: Any) -> None:
    await visit(watched, client, make_engine(pool_reset_on_return=None), "ann", "bob")

    violation = found(watched)[0]
    assert violation.grade == "reachable"
    assert violation.resource.detail["state"] == {"transaction": "open"}
    assert any("test_sqlalchemy_handover.py" in line for line in violation.victim.stack)


@pytest.mark.parametrize("users", [("ann", "ann"), ("ann",)])
async def test_ones_own_open_transaction_is_no_leak(watched: Any, client: Any, make_engine: Any, users: tuple[str, ...]) -> None:
    await visit(watched, client, make_engine(pool_reset_on_return=None), *users)

    assert found(watched) == []


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_finished_transaction_is_fine(watched: Any, client: Any, make_engine: Any, ending: str) -> None:
    await visit(watched, client, make_engine(pool_reset_on_return=None), "ann", "bob", ending=ending)

    assert found(watched) == []


async def test_a_pool_that_resets_is_fine_and_not_hooked(watched: Any, client: Any, make_engine: Any) -> None:
    engine = make_engine()
    await visit(watched, client, engine, "ann", "bob")

    assert found(watched) == []
    assert len(listeners_of(engine.pool)) == 1


async def test_a_service_that_resets_by_itself_is_fine(watched: Any, client: Any, make_engine: Any) -> None:
    engine = make_engine(pool_reset_on_return=None)
    event.listen(engine, "reset", lambda connection, _record, _state: connection.rollback())

    await visit(watched, client, engine, "ann", "bob")

    assert found(watched) == []


async def test_uninstrumenting_takes_the_hooks_off(watched: Any, client: Any, make_engine: Any) -> None:
    engine = make_engine(pool_reset_on_return=None)
    await visit(watched, client, engine, "ann")
    watched.monitor.uninstrument()

    assert not listeners_of(engine.pool)
    assert not list(engine.pool.dispatch.checkin)


async def noting(watched: Any, client: Any, engine: Engine, *users: str, always: bool) -> None:
    app = FastAPI()

    @app.get("/x")
    async def x() -> dict[str, int]:
        with engine.connect() as connection:
            if always or "tenant" not in connection.info:
                request = CURRENT.get()
                assert request is not None
                assert request.principal is not None
                connection.info["tenant"] = request.principal.id
            connection.info["made_by"] = "pool"
        return {"ok": 1}

    watched.monitor.instrument(app, engine=engine)
    calls = client(app)
    for user in users:
        assert (await calls.get("/x", user=user)).status == 200


async def test_a_users_note_on_a_connection_that_the_next_user_finds_is_reported(watched: Any, client: Any, make_engine: Any) -> None:
    await noting(watched, client, make_engine(), "ann", "bob", always=False)

    assert [v.resource.detail["state"] for v in found(watched)] == [{"info": "tenant"}]


async def test_notes_that_each_user_sets_anew_are_fine(watched: Any, client: Any, make_engine: Any) -> None:
    await noting(watched, client, make_engine(), "ann", "bob", "ann", always=True)

    assert found(watched) == []
    assert watched.errors() == 0
