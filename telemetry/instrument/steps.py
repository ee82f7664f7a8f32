"""Steps: runs a coroutine and tells what happens at each of its awaits, changing nothing of how it runs.

Between two awaits nothing else runs on an event loop, so a change seen across one step is that step's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext


class Watcher(Protocol):
    """Told before and after each step. What it raises is its own failure and is swallowed by `Steps`."""

    def before_step(self, request: RequestContext) -> None: ...
    def after_step(self, request: RequestContext) -> None: ...


class Steps(Awaitable[None]):
    """Awaits `inner` step by step for a request. Sending, throwing and closing pass through."""

    __slots__ = ("_inner", "_request", "_steps", "is_running", "watcher")

    def __init__(self, inner: Awaitable[None], request: RequestContext, watcher: Watcher) -> None:
        self._inner = inner
        self._request = request
        self.watcher = watcher
        self.is_running = False
        """Whether one of the steps is being run just now."""
        self._steps: Any = None

    def __await__(self) -> Generator[Any, Any, None]:
        self._steps = self._inner.__await__()
        return self

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> Any:
        return self._run(self._steps.__next__)

    def send(self, value: Any) -> Any:
        return self._run(self._steps.send, value)

    def throw(self, *error: Any) -> Any:
        return self._run(self._steps.throw, *error)

    def close(self) -> None:
        self._steps.close()

    def _run(self, go_on: Any, *arguments: Any) -> Any:
        watcher, request = self.watcher, self._request
        self.is_running = True
        try:
            watcher.before_step(request)
        except Exception:
            # A step without a look proves nothing, and harms nothing.
            pass
        try:
            return go_on(*arguments)
        finally:
            self.is_running = False
            try:
                watcher.after_step(request)
            except Exception:
                pass


async def stepwise(inner: Awaitable[None], request: RequestContext, watcher: Watcher, stepped: dict[int, Steps]) -> None:
    """Await `inner` in watched steps; `stepped` knows them meanwhile, by the request, in place of those of an outer task."""
    outer = stepped.get(request.serial)
    stepped[request.serial] = steps = Steps(inner, request, watcher)
    try:
        await steps
    finally:
        if outer is None:
            stepped.pop(request.serial, None)
        elif stepped.get(request.serial) is steps:
            stepped[request.serial] = outer
