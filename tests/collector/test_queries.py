"""Reading: narrowed by what is asked, page after page without a gap, fields by name, ranges by the hour and exact at their edges."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from isolation_monitor.collector.evidence.service import EvidenceService
from isolation_monitor.collector.paging import make_cursor
from isolation_monitor.collector.storage.database import Database, StoreUnavailable
from tests.collector.conftest import Api
from tests.collector.test_alerts import alert, delivery, post
from tests.collector.test_records import run_record


async def ids(api: Api, query: str, path: str = "/v1/violations") -> list[str]:
    answer = await api.get(f"{path}?{query}")
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


async def test_violations_are_narrowed_by_every_filter(api: Api) -> None:
    side = api.side("c0ffee0000000000") | {"run_id": "run-7", "request_id": "7-1"}
    await api.send(api.violation(id="a", detector="wrong_socket", arm="on", fingerprint="f1"), instance="host:9:9")
    await api.send(api.violation(id="b", victim=None, offender=side), api.violation(id="c"), api.retraction("c"))

    assert await ids(api, "detector=wrong_socket") == ["a"]
    assert await ids(api, "arm=on") == ["a"]
    assert await ids(api, "fingerprint=f1") == ["a"]
    assert await ids(api, "instance=host:9:9") == ["a"]
    assert await ids(api, "principal=c0ffee0000000000") == ["b"]
    assert await ids(api, "run_id=run-7") == ["b"]
    assert await ids(api, "request_id=7-1") == ["b"]
    assert await ids(api, "request_id=7-1&principal=c0ffee0000000000&run_id=run-7") == ["b"]
    assert await ids(api, "request_id=7-1&run_id=run-8") == []
    assert await ids(api, "retracted=true") == ["c"]
    assert await ids(api, "retracted=false") == ["b", "a"]


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_pages_follow_each_other_also_where_times_are_the_same(api: Api, order: str) -> None:
    for n in range(7):
        await api.send(api.violation(id=f"v-{n}"))
        if n % 3 == 0:
            api.clock.advance(1)
    found: list[str] = []
    path: str | None = f"/v1/violations?limit=2&order={order}&service=chat"
    while path is not None:
        answer = (await api.get(path)).json()
        found += [item["id"] for item in answer["items"]]
        path = answer["next"]

    expected = [f"v-{n}" for n in range(7)]
    assert found == (expected if order == "oldest" else expected[::-1])
    assert answer["next_cursor"] is None
    await api.send(api.violation(id="v-7"))
    assert await ids(api, f"order=oldest&cursor={answer['last_cursor']}") == (
        ["v-7"] if order == "oldest" else [f"v-{n}" for n in range(1, 8)]
    )


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_a_page_that_ends_at_an_hours_edge_is_followed_by_all_that_is_left(api: Api, order: str) -> None:
    """What lay on the page before fills no page again: the hours behind its last row are looked into."""
    times = ["2026-01-01T08:59:59.999999Z", "2026-01-01T09:00:00Z", "2026-01-01T09:00:00Z", "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"]
    await api.send(*(api.violation(id=f"v-{n}", time=time) for n, time in enumerate(times)))
    found: list[str] = []
    path: str | None = f"/v1/violations?limit=1&order={order}&service=chat"
    while path is not None:
        answer = (await api.get(path)).json()
        found += [item["id"] for item in answer["items"]]
        path = answer["next"]

    expected = [f"v-{n}" for n in range(5)]
    assert found == (expected if order == "oldest" else expected[::-1])


async def test_an_id_of_any_length_is_stored_and_costs_no_other_its_place(api: Api) -> None:
    """PostgreSQL takes no more than 2.7 KB into an index, of what cannot be packed."""
    long = secrets.token_urlsafe(2400)
    sides = (api.side("c0ffee0000000000") | {name: long} for name in ("run_id", "request_id"))
    long_ones = [api.violation(id=f"long-{n}", victim=side | {"connection_id": long}) for n, side in enumerate(sides)]

    answer = (await api.send(api.violation(id="a"), *long_ones, api.violation(id="b"))).json()

    assert (answer["accepted"], answer["rejected"]) == (4, [])
    assert await ids(api, "principal=c0ffee0000000000") == ["long-1", "long-0"]
    assert (await api.get("/v1/violations/long-0")).json()["victim"]["run_id"] == long
    assert await ids(api, f"run_id={'r' * 200}") == []


@pytest.mark.parametrize("order", ["newest", "oldest"])
@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
async def test_a_cursor_and_a_record_from_the_ends_of_the_calendar_are_answered(api: Api, time: str, order: str) -> None:
    await api.send(api.violation(id="first", time="0001-01-01T00:30:00Z"))
    cursor = make_cursor(datetime.fromisoformat(time), "x")

    for query in ("kind=instance_reuse", "principal=a1b2c3d4e5f60718", "limit=9"):
        assert set(await ids(api, f"{query}&order={order}")) <= {"first"}
        assert set(await ids(api, f"{query}&order={order}&cursor={cursor}")) <= {"first"}


async def test_fields_are_chosen_from_a_list_and_others_are_refused(api: Api) -> None:
    await api.send(api.violation(id="a"))

    chosen = (await api.get("/v1/violations?fields=id,grade")).json()["items"]
    refused = await api.get("/v1/violations?fields=id,password")

    assert chosen == [{"id": "a", "grade": "reachable"}]
    assert refused.status_code == 422
    assert "'password'" in refused.json()["detail"]
    assert "fingerprint" in refused.json()["detail"]


async def test_runs_are_listed_narrowed_and_read_by_their_record(api: Api) -> None:
    other = run_record("r-2") | {"run_id": "run-2", "outcome": "stuck", "principal": "a1b2c3d4e5f60718", "time": "2026-01-01T11:00:00Z"}
    await api.send(run_record("r-1"), other)

    assert await ids(api, "", "/v1/runs") == ["r-1", "r-2"]
    assert await ids(api, "outcome=stuck", "/v1/runs") == ["r-2"]
    assert await ids(api, "run_id=run-1", "/v1/runs") == ["r-1"]
    assert await ids(api, "principal=a1b2c3d4e5f60718", "/v1/runs") == ["r-2"]
    assert await ids(api, "until=2026-01-01T11:30:00Z&order=oldest", "/v1/runs") == ["r-2"]
    assert (await api.get("/v1/runs?fields=run_id")).json()["items"][0] == {"run_id": "run-1"}
    assert (await api.get("/v1/runs/r-2")).json()["outcome"] == "stuck"
    assert (await api.get("/v1/runs/none")).status_code == 404


async def test_alerts_are_narrowed_by_service_and_range(api: Api) -> None:
    await post(api, delivery(alert(fingerprint="a")))
    api.clock.advance(60)
    await post(api, delivery(alert(fingerprint="b", labels={"alertname": "SessionLeak", "service": "billing"})))

    listed = (await api.get("/v1/alerts?service=billing")).json()["items"]
    early = (await api.get("/v1/alerts?until=2026-01-01T12:00:30Z")).json()["items"]

    assert [item["fingerprint"] for item in listed] == ["b"]
    assert [item["fingerprint"] for item in early] == ["a"]


async def test_groups_are_exact_where_a_range_cuts_an_hour(api: Api) -> None:
    """Full hours come from the counts, the edges from the records: 1 + 2 + 1 of the five violations lie in the range."""
    for number, minute in enumerate(("09:59", "10:30", "11:05", "11:50", "12:00")):
        await api.send(api.violation(id=f"v-{number}", time=f"2026-01-01T{minute}:00.000Z"))

    async def group(query: str) -> dict[str, Any]:
        (found,) = (await api.get(f"/v1/violation-groups?{query}")).json()["items"]
        return dict(found)

    cut = await group("since=2026-01-01T10:15:00Z&until=2026-01-01T12:00:01Z")
    within = await group("since=2026-01-01T11:10:00Z&until=2026-01-01T11:55:00Z")
    whole = await group("")

    assert (cut["count"], cut["first"][11:16], cut["last"][11:16]) == (4, "10:30", "12:00")
    assert (within["count"], within["latest"]["id"]) == (1, "v-3")
    assert (whole["count"], whole["first"][11:16]) == (5, "09:59")


async def test_history_counts_by_day_and_hour_and_by_what_is_asked(api: Api) -> None:
    await api.send(
        api.violation(id="a", count=3, time="2025-12-30T23:59:00Z"),
        api.violation(id="b", kind="wrong_socket", time="2025-12-31T00:00:00Z"),
        api.violation(id="c", time="2025-12-31T10:20:00Z", synthetic=True),
        api.violation(id="d", time="2025-12-31T10:40:00Z"),
        api.retraction("d"),
    )

    daily = (await api.get("/v1/violation-history")).json()
    by_kind = (await api.get("/v1/violation-history?by=kind&step=hour&since=2025-12-30T00:00:00Z&synthetic=false")).json()

    assert [(item["start"][:10], item["violations"], item["records"]) for item in daily["items"]] == [
        ("2025-12-30", 3, 1),
        ("2025-12-31", 2, 2),
    ]
    assert (daily["since"][:10], daily["until"][:10], daily["step"]) == ("2025-12-02", "2026-01-02", "day")
    assert [(item["start"][11:13], item["kind"], item["violations"]) for item in by_kind["items"]] == [
        ("23", "instance_reuse", 3),
        ("00", "wrong_socket", 1),
    ]
    assert (await api.get("/v1/violation-history?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z")).status_code == 422
    assert (await api.get("/v1/violation-history?step=hour&since=2020-01-01T00:00:00Z")).status_code == 422


async def test_a_query_that_takes_too_long_ends_and_the_next_one_is_answered(database_url: str) -> None:
    endless = {
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        "postgresql": "SELECT pg_sleep(600)",
    }
    database = Database(database_url, 0.5)
    try:
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(120), database.reading() as connection:
                await connection.execute(text(endless[database.dialect]))
        async with database.reading(30) as connection:
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    finally:
        await database.close()


async def test_sums_leave_out_what_is_accepted_planted_or_retracted_also_where_they_cut_an_hour(api: Api) -> None:
    """Full hours are read from the counts, the first and broken one from the records: both leave out the same."""
    accepted = {"suppressed": {"reason": "known", "expires": "2026-02-01"}}
    for hour in ("09:20", "09:40", "11:05"):
        await api.send(
            api.violation(time=f"2026-01-01T{hour}:00.000Z", count=2),
            api.violation(time=f"2026-01-01T{hour}:01.000Z", detail=accepted),
            api.violation(time=f"2026-01-01T{hour}:02.000Z", synthetic=True),
            api.violation(id=f"r-{hour}", time=f"2026-01-01T{hour}:03.000Z"),
            api.retraction(f"r-{hour}"),
        )
    evidence = EvidenceService(api.app.state.runtime.database, api.clock)

    (chat,) = await evidence.sums(datetime(2026, 1, 1, 9, 30, tzinfo=UTC))
    days = await evidence.days(datetime(2026, 1, 1, tzinfo=UTC), "chat")

    assert (chat.service, chat.by_grade, chat.last_crossing) == ("chat", {"reachable": 4}, datetime(2026, 1, 1, 11, 5, tzinfo=UTC))
    assert [day.number for day in days] == [6]
    assert len(await ids(api, "suppressed=true")) == 3
    assert len(await ids(api, "suppressed=false&synthetic=false&retracted=false")) == 3
    assert (await api.get("/v1/violation-history?suppressed=true")).json()["items"][0]["records"] == 3
    assert (await api.get("/v1/violation-groups?suppressed=true")).json()["items"][0]["records"] == 3
