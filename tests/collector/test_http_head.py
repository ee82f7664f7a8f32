"""What an unknown client can cost before it has shown a token: a head without end, and one that never comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvicorn
from websockets.asyncio.client import connect

from isolation_monitor.collector.http_head import HEAD_BYTES, BoundedH11Head, BoundedHead
from tests.real_parts.processes import free_port


@pytest.fixture(params=["httptools", "h11"])
def http(request: pytest.FixtureRequest) -> type[asyncio.Protocol]:
    """The protocol of either parser of uvicorn."""
    if request.param == "httptools":
        pytest.importorskip("httptools")
        return BoundedHead
    return BoundedH11Head


@pytest.fixture
def impatient(http: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch) -> type[asyncio.Protocol]:
    monkeypatch.setattr(http, "head_timeout_s", 0.5)
    return http


WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope, receive, send):  # type: ignore[no-untyped-def]
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
    else:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


@contextlib.asynccontextmanager
async def served(http: type[asyncio.Protocol]) -> AsyncIterator[int]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, http=http, lifespan="off", log_level="critical"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - the server tells by this alone
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        await task


async def answered(port: int, *pieces: bytes) -> bytes:
    """Send the pieces as long as they are taken, and return what comes until the server closes or is silent for long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    found = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            found = await reader.read()
    writer.close()
    return found


async def test_a_head_within_its_bounds_is_served_again_and_again(http: type[asyncio.Protocol]) -> None:
    """Pipelined, h11 counts what waits behind a head as part of it."""
    large = b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * (HEAD_BYTES - 1_000 if http is BoundedHead else HEAD_BYTES // 3) + b"\r\n\r\n"
    body = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n" + b"b" * 300_000

    async with served(http) as port:
        found = await answered(port, large, large, body)

    assert found.count(b" 200 OK") == 3


@pytest.mark.parametrize("head", [b"X-A: " + b"a" * (4 * HEAD_BYTES), b"X-A: a\r\n" * HEAD_BYTES], ids=["one header", "many headers"])
async def test_a_head_without_end_is_refused(http: type[asyncio.Protocol], head: bytes) -> None:
    async with served(http) as port:
        found = await answered(port, b"GET / HTTP/1.1\r\nHost: x\r\n", *([head] * 20))

    # What was still on its way when the connection closed may reset it before the answer is read.
    assert found == b"" or found.startswith(b"HTTP/1.1 400")
    assert b"200 OK" not in found


@pytest.mark.parametrize(
    "pieces",
    [(), (b"GET / HTTP/1.1\r\nHost:",), (WHOLE, b"GET / HTTP/1.1\r\nHost:"), (WHOLE, b"\r\n")],
    ids=["silent", "in the middle", "after an answer", "an empty line after one"],
)
async def test_a_head_that_does_not_come_is_not_waited_for(impatient: type[asyncio.Protocol], pieces: tuple[bytes, ...]) -> None:
    async with served(impatient) as port:
        found = await answered(port, *pieces)

    assert found.count(b" 200 OK") == pieces.count(WHOLE)
    # An empty line is no request to h11.
    assert found.count(b"HTTP/1.1 ") == pieces.count(WHOLE) + found.count(b"HTTP/1.1 400")


async def test_a_websocket_outlives_the_time_of_its_head(impatient: type[asyncio.Protocol]) -> None:
    """The connection goes to another protocol: nothing of this one may end it."""
    async with served(impatient) as port, connect(f"ws://127.0.0.1:{port}") as socket:
        await asyncio.sleep(1.0)
        await socket.send("still there")

        assert await socket.recv() == "still there"


async def test_a_slow_body_is_not_a_slow_head(impatient: type[asyncio.Protocol]) -> None:
    async with served(impatient) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(1.0)
        writer.write(b"ab")

        assert b"200 OK" in await reader.read()
        writer.close()
