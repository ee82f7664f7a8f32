"""What waits for users: frames that are no objects, users who are not there, and clients that do not keep up."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from tests.telemetry.delivery.conftest import Pusher, eventually

SETTLED = "isolation_events_settled_total"


async def connected(service: Pusher, url: str, dial: Any, **options: Any) -> Any:
    before = len(service.sends.get("ann", ()))
    peer = await dial(url, **options)
    await eventually(lambda: len(service.sends.get("ann", ())) > before, "the application accepted")
    return peer


async def test_a_frame_that_is_no_object_is_measured_by_one_call(monitor, samples, serve, dial) -> None:
    service = Pusher(monitor)
    url = await serve(service.app)
    ann = await connected(service, url, dial)
    await ann.welcomed()

    await service.push("ann", monitor.envelope('a "word"'))
    await service.sends["ann"][-1]({"type": "websocket.send", "bytes": monitor.envelope(b"\xff\x00")})

    text, body = await ann.hear(), await ann.hear()
    assert (text["data"], text["isolation"]["as"], text["isolation"]["conn"]) == ('a "word"', "text", 1)
    assert (base64.b64decode(body["data"]), body["isolation"]["as"], body["isolation"]["conn"]) == (b"\xff\x00", "base64", 2)
    await ann.tell(ack=2)
    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 2, "both are acknowledged")


async def test_a_wrapped_frame_is_itself_to_whoever_did_not_ask(monitor, serve, dial) -> None:
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app), dial, asks=False)

    await service.push("ann", monitor.envelope("word"))
    await service.sends["ann"][-1]({"type": "websocket.send", "bytes": monitor.envelope(b"\xff\x00")})

    assert [await ann.hear_text(), await ann.hear_text()] == ["word", b"\xff\x00"]


async def test_events_for_a_user_who_is_not_there_wait_for_him_and_for_nobody_else(monitor, samples, serve, dial) -> None:
    service = Pusher(monitor)
    url = await serve(service.app)
    assert await monitor.deliver("ann", '{"n": 1}') is False
    assert await monitor.deliver("ann", monitor.envelope("two")) is False

    bob = await dial(url, "bob")
    await bob.welcomed()
    ann = await connected(service, url, dial)
    await ann.welcomed()
    heard = [await ann.hear() for _ in range(2)]
    assert await monitor.deliver("ann", '{"n": 3}') is True
    heard.append(await ann.hear())
    await ann.tell(ack=3)

    assert [frame.get("n") or frame.get("data") for frame in heard] == [1, "two", 3]
    await eventually(lambda: samples(monitor, SETTLED) == 3, "all are settled")
    assert samples(monitor, SETTLED, outcome="replayed") == 2
    assert samples(monitor, SETTLED, outcome="acknowledged") == 1
    await bob.tell(hello={"stream": "x", "conn": 0})
    assert "resumed" in (await bob.hear())["isolation"], "bob got nothing before this answer"


async def test_what_waits_for_a_user_who_never_comes_expires(make_monitor, samples, serve, dial) -> None:
    monitor = make_monitor(delivery_wait_s=0.2, delivery_events=2)
    await serve(Pusher(monitor).app)

    for n in range(3):
        await monitor.deliver("ann", f'{{"n": {n}}}')

    await eventually(lambda: samples(monitor, SETTLED, outcome="expired") == 3, "all expire")
    assert samples(monitor, "isolation_events_dropped_total", reason="number") == 1
    assert samples(monitor, "isolation_events_dropped_total", reason="age") == 2
    await eventually(lambda: not monitor.delivery.retention.users, "nothing is left of it")
    assert monitor.delivery.retention.bytes == 0


async def test_what_cannot_be_numbered_is_refused(monitor) -> None:
    with pytest.raises(ValueError, match=r"monitor\.envelope"):
        await monitor.deliver("ann", "no object")


@pytest.mark.parametrize("asks", [True, False])
async def test_a_slow_client_is_seen_while_it_is_slow(monitor, samples, serve, dial, asks) -> None:
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app), dial, asks=asks)
    if asks:
        await ann.welcomed()
    ann.socket.transport.pause_reading()

    for n in range(40):
        await service.push("ann", {"n": n, "text": "x" * 1_000})

    await eventually(lambda: samples(monitor, "isolation_user_queue_events_max") == 40, "the events are counted")
    await eventually(lambda: samples(monitor, "isolation_user_queue_age_max_seconds") > 1, "the oldest gets older")
    assert samples(monitor, "isolation_user_queue_events_bucket", le="30.0") == 0 < samples(monitor, "isolation_user_queue_events_count")
    if asks:
        assert samples(monitor, "isolation_user_queue_bytes_max") > 40_000
    ann.socket.transport.resume_reading()
    if asks:
        [await ann.hear() for _ in range(40)]
        await ann.tell(ack=40)
    await eventually(lambda: samples(monitor, "isolation_user_queue_events_max") == 0, "nothing waits any more")


async def test_a_users_queue_never_grows_without_bound(make_monitor, samples, serve, dial) -> None:
    """The client reads and never acknowledges: only so much is kept, and what is forgotten costs nothing."""
    monitor = make_monitor(delivery_events=100)
    service = Pusher(monitor)
    ann = await connected(service, await serve(service.app), dial)
    await ann.welcomed()

    for n in range(5_000):
        await service.push("ann", {"n": n})
        await ann.hear()
        if n % 100 == 0:
            await asyncio.sleep(0)

    [stream] = monitor.delivery.retention.streams.values()
    assert len(stream.entries) == 100
    assert stream.waiting == 5_000
    assert len(stream.queue._order) <= 300
    await ann.tell(ack=5_000)
    await eventually(lambda: samples(monitor, SETTLED, outcome="acknowledged") == 5_000, "and yet each is accounted for")
