"""Pages that are due survive whoever was to tell them: killed, cut off, or gone for good beside a replica that lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from isolation_monitor.collector.announcements import pager as pager_module
from isolation_monitor.collector.announcements.kinds import OF_SERVICE, Kinds
from isolation_monitor.collector.announcements.pager import Pager
from isolation_monitor.collector.clock import rfc3339, utc_now
from isolation_monitor.collector.storage.database import Database, StoreUnavailable
from isolation_monitor.collector.storage.page_models import PageDueRow
from isolation_monitor.telemetry.names import KIND_GRADES, OTHER
from tests.collector.conftest import START, Api, FrozenClock, until
from tests.real_parts.collector import collector
from tests.real_parts.processes import eventually, free_port
from tests.real_parts.receiver import Receiver, receiver
from tests.real_parts.rollouts import deaf, send_violation

Running = Callable[..., Any]


@pytest.fixture
def inbox() -> Iterator[Receiver]:
    """What stands for an Alertmanager: it takes what it is given."""
    with receiver() as running:
        yield running


def nowhere() -> str:
    return f"http://127.0.0.1:{free_port()}"


def told(inbox: Receiver) -> list[dict[str, str]]:
    """Return the labels of all alerts that were posted."""
    return [alert["labels"] for delivery in list(inbox.deliveries) for alert in delivery.body]


async def due(database: Database) -> list[PageDueRow]:
    async with database.reading() as connection:
        return list((await connection.execute(select(PageDueRow.__table__).order_by(PageDueRow.id))).all())  # type: ignore[arg-type]


def database_of(api: Api) -> Database:
    database: Database = api.app.state.runtime.database
    return database


async def nothing_is_due(api: Api) -> None:
    async def is_empty() -> bool:
        return await due(database_of(api)) == []

    await until(is_empty)


async def send(api: Api, *records: object, **envelope: object) -> None:
    answer = await api.send(*records, **envelope)
    assert answer.json()["accepted"] == len(records), answer.text


async def test_what_was_told_is_due_no_longer(make_api: Running, database_url: str, inbox: Receiver) -> None:
    async with make_api(database_url, alertmanager_url=inbox.url) as api:
        await send(api, api.violation(), api.violation(kind="wrong_socket", grade="crossed"))
        await until(lambda: len(told(inbox)) == 2)
        await nothing_is_due(api)


async def test_whoever_tells_nobody_notes_nothing(make_api: Running, database_url: str) -> None:
    async with make_api(database_url) as api:
        await send(api, api.violation())

        assert await due(database_of(api)) == []


async def test_only_what_pages_is_noted_one_row_for_each_pair_and_commit(make_api: Running, database_url: str) -> None:
    async with make_api(database_url, alertmanager_url=nowhere()) as api:
        await send(api, api.violation(grade="hygiene", kind="task_leak"), api.violation(synthetic=True))
        await send(api, api.violation(detail={"suppressed": {"reason": "known", "until": "2026-12-31"}}))
        taken_back = api.violation()
        await send(api, taken_back, api.retraction(taken_back["id"]))
        assert await due(database_of(api)) == []

        harm = [api.violation(count=2, time=rfc3339(START - timedelta(seconds=n))) for n in range(5)]
        await send(api, *harm, api.violation(kind="wrong_socket", grade="crossed"))
        await send(api, api.violation(), service="billing")

        rows = [(row.service, row.kind, row.requests, row.first, row.last) for row in await due(database_of(api))]
        assert sorted(rows) == [
            ("billing", "instance_reuse", 1, START, START),
            ("chat", "instance_reuse", 10, START - timedelta(seconds=4), START),
            ("chat", "wrong_socket", 1, START, START),
        ]


async def test_a_storm_without_an_alertmanager_is_few_rows(make_api: Running, sqlite_url: str) -> None:
    async with make_api(sqlite_url, alertmanager_url=nowhere()) as api:
        for _ in range(30):
            await send(api, api.violation())

        assert len(await due(database_of(api))) <= 2, "another one after a minute"


async def test_a_collector_that_ended_tells_ten_minutes_later(
    make_api: Running, database_url: str, clock: FrozenClock, inbox: Receiver
) -> None:
    async with make_api(database_url, alertmanager_url=nowhere()) as api:
        await send(api, api.violation(id="first-hygiene", grade="hygiene", kind="id_resolution"))
        await send(api, api.violation(kind="wrong_socket", grade="crossed"))
        await send(api, api.escalation("first-hygiene"))
    clock.advance(600)

    async with make_api(database_url, alertmanager_url=inbox.url) as api:
        await until(lambda: len(told(inbox)) == 2)
        await nothing_is_due(api)

    assert sorted(labels["kind"] for labels in told(inbox)) == ["id_resolution", "wrong_socket"], "what rose, too"


def test_a_collector_that_was_killed_before_it_told_tells_when_it_is_started_again(tmp_path: Path, inbox: Receiver) -> None:
    with deaf() as hanging, collector(tmp_path, settings={"COLLECTOR_ALERTMANAGER_URL": hanging}) as running:
        send_violation(running, "v-1", "killed", rfc3339(datetime.now(UTC)))
        running.process.kill()
        running.process.wait()
    assert told(inbox) == []

    with collector(tmp_path, settings={"COLLECTOR_ALERTMANAGER_URL": inbox.url}):
        eventually(lambda: told(inbox), "the page")

    assert [labels["service"] for labels in told(inbox)] == ["killed"]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each look at the rows that came to its end."""
    ended: list[object] = []
    real = pager_module.pages_beyond

    async def noting(*about: Any) -> list[str]:  # Any: passed on
        found = await real(*about)
        ended.append(None)
        return found

    monkeypatch.setattr(pager_module, "pages_beyond", noting)
    return ended


async def test_another_replica_tells_for_one_that_never_comes_back(
    make_api: Running, own_database_url: str, clock: FrozenClock, inbox: Receiver, looks: list[object]
) -> None:
    async with make_api(own_database_url, alertmanager_url=inbox.url) as living:
        await until(lambda: bool(looks))
        async with make_api(own_database_url, alertmanager_url=nowhere()) as dying:
            await send(dying, dying.violation())
        pager: Pager = living.app.state.pager
        await pager.look()
        await asyncio.sleep(0.05)
        assert told(inbox) == [], "whoever stored it has time to tell it"

        clock.advance(20)
        await pager.look()
        await until(lambda: bool(told(inbox)))
        await nothing_is_due(living)


async def test_the_replica_that_leads_looks_by_itself(
    make_api: Running, own_database_url: str, clock: FrozenClock, inbox: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pager_module, "LOOK_S", 0.1)
    async with make_api(own_database_url, alertmanager_url=inbox.url) as living:
        async with make_api(own_database_url, alertmanager_url=nowhere()) as dying:
            await send(dying, dying.violation())
        clock.advance(20)
        await until(lambda: bool(told(inbox)))
        await nothing_is_due(living)


async def test_rows_that_could_not_be_cleared_page_nobody_twice(
    make_api: Running, sqlite_url: str, clock: FrozenClock, inbox: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alert that was told again after its end would wake somebody again."""
    tries: list[object] = []

    async def away(*_: object) -> None:
        tries.append(None)
        raise StoreUnavailable("it took too long")

    with monkeypatch.context() as broken:
        broken.setattr(pager_module, "forget_pages_due", away)
        async with make_api(sqlite_url, alertmanager_url=inbox.url) as api:
            await send(api, api.violation())
            await until(lambda: bool(tries))
            clock.advance(600)
            await api.app.state.pager.look()
            await asyncio.sleep(0.05)
            assert len(told(inbox)) == 1
            broken.undo()
            await nothing_is_due(api)


async def test_what_is_a_day_old_is_dropped_and_counted(make_api: Running, database_url: str, clock: FrozenClock, inbox: Receiver) -> None:
    async with make_api(database_url, alertmanager_url=nowhere()) as api:
        await send(api, api.violation())
    clock.advance(25 * 3600)

    async with make_api(database_url, alertmanager_url=inbox.url) as api:
        await nothing_is_due(api)
        assert 'violation_pages_total{result="dropped"} 1.0' in (await api.get("/metrics")).text
    assert told(inbox) == []


async def test_rows_are_bounded_in_number(make_api: Running, database_url: str, inbox: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pager_module, "ROWS_KEPT", 3)
    database = Database(database_url)
    rows = [
        {
            "id": f"{n:032d}", "service": f"chat-{n}", "kind": "wrong_socket", "requests": 1, "example_id": "v", "first": START,
            "last": START, "received_at": START - timedelta(seconds=n),
        }
        for n in range(8)
    ]  # fmt: skip
    async with database.writing() as connection:
        await connection.execute(insert(PageDueRow), rows)
    await database.close()

    async with make_api(database_url, alertmanager_url=inbox.url) as api:
        await nothing_is_due(api)
        assert 'violation_pages_total{result="dropped"} 5.0' in (await api.get("/metrics")).text

    assert sorted(labels["service"] for labels in told(inbox)) == ["chat-0", "chat-1", "chat-2"]


async def test_rows_that_nobody_tells_any_longer_expire(make_api: Running, database_url: str, clock: FrozenClock) -> None:
    async with make_api(database_url, alertmanager_url=nowhere()) as api:
        await send(api, api.violation())
    clock.advance(40 * 86_400)

    async with make_api(database_url) as api:
        await api.app.state.retention.keep_house()

        assert await due(database_of(api)) == []


async def test_kinds_that_a_sender_makes_up_are_few_alerts(make_api: Running, sqlite_url: str, inbox: Receiver) -> None:
    async with make_api(sqlite_url, utc_now, alertmanager_url=inbox.url) as api:
        records = [api.violation(kind=f"made_up_{n}", grade="crossed", time=rfc3339(utc_now())) for n in range(100)]
        await send(api, *records, sent_at=rfc3339(utc_now()))
        await until(lambda: len(told(inbox)) > OF_SERVICE)

    kinds = {labels["kind"] for labels in told(inbox)}
    assert len(kinds) == OF_SERVICE + 1
    assert OTHER in kinds


def test_a_service_that_makes_kinds_up_takes_no_other_one_s() -> None:
    kinds = Kinds()
    made_up = [kinds.label("loud", f"made_up_{n}") for n in range(100)]

    assert made_up[OF_SERVICE:] == [OTHER] * (100 - OF_SERVICE)
    assert kinds.label("loud", "made_up_0") == "made_up_0"
    assert kinds.label("quiet", "newer") == "newer"
    assert [kinds.label("loud", kind) for kind in KIND_GRADES] == list(KIND_GRADES)
