"""anyio: jobs that its worker threads run, which is where Starlette and FastAPI run what is not `async`.

anyio runs each job in a copy of its caller's context, so the request is the current one there already; what can be left over
is state of the thread itself. Supported: anyio 4, whose backend has one class method through which every job goes.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

BACKEND: Final = "anyio._backends._asyncio"
METHOD: Final = "run_sync_in_worker_thread"
SUPPORTED: Final = "4."


def install(detection: Detection) -> Installed:
    version = importlib.metadata.version("anyio")
    # anyio loads its backend with the first job: whoever waits for that misses the first jobs of every process.
    backend = vars(importlib.import_module(BACKEND)).get("AsyncIOBackend")
    target = f"AsyncIOBackend.{METHOD}"
    if not version.startswith(SUPPORTED) or type(vars(backend).get(METHOD) if backend is not None else None) is not classmethod:
        return Installed([Patch("anyio", version, target, True, False, "supported is anyio 4")], lambda: None)
    foreign = detection.foreign_task

    def make(original: classmethod[Any, Any, Any]) -> classmethod[Any, Any, Any]:
        inner: Callable[..., Awaitable[Any]] = original.__func__

        def run_sync_in_worker_thread(cls: Any, func: Any, args: Any, *rest: Any, **kwargs: Any) -> Awaitable[Any]:
            owner = CURRENT.get()
            if owner is None or owner.finished:
                return inner(cls, func, args, *rest, **kwargs)
            return inner(cls, foreign.run_job, (owner, True, func, *args), *rest, **kwargs)

        return classmethod(run_sync_in_worker_thread)

    undo = patches.replace(backend, METHOD, make)
    return Installed([Patch("anyio", version, target, True, True)], undo)
