"""`/livez`, `/readyz` and `/startupz` over ASGI. An application of its own to be mounted, or within the monitor's middleware.

An answer of the application's own is never replaced: the first request for a path asks the application, and only where that
knows nothing of it (404) the path is ours from then on.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from isolation_monitor.telemetry.lifecycle.health import Answer, Health

# Any: ASGI messages are dictionaries of whatever the server puts there.
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NAMES: Final = ("livez", "readyz", "startupz")


class HealthEndpoint:
    """Answers the three paths. `paths` maps each path to its name in `NAMES`."""

    def __init__(self, health: Health, paths: dict[str, str], is_declared: Callable[[], bool]) -> None:
        self._health = health
        self._is_declared = is_declared
        self.paths = paths
        self.host_owns: dict[str, bool] = {}
        """By path, once it is known: whether the application answers it itself."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an application of its own, by the last part of the path; 404 for any other, 405 for what does not read."""
        if scope["type"] != "http":
            return
        name = str(scope["path"]).rstrip("/").rpartition("/")[2]
        if name not in NAMES:
            await _send(send, 404, {"status": "not found", "known": list(NAMES)}, scope)
        elif scope["method"] not in ("GET", "HEAD"):
            await _send(send, 405, {"status": "read with GET"}, scope, (b"allow", b"GET, HEAD"))
        else:
            await self._answer(name, scope, send)

    async def beside(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer beside an application that may have the path itself."""
        path = scope["path"]
        if not self._is_declared() or scope["method"] not in ("GET", "HEAD") or self.host_owns.get(path):
            await app(scope, receive, send)
        elif path in self.host_owns:
            await self._answer(self.paths[path], scope, send)
        else:
            await self._ask_host(app, scope, receive, send)

    async def _ask_host(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def send_unless_missing(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if status != 404:
                await send(message)

        path = scope["path"]
        # A copy: routers write into it.
        await app(dict(scope), receive, send_unless_missing)
        if 200 <= status < 400 or status == 404:
            # A refusal and a broken answer say nothing of whose the path is.
            self.host_owns[path] = status != 404
        if status == 404:
            await self._answer(self.paths[path], scope, send)

    async def _answer(self, name: str, scope: Scope, send: Send) -> None:
        answer: Answer = await self._health.answer(name)
        await _send(send, answer.status, answer.body, scope)


class HealthMiddleware:
    """The three paths before any ASGI application, with nothing else of the monitor: for a service whose monitor is off."""

    def __init__(self, app: App, endpoint: HealthEndpoint) -> None:
        self.app = app
        self._endpoint = endpoint
        self._paths = frozenset(endpoint.paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self._paths:
            await self._endpoint.beside(self.app, scope, receive, send)
        else:
            await self.app(scope, receive, send)


async def _send(send: Send, status: int, body: dict[str, Any], scope: Scope, *extra: tuple[bytes, bytes]) -> None:
    text = json.dumps(body, separators=(",", ":")).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(text)).encode()),
        (b"cache-control", b"no-store"),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})
