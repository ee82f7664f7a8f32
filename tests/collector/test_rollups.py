"""Days that were summed up, and hours that were indexed, say what the records say, whatever happens to these afterwards."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.distinct import SIZE, Distinct
from isolation_monitor.collector.evidence.rollup_service import RollupService
from isolation_monitor.collector.evidence.rollups import RollupRepository, Span
from isolation_monitor.collector.storage.database import Database, StoreUnavailable
from isolation_monitor.collector.storage.days import hour_number
from isolation_monitor.collector.storage.models import ViolationCountRow, ViolationRow
from isolation_monitor.collector.storage.rollup_models import DAY, HOUR, MentionRow, RollupRow, ViolationDayRow
from tests.collector.conftest import START, Api, until
from tests.collector.test_queries import ids
from tests.collector.test_subjects import ANN, BOB, everything, forget
from tests.collector.test_subjects import api as api_that_forgets  # noqa: F401 - a fixture

QUESTIONS = (
    "/v1/violation-groups",
    "/v1/violation-groups?synthetic=false&limit=3",
    "/v1/violation-groups?since=2025-12-28T10:15:00Z&until=2025-12-31T20:40:00Z",
    "/v1/violation-groups?grade=crossed&service=chat",
    "/v1/violation-history",
    "/v1/violation-history?by=grade&since=2025-12-28T10:15:00Z",
    "/v1/violation-history?step=hour&since=2025-12-29T00:00:00Z&by=kind",
    "/v1/violations?kind=rare&limit=1000",
    "/v1/violations?limit=7",
    "/v1/violations?limit=7&order=oldest&kind=instance_reuse",
    "/v1/violations?retracted=true",
    "/v1/violations?until=2025-12-30T05:30:00Z&synthetic=true",
    f"/v1/violations?principal={ANN}&limit=9",
    f"/v1/violations?principal={ANN}&order=oldest&since=2025-12-29T03:20:00Z",
    f"/v1/violations?principal={BOB}&run_id=run-3",
    "/v1/violations?request_id=1-7",
)


def rollups(api: Api) -> RollupService:
    service: RollupService = api.app.state.rollups
    return service


def database_of(api: Api) -> Database:
    database: Database = api.app.state.runtime.database
    return database


async def rows_of(api: Api, statement: Any) -> list[Any]:  # Any: a select and its rows
    async with database_of(api).reading() as connection:
        return list((await connection.execute(statement)).all())


async def fill(api: Api, number: int = 120) -> None:
    """Four days of violations of two services, some planted, retracted, made graver, accepted, told late."""
    draw, now = random.Random(11), api.clock()
    records: dict[str, list[object]] = {"chat": [], "billing": []}
    for n in range(number):
        victim, offender = (
            api.side(draw.choice((ANN, BOB, "c" * 16, "d" * 16)))
            | {"run_id": f"run-{draw.randrange(5)}", "request_id": f"1-{draw.randrange(9)}"}
            for _ in range(2)
        )
        at = rfc3339(now - timedelta(minutes=draw.randrange(4 * 24 * 60)))
        one = api.violation(
            id=f"v-{n:03d}", time=at, grade=draw.choice(("crossed", "reachable")), fingerprint=f"{n % 5}", victim=victim, offender=offender,
            kind="rare" if n % 40 == 0 else "instance_reuse", synthetic=n % 7 == 0, count=1 + n % 3,
            detail={"suppressed": {"reason": "x"}} if n % 11 == 0 else {},
        )  # fmt: skip
        if n % 13 == 0:
            one["affected"] = {"hashes": [f"{n:016x}", ANN], "active": n, "at_least": n == 26}
        of_service = records["chat" if n % 4 else "billing"]
        of_service.append(one)
        if n % 9 == 0:
            of_service.append(api.retraction(f"v-{n:03d}"))
        elif n % 10 == 0:
            of_service.append(api.escalation(f"v-{n:03d}"))
    for service, sent in records.items():
        assert (await api.send(*sent, service=service)).json()["rejected"] == []


async def answers(api: Api, questions: Sequence[str] = QUESTIONS) -> dict[str, Any]:
    found = {}
    for path in questions:
        answer = await api.get(path)
        assert answer.status_code == 200, answer.text
        found[path] = answer.json()
    return found


async def test_every_question_is_answered_alike_before_and_after(api: Api) -> None:
    """Nobody can tell from an answer whether its days were summed up: users, firsts, lasts, latest and pages are the same."""
    await fill(api)
    before = await answers(api)

    done = await rollups(api).roll_up()
    after = await answers(api)

    assert done >= 4
    assert len(await rows_of(api, select(ViolationDayRow.day))) > 20
    for path in QUESTIONS:
        assert after[path] == before[path], path
    assert await rollups(api).roll_up() == 0, "what is done is not done again"


async def test_what_changes_later_is_answered_at_once_and_summed_up_again(api: Api) -> None:
    """Late, retracted, graver, gone: the mark of the day goes with the change, so that no old sum is ever read."""
    await fill(api)
    await rollups(api).roll_up()
    late = api.violation(id="late", time="2025-12-30T07:00:00.000Z", fingerprint="1", victim=api.side("e" * 16))
    asked = ("/v1/violation-groups", "/v1/violation-history?by=grade", f"/v1/violations?principal={ANN}&kind=instance_reuse")

    async def gone() -> None:
        async with database_of(api).writing() as connection:
            await connection.execute(delete(ViolationRow).where(ViolationRow.id == there[2]))

    there = await ids(api, "since=2025-12-29T00:00:00Z&until=2025-12-30T00:00:00Z&retracted=false&grade=reachable&service=chat")
    for change in (
        lambda: api.send(late),
        lambda: api.send(api.retraction(there[0])),
        lambda: api.send(api.escalation(there[1], grade="crossed")),
        gone,
    ):
        marks = await rows_of(api, select(RollupRow.start).where(RollupRow.kind == DAY))
        await change()
        assert len(await rows_of(api, select(RollupRow.start).where(RollupRow.kind == DAY))) == len(marks) - 1
        at_once = await answers(api, asked)
        assert await rollups(api).roll_up() >= 1
        assert await answers(api, asked) == at_once
    assert there[2] not in await ids(api, "limit=1000")
    assert "late" in await ids(api, f"principal={'e' * 16}")


async def test_a_day_that_changes_while_it_is_summed_up_is_not_published(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(api, 30)
    meanwhile = iter(range(100))
    finish = RollupRepository.finish
    was_late: list[str] = []

    async def late(repository: RollupRepository, span: Any, token: str) -> bool:
        if span.kind == DAY and not was_late:
            was_late.append(str(span.start.date()))
            async with database_of(api).reading() as connection:
                found = await connection.execute(
                    select(ViolationRow.id).where(ViolationRow.time >= span.start, ViolationRow.time < span.end)
                )
            # On a connection of its own, as a writer beside it has.
            await raw_change(api, str(found.scalars().first()), next(meanwhile))
        return await finish(repository, span, token)

    async def raw_change(api: Api, violation_id: str, number: int) -> None:
        if database_of(api).dialect == "sqlite":
            return
        async with database_of(api).writing() as connection:
            await connection.execute(update(ViolationRow).where(ViolationRow.id == violation_id).values(count=100 + number))

    monkeypatch.setattr(RollupRepository, "finish", late)
    await rollups(api).roll_up()
    marked = {str(row.start.date()) for row in await rows_of(api, select(RollupRow.start).where(RollupRow.kind == DAY, RollupRow.is_done))}

    assert was_late
    assert (was_late[0] in marked) == (database_of(api).dialect == "sqlite"), "SQLite has one writer: nothing comes between"


async def test_forgetting_a_user_takes_them_out_of_sums_and_index_at_once(api_that_forgets: Api) -> None:  # noqa: F811
    api = api_that_forgets
    await fill(api)
    await rollups(api).roll_up()
    with_ann = (await api.get("/v1/violation-groups")).json()["items"]

    await forget(api)
    stored = await everything(api)
    asked = ("/v1/violation-groups", f"/v1/violations?principal={BOB}")
    at_once = await answers(api, asked)
    await rollups(api).roll_up()

    assert ANN not in stored
    assert not any(hash_of(ANN) in stored for hash_of in (packed_text, str))
    assert await answers(api, asked) == at_once
    fewer = at_once["/v1/violation-groups"]["items"]
    assert sum(item["affected"]["principals"] for item in fewer) < sum(item["affected"]["principals"] for item in with_ann)
    assert await ids(api, f"principal={ANN}") == []


def packed_text(name: str) -> str:
    """Return how a name shows in the text of a row that counts it."""
    return repr(Distinct([name]).packed()[1:])[2:-1]


async def test_what_expires_is_in_no_sum(make_api: Callable[..., Any], database_url: str) -> None:
    async with make_api(database_url, keep_days=2) as api:
        await fill(api)
        await rollups(api).roll_up()
        api.clock.advance(86_400)
        await api.app.state.retention.keep_house()
        await rollups(api).roll_up()

        days = {row.day for row in await rows_of(api, select(ViolationDayRow.day))}
        records = await rows_of(api, select(func.count()).select_from(ViolationRow))
        counted = await rows_of(api, select(func.sum(ViolationCountRow.records)))
        listed = (await api.get("/v1/violation-history?since=2025-12-20T00:00:00Z")).json()["items"]
        shown = (await rows_of(api, select(func.count()).select_from(ViolationRow).where(ViolationRow.retracted_at.is_(None))))[0][0]

        assert min(days) >= (START - timedelta(days=2)).date()
        assert records[0][0] == counted[0][0] > 0
        assert sum(item["records"] for item in listed) == shown


async def test_an_index_goes_with_the_days_that_make_room(make_api: Callable[..., Any], database_url: str) -> None:
    """They are younger than anything is kept, and what the index of them leaves free is room, too."""
    async with make_api(database_url, keep_bytes=1, retention_interval_s=86_400.0) as api:
        # The first round begins with the collector.
        await until(lambda: api.app.state.retention.rounds >= 1)
        await fill(api)
        await api.send(api.violation(id="of-today", time="2026-01-01T01:00:00Z", victim=api.side(ANN)))
        await rollups(api).roll_up()
        before = {row.hour for row in await rows_of(api, select(MentionRow.hour))}
        await api.app.state.retention.keep_house()
        await rollups(api).roll_up()

        left = {row.hour for row in await rows_of(api, select(MentionRow.hour))}
        hours = {hour_number(row.time) for row in await rows_of(api, select(ViolationRow.time))}

        assert min(hours) >= hour_number(START.replace(hour=0)), "yesterday went"
        assert left == before & hours
        assert (len(before) > len(left) > 0) == (database_of(api).dialect == "sqlite"), "PostgreSQL's goes with its rows"
        assert "of-today" in await ids(api, f"principal={ANN}")


async def test_a_day_that_is_too_much_for_the_store_keeps_no_other_from_being_summed_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(api)
    sums, first = RollupRepository.sums, START - timedelta(days=1)

    async def all_but_one(repository: RollupRepository, day: Span) -> Any:
        if day.start.date() == first.date():
            raise StoreUnavailable("it took too long")
        return await sums(repository, day)

    monkeypatch.setattr(RollupRepository, "sums", all_but_one)
    before = await answers(api)
    assert await rollups(api).roll_up() >= 3
    days = {row.start.date() for row in await rows_of(api, select(RollupRow.start).where(RollupRow.kind == DAY, RollupRow.is_done))}

    assert days == {(START - timedelta(days=n)).date() for n in (2, 3, 4)}, "the newest comes first"
    assert await answers(api) == before
    monkeypatch.undo()
    assert await rollups(api).roll_up() == 1


async def test_rounds_that_fail_are_counted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """One day that fails in each round, and a store that fails as a whole: the log alone would say so."""
    await fill(api)

    async def rounds() -> tuple[float, ...]:
        lines = dict(line.rsplit(" ", 1) for line in (await api.get("/metrics")).text.splitlines())
        return tuple(float(lines[f'isolation_collector_rollup_rounds_total{{result="{result}"}}']) for result in ("ok", "failed"))

    # The collector's own first round.
    await until(lambda: counted_rounds(rounds))
    ok, failed = await rounds()

    async def too_much(repository: RollupRepository, day: Span) -> Any:
        raise StoreUnavailable("it took too long")

    with monkeypatch.context() as broken:
        broken.setattr(RollupRepository, "sums", too_much)
        await rollups(api).roll_up()
        broken.setattr(RollupRepository, "done", too_much)
        with pytest.raises(StoreUnavailable):
            await rollups(api).roll_up()
    assert await rounds() == (ok, failed + 2)

    await rollups(api).roll_up()
    assert await rounds() == (ok + 1, failed + 2)


async def counted_rounds(rounds: Callable[[], Awaitable[tuple[float, ...]]]) -> bool:
    return sum(await rounds()) > 0


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_pages_by_user_follow_each_other_over_indexed_and_other_hours(api: Api, order: str) -> None:
    """The hours that are over are indexed, the present one and those that changed are not: no page knows the difference."""
    await fill(api)
    await rollups(api).roll_up()
    await api.send(
        api.violation(id="v-now", victim=api.side(ANN)), api.violation(id="v-late", time="2025-12-30T07:00:00Z", offender=api.side(ANN))
    )
    all_of_ann = await ids(api, f"principal={ANN}&limit=1000&order={order}")

    found: list[str] = []
    path: str | None = f"/v1/violations?principal={ANN}&limit=3&order={order}"
    while path is not None:
        answer = (await api.get(path)).json()
        found += [item["id"] for item in answer["items"]]
        path = answer["next"]

    assert found == all_of_ann
    assert {"v-now", "v-late"} <= set(found)
    everyone = (await api.get("/v1/violations?limit=1000")).json()["items"]
    of_ann = {item["id"] for item in everyone if ANN in (item["victim"]["principal"], item["offender"]["principal"])}
    assert set(found) == of_ann


async def test_sqlite_indexes_hours_and_postgresql_needs_none(api: Api) -> None:
    await fill(api, 30)
    await rollups(api).roll_up()

    hours = await rows_of(api, select(RollupRow.start).where(RollupRow.kind == HOUR))
    mentioned = await rows_of(api, select(MentionRow.value))

    assert bool(hours) == bool(mentioned) == (database_of(api).dialect == "sqlite")


async def test_many_users_are_an_estimate_that_says_so(api: Api) -> None:
    """3,000 users on two days, 1,000 of them on both: 5,000 would be wrong."""
    for day, first in ((30, 0), (31, 1000)):
        hashes = [f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in range(first, first + 2000)]
        many = api.violation(time=f"2025-12-{day}T10:00:00.000Z", victim=None, offender=None) | {"affected": {"hashes": hashes}}
        await api.send(many)
    exact = (await api.get("/v1/violation-groups")).json()["items"][0]["affected"]

    await rollups(api).roll_up()
    (group,) = (await api.get("/v1/violation-groups")).json()["items"]

    assert (exact["principals"], exact["estimated"]) == (3000, False)
    assert group["affected"]["estimated"] is True
    assert group["affected"]["principals"] == pytest.approx(3000, rel=0.25)


@pytest.mark.parametrize("number", [0, 1, SIZE, SIZE + 1, 20_000])
def test_distinct_names_are_counted_exactly_up_to_a_size_and_estimated_beyond(number: int) -> None:
    some = Distinct(f"user-{n}" for n in range(number))
    joined = Distinct()
    joined.join(some.packed())
    joined.join(some.packed())
    joined.add(f"user-{n}" for n in range(number // 2))

    assert joined.is_estimate == (number > SIZE)
    assert len(joined) == (number if number <= SIZE else pytest.approx(number, rel=0.25))
    assert len(some.packed()) <= 1 + 8 * SIZE


async def test_a_replica_of_before_writes_what_is_accepted_and_it_is_told(api: Api) -> None:
    """It does not know the column: PostgreSQL tells it from the detail. SQLite has one collector, of one version."""
    if database_of(api).dialect == "sqlite":
        pytest.skip("one collector has one version")
    await api.send(api.violation(id="new"))
    columns = ", ".join(column.name for column in ViolationRow.__table__.columns if column.name not in ("suppressed", "id", "detail"))
    async with database_of(api).writing() as connection:
        for name, detail in (("old", '{"suppressed": {"reason": "known"}}'), ("plain", '{"note": "suppressed"}')):
            copied = f"SELECT {columns}, '{name}', '{detail}' FROM violations WHERE id = 'new'"
            await connection.exec_driver_sql(f"INSERT INTO violations ({columns}, id, detail) {copied}")

    assert await ids(api, "suppressed=true") == ["old"]
    assert (await api.get("/v1/violation-history?suppressed=true")).json()["items"][0]["records"] == 1
