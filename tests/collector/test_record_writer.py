"""The one writer of records: groups, what fails alone, what is bounded, and what a second replica may do at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from isolation_monitor.collector.evidence.domain import Amendment, Batch, QueueStatement, Record, ViolationRecord
from isolation_monitor.collector.evidence.intake import Intake, Overloaded
from isolation_monitor.collector.evidence.rows import VIOLATIONS, Delivery, delivery
from isolation_monitor.collector.evidence.writer import GROUP_RECORDS, RecordWriter
from isolation_monitor.collector.new_violations import NewViolations
from isolation_monitor.collector.storage.database import Database, StoreUnavailable, translated
from isolation_monitor.collector.storage.models import ViolationRow
from tests.collector.conftest import until

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RECORD = ViolationRecord(
    "v", NOW, "instance_reuse", "reachable", "instance_reuse", "none", False, "naïve — “quoted”", "f", 3, {"type": "instance", "name": "a"},
    {"principal": "p", "stack": []}, None, {"n": 1.5, "list": [None, True]}, {},
)  # fmt: skip


class Store:
    """A writer on a database of its own connections, with what it told of harm and what is to be paged for."""

    def __init__(self, url: str, limit_bytes: int = 1_000_000, timeout_s: float = 30.0) -> None:
        self.database = Database(url, timeout_s)
        self.intake = Intake(limit_bytes)
        self.harmed: list[str] = []
        self.given: list[NewViolations] = []
        """What is to be paged for."""
        self.writer = RecordWriter(self.database, self.intake, self.harmed.append, self)

    def noted(self, violated: Sequence[NewViolations]) -> list[NewViolations]:
        return [replace(one, due_ids=(f"due-{one.example_id}",)) for one in violated]

    def give(self, violated: Sequence[NewViolations]) -> None:
        self.given += violated

    def delivery(self, *ids: str, **changes: Any) -> Delivery:
        return self.made(*(replace(RECORD, id=record_id, **changes) for record_id in ids))

    def made(self, *records: Record) -> Delivery:
        batch = Batch("chat", "host:1")
        for index, record in enumerate(records):
            batch.add(record, index)
        return delivery([batch], NOW, self.database.dialect)

    async def keep(self, made: Delivery, size: int = 1) -> Any:
        with self.intake.hold() as held:
            held.take(size)
            return await self.writer.keep(made, held)

    async def ids(self) -> list[str]:
        async with self.database.reading() as connection:
            return list((await connection.execute(select(ViolationRow.id).order_by(ViolationRow.id))).scalars())


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Store]:
    store = Store(url, **options)
    store.writer.start()
    try:
        yield store
    finally:
        await store.writer.close()
        await store.database.close()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened(database_url) as running:
        yield running


def spoiled(made: Delivery, record_id: str, dialect: str) -> Delivery:
    """Put a value into a record that the database cannot take and no check of ours knows."""
    rows = made.rows[VIOLATIONS]
    place = next(place for place, row in enumerate(rows) if row[0] == record_id)
    row = list(rows[place])
    row[VIOLATIONS.columns.index("count" if dialect == "sqlite" else "summary")] = 2**70 if dialect == "sqlite" else "nul \0"
    rows[place] = tuple(row)
    return made


async def test_what_the_writer_wrote_is_what_readers_get(store: Store) -> None:
    """Rows are written without SQLAlchemy's types and read with them."""
    await store.keep(store.delivery("v"))

    async with store.database.reading() as connection:
        row = (await connection.execute(select(ViolationRow.__table__))).one()._mapping

    assert (row["time"], row["received_at"], row["count"], row["synthetic"]) == (NOW, NOW, 3, False)
    assert (row["summary"], row["resource"], row["victim"]) == (RECORD.summary, RECORD.resource, RECORD.victim)
    assert (row["offender"], row["detail"], row["extra"], row["retracted_at"]) == (None, RECORD.detail, {}, None)
    assert (row["grade"], row["grade_sent"], row["service"], row["instance"]) == ("reachable", "reachable", "chat", "host:1")


async def test_an_absent_side_is_null_and_not_the_text_null(store: Store) -> None:
    await store.keep(store.delivery("v"))

    async with store.database.reading() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM violations WHERE offender IS NULL"))).scalar_one() == 1


async def test_requests_of_one_group_each_get_their_own_numbers(store: Store) -> None:
    """The same ids in several requests that are committed together are stored once, and one of them has stored each."""
    answers = await asyncio.gather(*(store.keep(store.delivery(*(f"v-{n:03d}" for n in range(k, k + 20)))) for k in range(0, 100, 10)))

    assert sum(one.accepted for one in answers) == 110
    assert all(one.accepted + one.duplicate == 20 for one in answers)
    assert await store.ids() == [f"v-{n:03d}" for n in range(110)]


async def test_a_record_that_the_database_refuses_is_named_and_costs_the_others_nothing(store: Store) -> None:
    bad = spoiled(store.delivery("a", "b", "c", "d", "e"), "d", store.database.dialect)

    first, second, third = await asyncio.gather(store.keep(store.delivery("x")), store.keep(bad), store.keep(store.delivery("y")))

    assert (first.accepted, third.accepted) == (1, 1)
    assert (second.accepted, [item.index for item in second.refused]) == (4, [3])
    assert "cannot be stored" in second.refused[0].reason
    assert await store.ids() == ["a", "b", "c", "e", "x", "y"]


async def test_records_are_kept_and_harm_is_told_also_when_the_sender_hangs_up(store: Store) -> None:
    sender = asyncio.create_task(store.keep(store.delivery("v")))
    await asyncio.sleep(0)
    sender.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sender

    await store.writer.close()

    assert await store.ids() == ["v"]
    assert store.harmed == ["chat"]
    assert store.intake.held_bytes == 0


async def test_a_batch_that_comes_again_pages_nobody_again_whatever_else_is_new_in_it(store: Store) -> None:
    """Its answer was lost; what waits in the queues is told anew with each try."""
    for sequence in (1, 2):
        queues = QueueStatement("q", NOW, sequence, 0, 0, 0, [])
        answer = await store.keep(store.made(replace(RECORD, id="v"), queues))

    assert (answer.accepted, answer.duplicate) == (1, 1)
    assert [one.example_id for one in store.given] == ["v"]


async def test_a_violation_whose_escalation_came_before_it_is_told_as_risen(store: Store) -> None:
    """Two requests of one sender may overtake each other: by the grade that was sent nobody would be paged."""
    escalation = Amendment("e", NOW, "escalation", "v", "crossed", "it left", {})
    await store.keep(store.made(escalation))
    before = [*store.given]
    await store.keep(store.delivery("u", "v", grade="hygiene"))
    await store.keep(store.delivery("v", grade="hygiene"))

    assert before == [], "nothing is known of it yet"
    assert [one.example_id for one in store.given] == ["v"]


async def test_an_escalation_that_comes_again_is_told_once_whatever_else_is_new(store: Store) -> None:
    await store.keep(store.delivery("v", grade="hygiene"))
    for sequence in (1, 2):
        escalation = Amendment("e", NOW, "escalation", "v", "crossed", "it left", {})
        await store.keep(store.made(escalation, QueueStatement("q", NOW, sequence, 0, 0, 0, [])))

    assert [one.example_id for one in store.given] == ["v"]


async def test_one_that_was_taken_back_before_it_came_pages_nobody(store: Store) -> None:
    retraction = Amendment("r", NOW, "retraction", "v", None, "it came back", {})
    await store.keep(store.made(retraction))
    await store.keep(store.delivery("u", "v"))

    assert [(one.example_id, one.count) for one in store.given] == [("u", RECORD.count)]


async def test_what_waits_is_bounded_in_bytes_and_room_comes_back_with_the_commit(sqlite_url: str) -> None:
    async with opened(sqlite_url, limit_bytes=100) as store:
        waiting = [asyncio.create_task(store.keep(store.delivery(f"v-{n}"), 40)) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await store.keep(store.delivery("late"), 40)
        await asyncio.gather(*waiting)
        await store.keep(store.delivery("later"), 40)

        assert int(refused.value.headers["Retry-After"]) >= 1
        assert await store.ids() == ["later", "v-0", "v-1"]
        assert store.intake.held_bytes == 0


async def test_who_waits_behind_a_locked_store_hears_it_at_once_and_can_come_again(sqlite_url: str) -> None:
    """The first group waits for the lock; the second must not wait as long again."""
    import sqlite3

    other = sqlite3.connect(sqlite_url.removeprefix("sqlite+aiosqlite:///"), isolation_level=None)
    try:
        async with opened(sqlite_url, timeout_s=0.3) as store:
            other.execute("BEGIN IMMEDIATE")
            full = [f"v-{n}" for n in range(GROUP_RECORDS)]
            answers = await asyncio.gather(store.keep(store.delivery(*full)), store.keep(store.delivery("w")), return_exceptions=True)
            other.execute("ROLLBACK")
            again = await store.keep(store.delivery("w"))

            assert [type(answer) for answer in answers] == [StoreUnavailable, StoreUnavailable]
            assert (again.accepted, await store.ids()) == (1, ["w"])
            assert store.intake.held_bytes == 0
    finally:
        other.close()


async def test_a_collector_that_ends_stores_what_it_was_given_and_takes_no_more(sqlite_url: str) -> None:
    from isolation_monitor.collector.problems import Unavailable

    async with opened(sqlite_url) as store:
        given = [asyncio.create_task(store.keep(store.delivery(f"v-{n}"))) for n in range(5)]
        await asyncio.sleep(0)
        await store.writer.close()

        assert [one.accepted for one in await asyncio.gather(*given)] == [1] * 5
        with pytest.raises(Unavailable):
            await store.keep(store.delivery("late"))


@pytest.fixture
async def postgres_url(postgres: Any) -> str:
    from tests.collector.conftest import emptied

    url = str(postgres.url("shared"))
    await emptied(url)
    return url


async def test_two_replicas_with_the_same_records_in_opposite_orders_store_each_once(
    make_api: Callable[..., Any], postgres_url: str
) -> None:
    async with make_api(postgres_url) as one, make_api(postgres_url) as two:
        records = [one.violation(id=f"v-{n:03d}") for n in range(60)]
        sends = []
        for start in range(0, 60, 20):
            part = records[start : start + 40]
            sends += [one.send(*part), two.send(*reversed(part)), two.send(*part), one.send(*reversed(part))]

        answers = await asyncio.gather(*sends)

        assert {answer.status_code for answer in answers} == {200}
        assert sum(answer.json()["accepted"] for answer in answers) == 60
        assert await one.stored_ids() == {record["id"] for record in records}


async def test_a_deadlock_is_tried_again_and_no_sender_hears_of_it(postgres_url: str) -> None:
    """A transaction of somebody else holds `b` and wants `a`, while ours holds `a` and wants `b`: PostgreSQL ends one of the two."""
    async with opened(postgres_url) as store, opened(postgres_url) as somebody:
        names = ", ".join(f'"{name}"' for name in VIOLATIONS.columns)
        values = names.replace('"id"', ":id")
        copy = f"INSERT INTO violations ({names}) SELECT {values} FROM violations WHERE id = 'model' ON CONFLICT DO NOTHING"
        await store.keep(store.delivery("model"))
        async with contextlib.AsyncExitStack() as stack:
            other = await stack.enter_async_context(somebody.database.writing())
            await other.execute(text(copy), {"id": "b"})
            ours = asyncio.create_task(store.keep(store.delivery("a", "b")))

            async def waits() -> bool:
                async with somebody.database.reading() as connection:
                    found = await connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))
                    return bool(found.scalar_one())

            await until(waits)
            with contextlib.suppress(DBAPIError):
                # One of the two is ended by this; either way ours must come through.
                await other.execute(text(copy), {"id": "a"})
            with contextlib.suppress(DBAPIError, StoreUnavailable):
                await stack.aclose()
        answer = await ours

        assert answer.accepted + answer.duplicate == 2
        assert set(await store.ids()) == {"a", "b", "model"}


def test_a_row_whose_partition_is_attached_in_this_moment_may_come_again() -> None:
    """PostgreSQL calls it a violated check; taken for a refused record, a good one would be lost for good."""

    class NoPartition(Exception):
        sqlstate = "23514"

    with pytest.raises(StoreUnavailable), translated():
        raise IntegrityError("INSERT", {}, NoPartition())
