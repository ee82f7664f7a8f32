"""The endpoint: metrics pages over ASGI, rendered in a thread of their own so that the event loop goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from isolation_monitor.telemetry.metrics.negotiation import accepts_gzip, is_authorized, problem, wants_openmetrics
from isolation_monitor.telemetry.metrics.pages import PageRequest, Pages, RenderedPage
from isolation_monitor.telemetry.metrics.registry import MetricRegistry, Page

# Any: ASGI messages are dictionaries of whatever the server puts there.
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class MetricsEndpoint:
    """An ASGI app for the metrics paths of one registry.

    `isolation_path` carries the small page, `metrics_path` the rest, `isolation_path` + "/all" both; None leaves a path out.
    With a `token` each request needs `Authorization: Bearer <token>`.
    """

    def __init__(
        self,
        registry: MetricRegistry,
        *,
        token: str | None = None,
        isolation_path: str | None = "/metrics/isolation",
        metrics_path: str | None = "/metrics",
    ) -> None:
        self._pages = Pages(registry)
        self._token = token or None
        self._paths: dict[str, Page] = {}
        if metrics_path:
            self._paths[metrics_path] = "main"
        if isolation_path:
            self._paths[isolation_path] = "isolation"
            self._paths[f"{isolation_path}/all"] = None
        self._executor: ThreadPoolExecutor | None = None
        self._executor_pid = 0

    def serves(self, scope: Scope) -> bool:
        """Whether the request's path is one of ours."""
        return scope["type"] == "http" and self._path(scope) in self._paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 200 with the page, 401 without the token, 404 or 405 otherwise."""
        path = self._path(scope)
        headers = _headers(scope)
        if path not in self._paths:
            await _refuse(send, 404, "Not Found", f"no metrics at {path}: there is {', '.join(self._paths)}")
        elif scope["method"] not in ("GET", "HEAD"):
            await _refuse(send, 405, "Method Not Allowed", "metrics are read with GET", ("allow", "GET, HEAD"))
        elif not is_authorized(headers.get("authorization", ""), self._token):
            await _refuse(send, 401, "Unauthorized", "send `Authorization: Bearer` with the metrics token", ("www-authenticate", "Bearer"))
        else:
            request = PageRequest(
                self._paths[path], wants_openmetrics(headers.get("accept", "")), accepts_gzip(headers.get("accept-encoding", ""))
            )
            page = await self._get(request)
            await _answer(send, 200, page.headers(), b"" if scope["method"] == "HEAD" else page.body)

    def close(self) -> None:
        """Let the rendering thread end."""
        if self._executor is not None and self._executor_pid == os.getpid():
            self._executor.shutdown(wait=False)
        self._executor = None

    def _path(self, scope: Scope) -> str:
        path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
        # Servers and mounts differ in whether `path` includes `root_path`.
        return path[len(root) :] if root and path.startswith(f"{root}/") else path

    async def _get(self, request: PageRequest) -> RenderedPage:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # another event loop library: rendering pauses in slices, but holds this loop until it is done
            return self._pages.get(request)
        if self._executor is None or self._executor_pid != os.getpid():
            # Not the loop's default executor: scrapes must go on while the host's threads are all busy. One thread is
            # single flight too: whoever comes during a render finds its page cached.
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="isolation-metrics")
            self._executor_pid = os.getpid()
        return await loop.run_in_executor(self._executor, self._pages.get, request)


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = bytes(name).decode("latin-1").lower()
        text = bytes(value).decode("latin-1")
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


async def _refuse(send: Send, status: int, title: str, detail: str, *extra: tuple[str, str]) -> None:
    body = problem(status, title, detail)
    await _answer(send, status, [("content-type", "application/problem+json"), ("content-length", str(len(body))), *extra], body)


async def _answer(send: Send, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
