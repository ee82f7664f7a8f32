"""The floor: what somebody would write by hand to know rate and latency, and nothing about isolation.

One pure ASGI middleware with one bound prometheus_client counter, one bound histogram and a context variable. Budgets
are multiples of what it adds to a request, in the same run on the same machine.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from bench.applications import App, Message

CURRENT_PATH: ContextVar[str] = ContextVar("current_path")


class Floor:
    """Counts and times each request, and knows its status."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.registry = CollectorRegistry()
        self._requests = Counter("requests", "Requests.", ["method"], registry=self.registry).labels("GET")
        self._seconds = Histogram("seconds", "Duration.", ["method"], registry=self.registry).labels("GET")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status = 0

        def noting_send(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)  # type: ignore[no-any-return]  # the server's own send

        token = CURRENT_PATH.set(scope["path"])
        began = time.perf_counter()
        try:
            await self._app(scope, receive, noting_send)
        finally:
            self._seconds.observe(time.perf_counter() - began)
            self._requests.inc()
            CURRENT_PATH.reset(token)
