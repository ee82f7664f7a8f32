"""hypercorn: its connections tell of pongs, too, and of nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config

from tests.real_parts.processes import free_port
from tests.telemetry.delivery.conftest import Pusher, eventually, is_let_go

SETTLED = "isolation_events_settled_total"
RUNGS = "isolation_event_rungs_total"


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    running: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    async def start(app: Any, **options: Any) -> str:
        config = Config.from_mapping(bind=[f"127.0.0.1:{free_port()}"], errorlog=None, graceful_timeout=1, **options)
        stopped = asyncio.Event()
        running.append((stopped, asyncio.create_task(hypercorn_serve(app, config, shutdown_trigger=stopped.wait))))
        return f"ws://{config.bind[0]}/ws"

    yield start
    for stopped, task in running:
        stopped.set()
        await task


async def connected(service: Pusher, url: str, dial: Any) -> Any:
    for _ in range(200):
        try:
            peer = await dial(url, asks=False)
            break
        except OSError:
            await asyncio.sleep(0.05)
    await eventually(lambda: service.sends.get("ann"), "the application accepted")
    return peer


async def test_events_are_acknowledged_by_pongs(monitor, samples, serve, dial) -> None:
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app), dial)

    await service.push("ann", "plain", {"n": 1})
    assert await ann.hear_text() == "plain"

    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged", highest="pong_acked") == 2, "the pong came")
    for rung in ("emitted", "sent", "pong_acked"):
        assert samples(monitor, RUNGS, rung=rung) == 2, rung
    assert samples(monitor, RUNGS, rung="kernel_acked") == 0
    await service.push("ann", {"n": 2})
    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 3, "the next one, too")
    assert samples(monitor, "isolation_monitor_errors_total") == 0
    assert any(patch.library == "hypercorn" and patch.active for patch in monitor.patches)


async def test_its_own_pings_go_on(monitor, samples, serve, dial) -> None:
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app, websocket_ping_interval=0.05), dial)

    for n in range(10):
        await service.push("ann", {"n": n})
        await ann.hear()
        await asyncio.sleep(0.05)

    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 10, "all are acknowledged")


async def test_a_client_that_reads_nothing_is_not_counted_as_reached(make_monitor, samples, serve, dial) -> None:
    monitor = make_monitor(delivery_wait_s=1)
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app), dial)
    ann.socket.transport.pause_reading()

    await service.push("ann", {"n": 1})

    await eventually(lambda: samples(monitor, SETTLED) == 1, "the deadline passed")
    assert samples(monitor, SETTLED, outcome="unknown") == 1
    # An answer that comes now is the first ping's, and settles nothing of the second.
    ann.socket.transport.resume_reading()
    await service.push("ann", {"n": 2})
    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 1, "the next event is settled")
    assert samples(monitor, SETTLED) == 2


async def test_a_connection_that_is_cut_leaves_its_events_unknown(monitor, samples, serve, dial) -> None:
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app), dial)
    ann.socket.transport.pause_reading()
    await service.push("ann", {"n": 1})

    ann.cut()

    await eventually(lambda: samples(monitor, SETTLED, outcome="unknown") == 1, "nobody knows")


async def test_a_client_that_left_without_an_answer_is_let_go(monitor, serve, dial) -> None:
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app), dial)

    assert await is_let_go(service, ann, "_stream")


async def test_uninstrumented_it_is_hypercorns_own_again(monitor, serve) -> None:
    from hypercorn.protocol.ws_stream import WSStream

    from isolation_monitor.telemetry.instrument import hypercorn_pongs

    before = vars(WSStream)["_accept"]
    Pusher(monitor)
    assert vars(WSStream)["_accept"] is not before or before.__module__ == hypercorn_pongs.__name__

    monitor.close()

    assert vars(WSStream)["_accept"].__module__ == WSStream.__module__
