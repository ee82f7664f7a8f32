"""Whose queues are the deepest now: the newest word of each worker, put together by user."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.evidence import repository
from isolation_monitor.collector.storage.models import QueueStatementRow
from tests.collector.conftest import READ, SEND, Api

Json = dict[str, Any]


def waiting(api: Api, principal: str, events: int, *, size: int = 100, ago_s: float = 0.0, **more: object) -> Json:
    now = api.clock()
    api.clock.advance(-ago_s)
    oldest = rfc3339(api.clock())
    api.clock.now = now
    return {"principal": principal, "events": events, "bytes": size, "oldest": oldest, "connections": 0} | more


def statement(api: Api, sequence: int, *users: Json, id: str = "worker-1", others: int = 0, **changes: object) -> Json:
    """Return what a worker says; `others` are users of it whom it does not name."""
    return {
        "type": "queues",
        "id": id,
        "time": rfc3339(api.clock()),
        "sequence": sequence,
        "waiting": {
            "users": len(users) + others,
            "events": sum(one["events"] for one in users) + others,
            "bytes": sum(one["bytes"] for one in users) + others,
        },
        "users": list(users),
    } | changes


async def listed(api: Api, query: str = "") -> list[tuple[str, int]]:
    return [(item["principal"], item["events"]) for item in (await api.get(f"/v1/queues?{query}")).json()["items"]]


async def rows(api: Api) -> int:
    async with api.app.state.runtime.database.reading() as connection:
        return int((await connection.execute(select(func.count()).select_from(QueueStatementRow))).scalar_one())


async def test_the_newest_statement_of_a_worker_takes_the_place_of_its_last(api: Api) -> None:
    await api.send(statement(api, 1, waiting(api, "ann", 3), waiting(api, "bob", 9)))
    await api.send(statement(api, 2, waiting(api, "ann", 5)))

    assert await listed(api) == [("ann", 5)]
    assert await rows(api) == 1


async def test_an_older_statement_that_comes_late_changes_nothing(api: Api) -> None:
    """The answer to the first try was lost, so it is sent again: the worker has said something newer meanwhile."""
    await api.send(statement(api, 2, waiting(api, "ann", 5)))

    again = (await api.send(statement(api, 1, waiting(api, "bob", 9)))).json()
    same = (await api.send(statement(api, 2, waiting(api, "bob", 9)))).json()

    assert (again["accepted"], again["duplicate"], again["rejected"]) == (0, 1, [])
    assert (same["accepted"], same["duplicate"]) == (0, 1)
    assert await listed(api) == [("ann", 5)]


async def test_a_restarted_worker_of_the_same_name_begins_anew(api: Api) -> None:
    """In containers, host and process number stay the same over a restart; the id tells the processes apart."""
    await api.send(statement(api, 40, waiting(api, "ann", 5)))

    await api.send(statement(api, 1, waiting(api, "bob", 2), id="worker-2"))

    assert await listed(api) == [("bob", 2)]


async def stored(api: Api, *records: Json, **envelope: object) -> None:
    """Send until it is stored: on a busy machine the collector may say 503, and a sender then tries again."""
    for _ in range(5):
        answer = await api.send(*records, **envelope)
        if answer.status_code != 503:
            break
    assert answer.status_code == 200, answer.text


async def test_users_are_put_together_over_workers_and_sorted_by_depth(api: Api) -> None:
    """ann waits in two workers: 3 + 4 events, the older of both ages, one connection; the second worker names one of three."""
    await stored(api, statement(api, 1, waiting(api, "ann", 3, ago_s=5, connections=1), waiting(api, "bob", 6, size=700)))
    await stored(api, statement(api, 1, waiting(api, "ann", 4, ago_s=60), others=2), instance="host:2")
    await stored(api, statement(api, 1, waiting(api, "ann", 99)), service="billing", instance="host:3")
    api.clock.advance(10)

    answer = (await api.get("/v1/queues")).json()

    billing, ann, bob = answer["items"]
    assert (answer["schema"], answer["as_of"]) == ("queues/1", "2026-01-01T12:00:10.000Z")
    assert (billing["service"], billing["principal"], billing["events"]) == ("billing", "ann", 99)
    assert ann == {
        "service": "chat",
        "principal": "ann",
        "events": 7,
        "bytes": 200,
        "oldest": "2026-01-01T11:59:00.000Z",
        "age_s": 70.0,
        "connections": 1,
        "instances": ["host:1:1", "host:2"],
        "at_least": False,
    }
    assert (bob["principal"], bob["at_least"]) == ("bob", True), "the second worker may hold something for him too"
    chat = next(one for one in answer["services"] if one["service"] == "chat")
    assert {name: chat[name] for name in ("workers", "users", "events", "bytes")} == {"workers": 2, "users": 5, "events": 15, "bytes": 902}


async def test_the_answer_is_narrowed_and_limited(api: Api) -> None:
    await api.send(statement(api, 1, *(waiting(api, f"user-{n}", n + 1) for n in range(10))))
    await api.send(statement(api, 1, waiting(api, "ann", 50)), service="billing")

    assert await listed(api, "service=chat&limit=2") == [("user-9", 10), ("user-8", 9)]
    assert await listed(api, "service=billing") == [("ann", 50)]
    assert await listed(api, "service=other") == []
    assert (await api.get("/v1/queues?limit=0")).status_code == 422
    assert (await api.get("/v1/queues?limit=201")).status_code == 422


async def test_a_silent_worker_is_not_believed_for_long_and_then_forgotten(api: Api) -> None:
    """It says every 30 s what still holds: after 90 s it was killed, and what it held is gone."""
    await api.send(statement(api, 1, waiting(api, "ann", 5)))
    api.clock.advance(90)
    assert await listed(api) == [("ann", 5)]

    api.clock.advance(1)
    assert await listed(api) == []
    assert (await api.get("/v1/queues")).json()["services"] == []
    await api.send(statement(api, 1, waiting(api, "bob", 1)), instance="host:2")

    assert await rows(api) == 1


async def test_a_worker_where_nobody_waits_any_more_is_in_no_answer(api: Api) -> None:
    await api.send(statement(api, 1, waiting(api, "ann", 5)))
    await api.send(statement(api, 2))

    answer = (await api.get("/v1/queues")).json()

    assert (answer["items"], answer["services"]) == ([], [])


async def test_the_table_never_grows_without_bound(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may send may invent workers: those that were silent longest go."""
    monkeypatch.setattr(repository, "WORKERS_LIMIT", 3)
    for n in range(6):
        api.clock.advance(1)
        await api.send(statement(api, 1, waiting(api, f"user-{n}", 1)), instance=f"host:{n}")

    assert await rows(api) == 3
    assert sorted(await listed(api)) == [("user-3", 1), ("user-4", 1), ("user-5", 1)]


async def test_a_statement_that_cannot_be_used_takes_no_violation_with_it(api: Api) -> None:
    bad = [
        statement(api, 1, waiting(api, "ann", -1)),
        statement(api, 1, waiting(api, "a user@example.com", 1)),
        statement(api, 1, waiting(api, "ann", 1, oldest="yesterday")),
        statement(api, 1, *(waiting(api, f"user-{n}", 1) for n in range(101))),
        statement(api, 1, users=[None]),
        statement(api, 1) | {"sequence": "1"},
        statement(api, 1) | {"waiting": None},
    ]

    answer = (await api.send(*bad, api.violation(id="v"), statement(api, 1, waiting(api, "ann", 2)))).json()

    assert [item["index"] for item in answer["rejected"]] == list(range(len(bad)))
    assert answer["accepted"] == 2
    assert await api.stored_ids() == {"v"}
    assert await listed(api) == [("ann", 2)]


async def test_a_field_of_a_newer_telemetry_is_no_reason_to_refuse(api: Api) -> None:
    await api.send(statement(api, 1, waiting(api, "ann", 2, mood="patient"), novelty=[1]))

    (item,) = (await api.get("/v1/queues")).json()["items"]

    assert item["events"] == 2
    assert "mood" not in item


async def test_workers_that_speak_at_the_same_time_do_not_stop_each_other(api: Api) -> None:
    """Each of them forgets the silent ones, and each of the silent ones speaks again: an order for a deadlock."""
    for n in range(8):
        await api.send(statement(api, 1, waiting(api, "ann", 1)), instance=f"host:{n}")
    api.clock.advance(91)

    async def speak(n: int) -> int:
        return (await api.send(statement(api, 2, waiting(api, "ann", 2)), instance=f"host:{n}")).status_code

    assert await asyncio.gather(*(speak(n) for n in range(8))) == [200] * 8
    assert await listed(api) == [("ann", 16)]


async def test_what_was_said_survives_a_restart_of_the_collector(make_api: Callable[..., Any], database_url: str) -> None:
    async with make_api(database_url) as before:
        await before.send(statement(before, 1, waiting(before, "ann", 5)))

    async with make_api(database_url) as after:
        assert await listed(after) == [("ann", 5)]


async def test_queues_are_read_with_the_read_token_alone(api: Api) -> None:
    assert (await api.get("/v1/queues", token=None)).status_code == 401
    assert (await api.get("/v1/queues", token=SEND)).status_code == 403
    assert (await api.get("/v1/queues", token=READ)).status_code == 200
