"""The Python client against a real uvicorn: cuts, slow reading, and both sides' numbers to the event."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from isolation_monitor.client import DeliveryClient, Event
from tests.telemetry.delivery.conftest import Pusher, eventually

SETTLED = "isolation_events_settled_total"
ANN = {"authorization": "Bearer ann"}


def listening(client: DeliveryClient, events: list[Event], each: Callable[[], Any] = lambda: None) -> asyncio.Task[None]:
    async def listen() -> None:
        async for event in client:
            events.append(event)
            each()

    return asyncio.create_task(listen())


async def test_events_arrive_once_in_order_and_acknowledged_over_many_cuts(monitor, samples, serve) -> None:
    """The TCP connection is closed hard again and again while events are on their way."""
    service = Pusher(monitor)
    url = await serve(service.app)
    events: list[Event] = []
    chance = random.Random(7)
    async with DeliveryClient(url, headers=ANN, first_pause_s=0.01) as client:
        task = listening(client, events)
        await eventually(lambda: service.sends.get("ann"), "the application accepted")
        for n in range(500):
            # Always to the first connection, as a run does that began there.
            await service.push("ann", {"n": n}, of=0)
            if n % 50 == 25 and client.socket is not None:
                client.socket.transport.abort()
            if chance.random() < 0.2:
                await asyncio.sleep(0.002)
        await eventually(lambda: len(events) == 500, "all events arrive")
        await eventually(lambda: samples(monitor, SETTLED) == 500, "all are settled")
    await task

    assert [json.loads(event.data)["n"] for event in events] == list(range(500))
    assert client.report.connections > 5
    assert (client.report.gaps, client.report.disorder, client.report.lost) == (0, 0, 0)
    acknowledged, replayed = (samples(monitor, SETTLED, outcome=outcome) for outcome in ("acknowledged", "replayed"))
    assert acknowledged + replayed == client.report.events == 500
    assert replayed > 0
    assert samples(monitor, "isolation_monitor_errors_total") == 0


async def test_a_slow_reader_gets_everything(monitor, samples, serve) -> None:
    service = Pusher(monitor)
    client = DeliveryClient(await serve(service.app), headers=ANN, max_queue=1, compression=None)
    events = []
    listening_to = client.__aiter__()
    first = asyncio.create_task(anext(listening_to))
    await eventually(lambda: service.sends.get("ann"), "the application accepted")
    pushing = asyncio.create_task(service.push("ann", *({"n": n, "text": "x" * 50_000} for n in range(400))))
    await eventually(lambda: samples(monitor, "isolation_user_queue_bytes_max") > 1_000_000, "the queue is seen to grow")
    assert not pushing.done(), "the server waits for the client, not the memory"

    events.append(await first)
    while len(events) < 400:
        events.append(await anext(listening_to))
    await pushing
    await client.close()

    assert [json.loads(event.data)["n"] for event in events] == list(range(400))
    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 400, "all are acknowledged")


async def test_what_the_client_sends_reaches_the_application_alone(monitor, serve) -> None:
    service = Pusher(monitor)
    async with DeliveryClient(await serve(service.app), headers=ANN) as client:
        task = listening(client, [])
        await client.send("a question")
        await eventually(lambda: service.received, "it arrives")
    await task

    assert service.received == ["a question"]


async def test_a_refused_handshake_is_an_error_and_not_tried_again(serve) -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await receive()
        await send({"type": "websocket.close"})

    with pytest.raises(InvalidStatus):
        async for _ in DeliveryClient(await serve(refuses)):
            pass


async def test_without_a_service_the_client_that_does_not_reconnect_fails() -> None:
    with pytest.raises(OSError):
        async for _ in DeliveryClient("ws://127.0.0.1:9/ws", reconnects=False):
            pass
