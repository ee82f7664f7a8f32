"""python-socketio under the two lines: its own server and its own client, over a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import socketio

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.delivery.socketio import PENDING_LIMIT, SocketIO, event_of, is_socketio
from tests.telemetry.delivery.conftest import eventually

SETTLED = "isolation_events_settled_total"
RUNGS = "isolation_event_rungs_total"
RUN = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")


class Rooms:
    """A server that knows its users by what they say when they connect, as most do."""

    def __init__(self, monitor: Any) -> None:
        self.io = socketio.AsyncServer(async_mode="asgi")
        self.sids: dict[str, str] = {}
        self.io.on("connect", self.connected)
        monitor.principal(lambda scope: scope.get("user"))
        self.app = monitor.instrument(socketio.ASGIApp(self.io))

    async def connected(self, sid: str, environ: Any, auth: Any) -> None:
        environ["asgi.scope"]["user"] = auth["user"]
        self.sids[auth["user"]] = sid


@pytest.fixture
async def join(serve) -> AsyncIterator[Callable[..., Any]]:
    clients: list[socketio.AsyncClient] = []
    addresses: dict[int, str] = {}

    async def join(rooms: Rooms, user: str, *, answers: bool = True, heard: list[Any] | None = None) -> socketio.AsyncClient:
        if id(rooms) not in addresses:
            addresses[id(rooms)] = (await serve(rooms.app)).removeprefix("ws").removesuffix("/ws")
        client = socketio.AsyncClient()

        async def on_any(event: str, data: Any) -> str:
            if heard is not None:
                heard.append((event, data))
            if not answers:
                await asyncio.Event().wait()
            return "thanks"

        client.on("*", on_any)
        await client.connect("http" + addresses[id(rooms)], auth={"user": user}, transports=["websocket"])
        await eventually(lambda: user in rooms.sids, f"{user} is in")
        clients.append(client)
        return client

    yield join
    for client in clients:
        await client.disconnect()


async def test_an_event_with_a_callback_is_acknowledged_by_the_client_every_other_by_its_pong(monitor, samples, join) -> None:
    rooms, heard, thanks = Rooms(monitor), [], []
    await join(rooms, "ann", heard=heard)

    await rooms.io.emit("news", {"n": 1}, to=rooms.sids["ann"], callback=thanks.append)
    await rooms.io.emit("news", {"n": 2}, to=rooms.sids["ann"])
    assert await rooms.io.call("question", {"n": 3}, to=rooms.sids["ann"]) == "thanks"

    await eventually(lambda: samples(monitor, SETTLED) == 3, "all are settled")
    assert (len(heard), thanks) == (3, ["thanks"])
    assert samples(monitor, SETTLED, outcome="acknowledged", highest="client_acked") == 2
    assert samples(monitor, SETTLED, outcome="acknowledged", highest="pong_acked") == 1
    for rung in ("emitted", "sent", "pong_acked", "client_acked"):
        assert samples(monitor, RUNGS, rung=rung, highest="client_acked") == 2, rung
    # The packets of the protocol itself, of the handshake for one, are no events.
    assert samples(monitor, RUNGS, rung="emitted") == 3
    assert samples(monitor, "isolation_event_deliveries_total", result="delivered") == 3
    assert samples(monitor, "isolation_monitor_errors_total") == 0


async def test_a_client_whose_code_never_answers_is_unknown_and_so_is_one_that_leaves(make_monitor, samples, join) -> None:
    monitor = make_monitor(delivery_wait_s=1)
    rooms = Rooms(monitor)
    client = await join(rooms, "ann", answers=False)

    await rooms.io.emit("news", {"n": 1}, to=rooms.sids["ann"], callback=print)
    await eventually(lambda: samples(monitor, SETTLED, outcome="unknown", highest="client_acked") == 1, "the deadline passed")
    await rooms.io.emit("news", {"n": 2}, to=rooms.sids["ann"], callback=print)
    await eventually(lambda: samples(monitor, RUNGS, rung="sent", highest="client_acked") == 2, "the second is on its way")
    await client.disconnect()

    await eventually(lambda: samples(monitor, SETTLED, outcome="unknown", highest="client_acked") == 2, "nobody knows")
    assert samples(monitor, SETTLED) == 2
    assert samples(monitor, "isolation_event_deliveries_total", result="delivered") == 0


async def test_a_runs_events_are_known_by_their_names(make_monitor, samples, join) -> None:
    # The server's writer is a task of its own: the last event leaves after the run's block.
    monitor = make_monitor(settle_s=5)
    rooms = Rooms(monitor)
    heard: list[Any] = []
    await join(rooms, "ann", heard=heard)

    with monitor.run("run-7", owner="ann") as run:
        for event in RUN:
            run.emit(event)
            await rooms.io.emit(event, {"run_id": "run-7"}, to=rooms.sids["ann"])

    await eventually(lambda: samples(monitor, "isolation_run_verdicts_total", verdict="complete_in_order") == 1, "judged")
    await eventually(lambda: len(heard) == len(RUN), "the client has them all")
    assert [event for event, _ in heard] == list(RUN)
    assert all(one.grade == "hygiene" for one in monitor.violations()), "a machine under load may stall the loop"


async def test_an_event_for_nobody_in_particular_reaches_everybody_and_is_seen(monitor, join) -> None:
    """`to=None`, as of a user whose socket is not known any more, means all."""
    rooms = Rooms(monitor)
    await join(rooms, "ann")
    heard: list[Any] = []
    ben = await join(rooms, "ben", heard=heard)

    with monitor.run("run-8", owner="ann") as run:
        run.emit("agent_started")
        await rooms.io.emit("agent_started", {"run_id": "run-8"}, to=rooms.sids.get("anne"))
        await eventually(lambda: heard, "ben has it")

    assert ben.connected
    [violation] = [one for one in monitor.violations() if one.kind == names.WRONG_SOCKET]
    assert violation.grade == "crossed"
    assert violation.victim.principal == monitor.principals.named("ann").hash
    assert violation.offender.principal == monitor.principals.named("ben").hash


@pytest.mark.parametrize(
    ("packet", "event"),
    [
        ('42["news",{"n":1}]', "news"),
        ('4217["news"]', "news"),
        ('42/admin,17["news",{}]', "news"),
        ('451-["picture",{"_placeholder":true,"num":0}]', "picture"),
        ('40{"sid":"x"}', ""),
        ('4317["thanks"]', ""),
        ("2", ""),
        ('{"event":"news"}', ""),
        ('42{"no":"array"}', ""),
        ("", ""),
    ],
)
def test_the_name_of_an_event_is_the_first_item_of_its_packet(packet: str, event: str) -> None:
    assert event_of(packet) == event


@pytest.mark.parametrize(
    ("query", "expected"),
    [(b"EIO=4&transport=websocket&sid=x", True), (b"EIO=4&transport=polling", False), (b"transport=websocket", False), (b"", False)],
)
def test_its_address_tells_a_connection_of_socketio(query: bytes, *, expected: bool) -> None:
    assert is_socketio({"query_string": query}) is expected


async def test_acknowledgements_that_nobody_gives_are_waited_for_within_bounds(monitor, samples) -> None:
    errors: list[BaseException] = []

    async def send(message: Any) -> None:
        return None

    async def receive() -> Any:
        return {"type": "websocket.receive", "text": '43/a,5["late"]'}

    socket = SocketIO(monitor.delivery.acknowledgements.ladder, 3_600.0, errors.append, receive, send, None)
    for number in range(PENDING_LIMIT + 10):
        await socket.send({"type": "websocket.send", "text": f'42/a,{number}["news"]'})
    await socket.send({"type": "websocket.send", "text": '42["news"]'})
    await socket.send({"type": "websocket.send", "bytes": b"a picture"})
    # Its own ten were given up: an answer to the fifth comes too late, and one to the twentieth does not.
    await socket.receive()

    assert samples(monitor, SETTLED, outcome="unknown") == 10
    assert samples(monitor, RUNGS, rung="client_acked") == 0
    assert samples(monitor, SETTLED, outcome="acknowledged", highest="sent") == 1
    socket.close()
    assert samples(monitor, SETTLED, outcome="unknown") == PENDING_LIMIT + 10
    assert not errors
