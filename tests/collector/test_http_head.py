"""What an unknown client can cost before it has shown a token: a head without end, and one that never comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvicorn

from isolation_monitor.collector.http_head import HEAD_BYTES, BoundedHead
from tests.real_parts.processes import free_port

pytest.importorskip("httptools")


class Impatient(BoundedHead):
    head_timeout_s = 0.5


async def app(scope, receive, send):  # type: ignore[no-untyped-def]
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


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


async def test_a_head_within_its_bounds_is_served_again_and_again() -> None:
    large = b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * (HEAD_BYTES - 1_000) + b"\r\n\r\n"
    body = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n" + b"b" * 300_000

    async with served(BoundedHead) as port:
        found = await answered(port, large, large, body)

    assert found.count(b" 200 OK") == 3


@pytest.mark.parametrize("head", [b"X-A: " + b"a" * (4 * HEAD_BYTES), b"X-A: a\r\n" * HEAD_BYTES], ids=["one header", "many headers"])
async def test_a_head_without_end_is_refused(head: bytes) -> None:
    async with served(BoundedHead) as port:
        found = await answered(port, b"GET / HTTP/1.1\r\nHost: x\r\n", *([head] * 20))

    # What was still on its way when the connection closed may reset it before the answer is read.
    assert found == b"" or found.startswith(b"HTTP/1.1 400")
    assert b"200 OK" not in found


@pytest.mark.parametrize("pieces", [(), (b"GET / HTTP/1.1\r\nHost:",)], ids=["silent", "in the middle"])
async def test_a_head_that_does_not_come_is_not_waited_for(pieces: tuple[bytes, ...]) -> None:
    async with served(Impatient) as port:
        assert await answered(port, *pieces) == b""


async def test_a_slow_body_is_not_a_slow_head() -> None:
    async with served(Impatient) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(1.0)
        writer.write(b"ab")

        assert b"200 OK" in await reader.read()
        writer.close()
