"""A TCP proxy that does what networks do: delays, resets at the worst moment, halves of connections, silence."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Literal

Fault = Literal["none", "latency", "reset_mid_body", "half_close_request", "half_close_answer", "reset_before_answer", "black_hole"]

FAULTS: tuple[Fault, ...] = ("latency", "reset_mid_body", "half_close_request", "half_close_answer", "reset_before_answer", "black_hole")
LATENCY_S = 0.2
_RESET = struct.pack("ii", 1, 0)
_SOME = 300
"""Bytes of a request that get through before something happens: its head and the beginning of its body."""


class FaultProxy:
    """Forwards to a port of loopback. `fault` may be changed at any time and holds for what happens from then on."""

    def __init__(self, target: int) -> None:
        self.fault: Fault = "none"
        self.injected = 0
        """How often the fault was done to a connection, or to a piece of it."""
        self.port = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        self._ready.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await self._connection(reader, writer)
            finally:
                tasks.discard(task)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._target)
            both = {
                asyncio.ensure_future(self._requests(reader, upstream, writer)),
                asyncio.ensure_future(self._answers(answers, writer)),
            }
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except OSError:
            pass
        finally:
            for end in (writer, upstream):
                if end is not None:
                    end.close()
                    with contextlib.suppress(OSError):
                        await end.wait_closed()

    async def _requests(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, client: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            fault = self.fault
            if fault == "latency":
                self.injected += 1
                await asyncio.sleep(LATENCY_S)
            elif fault == "black_hole":
                self.injected += 1
                continue
            elif fault in ("reset_mid_body", "half_close_request"):
                upstream.write(data[:_SOME])
                await upstream.drain()
                self.injected += 1
                if fault == "reset_mid_body":
                    _reset(upstream)
                    _reset(client)
                    return
                upstream.write_eof()
                # The other half stays open, until the collector or the client has enough of it.
                await asyncio.sleep(3600)
            upstream.write(data)
            await upstream.drain()

    async def _answers(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await answers.read(65_536):
            fault = self.fault
            if fault == "reset_before_answer":
                # The collector answers after its commit: all is stored, and nobody hears of it.
                self.injected += 1
                _reset(client)
                return
            if fault == "half_close_answer":
                self.injected += 1
                client.write(data[: len(data) // 2])
                client.write_eof()
                await asyncio.sleep(3600)
            if fault == "latency":
                self.injected += 1
                await asyncio.sleep(LATENCY_S)
            client.write(data)
            await client.drain()


def _reset(end: asyncio.StreamWriter) -> None:
    """Close with a reset: no word of farewell."""
    one: socket.socket = end.get_extra_info("socket")
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.transport.abort()


@contextlib.contextmanager
def fault_proxy(target: int) -> Iterator[FaultProxy]:
    """Run a proxy to a port of loopback until the block ends."""
    proxy = FaultProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
