"""Starlette and FastAPI: where endpoints run in a task of their own, below a `BaseHTTPMiddleware`, their steps are watched there.

Whoever watches the steps of a request sees those of the task that the server started. The innermost middleware of every
Starlette application, `ExceptionMiddleware`, is on the way to all endpoints, and on the endpoints' side of such a task.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch
from isolation_monitor.telemetry.instrument.steps import stepwise

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detection import Detection
    from isolation_monitor.telemetry.instrument.steps import Steps

LIBRARY: Final = "starlette.middleware.exceptions"
CLASS: Final = "ExceptionMiddleware"
TARGET: Final = f"{CLASS}.__call__"


def install(detection: Detection) -> Installed:
    version = metadata.version("starlette")
    middleware = vars(sys.modules[LIBRARY]).get(CLASS)
    if not isinstance(middleware, type) or "__call__" not in vars(middleware) or version.split(".")[0] not in ("0", "1"):
        return Installed([Patch("starlette", version, TARGET, True, False, "not known in this version: not patched")], lambda: None)
    undo = patches.replace(middleware, "__call__", lambda original: _call(original, detection))
    return Installed([Patch("starlette", version, TARGET, True, True)], undo)


def _call(original: Callable[..., Awaitable[None]], detection: Detection) -> Callable[..., Awaitable[None]]:
    stepped = detection.stepped

    # Not `async`: one more coroutine for each request would cost more than the question.
    # Its parameters are written out, by the names that they have in the original: packing them costs as much again.
    def call(self: Any, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if stepped and (request := CURRENT.get()) is not None and request.serial in stepped:
            return _in_steps(lambda: original(self, scope, receive, send), request, stepped)
        return original(self, scope, receive, send)

    return call


async def _in_steps(start: Callable[[], Awaitable[None]], request: RequestContext, stepped: dict[int, Steps]) -> None:
    """Run what `start` returns, in watched steps where the running task has none yet.

    A coroutine, so that a task can be made of it as of the original's; and only its first step tells which task that is.
    """
    outer = stepped.get(request.serial)
    if outer is None or outer.is_running:
        await start()
    else:
        await stepwise(start(), request, outer.watcher, stepped)
