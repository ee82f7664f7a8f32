"""The rungs that need nothing of the client: the kernel's word and pongs, on uvicorn's own WebSocket implementations."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isolation_monitor.telemetry.instrument import patches
from tests.telemetry.delivery.conftest import Pusher, eventually, is_let_go

SETTLED = "isolation_events_settled_total"
RUNGS = "isolation_event_rungs_total"

# uvicorn's older implementation uses what newer releases of `websockets` call deprecated.
pytestmark = [pytest.mark.filterwarnings("ignore:.*websockets"), pytest.mark.filterwarnings("ignore:remove second argument of ws_handler")]


@pytest.fixture(params=["websockets-sansio", "websockets", "wsproto"])
def ws(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def connected(service: Pusher, url: str, dial: Any, **options: Any) -> Any:
    peer = await dial(url, **options)
    await eventually(lambda: service.sends.get("ann"), "the application accepted")
    return peer


async def test_events_of_a_client_that_knows_nothing_are_acknowledged_by_kernel_and_pong(monitor, samples, serve, dial, ws) -> None:
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app, ws), dial, asks=False)

    await service.push("ann", "plain", {"n": 1})
    assert await ann.hear_text() == "plain"

    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged", highest="pong_acked") == 2, "the pong came")
    for rung in ("emitted", "sent", "kernel_acked", "pong_acked"):
        assert samples(monitor, RUNGS, rung=rung) == samples(monitor, RUNGS, rung=rung, highest="pong_acked") == 2, rung
    assert samples(monitor, RUNGS, rung="client_acked") == 0
    assert samples(monitor, SETTLED) == 2
    assert samples(monitor, "isolation_event_deliveries_total", result="delivered") == 2
    await service.push("ann", {"n": 2})
    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 3, "the next one, too")
    assert samples(monitor, "isolation_monitor_errors_total") == 0


async def test_a_client_that_reads_nothing_is_not_counted_as_reached(make_monitor, samples, serve, dial, ws) -> None:
    """Its machine takes the bytes; its program does not."""
    monitor = make_monitor(delivery_wait_s=1)
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app, ws), dial, asks=False)
    ann.socket.transport.pause_reading()

    await service.push("ann", {"n": 1})

    await eventually(lambda: samples(monitor, SETTLED) == 1, "the deadline passed")
    assert samples(monitor, SETTLED, outcome="unknown") == 1
    assert samples(monitor, RUNGS, rung="kernel_acked") == 1
    assert samples(monitor, RUNGS, rung="pong_acked") == 0
    assert samples(monitor, "isolation_event_deliveries_total", result="unknown") == 1
    # A pong that comes too late is a fact, but settles nothing twice.
    ann.socket.transport.resume_reading()
    await service.push("ann", {"n": 2})
    await eventually(lambda: samples(monitor, SETTLED) == 2, "the next event is settled")


async def test_events_before_a_cut_are_unknown(monitor, samples, serve, dial, ws) -> None:
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app, ws), dial, asks=False)
    ann.socket.transport.pause_reading()
    await service.push("ann", {"n": 1})

    ann.cut()

    await eventually(lambda: samples(monitor, SETTLED, outcome="unknown") == 1, "nobody knows")
    assert samples(monitor, SETTLED) == 1


async def test_a_client_that_left_without_an_answer_is_let_go(monitor, serve, dial, ws) -> None:
    """Phones leave so all day long: kept for their pongs, their connections would fill the process."""
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app, ws), dial, asks=False)

    assert await is_let_go(service, ann, "_protocol")


async def test_the_last_events_before_the_server_closes_are_still_acknowledged(monitor, samples, serve, dial) -> None:
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app), dial, asks=False)

    await service.push("ann", {"n": 1})
    await service.sends["ann"][-1]({"type": "websocket.close"})

    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 1, "the pong came before the close")
    await ann.socket.wait_closed()


async def test_events_in_an_envelope_climb_the_lower_rungs_too(monitor, samples, serve, dial, ws) -> None:
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app, ws), dial)
    await ann.welcomed()

    await service.push("ann", {"n": 1}, "plain")

    await eventually(lambda: samples(monitor, RUNGS, rung="pong_acked") == 2, "pongs for both")
    assert samples(monitor, RUNGS, rung="pong_acked", highest="client_acked") == 1
    assert samples(monitor, RUNGS, rung="pong_acked", highest="pong_acked") == 1
    assert samples(monitor, SETTLED) == 1, "the client says nothing: only the frame without an envelope is settled by a pong"
    await ann.tell(ack=1)
    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 2, "now both")


async def test_uvicorns_own_pings_go_on(monitor, samples, serve, dial) -> None:
    """Its keepalive closes a connection whose pong it misses: ours must not come in between."""
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app, ws_ping_interval=0.05, ws_ping_timeout=5.0), dial, asks=False)

    for n in range(20):
        await service.push("ann", {"n": n})
        await ann.hear()
        await asyncio.sleep(0.05)

    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 20, "all are acknowledged")
    assert service.gone == []


async def test_the_hooks_are_listed_and_come_off(monitor, serve, dial) -> None:
    service = Pusher(monitor)
    await connected(service, await serve(service.app), dial, asks=False)

    targets = [patch.target for patch in monitor.patches if patch.library == "uvicorn"]
    assert "uvicorn.protocols.websockets.websockets_sansio_impl.WebSocketsSansIOProtocol.handle_pong" in targets
    assert "WebSocketsSansIOProtocol.handle_pong" in patches.in_place()
    monitor.uninstrument()

    assert "WebSocketsSansIOProtocol.handle_pong" not in patches.in_place()


async def test_a_server_that_tells_nothing_counts_what_it_took(monitor, samples, socket) -> None:
    """Behind another server than uvicorn, a run's events are delivered when they were handed over, and the rung says so."""
    service = Pusher(monitor)
    ann = await socket(service.app, "ann")

    async def answers(user: str) -> None:
        with monitor.run("run-1") as run:
            for event in ("agent_started", "agent_completed"):
                run.emit(event)
                await service.push(user, {"type": event, "run_id": "run-1"})

    service.answers = answers
    ann.say("hi")

    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged", highest="sent") == 2, "settled at the run's end")
    assert samples(monitor, RUNGS, rung="sent", highest="sent") == 2
    assert samples(monitor, "isolation_event_deliveries_total", result="delivered") == 2
