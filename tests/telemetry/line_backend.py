"""A backend of lines and what a client written by hand does with it; for the tests of asyncio's streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from isolation_monitor.telemetry.detectors.shared_connection import STREAM_KEY
from tests.telemetry.acting import Acting, gathered

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Backend:
    """Answers lines in their order: `WORDS n` by n lines, `SLOW` when it is told to, `QUIET` not at all, others by an echo."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.port = 0
        self.opened: list[asyncio.StreamWriter] = []

    async def connect(self) -> Pair:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(writer)
        return reader, writer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                word, *rest = line.decode().split()
                if word == "WORDS":
                    writer.write(b"".join(b"word %d\n" % n for n in range(int(rest[0]))))
                    continue
                if word == "SLOW":
                    await self.go_on.wait()
                if word != "QUIET":
                    writer.write(b"answer to " + line)
        writer.close()


@contextlib.asynccontextmanager
async def running_backend() -> AsyncIterator[Backend]:
    one = Backend()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    yield one
    one.go_on.set()
    for writer in one.opened:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    server.close()


async def ask(pair: Pair, question: str) -> str:
    pair[1].write(question.encode() + b"\n")
    await pair[1].drain()
    return (await pair[0].readline()).decode().strip()


async def give_up(acting: Acting, user: str, pair: Pair, question: str = "SLOW") -> None:
    """Ask, and be cancelled when the question has left and the answer is awaited."""
    request = acting.request(user)
    task = acting.task(request, ask, pair, question)
    await until(lambda: pair[0]._waiter is not None)  # type: ignore[attr-defined]
    task.cancel()
    await gathered(task)
    request.finished = True


async def until(is_so: Callable[[], object], limit_s: float = 20.0) -> None:
    async with asyncio.timeout(limit_s):
        while not is_so():  # noqa: ASYNC110 - nothing tells when bytes have arrived
            await asyncio.sleep(0.005)


def unread(pair: Pair) -> int:
    return len(pair[0]._buffer)  # type: ignore[attr-defined]


def known(pair: Pair) -> Any:
    return pair[0].__dict__.get(STREAM_KEY)


async def settled(pair: Pair) -> None:
    """Wait until what is suspected of a stream has been looked at for the last time."""
    await until(lambda: known(pair) is None or known(pair).looks < 0)
