"""Threads: jobs of thread pools run for the request that handed them over, and threads are known to who started them.

`ThreadPoolExecutor.submit` carries `asyncio.to_thread`, `loop.run_in_executor` and every pool of the application. While
a job runs, the request that submitted it is the current one in its thread; afterwards the thread is as before. A plain
`threading.Thread` is only remembered, for the detector of leaks: it may serve everybody, so it runs for nobody.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.code_files import owner_of
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.foreign_task import job_function
from isolation_monitor.telemetry.detectors.reach import function_of
from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

NEWEST_KNOWN: Final = (3, 15)


def install(detection: Detection) -> Installed:
    version = sys.version.split()[0]
    if sys.version_info >= NEWEST_KNOWN:
        return Installed([Patch("threading", version, "Thread.start", True, False, "this Python is newer than the hooks")], lambda: None)
    undo = [
        patches.replace(ThreadPoolExecutor, "submit", lambda original: _make_submit(original, detection)),
        patches.replace(threading.Thread, "start", lambda original: _make_start(original, detection)),
    ]

    def take_off() -> None:
        for one in undo:
            one()

    targets = ("ThreadPoolExecutor.submit", "Thread.start")
    return Installed([Patch("threading", version, target, True, True) for target in targets], take_off)


def _make_submit(original: Callable[..., Any], detection: Detection) -> Callable[..., Any]:
    leaks, foreign, failed = detection.task_leak, detection.foreign_task, detection.ledger.check_failed
    switch = detection.switches[names.FOREIGN_TASK]

    def run(owner: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        token = CURRENT.set(owner)
        try:
            return foreign.run_job(owner, False, function, *args, **kwargs)
        finally:
            CURRENT.reset(token)

    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = CURRENT.get()
        if owner is None or owner.finished or not switch.is_on:
            return original(self, fn, *args, **kwargs)
        future = original(self, run, owner, fn, *args, **kwargs)
        try:
            function = function_of(job_function(fn))
            leaks.started(future, "job", function.__code__ if function is not None else type(fn), owner, 2)
        except Exception as error:
            failed(names.TASK_LEAK, "asyncio", error)
        return future

    return submit


def _make_start(original: Callable[..., None], detection: Detection) -> Callable[..., None]:
    leaks, failed = detection.task_leak, detection.ledger.check_failed

    def start(self: Any) -> None:
        original(self)
        try:
            owner = CURRENT.get()
            if owner is not None and not owner.finished:
                code = _code_of_thread(self)
                # Threads that libraries start are those of their pools.
                if code is not None and owner_of(code.co_filename) == "application":
                    leaks.started(self, "thread", code, owner, 2)
        except Exception as error:
            failed(names.TASK_LEAK, "asyncio", error)

    return start


def _code_of_thread(thread: threading.Thread) -> CodeType | None:
    """Return the code that a thread runs: its target's, else that of its class."""
    held = object.__getattribute__(thread, "__dict__")
    function = function_of(held.get("_target")) or function_of(getattr(type(thread), "run", None))
    return function.__code__ if function is not None else None
