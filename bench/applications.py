"""The applications that are measured, and a client that calls them in process, as a server does: one task per request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from isolation_monitor.telemetry import IsolationMonitor

Stack = Literal["starlette", "fastapi"]
STACKS: tuple[Stack, ...] = ("starlette", "fastapi")
USERS = 8
SERVICE = "bench"
BODY_ITEMS = 62
"""So many make a JSON body of 5 kB."""

Message = MutableMapping[str, Any]
App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def build(stack: Stack, routes: int = 1, **arguments: Any) -> Any:
    """Return a fresh application with `/items/{item_id}` as the last of so many routes; `arguments` go to its class."""
    return _fastapi(routes, **arguments) if stack == "fastapi" else _starlette(routes, **arguments)


def _starlette(routes: int, **arguments: Any) -> Starlette:
    async def item(request: Request) -> Response:
        return JSONResponse({"id": int(request.path_params["item_id"]), "name": "lamp"})

    async def body(request: Request) -> Response:
        return JSONResponse(large_body())

    others = [Route(f"/other{n}/{{item_id}}", item) for n in range(routes - 1)]
    return Starlette(routes=[*others, Route("/items/{item_id}", item), Route("/body", body)], **arguments)


def _fastapi(routes: int, **arguments: Any) -> FastAPI:
    app = FastAPI(**arguments)

    async def item(item_id: int) -> dict[str, Any]:
        return {"id": item_id, "name": "lamp"}

    async def body() -> Response:
        return JSONResponse(large_body())

    for n in range(routes - 1):
        app.get(f"/other{n}/{{item_id}}")(item)
    app.get("/items/{item_id}")(item)
    app.get("/body")(body)
    return app


def large_body() -> dict[str, Any]:
    """About 5 kB of JSON with identity fields of user-0 in it."""
    return {
        "user_id": "user-0",
        "messages": [{"seq": n, "user_id": "user-0", "text": "so the lamp is on the table, they say"} for n in range(BODY_ITEMS)],
    }


def echo() -> Starlette:
    """Return an application whose WebSocket at /ws echoes text, and whose /push sends one frame as often as it is told."""

    async def answer(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)

    async def push(socket: WebSocket) -> None:
        await socket.accept()
        times, _, frame = (await socket.receive_text()).partition(" ")
        for _ in range(int(times)):
            await socket.send_text(frame)
        await socket.close()

    return Starlette(routes=[WebSocketRoute("/ws", answer), WebSocketRoute("/push", push)])


def monitor(**settings: Any) -> IsolationMonitor:
    """A monitor as a service has it, with its records kept in memory."""
    return IsolationMonitor.from_env(service=SERVICE, hash_key="only-for-the-benchmark", **settings)


class Client:
    """Calls one application. Every answer is checked to be the expected one: a stack that refuses would look fast."""

    def __init__(self, app: App, path: str = "/items/7", users: int = USERS) -> None:
        self.app = app
        self._path = path
        self._headers = [_headers(n) for n in range(users)]
        self._answered = 0

    async def requests(self, n: int) -> None:
        """Send n requests one after the other, each in a task and context of its own.

        Raises:
            RuntimeError: the application did not answer each with 200.
        """
        app, headers, users = self.app, self._headers, len(self._headers)
        create_task = asyncio.get_running_loop().create_task
        self._answered = 0
        for number in range(n):
            # The keys that uvicorn's scope has, in its order: whether a dictionary has to grow for one more key is part of the cost.
            scope: dict[str, Any] = {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "server": ("127.0.0.1", 8_000),
                "client": ("127.0.0.1", 50_000),
                "scheme": "http",
                "root_path": "",
                "headers": headers[number % users],
                "state": {},
            }
            scope["method"] = "GET"
            scope["path"] = self._path
            scope["raw_path"] = self._path.encode()
            scope["query_string"] = b""
            await create_task(app(scope, _receive, self._send))  # type: ignore[arg-type]  # ASGI applications are coroutine functions
        if self._answered != n:
            raise RuntimeError(f"{self._answered} of {n} requests to {self._path} were answered with 200")

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            self._answered += 1

    async def websocket(self, path: str, texts: list[str]) -> int:
        """Open a WebSocket, send the texts, and return how many frames came back."""
        waiting = [{"type": "websocket.receive", "text": text} for text in reversed(texts)]
        waiting.append({"type": "websocket.connect"})
        frames = 0

        async def receive() -> Message:
            return waiting.pop() if waiting else {"type": "websocket.disconnect", "code": 1000}

        async def send(message: Message) -> None:
            nonlocal frames
            if message["type"] == "websocket.send":
                frames += 1

        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": self._headers[0],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8_000),
            "subprotocols": [],
        }
        await asyncio.get_running_loop().create_task(self.app(scope, receive, send))  # type: ignore[arg-type]  # as above
        return frames


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _headers(user: int) -> list[tuple[bytes, bytes]]:
    return [
        (b"host", b"shop.example.com"),
        (b"user-agent", b"bench/1"),
        (b"accept", b"application/json"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"connection", b"keep-alive"),
        (b"x-request-id", b"4f1c2d"),
        (b"authorization", b"Bearer token-of-user-%d" % user),
    ]
