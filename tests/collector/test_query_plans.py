"""No question reads all evidence: each of them goes through the hourly counts or an index, on both databases.

The statements are those that the services send, caught on their way and explained by the database.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from isolation_monitor.collector.alerts.domain import NotificationQuery
from isolation_monitor.collector.alerts.repository import NotificationRepository
from isolation_monitor.collector.alerts.service import AlertService
from isolation_monitor.collector.announcements.repository import violations_since
from isolation_monitor.collector.evidence.domain import RunQuery, ViolationQuery
from isolation_monitor.collector.evidence.rollup_service import RollupService
from isolation_monitor.collector.evidence.service import EvidenceService
from isolation_monitor.collector.gates.repository import GateRepository
from isolation_monitor.collector.incidents.repository import IncidentRepository
from isolation_monitor.collector.lifecycle.domain import LifecycleQuery, read_record
from isolation_monitor.collector.lifecycle.repository import LifecycleRepository
from isolation_monitor.collector.lifecycle.service import LifecycleService
from isolation_monitor.collector.problems import NotFound
from isolation_monitor.collector.retention.repository import RetentionRepository, expiring
from isolation_monitor.collector.storage.database import Database
from isolation_monitor.collector.storage.days import day_of
from isolation_monitor.collector.storage.models import Base, ViolationRow
from tests.collector.conftest import START

LARGE = ("violations", "violation_mentions", "amendments", "runs", "unknown_records", "alert_notifications")
"""What grows with what services and Alertmanager send."""
ID = "019b76da-a800-7000-8000-000000000000"

Ask = Callable[[Database], Awaitable[object]]


async def leads() -> bool:
    return True


def evidence(database: Database) -> EvidenceService:
    return EvidenceService(database, lambda: START)


def lifecycle(database: Database) -> LifecycleService:
    return LifecycleService(database, lambda: START)


def on_connection(ask: Callable[[Any], Awaitable[object]]) -> Ask:  # Any: a repository's connection
    async def run(database: Database) -> None:
        async with database.reading() as connection:
            await ask(connection)

    return run


async def expire(connection: Any) -> None:  # Any: as above
    repository = RetentionRepository(connection)
    for what in expiring(START.date(), START, START.date()):
        if what.name in LARGE:
            await repository.oldest(what, 100)


async def groups(database: Database) -> None:
    await evidence(database).groups(ViolationQuery(since=SINCE, synthetic=False, limit=50))


SINCE = START - timedelta(days=30, minutes=7)
STARTED = read_record(ID, "chat", "host:1:1", START, START, "startup", {})
QUESTIONS: dict[str, Ask] = {
    "violation by id": lambda database: evidence(database).violation(ID),
    "run by id": lambda database: evidence(database).run(ID),
    "page by kind and time": lambda database: evidence(database).find(ViolationQuery(kind="k", since=SINCE, until=START)),
    "page of what is rare": lambda database: evidence(database).find(ViolationQuery(kind="k", grade="crossed", is_oldest_first=True)),
    "page of a user": lambda database: evidence(database).find(ViolationQuery(principal="a" * 16, since=SINCE)),
    "page of a run": lambda database: evidence(database).find(ViolationQuery(run_id="r", service="chat")),
    "violations of a request": lambda database: evidence(database).find(ViolationQuery(request_id="1-1", is_oldest_first=True)),
    "page of a service": lambda database: evidence(database).find(ViolationQuery("chat", grade="crossed", after=(START, ID))),
    "page of runs": lambda database: evidence(database).runs(RunQuery("chat", since=SINCE)),
    "30 days by service and grade": lambda database: evidence(database).sums(SINCE),
    "30 days by day": lambda database: evidence(database).days(START - timedelta(days=30), None),
    "30 days by kind": lambda database: evidence(database).history(SINCE, START, "kind"),
    "30 days by defect": groups,
    "incidents of 30 days": on_connection(lambda connection: IncidentRepository(connection).bursts(SINCE, START, None)),
    "alerts of incidents": on_connection(lambda connection: IncidentRepository(connection).alerts(SINCE, START, None)),
    "whom an incident touched": on_connection(lambda connection: IncidentRepository(connection).affected("chat", SINCE, START)),
    "what a gate counts": on_connection(lambda connection: GateRepository(connection).counts("chat", "on", START)),
    "bursts of ten minutes": on_connection(lambda connection: violations_since(connection, START)),
    "page of alerts": lambda database: AlertService(database, lambda: START).find(NotificationQuery()),
    "alerts that fire": lambda database: AlertService(database, lambda: START).open(SINCE, 200),
    "alerts to be reconciled": on_connection(lambda connection: NotificationRepository(connection).told_firing()),
    "page of starts and ends": lambda database: lifecycle(database).find(LifecycleQuery(after=(START, ID))),
    "hanging phases of a service": lambda database: lifecycle(database).find(LifecycleQuery("chat", "hanging", SINCE)),
    "start or end by id": lambda database: lifecycle(database).tell(ID),
    "what a process told": on_connection(lambda connection: LifecycleRepository(connection).around(STARTED)),
    "how starts went on": on_connection(lambda connection: LifecycleRepository(connection).ends_of({"host:1:1"}, SINCE)),
    "what expires": on_connection(expire),
}


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    """A store with a violation a day and a half ago, whose day was summed up and whose hour was indexed."""
    database = Database(database_url)
    time = START - timedelta(hours=36)
    same: dict[str, Any] = dict.fromkeys(("service", "instance", "kind", "detector", "arm", "summary", "fingerprint"), "k")
    same |= {"id": ID, "day": day_of(ID, time), "time": time, "received_at": time, "grade": "crossed", "grade_sent": "crossed", "count": 1}
    side = {"principal": "a" * 16, "run_id": "r", "request_id": "1-1"}
    async with database.writing() as connection:
        values = same | {"synthetic": False, "victim": side, "detail": {}, "extra": {}}
        await connection.execute(ViolationRow.__table__.insert(), values)  # type: ignore[attr-defined]  # is a Table
    await RollupService(database, leads, lambda: START, 30).roll_up()
    yield database
    await database.close()


@contextmanager
def caught(database: Database) -> Iterator[list[tuple[str, Any]]]:  # Any: parameters as the driver takes them
    """Give the list of the statements that are read with meanwhile."""
    statements: list[tuple[str, Any]] = []
    engine = database._reader.sync_engine

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def plan(connection: Any, dialect: str, statement: str, parameters: Any) -> str:  # Any: as above
    if dialect == "sqlite":
        rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return "\n".join(row[3] for row in rows)
    # Small tables are read whole by choice; here only where nothing else can be done.
    await connection.execute(text("SET LOCAL enable_seqscan = off"))
    return "\n".join(row[0] for row in await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))


def reads_all(dialect: str, explained: str, statement: str) -> list[str]:
    """Return the lines of a plan in which a large table is read from one end to the other."""
    tables = "|".join(LARGE)
    if dialect == "sqlite":
        found = re.findall(rf"SCAN (?:{tables})\b.*", explained)
        # In the order that is asked for, up to a limit: a page.
        return [line for line in found if "USING INDEX" not in line or "LIMIT" not in statement]
    return re.findall(rf"Seq Scan on (?:{tables})\w*.*", explained)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_no_question_reads_a_table_of_evidence_whole(store: Database, question: str) -> None:
    with caught(store) as statements:
        try:
            await QUESTIONS[question](store)
        except NotFound:
            pass

    assert statements
    async with store.reading() as connection:
        for statement, parameters in statements:
            explained = await plan(connection, store.dialect, statement, parameters)
            assert reads_all(store.dialect, explained, statement) == [], f"{statement}\n{explained}"


@pytest.mark.parametrize("query", [ViolationQuery(principal="a" * 16), ViolationQuery(run_id="r"), ViolationQuery(request_id="1-1")])
async def test_who_is_mentioned_is_found_by_an_index(store: Database, query: ViolationQuery) -> None:
    """SQLite's has one seek for each hour, PostgreSQL's is asked in each partition that the range leaves."""
    with caught(store) as statements:
        (found,) = await evidence(store).find(query)

    assert found.record.id == ID
    async with store.reading() as connection:
        plans = "\n".join([await plan(connection, store.dialect, statement, parameters) for statement, parameters in statements])
    index = "violation_mentions USING PRIMARY KEY (hour=? AND value=?)" if store.dialect == "sqlite" else "Bitmap Index Scan on violations_"
    assert index in plans


async def page_plan(store: Database, query: ViolationQuery) -> str:
    """Return how the last statement of a page is answered."""
    with caught(store) as statements:
        await evidence(store).find(query)
    async with store.reading() as connection:
        return await plan(connection, store.dialect, *statements[-1])


@pytest.mark.parametrize("query", [ViolationQuery("k"), ViolationQuery("k", kind="k", is_oldest_first=True)])
async def test_a_page_of_a_service_does_not_sort_all_that_it_sent(store: Database, query: ViolationQuery) -> None:
    """Read by time up to the limit: a collector may keep millions of one service."""
    if store.dialect == "postgresql":
        pytest.skip("PostgreSQL weighs by itself what it knows of its tables")
    time = START - timedelta(hours=36)
    for asked in (query, replace(query, after=(time, ID))):
        explained = await page_plan(store, asked)
        assert "ix_violations_time_id" in explained, explained
        assert "TEMP B-TREE" not in explained, explained


async def test_a_page_of_a_silent_service_among_loud_ones_is_found_by_its_name(store: Database) -> None:
    if store.dialect == "postgresql":
        pytest.skip("PostgreSQL weighs by itself what it knows of its tables")
    async with store.writing() as connection:
        await connection.execute(text("UPDATE violation_days SET records = 60000"))
        await connection.execute(text("UPDATE violation_counts SET records = 60000"))
        for table in ("violation_days", "violation_counts"):
            columns = Base.metadata.tables[table].columns.keys()
            others = ", ".join("'silent'" if name == "service" else "1" if name == "records" else name for name in columns)
            await connection.execute(text(f"INSERT INTO {table} SELECT {others} FROM {table}"))

    assert "service_fingerprint_time" in await page_plan(store, ViolationQuery("silent"))
    assert "ix_violations_time_id" in await page_plan(store, ViolationQuery("k", kind="k"))


async def test_a_page_on_postgresql_opens_the_days_that_have_it(store: Database) -> None:
    if store.dialect == "sqlite":
        pytest.skip("SQLite has one table")
    with caught(store) as statements:
        assert await evidence(store).find(ViolationQuery(kind="k"))

    statement, parameters = statements[-1]
    async with store.reading() as connection:
        explained = await plan(connection, store.dialect, statement, parameters)
    assert len(set(re.findall(r" on (violations_\w+)", explained))) == 1, explained


async def test_a_question_without_an_index_would_be_seen(store: Database) -> None:
    async with store.reading() as connection:
        statement = "SELECT count(*) FROM violations WHERE summary = 'x'"
        explained = await plan(connection, store.dialect, statement, ())

    assert reads_all(store.dialect, explained, statement)
