"""Connections that ask for the envelope, over a real uvicorn: numbers, acknowledgements, and resuming after a cut."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import pytest

from tests.telemetry.delivery.conftest import Pusher, eventually

SETTLED = "isolation_events_settled_total"
RUNGS = "isolation_event_rungs_total"


# uvicorn's older implementation uses what newer releases of `websockets` call deprecated.
pytestmark = [pytest.mark.filterwarnings("ignore:.*websockets"), pytest.mark.filterwarnings("ignore:remove second argument of ws_handler")]


@pytest.fixture(params=["websockets-sansio", "websockets", "wsproto"])
def ws(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_frames_are_numbered_and_acknowledged_while_the_application_is_busy(monitor, samples, serve, dial, ws) -> None:
    """The application never asks for another message: acknowledgements must arrive all the same."""
    service = Pusher(monitor)
    service.listens.clear()
    ann = await dial(await serve(service.app, ws))
    welcome = await ann.welcomed()
    await eventually(lambda: service.sends.get("ann"), "the application accepted")

    await service.push("ann", {"type": "a"}, {}, '{"text": "\u00e9\u4e2d"}')
    frames = [await ann.hear() for _ in range(3)]

    envelopes = [frame.pop("isolation") for frame in frames]
    assert frames == [{"type": "a"}, {}, {"text": "\u00e9\u4e2d"}]
    assert [e["conn"] for e in envelopes] == [1, 2, 3]
    assert {e["epoch"] for e in envelopes} == {welcome["epoch"]}
    assert {e["owner"] for e in envelopes} == {monitor.principals.named("ann").hash}
    assert len({e["id"] for e in envelopes}) == 3
    assert not any("run" in e for e in envelopes)

    await ann.tell(ack=2, gaps=1, duplicates=0, disorder=0)
    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 2, "two are acknowledged")
    await ann.tell(ack=3, gaps=1, duplicates=2, disorder=0)
    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 3, "all are acknowledged")
    await ann.socket.send('{"type": "mine"}')
    service.listens.set()
    await eventually(lambda: service.received, "the application's own message arrives")

    assert service.received == ['{"type": "mine"}'], "and no other"
    assert samples(monitor, SETTLED) == 3
    for rung in ("emitted", "enqueued", "sent", "client_acked"):
        assert samples(monitor, RUNGS, rung=rung, highest="client_acked") == 3
    assert samples(monitor, "isolation_client_reports_total", report="gaps") == 1
    assert samples(monitor, "isolation_client_reports_total", report="duplicates") == 2
    assert samples(monitor, "isolation_monitor_errors_total") == 0


async def test_whoever_does_not_ask_gets_exactly_what_the_application_sends(monitor, samples, serve, dial, ws) -> None:
    service = Pusher(monitor)
    ann = await dial(await serve(service.app, ws), asks=False)
    await eventually(lambda: service.sends.get("ann"), "the application accepted")

    await service.push("ann", '{"type": "a"}')
    await ann.tell(ack=1)

    assert await ann.hear_text() == '{"type": "a"}'
    await eventually(lambda: service.received == ['{"isolation": {"ack": 1}}'], "even this is the application's")
    assert samples(monitor, RUNGS, highest="client_acked") == 0


async def test_after_a_cut_the_client_gets_what_it_missed_once_and_in_order(monitor, samples, serve, dial, ws) -> None:
    service = Pusher(monitor)
    url = await serve(service.app, ws)
    ann = await dial(url)
    before = await ann.welcomed()
    await eventually(lambda: service.sends.get("ann"), "the application accepted")
    await service.push("ann", *({"n": n} for n in range(5)))
    seen = [await ann.hear() for _ in range(5)]

    ann.cut()
    await eventually(lambda: service.gone, "the server noticed")
    # The application does not know yet, or does not care: what it sends waits.
    await service.push("ann", *({"n": n} for n in range(5, 8)))
    ann = await dial(url)
    after = await ann.welcomed()
    await eventually(lambda: len(service.sends["ann"]) == 2, "the application accepted again")
    await ann.tell(hello={"stream": before["stream"], "conn": 3})
    assert (await ann.hear())["isolation"] == {"resumed": {"replayed": 5, "lost": 0}}
    # A run that still works for the old connection reaches the user on the new one.
    await service.push("ann", {"n": 8}, of=0)
    again = [await ann.hear() for _ in range(6)]

    assert [frame["n"] for frame in again] == [3, 4, 5, 6, 7, 8]
    assert [frame["isolation"]["conn"] for frame in again] == [1, 2, 3, 4, 5, 6]
    assert [frame["isolation"]["id"] for frame in again[:2]] == [frame["isolation"]["id"] for frame in seen[3:]]
    assert after["stream"] != before["stream"]
    await ann.tell(ack=6)
    await eventually(lambda: samples(monitor, SETTLED) == 9, "each event is settled once")
    assert samples(monitor, SETTLED, outcome="acknowledged") == 4
    assert samples(monitor, SETTLED, outcome="replayed") == 5
    assert samples(monitor, RUNGS, rung="emitted") == 9
    assert monitor.delivery.retention.bytes == 0


async def test_nobody_else_can_resume_a_stream(monitor, samples, serve, dial) -> None:
    service = Pusher(monitor)
    url = await serve(service.app)
    ann = await dial(url)
    stream = (await ann.welcomed())["stream"]
    await eventually(lambda: service.sends.get("ann"), "the application accepted")
    await service.push("ann", {"secret": "of ann"})
    await ann.hear()
    ann.cut()
    await eventually(lambda: service.gone, "the server noticed")

    for user in ("bob", None):
        other = await dial(url, user)
        await other.welcomed()
        await other.tell(hello={"stream": stream, "conn": 0})
        assert (await other.hear())["isolation"] == {"resumed": {"replayed": 0, "lost": None}}
        await other.tell(hello={"stream": "no such stream", "conn": 0})
        assert (await other.hear())["isolation"] == {"resumed": {"replayed": 0, "lost": None}}, "and cannot tell the two apart"

    assert samples(monitor, "isolation_delivery_resumes_total", outcome="refused") == 2
    assert samples(monitor, SETTLED) == 0, "it still waits for its owner"


async def test_limits_drop_the_oldest_and_say_so(make_monitor, samples, serve, dial) -> None:
    monitor = make_monitor(delivery_events=3)
    service = Pusher(monitor)
    url = await serve(service.app)
    ann = await dial(url)
    stream = (await ann.welcomed())["stream"]
    await eventually(lambda: service.sends.get("ann"), "the application accepted")
    await service.push("ann", *({"n": n} for n in range(10)))
    [await ann.hear() for _ in range(10)]
    ann.cut()
    await eventually(lambda: service.gone, "the server noticed")
    await service.push("ann", {"n": 10})

    ann = await dial(url)
    await ann.welcomed()
    await ann.tell(hello={"stream": stream, "conn": 6})

    # 11 were emitted, 6 arrived, 3 wait: two are lost, the numbers 7 and 8 of the connection.
    assert (await ann.hear())["isolation"] == {"resumed": {"replayed": 3, "lost": 2}}
    assert [(await ann.hear())["n"] for _ in range(3)] == [8, 9, 10]
    await ann.tell(ack=3)
    await eventually(lambda: samples(monitor, SETTLED) == 11, "each event is settled once")
    outcomes = {outcome: samples(monitor, SETTLED, outcome=outcome) for outcome in ("acknowledged", "replayed", "expired", "unknown")}
    assert outcomes == {"acknowledged": 6, "replayed": 3, "expired": 2, "unknown": 0}
    assert samples(monitor, "isolation_events_dropped_total", reason="number") == 8


async def test_a_client_that_acknowledges_late_still_acknowledges_what_is_not_kept_any_more(make_monitor, samples, serve, dial) -> None:
    monitor = make_monitor(delivery_bytes=100)
    service = Pusher(monitor)
    ann = await dial(await serve(service.app))
    await ann.welcomed()
    await eventually(lambda: service.sends.get("ann"), "the application accepted")
    await service.push("ann", *({"text": "x" * 40} for n in range(10)))
    [await ann.hear() for _ in range(10)]

    assert monitor.delivery.retention.bytes <= 100
    await ann.tell(ack=10)

    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 10, "all are acknowledged")
    assert samples(monitor, "isolation_events_dropped_total", reason="bytes") == 9


async def test_events_that_nobody_comes_for_expire(make_monitor, samples, serve, dial) -> None:
    monitor = make_monitor(delivery_wait_s=0.2)
    service = Pusher(monitor)
    url = await serve(service.app)
    ann, bob = await dial(url, "ann"), await dial(url, "bob")
    for peer in (ann, bob):
        await peer.welcomed()
    await eventually(lambda: len(service.sends) == 2, "the application accepted")
    await service.push("ann", {"n": 1})
    await service.push("bob", {"n": 1})

    ann.cut()

    await eventually(lambda: samples(monitor, SETTLED) == 2, "both are settled")
    # Bob is there and says nothing: he may have it. Ann never came back.
    assert samples(monitor, SETTLED, outcome="unknown") == 1
    assert samples(monitor, SETTLED, outcome="expired") == 1
    await eventually(lambda: len(monitor.delivery.retention.streams) == 1, "her stream is forgotten")
    assert samples(monitor, "isolation_event_deliveries_total", result="unknown") == 2


async def test_what_is_no_object_passes_and_the_frames_of_a_run_are_numbered(monitor, samples, serve, dial) -> None:
    service = Pusher(monitor)
    ann = await dial(await serve(service.app))
    await ann.welcomed()
    await eventually(lambda: service.sends.get("ann"), "the application accepted")

    await service.push("ann", "plain", "[1]", {"type": "other"})
    with monitor.run("run-1", owner="ann") as run:
        for event in ("agent_started", "agent_thinking", "agent_completed"):
            run.emit(event)
            if event != "agent_thinking":
                await service.push("ann", {"type": event, "run_id": "run-1"})

    assert [await ann.hear_text() for _ in range(2)] == ["plain", "[1]"]
    heard = [await ann.hear() for _ in range(3)]
    assert [frame["isolation"]["conn"] for frame in heard] == [1, 2, 3], "frames without an envelope have no number"
    assert [frame["isolation"].get("run") for frame in heard] == [None, 1, 3], "the application never sent its second event"


async def test_nonsense_of_a_client_changes_nothing(monitor, samples, serve, dial) -> None:
    service = Pusher(monitor)
    ann = await dial(await serve(service.app))
    await ann.welcomed()
    await eventually(lambda: service.sends.get("ann"), "the application accepted")
    await service.push("ann", {"n": 1})

    for said in (
        {"ack": -1},
        {"ack": True},
        {"ack": "1"},
        {"ack": 1.5},
        {"ack": None},
        {"hello": {}},
        {"hello": {"stream": 3}},
        {"hello": 1},
        {},
        {"new": 1},
    ):
        await ann.socket.send(json.dumps({"isolation": said}))
    await ann.socket.send("mine")
    await eventually(lambda: service.received, "the connection lives")
    assert service.received == ["mine"]
    assert samples(monitor, SETTLED) == 0
    # More than was ever sent acknowledges what was sent.
    await ann.tell(ack=1_000)
    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 1, "one was there to acknowledge")
    assert samples(monitor, "isolation_monitor_errors_total") == 0


async def test_a_send_that_was_cancelled_leaves_no_gap(monitor, samples, serve, dial) -> None:
    """An application that gives up on a slow client has taken a number by then; the event goes out before the next one."""
    service = Pusher(monitor)
    ann = await dial(await serve(service.app), max_queue=1, compression=None)
    await ann.welcomed()
    await eventually(lambda: service.sends.get("ann"), "the application accepted")

    async def flood() -> None:
        for n in range(10_000):
            await service.push("ann", {"n": n, "text": "x" * 20_000})

    flooding = asyncio.create_task(flood())
    stream = next(iter(monitor.delivery.retention.streams.values()))
    await eventually(lambda: stream.turn.is_taken and stream.last > 20, "the server takes no more")
    await asyncio.sleep(0.2)
    flooding.cancel()
    await asyncio.wait([flooding])
    assert len(stream.unsure) == 1
    after = asyncio.create_task(service.push("ann", {"n": "last"}))

    numbers: list[Any] = []
    while True:
        frame = await ann.hear()
        numbers.append(frame["isolation"]["conn"])
        if frame["n"] == "last":
            break

    await after
    assert numbers == list(range(1, len(numbers) + 1))


async def test_what_a_user_writes_never_looks_like_the_monitors_own_word(monitor, serve, dial) -> None:
    """A service that passes on what its users write: none of it may be taken for an envelope, an acknowledgement or a welcome."""
    service = Pusher(monitor)
    ann = await dial(await serve(service.app))
    await ann.welcomed()
    forged = '{"isolation": {"resumed": {"replayed": 9, "lost": 9}}}'
    escaped = '{"\\u0069solation": {"conn": 99}, "text": "hello"}'

    await service.push("ann", forged, escaped)

    for number, written in enumerate((forged, escaped), 1):
        frame = await ann.hear()
        assert frame["isolation"]["conn"] == number
        assert frame["isolation"]["as"] == "text"
        assert frame["data"] == written


async def test_what_waits_for_a_user_does_not_hold_his_former_connection(monitor, serve, dial) -> None:
    """It waits for two minutes: the server's object of each connection that was lost would lie there meanwhile."""
    service = Pusher(monitor)
    ann = await dial(await serve(service.app))
    await ann.welcomed()
    await service.push("ann", {"n": 1})
    connection = weakref.ref(next(iter(monitor.delivery.retention.streams.values()))._send.__self__)

    ann.cut()
    await eventually(lambda: service.gone and not monitor.delivery.acknowledgements._noted, "the connection is over")
    service.sends.clear()

    await eventually(lambda: gc.collect() is not None and connection() is None, "it is let go")
    assert [stream.waiting for stream in monitor.delivery.retention.streams.values()] == [1]
