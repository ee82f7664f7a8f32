"""Deliveries by arm: events on measured connections count for what their request was given, whatever became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.delivery.acknowledgements import Acknowledgements
from isolation_monitor.telemetry.delivery.ladder import Ladder
from isolation_monitor.telemetry.delivery.retention import Limits, Retention
from isolation_monitor.telemetry.delivery.socketio import SocketIO
from isolation_monitor.telemetry.delivery.stream import Entry
from tests.telemetry.delivery.conftest import Pusher, dial, eventually, serve

__all__ = ["dial", "serve"]
"""Fixtures of the tests of delivery: a real uvicorn, real WebSocket clients."""


def deliveries(monitor: Any) -> dict[tuple[str, str], float]:
    found = {
        (result, arm): monitor.registry.value(names.EVENT_DELIVERIES, result=result, arm=arm)
        for result in ("delivered", "lost", "unknown")
        for arm in names.ARMS
    }
    return {which: n for which, n in found.items() if n}


@pytest.fixture
def service(monitor: Any) -> Pusher:
    """Answers each message with three frames; the message is given the arm that it names."""
    pusher = Pusher(monitor)

    async def answers(user: str) -> None:
        said = str(pusher.received[-1])
        if said in names.VARIANTS:
            monitor.flags.evaluated("checkout-v2", said, "SPLIT")
        await pusher.push(user, *({"n": n} for n in range(3)))

    pusher.answers = answers
    return pusher


async def test_events_that_a_client_acknowledges_have_the_arm_of_their_message(monitor, service, serve, dial):
    ann = await dial(await serve(service.app), "ann")
    await ann.welcomed()
    for said in ("on", "off", "on", "neither"):
        await ann.socket.send(said)
        for _ in range(3):
            frame = await ann.hear()
    await ann.tell(ack=frame["isolation"]["conn"])

    await eventually(lambda: sum(deliveries(monitor).values()) == 12, "all are settled")
    assert deliveries(monitor) == {("delivered", "on"): 6, ("delivered", "off"): 3, ("delivered", "none"): 3}


async def test_events_that_a_pong_acknowledges_have_the_arm_of_their_message(monitor, service, serve, dial):
    ann = await dial(await serve(service.app), "ann", asks=False)
    for said in ("on", "off", "neither"):
        await ann.socket.send(said)
        for _ in range(3):
            await ann.hear()

    await eventually(lambda: sum(deliveries(monitor).values()) == 9, "all are settled")
    assert deliveries(monitor) == {("delivered", "on"): 3, ("delivered", "off"): 3, ("delivered", "none"): 3}


async def test_an_event_of_a_run_has_the_arm_of_its_run_whoever_sends_it(monitor, service, serve, dial):
    """One writer task for all messages of a connection: its own context says nothing."""
    outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    writers: list[asyncio.Task[None]] = []

    async def write(user: str) -> None:
        while True:
            await service.push(user, await outbox.get())

    async def answers(user: str) -> None:
        said = str(service.received[-1])
        if said == "begin":
            writers.append(asyncio.create_task(write(user)))
            return
        monitor.flags.evaluated("checkout-v2", said, "SPLIT")
        async with monitor.run(f"run-{said}") as run:
            for event in ("agent_started", "agent_completed"):
                run.emit(event)
                outbox.put_nowait({"run_id": f"run-{said}", "type": event})

    service.answers = answers
    ann = await dial(await serve(service.app), "ann")
    await ann.welcomed()
    await ann.socket.send("begin")
    for said in ("on", "off"):
        await ann.socket.send(said)
        for _ in range(2):
            frame = await ann.hear()
    await ann.tell(ack=frame["isolation"]["conn"])

    await eventually(lambda: monitor.registry.value(names.EVENT_DELIVERIES, result="delivered", arm="off") == 2, "all are settled")
    assert monitor.registry.value(names.EVENT_DELIVERIES, result="delivered", arm="on") == 2
    for writer in writers:
        writer.cancel()


async def test_events_that_nobody_came_back_for_have_their_arm(monitor, service, serve, dial):
    ann = await dial(await serve(service.app), "ann")
    await ann.welcomed()
    await ann.socket.send("on")
    for _ in range(3):
        await ann.hear()
    ann.cut()
    await eventually(lambda: service.gone, "the service notices")
    monitor.delivery.close()

    assert deliveries(monitor) == {("unknown", "on"): 3}


class _Probe:
    """A connection whose peer has answered `ponged` pings."""

    has_kernel, has_pong = True, False

    def __init__(self) -> None:
        self.drained = False

    def is_drained(self) -> bool:
        return self.drained

    def ping(self, ponged: Callable[[], None]) -> bool:
        return False

    def is_gone(self) -> bool:
        return False

    def held_bytes(self) -> int:
        return 0


async def test_rows_of_arms_stay_bounded_and_no_event_is_lost_from_the_count(monitor, monkeypatch):
    from isolation_monitor.telemetry.delivery import acknowledgements

    monkeypatch.setattr(acknowledgements, "ROWS_LIMIT", 4)
    probe, arms = _Probe(), iter(["on", "off"] * 10)
    home = Acknowledgements(Ladder(monitor.registry), 60.0, lambda error: None)
    home.find_probe = lambda _: probe

    async def server(_: Any) -> None:
        return None

    acks = home.watch(server)
    acks.arm = lambda: next(arms)
    for _ in range(20):
        await acks.send({"type": "websocket.send", "text": "{}"})
    probe.drained = True
    acks.look(0.0, 60.0)

    assert len(acks._arms) == 0
    assert deliveries(monitor) == {("delivered", "on"): 2, ("delivered", "off"): 18}


async def test_events_whose_text_was_forgotten_keep_an_arm(monitor):
    ladder = Ladder(monitor.registry)
    retention = Retention(ladder, Limits(events=2), lambda error: None)

    async def server(_: Any) -> None:
        return None

    stream = retention.open(monitor.principals.named("ann"), server)
    for n in range(5):
        await stream.emit(Entry(f"e-{n}", ("{", "}", ""), 0.0, "on"))
    stream.acknowledge(5)

    assert deliveries(monitor) == {("delivered", "on"): 5}
    CURRENT.set(None)
    retention.close()


async def test_events_over_socketio_have_the_arm_of_their_request(monitor):
    async def server(_: Any) -> None:
        return None

    async def client() -> dict[str, Any]:
        return {"type": "websocket.receive", "text": "431[]"}

    rooms = SocketIO(Ladder(monitor.registry), 60.0, lambda error: None, client, server, None)
    arms = iter(["on", "off", "off"])
    rooms.arm = lambda: next(arms)
    for packet in ('421["asked"]', '422["asked"]', '42["handed over"]'):
        await rooms.send({"type": "websocket.send", "text": packet})
    await rooms.receive()
    rooms.close()

    assert deliveries(monitor) == {("delivered", "on"): 1, ("unknown", "off"): 1, ("delivered", "off"): 1}
