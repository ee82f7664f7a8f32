"""psycopg2 on a real server: units of work of several users on one connection, settings handed over, classes of the host's own."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from tests.real_parts.postgres import Postgres
from tests.telemetry.acting import Acting, hooked

psycopg2: Any = importlib.import_module("psycopg2")
extras: Any = importlib.import_module("psycopg2.extras")
integration: Any = importlib.import_module("isolation_monitor.telemetry.instrument.psycopg2")


@pytest.fixture(scope="module")
def address(postgres: Postgres) -> str:
    return postgres.create("psycopg2_hooks").replace("postgresql+asyncpg", "postgresql")


@pytest.fixture
def acting(monitor: IsolationMonitor) -> Iterator[Acting]:
    with hooked(integration.install, monitor):
        yield Acting(monitor)


@pytest.fixture
def connection(acting: Acting, address: str) -> Iterator[Any]:
    with contextlib.closing(psycopg2.connect(address)) as one:
        yield one


def run(connection: Any, *statements: str) -> Any:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None


def test_a_refused_write_that_anothers_commit_has_booked_is_reported(acting: Acting, connection: Any) -> None:
    one, two = acting.request("u-one"), acting.request("u-two")

    acting.inside(one, run, connection, "CREATE TEMP TABLE orders (id int)", "INSERT INTO orders VALUES (1)")
    acting.inside(two, run, connection, "INSERT INTO orders VALUES (2)")
    acting.inside(two, connection.commit)
    acting.inside(one, connection.rollback)

    (violation,) = acting.found(names.SHARED_CONNECTION)
    assert "was committed by a request of another principal" in violation.summary
    assert not acting.errors()


def test_a_with_block_per_request_accuses_nobody(acting: Acting, connection: Any) -> None:
    def works() -> None:
        with connection:
            run(connection, "CREATE TEMP TABLE IF NOT EXISTS notes (id int)", "INSERT INTO notes VALUES (1)")

    for user in ("u-one", "u-two"):
        acting.inside(acting.request(user), works)

    assert acting.found(names.SHARED_CONNECTION) == []


@pytest.mark.parametrize("is_local", [True, False])
def test_a_tenant_that_stays_set_is_reported(acting: Acting, connection: Any, is_local: bool) -> None:
    def enters(user: str) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT set_config('app.tenant', %s, %s)", (user, is_local))

    acting.inside(acting.request("u-one"), enters, "u-one")
    seen = acting.inside(acting.request("u-two"), run, connection, "SELECT current_setting('app.tenant', true)")

    assert seen == ("" if is_local else "u-one",)
    assert bool(acting.found(names.DIRTY_HANDOVER)) is not is_local


def test_the_hosts_own_classes_work_as_before(acting: Acting, address: str) -> None:
    with contextlib.closing(psycopg2.connect(address, cursor_factory=extras.RealDictCursor)) as connection:
        assert run(connection, "SELECT 1 AS one") == {"one": 1}
        with connection.cursor(cursor_factory=extras.NamedTupleCursor) as cursor:
            cursor.execute("SELECT 2 AS two")
            assert cursor.fetchall()[0].two == 2
        with connection.cursor("on_the_server") as cursor:
            cursor.execute("SELECT generate_series(1, 3) AS n")
            assert [row["n"] for row in cursor] == [1, 2, 3]
    with contextlib.closing(psycopg2.connect(address, extras.LoggingConnection)) as connection:
        assert type(connection) is extras.LoggingConnection
    assert not acting.errors()
