"""Users of an ASGI application in the same process: HTTP requests, WebSockets and the lifespan, as a server drives them.

Each request and connection runs in a task and a context of its own. Nothing is parsed and no socket is opened, so that
a million requests are done while a person waits.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.applications import Message

PATIENCE_S = 30.0


class UnexpectedAnswerError(Exception):
    """The application did not answer as a sound one does."""


class User:
    """One user of one application. `requests` counts what was asked of it: HTTP requests, and messages over the WebSocket."""

    def __init__(self, app: Any, token: str, name: str = "") -> None:
        self.app = app
        self.name = name
        self.token = token
        self.requests = 0

    async def call(self, method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
        """Send one request and return its answer's JSON; the text where it is none.

        Raises:
            UnexpectedAnswerError: the status is another than expected.
        """
        self.requests += 1
        sent = b"" if body is None else json.dumps(body).encode()
        parts: list[bytes] = []
        status, received = 0, False

        async def receive() -> Message:
            nonlocal received
            if received:
                await asyncio.Event().wait()
            received = True
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        scope = self._scope("http", path)
        scope |= {"method": method}
        if sent:
            scope["headers"] += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(sent))]
        await asyncio.get_running_loop().create_task(self.app(scope, receive, send), context=contextvars.Context())
        text = b"".join(parts)
        if status != expect:
            raise UnexpectedAnswerError(f"{method} {path} answered {status}, not {expect}: {text[:200]!r}")
        try:
            return json.loads(text)
        except ValueError:
            return text.decode()

    @asynccontextmanager
    async def socket(self, path: str, query: str = "") -> AsyncIterator[Socket]:
        """Open a WebSocket for the length of the block."""
        self.requests += 1
        socket = Socket(self, self._scope("websocket", path) | {"query_string": query.encode(), "subprotocols": []})
        try:
            await socket.accepted()
            yield socket
        finally:
            await socket.leave()

    def _scope(self, type: str, path: str) -> dict[str, Any]:
        return {
            "type": type,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http" if type == "http" else "ws",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"shop.example.com"), (b"authorization", f"Bearer {self.token}".encode())] if self.token else [],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8_000),
            "state": {},
        }


class Socket:
    """One open WebSocket."""

    def __init__(self, user: User, scope: dict[str, Any]) -> None:
        self._user = user
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._frames: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.get_running_loop().create_task(
            user.app(scope, self._inbox.get, self._frames.put), context=contextvars.Context()
        )

    async def accepted(self) -> None:
        await self._next("websocket.accept")

    def say(self, frame: dict[str, Any]) -> None:
        self._user.requests += 1
        self._inbox.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})

    async def hear(self, *types: str) -> dict[str, Any]:
        """Return the next frame of one of these types; others are dropped."""
        while True:
            frame: dict[str, Any] = json.loads((await self._next("websocket.send"))["text"])
            if frame["type"] in types:
                return frame

    async def leave(self) -> None:
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self._task, PATIENCE_S)

    async def _next(self, type: str) -> Message:
        message = await asyncio.wait_for(self._frames.get(), PATIENCE_S)
        if message["type"] != type:
            raise UnexpectedAnswerError(f"{message['type']} came, not {type}")
        return message


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[None]:
    """Run the application's lifespan around the block."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.get_running_loop().create_task(app(scope, inbox.get, outbox.put))
    inbox.put_nowait({"type": "lifespan.startup"})
    started = await asyncio.wait_for(outbox.get(), PATIENCE_S)
    if started["type"] != "lifespan.startup.complete":
        raise UnexpectedAnswerError(f"the application did not start: {started}")
    try:
        yield
    finally:
        inbox.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait_for(task, PATIENCE_S)
