"""A real uvicorn in the test's own loop, and real WebSocket clients that speak the protocol of decision 0009 by hand."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

DEADLINE_S = 30.0


async def eventually(check: Callable[[], Any], what: str) -> Any:
    """Wait until `check` returns something true, and return it."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := check()):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)
    return found


class Pusher:
    """An application that sends what it is told to, and says back what it received; `sends` are its connections, by user."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor
        self.sends: dict[str, list[Any]] = {}
        self.received: list[str] = []
        self.gone: list[str] = []
        self.listens = asyncio.Event()
        """Cleared while the application is too busy to ask for messages."""
        self.listens.set()
        self.answers: Callable[[str], Awaitable[None]] | None = None
        """What it does with each message."""
        self.app = monitor.instrument(self.serve)

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        user = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
        await receive()
        await send({"type": "websocket.accept"})
        self.sends.setdefault(user, []).append(send)
        await self.listens.wait()
        while (message := await receive())["type"] == "websocket.receive":
            self.received.append(message.get("text") or message.get("bytes"))
            if self.answers is not None:
                await self.answers(user)
        self.gone.append(user)

    async def push(self, user: str, *frames: Any, of: int = -1) -> None:
        """Send frames on a user's connection, by default his latest: texts as they are, everything else as JSON."""
        for frame in frames:
            text = frame if isinstance(frame, str) else json.dumps(frame)
            await self.sends[user][of]({"type": "websocket.send", "text": text})


class Peer:
    """A client that keeps all frames that it gets."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def hear(self) -> Any:
        return json.loads(await asyncio.wait_for(self.socket.recv(), DEADLINE_S))

    async def hear_text(self) -> Any:
        return await asyncio.wait_for(self.socket.recv(), DEADLINE_S)

    async def welcomed(self) -> Any:
        frame = await self.hear()
        assert list(frame) == ["isolation"]
        assert list(frame["isolation"]) == ["welcome"]
        return frame["isolation"]["welcome"]

    async def tell(self, **members: Any) -> None:
        await self.socket.send(json.dumps({"isolation": members}))

    def cut(self) -> None:
        """Close the TCP connection hard, without a closing handshake."""
        self.socket.transport.abort()


async def is_let_go(service: Pusher, peer: Peer, owner: str) -> bool:
    """Let the client leave while a ping is out; whether the server's object for the connection, the probe's `owner`, dies."""
    peer.socket.transport.pause_reading()
    await service.push("ann", {"n": 1})
    noted = service.monitor.delivery.acknowledgements._noted
    await eventually(lambda: any(acks._pinged is not None for acks in noted), "a ping is out")
    connection = weakref.ref(getattr(next(iter(noted)).probe, owner))
    peer.cut()
    await eventually(lambda: service.gone and not noted, "the connection is over")
    service.sends.clear()
    for _ in range(20):
        await asyncio.sleep(0.05)
        gc.collect()
        if connection() is None:
            return True
    return False


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Serve an application on a free port; returns the address of its WebSocket."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(app: Any, ws: str = "websockets-sansio", **options: Any) -> str:
        server = uvicorn.Server(uvicorn.Config(app, port=0, ws=ws, log_level="warning", lifespan="on", **options))
        task = asyncio.create_task(server.serve())
        running.append((server, task))
        await eventually(lambda: server.started or task.done(), "the server started")
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"ws://127.0.0.1:{port}/ws"

    yield start
    for server, task in running:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def dial() -> AsyncIterator[Callable[..., Any]]:
    """Connect as a user, asking for the envelope unless `asks` is False."""
    opened: list[ClientConnection] = []

    async def open(url: str, user: str | None = "ann", *, asks: bool = True, **options: Any) -> Peer:
        headers = {"authorization": f"Bearer {user}"} if user else {}
        socket = await connect(url + ("?isolation=1" if asks else ""), additional_headers=headers, **options)
        opened.append(socket)
        return Peer(socket)

    yield open
    for socket in opened:
        await socket.close()
