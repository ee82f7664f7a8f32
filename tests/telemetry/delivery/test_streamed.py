"""Events that leave by a streaming answer, over a real uvicorn: what a client that has left did not get is never counted as sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.responses import Response, StreamingResponse

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.delivery.streamed import MESSAGE_LIMIT, Streamed
from tests.telemetry.delivery.conftest import DEADLINE_S, eventually

EVENTS = ("agent_started", "agent_thinking", "agent_completed")
LARGE = "x" * 200_000
"""A message that no socket buffer takes at once: the next send meets a client that has left."""


def sse(run_id: str, event: str, **more: Any) -> str:
    return f"data: {json.dumps({'type': event, 'run_id': run_id, **more})}\n\n"


class Reader:
    """A client that reads an answer by hand, so that it can leave in the middle."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def until(self, text: str) -> bytes:
        return await asyncio.wait_for(self._reader.readuntil(text.encode()), DEADLINE_S)

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self._reader.read(), DEADLINE_S)

    def leave(self) -> None:
        self._writer.transport.abort()


@pytest.fixture
async def ask() -> AsyncIterator[Callable[..., Any]]:
    """Ask for the stream, and leave at the end of the test at the latest."""
    opened: list[Reader] = []

    async def open(address: str, accept: str = "text/event-stream") -> Reader:
        url = urlsplit(address)
        reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=2**20)
        opened.append(Reader(reader, writer))
        head = f"GET /events HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer ann\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
        return opened[-1]

    yield open
    for one in opened:
        one.leave()
    await asyncio.sleep(0)


def sent(monitor: IsolationMonitor, event: str) -> float:
    return monitor.registry.value(names.EVENTS, event=event, stage="sent") or 0.0


def ended(monitor: IsolationMonitor, outcome: str) -> float:
    return monitor.registry.value(names.RUNS, outcome=outcome, arm="none") or 0.0


def incomplete(monitor: IsolationMonitor) -> list[str]:
    return [violation.summary for violation in monitor.violations() if violation.kind == names.INCOMPLETE_RUN]


def service(monitor: IsolationMonitor, events: Callable[[Any], AsyncIterator[str]], media_type: str = "text/event-stream") -> Any:
    app = FastAPI()

    @app.get("/events")
    async def stream() -> Response:
        return StreamingResponse(events(monitor), media_type=media_type)

    return monitor.instrument(app)


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_events_count_as_sent_when_their_messages_leave(monitor: IsolationMonitor, serve: Any, ask: Any, http: str) -> None:
    held = asyncio.Event()

    async def events(monitor: IsolationMonitor) -> AsyncIterator[str]:
        with monitor.run("run-1") as run:
            run.emit("agent_started")
            await held.wait()
            yield sse("run-1", "agent_started")
            for event in EVENTS[1:]:
                run.emit(event)
                yield sse("run-1", event)

    client = await ask(await serve(service(monitor, events), http=http))
    await client.until("\r\n\r\n")
    await eventually(lambda: monitor.registry.value(names.EVENTS, event="agent_started", stage="emitted"), "the run began")
    assert sent(monitor, "agent_started") == 0
    held.set()
    await client.rest()

    await eventually(lambda: ended(monitor, "complete"), "the run was judged")
    assert [sent(monitor, event) for event in EVENTS] == [1, 1, 1]
    assert incomplete(monitor) == []


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_what_is_sent_to_a_client_that_has_left_is_no_delivery(monitor: IsolationMonitor, serve: Any, ask: Any, http: str) -> None:
    """A plain application that never asks whether anybody is there: the server swallows what it sends."""
    left = asyncio.Event()
    done = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        with monitor.run("run-1") as run:
            for event in EVENTS:
                run.emit(event)
                await send({"type": "http.response.body", "body": sse("run-1", event).encode(), "more_body": True})
                await left.wait()
        await send({"type": "http.response.body", "body": b""})
        done.set()

    client = await ask(await serve(monitor.instrument(app), http=http), accept="*/*")
    await client.until("agent_started")
    client.leave()
    await asyncio.sleep(0.2)
    left.set()
    await asyncio.wait_for(done.wait(), DEADLINE_S)

    await eventually(lambda: ended(monitor, "abandoned"), "the run was judged")
    assert [sent(monitor, event) for event in EVENTS] == [1, 0, 0]
    assert incomplete(monitor) == []


async def test_a_user_who_leaves_in_the_middle_is_owed_nothing_more(monitor: IsolationMonitor, serve: Any, ask: Any) -> None:
    """Starlette cancels the stream when the client leaves."""

    async def events(monitor: IsolationMonitor) -> AsyncIterator[str]:
        with monitor.run("run-1") as run:
            run.emit("agent_started")
            yield sse("run-1", "agent_started")
            await asyncio.sleep(DEADLINE_S)
            run.emit("agent_completed")
            yield sse("run-1", "agent_completed")

    client = await ask(await serve(service(monitor, events)))
    await client.until("agent_started")
    client.leave()

    await eventually(lambda: ended(monitor, "abandoned"), "the run was judged")
    assert incomplete(monitor) == []


async def test_an_event_that_is_emitted_and_never_sent_is_missing(monitor: IsolationMonitor, serve: Any, ask: Any) -> None:
    async def events(monitor: IsolationMonitor) -> AsyncIterator[str]:
        with monitor.run("run-1") as run:
            for event in EVENTS:
                run.emit(event)
                if event != "agent_thinking":
                    yield sse("run-1", event)

    client = await ask(await serve(service(monitor, events)))
    await client.rest()

    [summary] = await eventually(lambda: incomplete(monitor), "the gap was reported")
    assert "agent_thinking" in summary


async def test_messages_that_say_nothing_of_their_event_were_handed_over(monitor: IsolationMonitor, serve: Any, ask: Any) -> None:
    async def events(monitor: IsolationMonitor) -> AsyncIterator[str]:
        with monitor.run("run-1") as run:
            for event in EVENTS:
                run.emit(event)
                yield "data: a word\n\n"

    client = await ask(await serve(service(monitor, events)))
    await client.rest()

    await eventually(lambda: ended(monitor, "complete"), "the run was judged")
    assert [sent(monitor, event) for event in EVENTS] == [1, 1, 1]
    assert incomplete(monitor) == []


async def test_the_event_line_and_lines_of_json_are_read_too(monitor: IsolationMonitor, serve: Any, ask: Any) -> None:
    async def named(monitor: IsolationMonitor) -> AsyncIterator[str]:
        with monitor.run("run-1") as run:
            for event in EVENTS:
                run.emit(event)
                yield f"event: {event}\r\ndata: 1\r\n\r\n"

    client = await ask(await serve(service(monitor, named)))
    await client.rest()
    await eventually(lambda: ended(monitor, "complete"), "the run was judged")

    async def lines(monitor: IsolationMonitor) -> AsyncIterator[str]:
        with monitor.run("run-2") as run:
            for event in EVENTS:
                run.emit(event)
                yield json.dumps({"type": event}) + "\n"

    client = await ask(await serve(service(monitor, lines, "application/x-ndjson")))
    await client.rest()
    await eventually(lambda: ended(monitor, "complete") == 2, "the second run was judged")
    assert [sent(monitor, event) for event in EVENTS] == [2, 2, 2]


async def test_the_answer_is_the_same_with_and_without_the_monitor(monitor: IsolationMonitor, serve: Any, ask: Any) -> None:
    async def events(monitor: IsolationMonitor) -> AsyncIterator[str]:
        with monitor.run("run-1") as run:
            for event in EVENTS:
                run.emit(event)
                yield sse("run-1", event, text=LARGE)

    served = service(monitor, events)
    address = await serve(served)
    watched = (await (await ask(address)).rest()).partition(b"\r\n\r\n")[2]
    monitor.mode = "off"
    plain = (await (await ask(address)).rest()).partition(b"\r\n\r\n")[2]

    assert watched == plain
    assert len(plain) > 3 * len(LARGE)


def test_a_message_in_several_parts_is_one_and_a_huge_one_is_let_go(monitor: IsolationMonitor) -> None:
    streamed = Streamed(monitor.runs, monitor.frames.names_in, b"text/event-stream")
    run = monitor.run("run-1")
    streamed.emitted(run, "agent_started")
    message = sse("run-1", "agent_started").encode()

    assert streamed.look(message[:20]) == []
    assert streamed.look(message[20:-1]) == []
    assert streamed.look(message[-1:]) == [(run, "agent_started")]
    assert streamed.look(b"x" * (MESSAGE_LIMIT + 1)) == []
    assert streamed._rest == b""
