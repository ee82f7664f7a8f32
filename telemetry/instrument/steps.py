"""Steps: runs a coroutine and tells what happens at each of its awaits, changing nothing of how it runs.

Between two awaits nothing else runs on an event loop, so a change seen across one step is that step's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detection import Watcher


class Steps(Awaitable[None]):
    """Awaits `inner` step by step for a request. Sending, throwing and closing pass through; what a watcher raises does not."""

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
        if self._steps is None:
            self.__await__()
        return self._run(self._steps.send, value)

    def throw(self, *error: Any) -> Any:
        return self._run(self._steps.throw, *error)

    def close(self) -> None:
        # Before the first step there are none to close, only what they would have been made of.
        closing = self._inner if self._steps is None else self._steps
        closing.close()  # type: ignore[union-attr]  # coroutines have it

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
