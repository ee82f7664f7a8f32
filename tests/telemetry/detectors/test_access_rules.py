"""Access rules: answers about shared resources to users who may not see them, under real FastAPI requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request, WebSocket

from isolation_monitor.telemetry import IsolationMonitor, SettingsError, names


class Rooms:
    """A service of rooms whose endpoints forget, on some paths, to ask who is a member."""

    def __init__(self, monitor: IsolationMonitor, client: Callable[[Any], Any]) -> None:
        self.monitor = monitor
        self.members = {"r1": {"ann"}, "r2": {"bob"}}
        monitor.shared("room_id", access=self.may_see)
        app = FastAPI()

        @app.get("/rooms/{room_id}")
        async def read(room_id: str) -> dict[str, str]:
            return {"room": room_id}

        @app.get("/checked/{room_id}")
        async def read_checked(room_id: str, request: Request) -> dict[str, str]:
            if "ann" not in self.members[room_id]:
                raise HTTPException(403)
            return {"room": room_id}

        @app.get("/search")
        async def search(room_id: str) -> list[str]:
            return [room_id]

        @app.post("/messages")
        async def write(request: Request) -> str:
            await request.json()
            return "sent"

        @app.post("/join")
        async def join(request: Request) -> str:
            self.members[(await request.json())["room_id"]].add("ann")
            return "welcome"

        @app.post("/leave")
        async def leave(request: Request) -> str:
            self.members[(await request.json())["room_id"]].discard("ann")
            return "good-bye"

        @app.websocket("/ws/{room_id}")
        async def enter(socket: WebSocket, room_id: str) -> None:
            await socket.accept()
            await socket.receive_text()

        self.app = monitor.instrument(app)
        self.client = client(self.app)

    def may_see(self, user: str, room: str) -> bool:
        return user in self.members[room]

    def found(self) -> list[Any]:
        return [one for one in self.monitor.violations() if one.kind == names.UNSCOPED_ACCESS]


@pytest.fixture
def rooms(monitor: IsolationMonitor, client: Callable[[Any], Any]) -> Rooms:
    return Rooms(monitor, client)


async def test_a_room_that_is_not_his_is_reported_when_its_answer_starts(rooms: Rooms, samples: Callable[..., float]) -> None:
    await rooms.client.get("/rooms/r1", user="ann")
    assert rooms.found() == []

    await rooms.client.get("/rooms/r2", user="ann")

    (violation,) = rooms.found()
    assert violation.grade == "reachable"
    assert violation.summary == "GET /rooms/{room_id} answered about a room_id that its user may not see"
    assert violation.offender.principal == rooms.monitor.principals.named("ann").hash
    assert "may_see" in violation.resource.detail["rule"]
    assert rooms.monitor.registry.value(names.CHECKS, detector=names.UNSCOPED_ACCESS, result="pass") == 1


async def test_what_the_application_refuses_is_no_violation(rooms: Rooms) -> None:
    answer = await rooms.client.get("/checked/r2", user="ann")

    assert answer.status == 403
    assert rooms.found() == []


async def test_a_read_may_name_it_in_the_query(rooms: Rooms, client: Callable[[Any], Any]) -> None:
    async def with_query(scope: Any, receive: Any, send: Any) -> None:
        await rooms.app({**scope, "query_string": b"room_id=r2"}, receive, send)

    await client(with_query).get("/search", user="ann")

    assert len(rooms.found()) == 1


async def test_a_write_is_judged_by_what_its_body_names(rooms: Rooms) -> None:
    await rooms.client.post("/messages", user="ann", json={"room_id": "r1", "text": "hello"})
    assert rooms.found() == []

    await rooms.client.post("/messages", user="ann", json={"room_id": "r2", "text": "hello"})

    assert len(rooms.found()) == 1


@pytest.mark.parametrize(("path", "room"), [("/join", "r2"), ("/leave", "r1")])
async def test_requests_that_change_who_has_access_are_right(rooms: Rooms, path: str, room: str) -> None:
    answer = await rooms.client.post(path, user="ann", json={"room_id": room})

    assert answer.status == 200
    assert rooms.found() == []


async def test_a_handshake_is_judged_when_it_is_accepted(rooms: Rooms) -> None:
    from tests.telemetry.conftest import Socket

    socket = await Socket(rooms.app, "ann", "/ws/r2").accepted()

    assert len(rooms.found()) == 1
    await socket.leave()


async def test_a_rule_that_fails_accuses_nobody_and_is_counted(rooms: Rooms) -> None:
    answer = await rooms.client.get("/rooms/unknown", user="ann")

    assert answer.status == 200
    assert rooms.found() == []
    assert rooms.monitor.registry.value(names.MONITOR_ERRORS, hook="detector") == 1


async def test_in_block_mode_the_answer_is_withheld(make_monitor: Callable[..., IsolationMonitor], client: Callable[[Any], Any]) -> None:
    rooms = Rooms(make_monitor(detectors="unscoped_access=block"), client)

    answer = await rooms.client.get("/rooms/r2", user="ann")

    assert answer.status == 500
    assert b"r2" not in answer.body
    assert (await rooms.client.get("/rooms/r1", user="ann")).status == 200


async def test_bodies_that_are_no_objects_name_nothing(rooms: Rooms) -> None:
    for body in (["room_id"], "room_id", None, [[1, 2, 3]]):
        await rooms.client.post("/messages", user="ann", json=body)

    assert rooms.found() == []
    assert rooms.monitor.registry.value(names.MONITOR_ERRORS, hook="detector") == 0


async def _waits(_user: str, _value: str) -> bool:
    return True


@pytest.mark.parametrize(
    ("parameter", "access", "message"),
    [
        ("", lambda user, value: True, "name the path parameter"),
        ("room_id", lambda user, value: True, "declared already"),
        ("doc_id", _waits, "waits for nothing"),
        ("doc_id", "everybody", "plain function"),
        ("doc_id", lambda user: True, r"cannot be called with \(user id, value\)"),
    ],
)
def test_a_wrong_rule_is_refused_with_what_to_pass(rooms: Rooms, parameter: str, access: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        rooms.monitor.shared(parameter, access=access)
