"""Large batches take a faster way into the store: what is stored, counted and answered is what any other way would leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.evidence import bulk
from isolation_monitor.collector.evidence.rows import VIOLATIONS
from isolation_monitor.collector.storage.database import StoreUnavailable
from isolation_monitor.collector.storage.models import ViolationCountRow
from isolation_monitor.collector.storage.rollup_models import DAY, RollupRow
from isolation_monitor.collector.storage.schema import migrate
from tests.collector.conftest import MIGRATED, START, Api, emptied
from tests.collector.test_record_writer import Store, opened
from tests.collector.test_violation_counts import counted, database_of, recounted

MANY = 2 * bulk.ROWS
IDS = [f"v-{n:04d}" for n in range(MANY)]


def many(api: Api, prefix: str = "v", number: int = MANY, **changes: Any) -> list[dict[str, Any]]:
    """Return violations of some defects in some hours."""
    return [
        api.violation(
            id=f"{prefix}-{n:04d}", time=rfc3339(START - timedelta(minutes=n % 130)), fingerprint="ab"[n % 2], count=1 + n % 3,
            detail={"suppressed": {"reason": "known"}} if n % 5 == 0 else {"note": "naïve – “quoted”"}, **changes,
        )
        for n in range(number)
    ]  # fmt: skip


async def counted_right(api: Api) -> bool:
    return await counted(api) == await recounted(api)


async def test_many_at_once_are_stored_and_counted(api: Api) -> None:
    answer = await api.send(*many(api))
    page = (await api.get("/v1/violations?limit=1000")).json()["items"]

    assert (answer.json()["accepted"], answer.json()["duplicate"]) == (MANY, 0)
    assert len(page) == MANY
    assert page[-1]["detail"] == {"note": "naïve – “quoted”"}
    assert await counted_right(api)


async def test_many_of_which_some_are_there_already_are_stored_and_counted_once(api: Api) -> None:
    """A sender whose answer was lost sends all of it again, with what came since."""
    await api.send(*many(api))
    again = await api.send(*many(api, number=MANY + 150))

    assert (again.json()["accepted"], again.json()["duplicate"]) == (150, MANY)
    assert await counted_right(api)


@pytest.mark.parametrize("others", [0, 150])
async def test_what_was_said_of_many_before_they_came_holds(api: Api, others: int) -> None:
    """However much was said of others."""
    await api.send(*(api.retraction(f"other-{n}") for n in range(others)), api.retraction("v-0005"))
    await api.send(api.escalation("v-0003"), api.retraction("v-0004"))
    await api.send(*many(api))

    assert (await api.get("/v1/violations/v-0003")).json()["grade"] == "crossed"
    assert [(await api.get(f"/v1/violations/v-000{n}")).json()["retracted"] for n in range(3, 7)] == [False, True, True, False]
    assert await counted_right(api)


async def test_what_was_said_of_records_whose_ids_tell_their_day_is_found_under_it(api: Api) -> None:
    ids = [f"019b76da-a800-7000-8000-{n:012d}" for n in range(MANY)]
    await api.send(api.retraction(ids[5]), api.escalation(ids[6]))
    await api.send(*(record | {"id": one} for record, one in zip(many(api), ids, strict=True)))

    found = [(await api.get(f"/v1/violations/{one}")).json() for one in ids[4:8]]
    assert [one["retracted"] for one in found] == [False, True, False, False]
    assert [one["grade"] for one in found].index("crossed") == 2
    assert await counted_right(api)


async def test_many_of_several_days_are_stored_and_counted(api: Api) -> None:
    """The days around midnight, and one that no partition is made for."""
    records = many(api)
    for n, record in enumerate(records):
        record["time"] = rfc3339(START - timedelta(days=n % 2 if n % 3 else 20))
    answer = await api.send(*records)
    old = [record | {"id": f"old-{n}", "time": rfc3339(START - timedelta(days=20))} for n, record in enumerate(many(api))]
    all_old = await api.send(*old)

    assert (answer.json()["accepted"], all_old.json()["accepted"]) == (MANY, MANY)
    assert await counted_right(api)


async def test_sums_of_a_day_that_many_come_to_late_are_made_anew(api: Api) -> None:
    midnight = START.replace(hour=0)
    async with database_of(api).writing() as connection:
        values = [{"kind": DAY, "start": midnight - timedelta(days=n), "token": "t", "is_done": True} for n in range(2)]
        await connection.execute(insert(RollupRow), values)
    await api.send(*many(api))

    async with database_of(api).reading() as connection:
        assert list((await connection.execute(select(RollupRow.start).where(RollupRow.kind == DAY))).scalars()) == [values[1]["start"]]


@contextlib.asynccontextmanager
async def of_its_own(postgres: Any, name: str, **options: Any) -> AsyncIterator[Store]:
    """Open a writer on a database that nobody else has: retention drops days of the others', and plans are a connection's own."""
    url = postgres.create(name, template=MIGRATED)
    try:
        async with opened(url, **options) as store:
            yield store
    finally:
        postgres.drop(name)


async def test_they_are_in_the_partition_of_their_day(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it was taken at all: the other tests would hold without it."""
    monkeypatch.setattr(VIOLATIONS, "postgresql_insert", "this way is not taken")
    async with of_its_own(postgres, "copied") as store:
        await store.keep(store.delivery(*IDS))

        async with store.database.reading() as connection:
            found = await connection.execute(text("SELECT tableoid::regclass::text, count(DISTINCT xmin::text) FROM violations GROUP BY 1"))
            assert found.all() == [(f"violations_d{START:%Y%m%d}", 1)]


async def test_they_are_counted_apart_from_the_triggers_of_sqlite(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That this way was taken at all: the other tests would hold without it."""
    usual = []
    inserts = VIOLATIONS.sqlite_inserts

    def told(rows: Any, *, is_told: bool = True) -> Any:
        usual.append(is_told)
        return inserts(rows, is_told=is_told)

    monkeypatch.setattr(type(VIOLATIONS), "sqlite_inserts", lambda self, rows, **how: told(rows, **how))
    async with opened(sqlite_url) as store:
        await store.keep(store.delivery(*IDS))

    assert usual == [False]


async def test_behind_a_lock_of_the_whole_table_the_store_is_not_available(postgres: Any) -> None:
    """A migration, or somebody's own DDL: the sender comes again, as with few records."""
    async with of_its_own(postgres, "locked", timeout_s=1.0) as store:
        async with store.database.writing() as other:
            await other.execute(text("LOCK TABLE violations IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(StoreUnavailable):
                await store.keep(store.delivery(*IDS))
        answer = await store.keep(store.delivery(*IDS))

        assert answer.accepted == MANY


async def test_what_was_planned_for_an_empty_day_is_planned_anew(postgres: Any) -> None:
    """What is best for a partition with nothing in it reads all of a full one, and nobody analyzes that for a minute."""
    async with of_its_own(postgres, "planned") as store:
        for number in range(8):
            await store.keep(store.delivery(*(f"v-{number}-{n:04d}" for n in range(bulk.ROWS))))

        async with store.database.reading() as connection:
            found = await connection.execute(
                text("SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE 'SELECT EXISTS%'")
            )
            assert found.all() == [(8, 0)]


async def test_a_partition_that_is_being_dropped_takes_nothing(postgres: Any) -> None:
    """Detached and not yet dropped, it has its name still: what would be copied there would be lost with it."""
    async with of_its_own(postgres, "detached") as store:
        async with store.database.writing() as connection:
            await connection.execute(text(f"ALTER TABLE violations DETACH PARTITION violations_d{START:%Y%m%d}"))
        answer = await store.keep(store.delivery(*IDS))

        assert (answer.accepted, await store.ids()) == (MANY, IDS)


async def test_a_store_of_the_version_before_is_counted_by_its_triggers(sqlite_url: str) -> None:
    """Whoever goes back a version beside a running collector finds each violation counted, and once."""
    await migrate(sqlite_url, "20261123_violation_pages_due", down=True)
    async with opened(sqlite_url) as store:
        await store.keep(store.delivery(*IDS))
        await migrate(sqlite_url)
        await store.keep(store.delivery(*IDS, *(f"w-{n:04d}" for n in range(MANY))))
        async with store.database.reading() as connection:
            assert (await connection.execute(select(func.sum(ViolationCountRow.records)))).scalar_one() == 2 * MANY
            assert (await connection.execute(select(func.count()).select_from(RollupRow))).scalar_one() == 0


async def test_two_replicas_with_the_same_many_in_opposite_orders_store_each_once(make_api: Callable[..., Any], postgres: Any) -> None:
    url = str(postgres.url("shared"))
    await emptied(url)
    async with make_api(url) as one, make_api(url) as two:
        records = many(one, number=4 * MANY)
        sends = []
        for start in range(0, len(records), MANY // 2):
            part = records[start : start + MANY]
            sends += [one.send(*part), two.send(*reversed(part)), two.send(*part)]

        answers = await asyncio.gather(*sends)

        assert {answer.status_code for answer in answers} == {200}
        assert sum(answer.json()["accepted"] for answer in answers) == len(records)
        assert await counted_right(one)
