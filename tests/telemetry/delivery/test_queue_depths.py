"""Queues in front of sockets: found by what their tasks do, or declared; their depth is told."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from typing import Any

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError

FRAME = {"type": "websocket.send", "text": "{}"}


class Service:
    """Each connection has an outbox that a writer task empties into its socket, as most services do; `gate` holds the writers."""

    def __init__(self, monitor: Any) -> None:
        self.outboxes: list[asyncio.Queue[Any]] = []
        self.jobs: asyncio.Queue[Any] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()
        self.app = monitor.instrument(self.serve)

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        self.outboxes.append(outbox)

        async def write() -> None:
            while True:
                await self.gate.wait()
                await send(await outbox.get())

        writer = asyncio.create_task(write())
        try:
            while (message := await receive())["type"] == "websocket.receive":
                # A job queue of the service's own, whose taker sends nothing.
                self.jobs.put_nowait(message)
                await self.jobs.get()
                outbox.put_nowait(FRAME)
        finally:
            writer.cancel()


async def serving(make_monitor: Any, socket: Any) -> tuple[Any, Service, Any]:
    monitor = make_monitor()
    service = Service(monitor)
    monitor.serving()
    return monitor, service, await socket(service.app, "ann")


def depth(monitor: Any, name: str) -> float:
    monitor.queue_depths.tick(0)
    return float(monitor.registry.value(names.QUEUE_DEPTH_MAX, queue=name))


async def test_a_queue_whose_task_sends_what_it_takes_is_found_without_a_declaration(make_monitor, socket, samples) -> None:
    monitor, service, ann = await serving(make_monitor, socket)
    ann.say({})
    await ann.hear()
    assert depth(monitor, "socket") == 0

    service.gate.clear()
    for _ in range(5):
        ann.say({})
    # One more is in the writer's hands: it waits for the gate only before its next one.
    deadline = time.monotonic() + 30
    while service.outboxes[0].qsize() < 4:
        assert time.monotonic() < deadline
        await asyncio.sleep(0)

    assert depth(monitor, "socket") >= 4
    assert samples(monitor, "isolation_queue_depth_count", queue="socket") == 2
    assert [one() for one, _ in monitor.queue_depths._known.values()] == service.outboxes, "neither the job queue nor the client's inbox"
    service.gate.set()
    await ann.leave()


async def test_queues_that_are_gone_are_forgotten(make_monitor, socket) -> None:
    monitor, service, ann = await serving(make_monitor, socket)
    ann.say({})
    await ann.hear()
    await ann.leave()
    assert len(monitor.queue_depths._known) == 1

    service.outboxes.clear()
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()

    assert not monitor.queue_depths._known


async def test_declared_queues_of_every_kind_are_told_by_their_names(make_monitor) -> None:
    monitor = make_monitor()
    outbox: asyncio.PriorityQueue[int] = asyncio.PriorityQueue()
    waiting = deque([1, 2])
    outbox.put_nowait(1)
    monitor.queue("outbox", outbox)
    monitor.queue("waiting", waiting)
    monitor.queue("jobs", lambda: 7)

    assert [depth(monitor, name) for name in ("outbox", "waiting", "jobs")] == [1, 2, 7]


async def test_a_length_that_fails_harms_nobody(make_monitor) -> None:
    monitor = make_monitor()
    monitor.queue("broken", lambda: 1 // 0)
    monitor.queue("jobs", lambda: 7)

    assert depth(monitor, "jobs") == 7
    assert monitor.registry.value(names.MONITOR_ERRORS, hook="run") == 1


def test_what_is_no_queue_is_refused_at_start(make_monitor) -> None:
    with pytest.raises(SettingsError, match="list"):
        make_monitor().queue("outbox", [])
