"""Code that runs for a user's request, without a server: what integrations of clients are tested with."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.violations import Violation

T = TypeVar("T")


class Acting:
    """Makes requests of users of one monitor and runs code inside them."""

    def __init__(self, monitor: IsolationMonitor) -> None:
        self.monitor = monitor

    def request(self, user: str | None) -> RequestContext:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        return RequestContext(self.monitor.principals.named(user) if user else None, scope, None, None)

    def inside(self, request: RequestContext | None, act: Callable[..., T], *args: Any) -> T:
        def call() -> T:
            CURRENT.set(request)
            return act(*args)

        return contextvars.copy_context().run(call)

    def task(self, user: str | RequestContext | None, act: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> asyncio.Task[T]:
        """Start `act` in a task of its own, as the code of a request of `user`."""
        request = self.request(user) if user is None or isinstance(user, str) else user
        context = contextvars.copy_context()
        context.run(CURRENT.set, request)
        return asyncio.get_running_loop().create_task(act(*args), context=context)

    async def act(self, user: str | RequestContext | None, act: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run `act` as a request of `user` to its end, and end the request."""
        request = self.request(user) if user is None or isinstance(user, str) else user
        try:
            return await self.task(request, act, *args)
        finally:
            request.finished = True
            self.monitor.leaks.request_ended(request)

    def found(self, kind: str | None = None) -> list[Violation]:
        return [violation for violation in self.monitor.ledger.recent if kind is None or violation.kind == kind]

    def errors(self) -> float:
        return sum(self.monitor.registry.value(names.MONITOR_ERRORS, hook=hook) for hook in names.HOOKS)

    def checks(self, detector: str, result: str) -> float:
        return self.monitor.registry.value(names.CHECKS, detector=detector, result=result)


@contextmanager
def hooked(install: Callable[[Any], Installed], monitor: IsolationMonitor) -> Iterator[Installed]:
    """Keep a library hooked for one monitor until the block ends."""
    installed = install(monitor.detection)
    try:
        yield installed
    finally:
        installed.undo()


async def gathered(*work: Awaitable[Any]) -> list[Any]:
    return list(await asyncio.gather(*work, return_exceptions=True))
