"""What looks like consent and is none: constants that all clients send, answers to what one was wrongly shown, marks of other things."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from fastapi import FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.detectors.authors import ITEM_LIMIT, Authors, names_in
from isolation_monitor.telemetry.detectors.foreign_content import PATIENCE_TIMES
from tests.telemetry.conftest import Client

USERS = ("u-ann-4711", "u-bob-0815", "u-cid-9000")


def chat(*, kept_with: dict[str, Any] | None = None) -> FastAPI:
    """A chat that tells everybody what was said last, by whomever: the bug."""
    app, last = FastAPI(), {}

    @app.post("/chat")
    async def say(request: Request) -> dict[str, Any]:
        before = dict(last)
        last.update(id=uuid.uuid4().hex, text=(await request.json())["say"], **(kept_with or {}))
        return {"id": last["id"], "previous": before}

    @app.post("/seen")
    async def seen(request: Request) -> dict[str, Any]:
        await request.json()
        return {}

    return app


async def crossings(monitor: IsolationMonitor, app: FastAPI, *, acknowledges: bool = False, **constant: str) -> int:
    client = Client(monitor.instrument(app))
    for _ in range(3):
        for user in USERS:
            said = {"say": f"my diagnosis {uuid.uuid4().hex}", **constant}
            answer = (await client.post("/chat", user=user, json=said)).json()
            if acknowledges and answer["previous"]:
                await client.post("/seen", user=user, json={"message": answer["previous"]["id"]})
    await asyncio.to_thread(monitor.detection.settle)
    return sum(one.kind == names.FOREIGN_CONTENT and one.grade == "crossed" for one in monitor.violations())


@pytest.mark.parametrize(
    ("kept_with", "acknowledges", "constant"),
    [
        ({}, False, {}),
        ({}, False, {"client": "build-8f3a9c41d0"}),
        ({}, True, {}),
        ({"visible": True}, False, {}),
        ({"filter": "all"}, False, {}),
    ],
)
async def test_a_leak_is_seen_whatever_clients_send_and_rows_are_marked_with(
    monitor: IsolationMonitor, kept_with: dict[str, Any], constant: dict[str, str], *, acknowledges: bool
) -> None:
    assert await crossings(monitor, chat(kept_with=kept_with), acknowledges=acknowledges, **constant)


def test_a_list_of_many_is_not_read_again_for_each_value_in_it() -> None:
    secret = "private-" + uuid.uuid4().hex
    text = json.dumps({"notes": [f"{secret}-{n:04}" for n in range(200)], "author": "somebody"})
    authors = Authors()
    authors.is_known_as("somebody", USERS[0])

    assert len(text) > ITEM_LIMIT
    assert names_in(text, f"{secret}-0100") == []
    assert not authors.name("/notes", text, f"{secret}-0100", USERS[0])


def test_a_name_signs_in_a_field_for_authors_alone() -> None:
    authors = Authors()
    authors.is_known_as("somebody", USERS[0])

    assert authors.sign('{"author": "somebody", "text": "x"}', USERS[0])
    assert not authors.sign('{"role": "somebody", "text": "x"}', USERS[0])


async def test_what_waits_is_judged_when_the_monitor_closes(make_monitor: Any) -> None:
    monitor = make_monitor()
    client = Client(monitor.instrument(chat()))
    for user in USERS[:2]:
        await client.post("/chat", user=user, json={"say": f"my diagnosis {uuid.uuid4().hex}"})

    await monitor.aclose()

    assert [one.grade for one in monitor.ledger.recent if one.kind == names.FOREIGN_CONTENT] == ["crossed"]


async def test_a_last_look_that_fails_neither_raises_nor_loses_what_waits(make_monitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = make_monitor()
    client = Client(monitor.instrument(chat()))

    def fail(_until: float) -> None:
        raise RuntimeError("no walk")

    monkeypatch.setattr(monitor.detection.shared_state, "look_now", fail)
    monkeypatch.setattr(monitor.detection.shared_state, "look_again", lambda: True)
    for user in USERS[:2]:
        await client.post("/chat", user=user, json={"say": f"my diagnosis {uuid.uuid4().hex}"})

    await monitor.aclose()

    assert [one.grade for one in monitor.ledger.recent if one.kind == names.FOREIGN_CONTENT] == ["crossed"]


@pytest.mark.parametrize("is_held_up", [True, False])
async def test_a_walk_that_others_hold_up_is_awaited_for_longer(
    make_monitor: Any, monkeypatch: pytest.MonkeyPatch, *, is_held_up: bool
) -> None:
    monkeypatch.setattr("isolation_monitor.telemetry.detectors.foreign_content.PATIENCE_S", 0.05)
    monitor = make_monitor()
    client, content, asked = Client(monitor.instrument(chat())), monitor.detection.foreign_content, []
    monitor.detection.shared_state.on_walked.clear()
    content.look_again = lambda: True
    content.is_held_up = lambda: asked.append(1) is None and is_held_up

    for user in USERS[:2]:
        await client.post("/chat", user=user, json={"say": f"my diagnosis {uuid.uuid4().hex}"})
    async with asyncio.timeout(30):
        while not any(one.kind == names.FOREIGN_CONTENT for one in monitor.ledger.recent):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)

    assert len(asked) == (PATIENCE_TIMES - 1 if is_held_up else 1)
