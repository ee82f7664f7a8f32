"""Whose code runs: the request of a task or of a running thread, seen from another thread, and its stack.

Nothing of the host is called: a task's context is read directly where Python gives it (3.12) and found among the
references of the task object before that; a thread's frames are walked, and only the locals of our own middleware read.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from contextvars import Context
from types import CodeType, FrameType
from typing import Any, Final

from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.stacks import DEPTH, RawStack

_MIDDLEWARE: Final = "IsolationMiddleware.__call__"
_MIDDLEWARE_MODULE: Final = "isolation_monitor.telemetry.instrument.asgi"
"""Known by name: what is below the integrations imports none of them."""
_WALKED: Final = 200
"""Frames of a thread that are looked at; deeper ones are of a recursion and say nothing new."""


def request_of_task(task: asyncio.Future[Any] | None) -> RequestContext | None:
    """Return the request that a task works for: the current one of its context. From any thread."""
    if not isinstance(task, asyncio.Task):
        return None
    if sys.version_info >= (3, 12) and type(task) is asyncio.Task:
        return task.get_context().get(CURRENT)
    # Its own context comes first; those that follow are of callbacks that wait for it.
    for referent in gc.get_referents(task):
        if type(referent) is Context:
            return referent.get(CURRENT)
    return None


def stack_of_thread(thread_id: int) -> tuple[FrameType, RawStack] | None:
    """Return the innermost frame of a thread and its raw stack; None when the thread is gone.

    Let go of the frame at once: it keeps what the host's functions hold.
    """
    innermost = sys._current_frames().get(thread_id)
    if innermost is None:
        return None
    taken: list[tuple[CodeType, int]] = []
    frame: FrameType | None = innermost
    while frame is not None and len(taken) < DEPTH * 2:
        taken.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return innermost, tuple(taken)


def request_of_frames(frame: FrameType | None) -> RequestContext | None:
    """Return the request whose middleware call is among the callers of `frame`; for code that runs in no task of its own."""
    for _ in range(_WALKED):
        if frame is None:
            return None
        if frame.f_code.co_qualname == _MIDDLEWARE and frame.f_globals.get("__name__") == _MIDDLEWARE_MODULE:
            request = frame.f_locals.get("request")
            return request if type(request) is RequestContext else None
        frame = frame.f_back
    return None
