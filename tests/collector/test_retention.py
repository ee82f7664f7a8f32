"""What is older than it is kept goes, what is not stays, writers hardly notice, and a full disk is said in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text

from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.retention.domain import Chunk, Policy, too_many_days, wanted_partitions
from isolation_monitor.collector.retention.repository import RetentionRepository
from isolation_monitor.collector.retention.service import DiskGuard, RetentionService
from isolation_monitor.collector.storage.database import Database, StoreUnavailable
from isolation_monitor.collector.storage.days import day_in, day_of
from isolation_monitor.collector.storage.leader import Leader
from isolation_monitor.collector.storage.models import ViolationCountRow, ViolationRow
from tests.collector.conftest import MIGRATED, START, Api, until
from tests.collector.test_alerts import alert, delivery, post
from tests.collector.test_records import run_record
from tests.real_parts.postgres import Postgres

QUIET = {"retention_interval_s": 86_400.0}


def uuid7_at(moment: datetime, number: int = 0) -> str:
    text = f"{int(moment.timestamp() * 1000):012x}7000{0x8000000000000000 + number:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@pytest.fixture
async def keeper(make_api: Callable[..., Any], own_database_url: str) -> AsyncIterator[Api]:
    """A collector on a database of its own, whose tables retention may change."""
    async with make_api(own_database_url, **QUIET) as running:
        # The first round begins with the collector.
        await until(lambda: running.app.state.retention.rounds >= 1)
        yield running


@pytest.fixture
async def on_postgresql(make_api: Callable[..., Any], postgres: Postgres) -> AsyncIterator[Api]:
    """The same on PostgreSQL alone: SQLite has neither partitions nor locks of tables."""
    url = postgres.create("retention", template=MIGRATED)
    async with make_api(url, **QUIET) as running:
        await until(lambda: running.app.state.retention.rounds >= 1)
        yield running
    postgres.drop("retention")


async def keep_house(api: Api) -> Any:
    return await api.app.state.retention.keep_house()


async def rows(api: Api, table: str) -> int:
    async with api.app.state.runtime.database.reading() as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


def test_the_day_of_a_uuid7_is_inside_it_and_nothing_else_moves_it() -> None:
    moment = datetime(2026, 3, 1, 23, 59, 59, 999_000, tzinfo=UTC)

    assert day_in(uuid7_at(moment)) == date(2026, 3, 1)
    assert day_of(uuid7_at(moment), START) == date(2026, 3, 1)
    assert day_of(uuid7_at(moment).replace("-", ""), START) == date(2026, 3, 1)
    assert day_of("v-1", START) == START.date()
    assert day_of("01890a5d-ac96-4774-bcce-b302099a8057", START) == START.date(), "version 4 holds no time"
    assert day_in("ffffffff-ffff-7fff-bfff-ffffffffffff") is None, "the year 10889 is in no calendar"
    assert day_of("e-1", START, about=uuid7_at(moment)) == date(2026, 3, 1)


async def test_a_resend_with_another_time_meets_its_row(keeper: Api) -> None:
    """A sender that stamps the time anew with each try must not count a violation twice."""
    record = keeper.violation(id=uuid7_at(START))

    first = await keeper.send(record)
    again = await keeper.send(record | {"time": "2025-12-30T00:00:00.000Z"})

    assert (first.json()["accepted"], again.json()["duplicate"]) == (1, 1)
    assert await rows(keeper, "violations") == 1


async def test_records_older_than_they_are_kept_go_and_the_others_stay(keeper: Api) -> None:
    clock = keeper.clock
    old = uuid7_at(START)
    await keeper.send(keeper.violation(id=old), keeper.escalation(old), run_record("old"), {**run_record("x"), "type": "new"})
    await post(keeper, delivery(alert()))
    await keep_house(keeper)
    clock.advance(29 * 86_400)
    await keeper.send(keeper.violation(id="young"), {**run_record("young"), "time": "2026-01-30T12:00:00.000Z"})
    assert (await keep_house(keeper)).expired.get("violations", 0) == 0
    assert await keeper.stored_ids() == {old, "young"}

    clock.advance(2 * 86_400)
    done = await keep_house(keeper)

    assert await keeper.stored_ids() == {"young"}
    assert [await rows(keeper, table) for table in ("amendments", "runs", "unknown_records", "alert_notifications")] == [0, 1, 0, 0]
    assert await rows(keeper, "violation_counts") == 1
    assert done.expired["alert_notifications"] == 1
    assert (await keep_house(keeper)).expired.get("violations", 0) == 0


async def test_a_round_does_not_keep_the_collector_from_stopping(sqlite_url: str) -> None:
    """A round that has a month to forget takes minutes; the next start goes on with it."""
    database = Database(sqlite_url)
    service = RetentionService(database, Leader(database), CollectorMetrics(), lambda: START, Policy(), 600)
    task = asyncio.create_task(service.run())
    while not service.is_working:  # noqa: ASYNC110 - the round begins after a few turns of the loop, and no event tells so
        await asyncio.sleep(0)

    task.cancel()
    done, _ = await asyncio.wait([task], timeout=30)
    await database.close()

    assert done
    assert task.cancelled()
    assert service.rounds == 0, "it came to its end, which nobody waited for"


async def test_a_record_from_before_any_partition_is_taken_and_goes_in_the_next_round(keeper: Api) -> None:
    assert (await keeper.send(keeper.violation(id="ancient", time="2020-02-02T00:00:00.000Z"))).json()["accepted"] == 1

    done = await keep_house(keeper)

    assert done.expired["violations"] == 1
    assert (await rows(keeper, "violations"), await rows(keeper, "violation_counts")) == (0, 0)


async def test_an_id_from_the_far_future_does_not_stay_for_ever(keeper: Api) -> None:
    await keeper.send(keeper.violation(id=uuid7_at(datetime(2400, 1, 1, tzinfo=UTC))))
    await keep_house(keeper)
    before = await rows(keeper, "violations")
    keeper.clock.advance(31 * 86_400)

    await keep_house(keeper)

    assert (before, await rows(keeper, "violations")) == (1, 0)


async def test_decisions_go_but_not_those_that_a_rollout_stands_on(keeper: Api) -> None:
    await keeper.start_rollout("canary-1")
    await keeper.gate("canary-1")
    keeper.clock.advance(1)
    await keeper.send(keeper.violation())
    failed = await keeper.gate("canary-1")
    keeper.clock.advance(31 * 86_400)

    await keep_house(keeper)

    assert failed["verdict"] == "fail"
    assert await rows(keeper, "gate_decisions") == 1
    assert (await keeper.get(f"/v1/gates/canary-1/decisions/{failed['decision_id']}")).status_code == 200


async def test_postgresql_drops_old_days_whole_and_makes_the_next_ones_ahead(on_postgresql: Api) -> None:
    on_postgresql.clock.advance(20 * 86_400)
    await on_postgresql.send(on_postgresql.violation(id=uuid7_at(on_postgresql.clock())))
    second = await keep_house(on_postgresql)
    on_postgresql.clock.advance(31 * 86_400)
    third = await keep_house(on_postgresql)
    fourth = await keep_house(on_postgresql)

    assert second.partitions_made == 4 * 9
    assert third.partitions_dropped == 4 * 11, "of the first and the second round, those before the first day kept"
    assert (fourth.partitions_made, fourth.partitions_dropped) == (0, 0)
    async with on_postgresql.app.state.runtime.database.reading() as connection:
        in_default = (await connection.execute(text("SELECT count(*) FROM ONLY violations_default"))).scalar_one()
        tables = (await connection.execute(text("SELECT count(*) FROM pg_class WHERE relname = 'violations_d20260121'"))).scalar_one()
    assert (in_default, tables) == (0, 0), "what came before its partition moved into it, and went with it"


async def test_a_partition_that_cannot_be_made_stops_neither_expiry_nor_the_other_days(
    on_postgresql: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one day whose rows cannot be moved would fill the disk."""
    clock, made = on_postgresql.clock, RetentionRepository.add_partition
    clock.advance(40 * 86_400)
    today, order = clock().date(), []

    async def all_but_today(repository: RetentionRepository, table: str, day: date) -> None:
        order.append(day)
        if day == today:
            raise RuntimeError("a defect")
        await made(repository, table, day)

    monkeypatch.setattr(RetentionRepository, "add_partition", all_but_today)
    await on_postgresql.send(on_postgresql.violation(id="ancient", time="2020-02-02T00:00:00.000Z"))

    with pytest.raises(StoreUnavailable, match=rf"4 partitions could not be made, first \w+ of {today} \(RuntimeError\)"):
        await keep_house(on_postgresql)

    async with on_postgresql.app.state.runtime.database.reading() as connection:
        there = set((await RetentionRepository(connection).partitions())["violations"])
    assert set(wanted_partitions(clock())) - there == {today}
    assert START.date() not in there, "the old days are gone"
    assert order[:9] == [today + timedelta(days=n) for n in (1, 2, 3, 4, 5, 6, 7, -1, 0)]
    assert "ancient" not in await on_postgresql.stored_ids()


async def test_free_pages_go_back_to_the_file_system_many_at_a_time(tmp_path: Any) -> None:
    """One page a transaction would take hours for what one day leaves."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'shrinks.sqlite3'}"
    database = Database(url)
    try:
        async with database.writing() as connection:
            await connection.execute(text("CREATE TABLE filled (x)"))
            await connection.execute(text("INSERT INTO filled VALUES (zeroblob(4000000))"))
            await connection.execute(text("DELETE FROM filled"))
        left = []
        for _ in range(2):
            async with database.writing() as connection:
                left.append(await RetentionRepository(connection).vacuum(200))
        async with database.writing() as connection:
            await RetentionRepository(connection).vacuum(10_000)
            bytes_used = await RetentionRepository(connection).sqlite_bytes()
            pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
    finally:
        await database.close()

    assert left[0] - left[1] == 200
    assert (pages * 4096 == bytes_used, pages < 10) == (True, True)


async def test_a_partition_that_was_detached_and_never_dropped_is_dropped_later(on_postgresql: Api) -> None:
    database: Database = on_postgresql.app.state.runtime.database
    await keep_house(on_postgresql)
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE runs DETACH PARTITION runs_d20251231"))
    on_postgresql.clock.advance(40 * 86_400)

    await keep_house(on_postgresql)

    async with database.reading() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM pg_class WHERE relname = 'runs_d20251231'"))).scalar_one() == 0


async def test_nobody_waits_behind_a_round_that_waits_for_somebody(on_postgresql: Api) -> None:
    """A long reader holds the table: the round gives its place in the queue up, so that records go on."""
    database: Database = on_postgresql.app.state.runtime.database
    await keep_house(on_postgresql)
    on_postgresql.clock.advance(31 * 86_400)
    async with database.reading() as connection:
        await connection.execute(select(func.count()).select_from(ViolationRow))
        working = asyncio.create_task(keep_house(on_postgresql))
        for _ in range(10):
            assert (await on_postgresql.send(on_postgresql.violation())).status_code == 200

    assert (await working).partitions_dropped > 0


async def test_the_oldest_days_go_when_the_store_is_larger_than_it_may_be(make_api: Callable[..., Any], own_database_url: str) -> None:
    async with make_api(own_database_url, keep_bytes=1, **QUIET) as api:
        for day in range(3):
            moment = START + timedelta(days=day - 2)
            for n in range(5):
                when = moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
                await api.send(api.violation(id=uuid7_at(moment, n), time=when))

        await keep_house(api)

        assert {item[:13] for item in await api.stored_ids()} == {uuid7_at(START)[:13]}, "today's stays, however small the limit"
        async with api.app.state.runtime.database.reading() as connection:
            assert set((await connection.execute(select(ViolationCountRow.day))).scalars()) == {START.date()}


def test_no_more_days_go_than_have_to() -> None:
    days = {date(2026, 1, n): 10 for n in range(1, 6)}

    assert too_many_days(days, 50, 50, date(2026, 1, 5)) == []
    assert too_many_days(days, 50, 31, date(2026, 1, 5)) == [date(2026, 1, 1), date(2026, 1, 2)]
    assert len(too_many_days(days, 50, 0, date(2026, 1, 5))) == 4


def test_thirty_full_days_are_kept_and_a_week_of_partitions_is_ready() -> None:
    assert Policy(30).first_kept(START) == date(2025, 12, 2)
    assert (wanted_partitions(START)[0], wanted_partitions(START)[-1]) == (date(2025, 12, 31), date(2026, 1, 8))


def test_chunks_shrink_where_the_disk_is_slow_and_grow_where_it_is_not() -> None:
    chunk = Chunk()
    for _ in range(5):
        chunk.took(0.2)
    small = chunk.rows
    for _ in range(20):
        chunk.took(0.001)

    assert (small, chunk.rows) == (50, 5_000)


async def test_one_replica_leads_and_another_follows_when_it_is_gone(database_url: str) -> None:
    one, two = Database(database_url), Database(database_url)
    first, second = Leader(one), Leader(two)
    try:
        alone = one.dialect == "sqlite"

        assert await first.leads()
        assert await second.leads() is alone, "on SQLite there is no other replica"
        assert await first.leads(), "it goes on leading"
        await first.close()
        assert await second.leads()
        assert await first.leads() is alone
    finally:
        await first.close()
        await second.close()
        await one.close()
        await two.close()


async def test_a_full_disk_is_503_with_the_reason_and_is_counted(make_api: Callable[..., Any], sqlite_url: str) -> None:
    """Not the disk's own error, after which nothing could be deleted either: evidence stops while there is still room to forget."""
    async with make_api(sqlite_url, max_disk_ratio=1e-9) as api:
        answer = await api.send(api.violation())
        ready = (await api.get("/readyz")).json()
        page = (await api.get("/metrics")).text

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert "COLLECTOR_KEEP_DAYS" in answer.json()["detail"]
    assert (ready["status"], ready["disk"]["is_full"]) == ("ready", True)
    assert 'isolation_collector_batches_refused_total{reason="disk_full"} 1.0' in page
    assert "isolation_collector_disk_used_ratio 0.0\n" not in page


def test_the_disk_is_looked_at_once_a_second_and_only_for_sqlite(tmp_path: Any) -> None:
    now = 0.0
    guard = DiskGuard(f"sqlite+aiosqlite:///{tmp_path}/x.sqlite3", 0.9, lambda: now)

    first = guard.look()
    same = guard.look()
    now = 1.5
    later = guard.look()

    assert first is not None
    assert same is first
    assert later is not first
    assert DiskGuard("postgresql+asyncpg://user@db/name", 0.9).look() is None


async def test_what_expired_is_on_the_metrics_page(keeper: Api) -> None:
    await keeper.send(keeper.violation(id="ancient", time="2020-02-02T00:00:00.000Z"))
    await keep_house(keeper)

    page = (await keeper.get("/metrics")).text

    assert 'isolation_collector_expired_rows_total{table="violations"} 1.0' in page
    assert f"isolation_collector_retention_last_success_timestamp_seconds {START.timestamp()}" in page.replace(
        "1.7672688e+09", "1767268800.0"
    )
    assert "isolation_collector_retention_interval_seconds 86400.0" in page, "what is late follows from it"
