"""sqlite3 and aiosqlite: units of work of several users in one transaction, rows that go astray, and the right ways to share."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.instrument import aiosqlite as aiosqlite_integration
from isolation_monitor.telemetry.instrument import sqlite3 as integration
from isolation_monitor.telemetry.provenance import ROWS_LIMIT, was_fetched
from tests.telemetry.acting import Acting, hooked


@pytest.fixture
def acting(monitor: IsolationMonitor) -> Iterator[Acting]:
    with hooked(integration.install, monitor), hooked(aiosqlite_integration.install, monitor):
        yield Acting(monitor)


@pytest.fixture
def connection(acting: Acting) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:", check_same_thread=False)) as one:
        one.execute("CREATE TABLE orders (owner TEXT UNIQUE)")
        one.commit()
        yield one


def orders(connection: sqlite3.Connection) -> list[str]:
    return [owner for (owner,) in connection.execute("SELECT owner FROM orders ORDER BY owner")]


class Desk:
    """Two users' requests, by turns, in plain functions as a thread pool runs them."""

    def __init__(self, acting: Acting, connection: sqlite3.Connection) -> None:
        self.acting = acting
        self.connection = connection
        self.one, self.two = acting.request("u-one"), acting.request("u-two")

    def writes(self, request: RequestContext) -> None:
        owner = "one" if request is self.one else "two"
        self.acting.inside(request, self.connection.execute, "INSERT INTO orders VALUES (?)", (owner,))

    def does(self, request: RequestContext, *statements: str) -> None:
        for statement in statements:
            self.acting.inside(request, self.connection.execute, statement)

    def commits(self, request: RequestContext) -> None:
        self.acting.inside(request, self.connection.commit)

    def rolls_back(self, request: RequestContext) -> None:
        self.acting.inside(request, self.connection.rollback)

    def found(self) -> list[str]:
        assert not self.acting.errors()
        return [violation.summary for violation in self.acting.found(names.SHARED_CONNECTION)]


@pytest.fixture
def desk(acting: Acting, connection: sqlite3.Connection) -> Desk:
    return Desk(acting, connection)


def test_a_rollback_that_undoes_anothers_write_is_reported(desk: Desk) -> None:
    desk.writes(desk.one)
    desk.writes(desk.two)
    desk.rolls_back(desk.one)

    assert orders(desk.connection) == []
    (summary,) = desk.found()
    assert "undid what a request of another principal had written" in summary
    (violation,) = desk.acting.found(names.SHARED_CONNECTION)
    assert violation.grade == "reachable"
    assert violation.victim is not None
    assert violation.victim.principal == desk.acting.monitor.principals.named("u-two").hash


def test_a_refused_write_that_anothers_commit_has_booked_is_reported(desk: Desk) -> None:
    desk.writes(desk.one)
    desk.writes(desk.two)
    desk.commits(desk.two)
    assert desk.found() == []
    desk.rolls_back(desk.one)

    assert orders(desk.connection) == ["one", "two"]
    (summary,) = desk.found()
    assert "was committed by a request of another principal" in summary


def test_the_with_block_of_another_books_and_undoes_as_well(desk: Desk) -> None:
    """`with connection:` ends a transaction without a call of `commit` or `rollback`."""

    def within(fails: bool) -> None:
        with contextlib.suppress(LookupError), desk.connection:
            desk.connection.execute("INSERT INTO orders VALUES ('block')")
            if fails:
                raise LookupError

    desk.writes(desk.one)
    desk.acting.inside(desk.two, within, True)

    assert len(desk.found()) == 1


def test_turns_without_a_lock_in_which_each_commits_accuse_nobody(desk: Desk) -> None:
    """The commonest service on SQLite: one connection, a statement and its commit, others in between."""
    desk.writes(desk.one)
    desk.writes(desk.two)
    desk.commits(desk.one)
    desk.commits(desk.two)

    assert desk.found() == []
    assert desk.acting.checks(names.SHARED_CONNECTION, "pass") == 1


def test_a_rollback_after_the_own_commit_accuses_nobody(desk: Desk) -> None:
    """Pools roll back whatever comes back to them, also what was committed."""
    desk.writes(desk.one)
    desk.commits(desk.two)
    desk.commits(desk.one)
    desk.rolls_back(desk.one)

    assert desk.found() == []


def test_clearing_away_what_a_finished_request_left_open_accuses_nobody(desk: Desk) -> None:
    desk.writes(desk.one)
    desk.one.finished = True
    desk.rolls_back(desk.two)

    assert desk.found() == []


def test_one_users_own_requests_may_share_a_transaction(acting: Acting, connection: sqlite3.Connection) -> None:
    desk = Desk(acting, connection)
    desk.two = acting.request("u-one")
    desk.writes(desk.one)
    desk.writes(desk.two)
    desk.rolls_back(desk.one)

    assert desk.found() == []


def test_a_write_inside_a_transaction_that_another_began_is_reported(desk: Desk) -> None:
    desk.does(desk.one, "BEGIN")
    desk.writes(desk.one)
    desk.writes(desk.two)

    (summary,) = desk.found()
    assert "while the first one's transaction was open" in summary


def test_a_savepoint_that_was_released_is_not_undone_by_another_unseen(desk: Desk) -> None:
    """A library that nests transactions tells a user that all is done when only a savepoint was released."""
    desk.connection.isolation_level = None
    desk.does(desk.acting.request(None), "BEGIN")
    desk.does(desk.one, "SAVEPOINT first")
    desk.writes(desk.one)
    desk.does(desk.two, "SAVEPOINT second")
    desk.writes(desk.two)
    desk.does(desk.two, "RELEASE SAVEPOINT second")
    desk.two.finished = True
    desk.does(desk.one, "ROLLBACK TO SAVEPOINT first")

    assert orders(desk.connection) == []
    (summary,) = desk.found()
    assert "undid" in summary


def test_going_back_to_a_savepoint_leaves_what_came_before_it_alone(desk: Desk) -> None:
    desk.connection.isolation_level = None
    desk.does(desk.acting.request(None), "BEGIN")
    desk.writes(desk.one)
    desk.does(desk.two, "SAVEPOINT second")
    desk.writes(desk.two)
    desk.does(desk.two, "ROLLBACK TO second", "RELEASE second")

    assert orders(desk.connection) == ["one"]
    assert desk.found() == []


async def test_a_transaction_kept_open_while_the_loop_serves_others_is_reported(acting: Acting, connection: sqlite3.Connection) -> None:
    """On one event loop nobody comes between two statements, unless their request gives the loop away."""
    may_go_on, has_written = asyncio.Event(), asyncio.Event()

    async def waits() -> None:
        connection.execute("INSERT INTO orders VALUES ('one')")
        has_written.set()
        await may_go_on.wait()
        connection.commit()

    async def comes() -> None:
        connection.execute("INSERT INTO orders VALUES ('two')")
        connection.commit()

    waiting = acting.task("u-one", waits)
    await has_written.wait()
    await acting.act("u-two", comes)
    may_go_on.set()
    await waiting

    assert len(acting.found(names.SHARED_CONNECTION)) == 1


def test_rows_fetched_of_anothers_statement_are_crossed(desk: Desk) -> None:
    cursor = desk.connection.cursor()
    desk.acting.inside(desk.one, cursor.execute, "SELECT 'of one'")
    desk.acting.inside(desk.two, cursor.execute, "SELECT 'of two'")
    got = desk.acting.inside(desk.one, cursor.fetchall)

    assert got == [("of two",)]
    (violation,) = desk.acting.found(names.SHARED_CONNECTION)
    assert violation.grade == "crossed"
    assert violation.victim is not None
    assert violation.victim.principal == desk.acting.monitor.principals.named("u-two").hash


def test_rows_given_one_by_one_are_one_read(desk: Desk) -> None:
    def read(rows: int) -> list[tuple[Any, ...]]:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT 'row-' || i FROM n"
        cursor = desk.connection.execute(numbers, (rows,))
        # The driver's own state is the same, whoever asks for the next row.
        return [next(cursor), *cursor.fetchmany(2), *cursor]

    assert desk.acting.inside(desk.one, read, 500) == [(f"row-{n}",) for n in range(1, 501)]
    assert desk.one.fetched is not None
    assert len(desk.one.fetched) == 3
    assert was_fetched(desk.one, "row-500")
    assert not was_fetched(desk.one, "row-501")

    assert len(desk.acting.inside(desk.two, read, ROWS_LIMIT + 10)) == ROWS_LIMIT + 10
    assert was_fetched(desk.two, "anything"), "so much is said to be everything"
    assert not desk.acting.errors()


def test_a_failure_between_two_rows_reaches_the_caller(desk: Desk) -> None:
    def read() -> list[Any]:
        return list(desk.connection.execute("SELECT 1 UNION ALL SELECT abs(-9223372036854775808)"))

    with pytest.raises(sqlite3.OperationalError, match="integer overflow"):
        desk.acting.inside(desk.one, read)
    assert not desk.acting.errors()


def test_a_cursor_that_serves_one_after_the_other_accuses_nobody(desk: Desk) -> None:
    cursor = desk.connection.cursor()
    for request in (desk.one, desk.two):
        desk.acting.inside(request, cursor.execute, "SELECT 1 UNION SELECT 2")
        desk.acting.inside(request, lambda: [*cursor])

    assert desk.found() == []


@pytest.mark.parametrize("books", [True, False])
async def test_aiosqlite_works_for_the_request_that_asked(acting: Acting, tmp_path: Path, books: bool) -> None:
    """Its statements run on a thread of its own, in whose context there is no request."""
    async with aiosqlite.connect(tmp_path / "app.sqlite3") as connection:
        await connection.execute("CREATE TABLE orders (owner TEXT)")
        first = acting.request("u-one")

        async def writes(owner: str) -> None:
            await connection.execute("INSERT INTO orders VALUES (?)", (owner,))

        async def writes_and_commits(owner: str) -> None:
            await writes(owner)
            await connection.commit()

        await acting.task(first, writes, "one")
        await acting.act("u-two", writes_and_commits, "two")
        await acting.task(first, connection.commit if books else connection.rollback)

    found = acting.found(names.SHARED_CONNECTION)
    assert len(found) == (0 if books else 1)
    for violation in found:
        assert violation.victim is not None
        assert any("test_sqlite3" in str(line) for line in violation.victim.stack)


def test_the_driver_behaves_as_before(connection: sqlite3.Connection, tmp_path: Path) -> None:
    """Rows, scripts, errors and the host's own classes are as they were."""

    class Own(sqlite3.Connection):
        pass

    class Rows(sqlite3.Cursor):
        pass

    connection.executescript("INSERT INTO orders VALUES ('a'); INSERT INTO orders VALUES ('b');")
    connection.executemany("INSERT INTO orders VALUES (?)", [("c",)])

    assert isinstance(connection, sqlite3.Connection)
    assert repr(type(connection)) == repr(sqlite3.Connection)
    assert [*connection.execute("SELECT owner FROM orders")] == [("a",), ("b",), ("c",)]
    assert type(connection.cursor(Rows)) is Rows
    assert connection.cursor().fetchone() is None
    with pytest.raises(sqlite3.IntegrityError), connection:
        connection.execute("INSERT INTO orders VALUES ('a')")
    assert orders(connection) == ["a", "b"]
    for given in (sqlite3.connect(":memory:", factory=Own), sqlite3.connect(":memory:", 5.0, 0, "", True, Own)):
        with contextlib.closing(given):
            assert type(given) is Own
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")
    with pytest.raises(sqlite3.ProgrammingError):
        connection.commit()


def test_everything_comes_off_again(monitor: IsolationMonitor) -> None:
    before: tuple[Any, ...] = (sqlite3.connect, sqlite3.dbapi2.connect, aiosqlite.Connection._execute)

    with hooked(integration.install, monitor), hooked(aiosqlite_integration.install, monitor):
        assert sqlite3.connect is not before[0]

    assert (sqlite3.connect, sqlite3.dbapi2.connect, aiosqlite.Connection._execute) == before
