"""Forgetting a user: nothing of this user stays anywhere, everything of the others does, and it may be asked for again and again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import text

from isolation_monitor.collector.affected import Affected
from isolation_monitor.collector.storage.models import Base
from isolation_monitor.collector.subjects.domain import violation_without
from isolation_monitor.telemetry.principals import PrincipalHasher
from tests.collector.conftest import READ, SEND, Api, bearer
from tests.collector.test_records import run_record
from tests.collector.test_violation_counts import counted, recounted

ANN, BOB = "a1b2c3d4e5f60718", "18070f6e5d4c3b2a"


@pytest.fixture
async def api(make_api: Callable[..., Any], database_url: str) -> AsyncIterator[Api]:
    """A collector whose reading token was made to operate too."""
    async with make_api(database_url, operate_token=READ) as running:
        yield running


async def forget(api: Api, principal: str = ANN, token: str = READ) -> dict[str, Any]:
    path: str | None = f"/v1/subjects/{principal}?actor=dpo"
    while path is not None:
        answer = await api.client.delete(path, headers=bearer(token))
        assert answer.status_code == 200, answer.text
        path = answer.json()["next"]
    return dict(answer.json())


async def everything(api: Api) -> str:
    """Return all that the store holds, as text."""
    rows = []
    async with api.app.state.runtime.database.reading() as connection:
        for table in Base.metadata.tables.values():
            rows += [str(tuple(row)) for row in await connection.execute(table.select())]
    return "\n".join(rows)


async def test_nothing_of_the_user_stays_and_the_other_side_keeps_its_evidence(api: Api) -> None:
    ann = api.side(ANN) | {"request_id": "request-of-ann", "run_id": "run-of-ann", "events": [{"what": "entered"}], "nickname": "Annie"}
    both = api.violation(
        id="both", victim=ann, offender=api.side(BOB), detail={"runs": ["run-of-ann"], "of": ANN}, summary=f"{ANN} met {BOB}"
    )
    many = api.violation(id="many", victim=api.side(BOB), offender=None) | {"affected": {"hashes": [ANN, BOB], "active": 2}}
    await api.send(both, many, api.violation(id="alone", victim=ann, offender=None), api.violation(id="self", victim=ann, offender=ann))
    await api.send(api.escalation("alone"), api.violation(id="others", victim=api.side(BOB), offender=api.side("c" * 16)))
    await api.send(
        run_record("mine") | {"principal": ANN}, run_record("not-mine") | {"principal": BOB}, {**run_record("x"), "type": "new", "who": ANN}
    )

    answer = await forget(api)

    assert (answer["removed"], answer["changed"]) == (5, 2), "alone, its escalation, self, the run, the unknown record; both and many"
    kept = (await api.get("/v1/violations/both")).json()
    stored = await everything(api)
    assert not any(found in stored for found in (ANN, "run-of-ann", "request-of-ann", "Annie"))
    assert kept["victim"] == {"principal": None, "forgotten": True, "route": "/ws", "transport": "websocket", "stack": ann["stack"]}
    assert kept["offender"]["principal"] == BOB
    assert kept["detail"] == {"runs": ["forgotten"], "of": "forgotten"}
    assert await api.stored_ids() == {"both", "many", "others"}
    assert [item["id"] for item in (await api.get("/v1/runs")).json()["items"]] == ["not-mine"]
    assert await counted(api) == await recounted(api)


async def test_forgetting_again_finds_nothing_and_is_noted_without_a_name(api: Api) -> None:
    await api.send(api.violation(id="v", victim=api.side(ANN), offender=None))

    first = await forget(api)
    api.clock.advance(60)
    second = await forget(api)
    noted = (await api.get("/v1/forgettings")).json()["items"]

    assert (first["removed"], second["removed"], second["changed"]) == (1, 0, 0)
    assert [(item["actor"], item["removed"]) for item in noted] == [("dpo", 0), ("dpo", 1)]
    assert noted[0]["subject"] == noted[1]["subject"]
    assert ANN not in json.dumps(noted)
    assert all(item["finished_at"] for item in noted)


async def test_a_cursor_of_another_forgetting_and_what_is_no_hash_are_refused(api: Api) -> None:
    started = await forget(api)
    other = await api.client.delete(f"/v1/subjects/{BOB}?actor=dpo&cursor={started['id']}.2026-01-01", headers=bearer(READ))
    odd = await api.client.delete("/v1/subjects/ann%25?actor=x", headers=bearer(READ))

    assert (other.status_code, odd.status_code) == (422, 422)
    assert (await api.client.delete(f"/v1/subjects/{ANN}?actor=x", headers=bearer(SEND))).status_code == 403
    nobody = [await api.client.delete(f"/v1/subjects/{ANN}{query}", headers=bearer(READ)) for query in ("", "?actor=")]
    assert [answer.status_code for answer in nobody] == [422, 422]


async def test_a_token_that_operates_only_because_no_other_does_forgets_nobody(make_api: Callable[..., Any], sqlite_url: str) -> None:
    """What reads evidence must not destroy it because a setting was left out; rollouts it may take back all the same."""
    async with make_api(sqlite_url) as api:
        await api.send(api.violation(id="kept"))
        answer = await api.client.delete(f"/v1/subjects/{ANN}?actor=dpo", headers=bearer(READ))

        assert answer.status_code == 403
        assert "only because no token was made for that" in answer.json()["detail"]
        assert await api.stored_ids() == {"kept"}
        assert (await api.apply()).status_code == 201


@pytest.mark.parametrize("word", ["principal", "20260101", "service_name_abc", "A1B2C3D4E5F60718", "a1b2c3d4e5f607180", "a1b2c3d4e5f6071"])
async def test_a_word_is_no_hash_and_changes_nothing(api: Api, word: str) -> None:
    """Replaced as text, a name of a field would be gone from all evidence, and no backup of it is here."""
    await api.send(api.violation(id="v", summary=f"{word} was seen"))
    before = await everything(api)

    answer = await api.client.delete(f"/v1/subjects/{word}", headers=bearer(READ))

    assert (answer.status_code, await everything(api)) == (422, before)


def test_the_names_of_fields_stay_even_where_an_id_is_one_of_them() -> None:
    side = {"principal": ANN, "run_id": "kind", "request_id": None}
    row = {
        "victim": side, "offender": {"principal": BOB}, "summary": "", "resource": None,
        "detail": {"kind": "kind", ANN: 1, "of": [f"user:{ANN}"]}, "extra": {},
    }  # fmt: skip

    changed = violation_without(ANN, row)

    assert changed is not None
    assert changed["detail"] == {"kind": "forgotten", "forgotten": 1, "of": ["user:forgotten"]}


async def test_one_pass_takes_the_hash_out_of_what_a_side_says_of_code(api: Api) -> None:
    ann = api.side(ANN) | {"route": f"/users/{ANN}", "endpoint": f"user_{ANN}", "stack": [f"rooms/{ANN}.py:1 join"]}
    await api.send(api.violation(id="v", victim=ann, offender=api.side(BOB)))

    await forget(api)

    assert ANN not in await everything(api)
    side = (await api.get("/v1/violations/v")).json()["victim"]
    assert (side["route"], side["endpoint"], side["stack"]) == ("/users/forgotten", "user_forgotten", ["rooms/forgotten.py:1 join"])


def test_who_was_forgotten_is_not_counted_as_a_user() -> None:
    affected = Affected()

    affected.add({"principal": BOB, "run_id": "forgotten"}, None, {"affected": {"hashes": ["forgotten", BOB]}})

    assert (affected.principals, affected.runs) == ({BOB}, set())


async def test_a_forgetting_goes_on_where_its_cursor_says(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request works for a few seconds: with none at all, each one does one day."""
    monkeypatch.setattr("isolation_monitor.collector.subjects.service._SLICE_S", -1.0)
    for day in (1, 2, 3):
        await api.send(api.violation(id=f"v-{day}", time=f"2025-12-2{day}T00:00:00Z", victim=api.side(ANN), offender=None))

    first = (await api.client.delete(f"/v1/subjects/{ANN}?actor=dpo", headers=bearer(READ))).json()
    left = await api.stored_ids()
    last = await forget(api)

    assert first["next_cursor"].endswith(".2025-12-21")
    assert left == {"v-2", "v-3"}
    assert last["removed"] == 2
    assert await api.stored_ids() == set()


def test_the_commands_hash_is_the_services(tmp_path: Any) -> None:
    from isolation_monitor.cli.forget import _subject

    key = tmp_path / "key"
    key.write_text("secret-key\n")

    assert _subject(None, "4711", key) == PrincipalHasher("secret-key").hash("4711")


async def test_the_store_says_nothing_of_it_in_its_own_list(api: Api) -> None:
    await forget(api)

    async with api.app.state.runtime.database.reading() as connection:
        (subject,) = (await connection.execute(text("SELECT subject FROM forgettings"))).scalars()
    assert ANN not in subject
