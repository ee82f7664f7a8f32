"""Records in, violations out: nothing twice, nothing lost, nothing invented."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.collector.conftest import READ, SEND, Api, bearer


async def test_a_batch_is_stored_and_every_field_comes_back(api: Api) -> None:
    sent = api.violation(id="v-1", kind="instance_reuse", grade="reachable", count=3)

    answer = await api.send(sent)
    found = (await api.get("/v1/violations/v-1")).json()

    assert (answer.status_code, answer.json()) == (200, {"schema": "records-reply/1", "accepted": 1, "duplicate": 0, "rejected": []})
    assert {key: found[key] for key in sent if key != "type"} == {key: value for key, value in sent.items() if key != "type"}
    assert (found["service"], found["instance"], found["retracted"]) == ("chat", "host:1:1", False)


async def test_sending_a_batch_again_stores_nothing_new(api: Api) -> None:
    records = [
        api.violation(id="v"),
        api.escalation("v", id="e"),
        api.retraction("v", id="r"),
        run_record("run"),
        {**run_record("x"), "type": "new"},
    ]

    first, second = await api.send(*records), await api.send(*records)

    assert first.json()["accepted"] == 5
    assert second.json() | {"schema": ""} == {"schema": "", "accepted": 0, "duplicate": 5, "rejected": []}


async def test_a_changed_record_with_a_known_id_does_not_change_what_is_stored(api: Api) -> None:
    await api.send(api.violation(id="v", summary="first"))

    answer = await api.send(api.violation(id="v", summary="second"))

    assert answer.json()["duplicate"] == 1
    assert (await api.get("/v1/violations/v")).json()["summary"] == "first"


async def test_one_id_twice_in_one_batch_counts_once(api: Api) -> None:
    answer = await api.send(api.violation(id="v"), api.violation(id="v"))

    assert (answer.json()["accepted"], answer.json()["duplicate"]) == (1, 1)


async def test_a_batch_with_bad_records_stores_the_good_ones_and_names_the_bad(api: Api) -> None:
    answer = await api.send(
        api.violation(id="good-1"),
        api.violation(grade="terrible"),
        7,
        api.violation(count="3"),
        api.violation(id="good-2"),
        api.violation(time="noon"),
    )

    assert answer.status_code == 200
    assert [item["index"] for item in answer.json()["rejected"]] == [1, 2, 3, 5]
    assert "grade" in answer.json()["rejected"][0]["reason"]
    assert await api.stored_ids() == {"good-1", "good-2"}


@pytest.mark.parametrize(
    "change",
    [
        {"synthetic": "false"},
        {"count": 0},
        {"count": True},
        {"id": "no blanks please"},
        {"id": "x" * 65},
        {"time": "2026-01-01T12:00:00"},
        {"time": 1_700_000_000},
        {"time": "9999-12-31T23:59:59-14:00"},
        {"time": "2026-01-03T12:00:00Z"},
        {"resource": "agent"},
        {"victim": {"stack": "not a list"}},
        {"victim": {"principal": 12}},
        {"detail": []},
        {"kind": ""},
        {"arm": "x" * 21},
        {"detail": {"n": 2**64}},
    ],
)
async def test_a_violation_of_the_wrong_shape_is_rejected_by_name(api: Api, change: dict[str, Any]) -> None:
    answer = await api.send(api.violation(**change))

    assert answer.status_code == 200
    assert answer.json()["accepted"] == 0
    assert answer.json()["rejected"][0]["index"] == 0


async def test_kinds_fields_and_types_of_a_newer_telemetry_are_kept_as_they_are(api: Api) -> None:
    """A rolling upgrade has both versions at work: the older collector loses nothing of the newer telemetry."""
    newer = api.violation(id="v", kind="brand_new_kind", detector="brand_new", arm="blue", colour="red", nested={"a": [1, {"b": None}]})

    answer = await api.send(newer, {"type": "heartbeat", "id": "h", "time": newer["time"], "pulse": 70}, schema="records/2", region="north")
    found = (await api.get("/v1/violations/v")).json()

    assert answer.json()["accepted"] == 2
    assert (found["kind"], found["arm"]) == ("brand_new_kind", "blue")
    assert found["extra"] == {"colour": "red", "nested": {"a": [1, {"b": None}]}}


async def test_sides_and_the_principal_hash_are_stored_as_received(api: Api) -> None:
    side = api.side("a1b2c3d4e5f60718") | {"tenant": "t", "depth": 3}

    await api.send(api.violation(id="v", victim=side, offender=None, resource=None))
    found = (await api.get("/v1/violations/v")).json()

    assert (found["victim"], found["offender"], found["resource"]) == (side, None, None)


async def test_control_characters_and_lone_surrogates_are_taken_out(api: Api) -> None:
    dirty = "red\\u001b[31m\\u0000 \\u202eevil\\ud800 line\\nbreak"
    body = json.dumps(api.batch(api.violation(id="v", summary="@", detail={"text": "@"}))).replace("@", dirty)

    answer = await api.client.post("/v1/records", content=body, headers=bearer(SEND) | {"Content-Type": "application/json"})
    found = (await api.get("/v1/violations/v")).json()

    assert answer.json()["accepted"] == 1
    assert found["summary"] == "red[31m evil? line break"
    assert found["detail"] == {"text": "red[31m evil? line\nbreak"}


class TestLaterWords:
    """Escalations raise the grade, retractions mark; both stay as records of their own; any order will do."""

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    async def test_an_escalation_raises_the_grade_whichever_comes_first(self, api: Api, order: tuple[int, int]) -> None:
        records = [api.violation(id="v", grade="reachable"), api.escalation("v", grade="crossed")]

        for index in order:
            await api.send(records[index])
        found = (await api.get("/v1/violations/v")).json()

        assert (found["grade"], found["grade_sent"]) == ("crossed", "reachable")
        assert [item["grade"] for item in found["escalations"]] == ["crossed"]

    async def test_a_grade_never_sinks(self, api: Api) -> None:
        await api.send(api.violation(id="v", grade="crossed"), api.escalation("v", grade="hygiene"))

        assert (await api.get("/v1/violations/v")).json()["grade"] == "crossed"

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    async def test_a_retraction_marks_the_violation_whichever_comes_first(self, api: Api, order: tuple[int, int]) -> None:
        records = [api.violation(id="v", kind="session_leak", grade="hygiene"), api.retraction("v")]

        for index in order:
            await api.send(records[index])
        found = (await api.get("/v1/violations/v")).json()

        assert found["retracted"] is True
        assert found["retracted_at"] == records[1]["time"]
        assert len(found["retractions"]) == 1

    async def test_violations_and_their_escalations_sent_at_the_same_moment_find_each_other(self, api: Api) -> None:
        """On PostgreSQL two open transactions do not see each other's rows."""
        ids = [f"pair-{n}" for n in range(15)]
        sends = [api.send(api.violation(id=i)) for i in ids] + [api.send(api.escalation(i)) for i in ids]

        answers = await asyncio.gather(*sends)
        found = (await api.get("/v1/violations?grade=crossed&limit=1000")).json()["items"]

        assert {answer.status_code for answer in answers} == {200}
        assert {item["id"] for item in found} == set(ids)


async def test_senders_of_the_same_records_at_once_store_each_exactly_once(api: Api) -> None:
    records = [api.violation(id=f"v-{n}") for n in range(50)]

    answers = await asyncio.gather(*(api.send(*(records if n % 2 else reversed(records))) for n in range(8)))

    assert {answer.status_code for answer in answers} == {200}
    assert sum(answer.json()["accepted"] for answer in answers) == 50
    assert await api.stored_ids() == {record["id"] for record in records}


async def test_a_full_batch_of_a_thousand_records_is_stored(api: Api) -> None:
    body = gzip.compress(json.dumps(api.batch(*(api.violation() for _ in range(1000)))).encode())

    answer = await api.client.post("/v1/records", content=body, headers=bearer(SEND) | gzipped)

    assert answer.json()["accepted"] == 1000


gzipped = {"Content-Encoding": "gzip", "Content-Type": "application/json"}


def run_record(record_id: str) -> dict[str, Any]:
    return {
        "type": "run",
        "id": record_id,
        "time": "2026-01-01T11:59:58Z",
        "run_id": "run-1",
        "principal": None,
        "outcome": "incomplete",
        "duration_s": 1,
        "events": [{"event": "agent_started", "emitted": 1, "sent": 1}],
        "anomalies": {"missing": 1},
        "detail": {},
    }


class TestListing:
    async def test_pages_follow_each_other_without_gap_or_repeat_while_more_arrives(self, api: Api) -> None:
        expected = []
        for n in range(7):
            # Two of each moment: ties must not be lost at a page's edge.
            api.clock.advance(1 if n % 2 else 0)
            await api.send(api.violation(id=f"v-{n}"))
            expected.append(f"v-{n}")

        seen: list[str] = []
        cursor = ""
        while True:
            page = (await api.get(f"/v1/violations?limit=2&cursor={cursor}")).json()
            seen += [item["id"] for item in page["items"]]
            api.clock.advance(1)
            await api.send(api.violation(id=f"later-{len(seen)}"))
            if page["next_cursor"] is None:
                break
            cursor = page["next_cursor"]

        assert sorted(seen) == expected
        assert seen == sorted(seen, reverse=True)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("service=chat", {"a", "b", "c"}),
            ("service=other", {"d"}),
            ("kind=wrong_socket", {"b"}),
            ("grade=crossed", {"b"}),
            ("synthetic=true", {"c"}),
            ("synthetic=false", {"a", "b", "d"}),
            ("since=2026-01-01T12:00:01Z", {"b", "c", "d"}),
            ("until=2026-01-01T12:00:01Z", {"a"}),
            ("since=2026-01-01T14:00:02%2B02:00&until=2026-01-01T12:00:03Z", {"c"}),
            ("service=chat&synthetic=false&grade=reachable", {"a"}),
            ("kind=' OR 1=1 --", set()),
        ],
    )
    async def test_filters_narrow_the_list(self, api: Api, query: str, expected: set[str]) -> None:
        await api.send(api.violation(id="a"))
        api.clock.advance(1)
        await api.send(api.violation(id="b", kind="wrong_socket", grade="crossed"))
        api.clock.advance(1)
        await api.send(api.violation(id="c", synthetic=True))
        api.clock.advance(1)
        await api.send(api.violation(id="d"), service="other")

        items = (await api.get(f"/v1/violations?{query}")).json()["items"]

        assert {item["id"] for item in items} == expected

    async def test_an_unknown_violation_is_a_404(self, api: Api) -> None:
        assert (await api.get("/v1/violations/nothing")).status_code == 404

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=1001", "grade=odd", "since=noon", "since=2026-01-01T12:00:00", "cursor=abc", "synthetic=maybe"]
    )
    async def test_a_query_that_makes_no_sense_is_a_422(self, api: Api, query: str) -> None:
        answer = await api.get(f"/v1/violations?{query}")

        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


async def test_a_store_in_trouble_answers_503_with_retry_after_and_recovers(make_api: Callable[..., Any], empty_sqlite_url: str) -> None:
    """Senders give up on a 500 and keep what a 503 refused; here the trouble is a schema that is yet to be migrated."""
    from isolation_monitor.collector.storage.schema import migrate

    async with make_api(empty_sqlite_url) as api:
        refused = await api.send(api.violation(id="v"))
        await migrate(empty_sqlite_url)
        accepted = await api.send(api.violation(id="v"))

        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        assert int(refused.headers["Retry-After"]) >= 1
        assert accepted.json()["accepted"] == 1


async def test_a_locked_sqlite_file_answers_503_and_stores_nothing(make_api: Callable[..., Any], empty_sqlite_url: str) -> None:
    import sqlite3

    from isolation_monitor.collector.storage.schema import migrate

    await migrate(empty_sqlite_url)
    other = sqlite3.connect(empty_sqlite_url.removeprefix("sqlite+aiosqlite:///"), isolation_level=None)
    try:
        async with make_api(empty_sqlite_url, store_timeout_s=0.2) as api:
            other.execute("BEGIN IMMEDIATE")
            refused = [await api.send(api.violation(id="v")), await api.post("/v1/alerts", webhook(), token=SEND)]
            readable = await api.get("/v1/violations")
            other.execute("ROLLBACK")
            after = await api.send(api.violation(id="v"))

            assert [answer.status_code for answer in refused] == [503, 503]
            assert readable.json()["items"] == []
            assert after.json()["accepted"] == 1
    finally:
        other.close()


async def test_an_unreachable_postgresql_answers_503(make_api: Callable[..., Any]) -> None:
    from tests.real_parts.processes import free_port

    async with make_api(f"postgresql://nobody@127.0.0.1:{free_port()}/none") as api:
        answers = [
            await api.send(api.violation()),
            await api.get("/v1/violations", READ),
            await api.get("/readyz"),
            await api.get("/v1/gates/x"),
        ]

        assert [answer.status_code for answer in answers] == [503] * 4
        assert (await api.get("/healthz")).status_code == 200


def webhook() -> dict[str, Any]:
    alert = {"status": "firing", "labels": {"alertname": "A"}, "annotations": {}, "startsAt": "2026-01-01T12:00:00Z", "fingerprint": "f"}
    return {"version": "4", "groupKey": "g", "receiver": "page", "status": "firing", "alerts": [alert]}
