"""Whose code runs: the request of a task or of a running thread, seen from another thread, and its stack.

Nothing of the host is called: a task's context is read directly where Python gives it (3.12) and found among the
references of the task object before that; a thread's frames are walked, and only the locals of our own middleware read.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from contextvars import Context
from itertools import accumulate, repeat, takewhile
from itertools import chain as chain_of
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
    taken: list[tuple[CodeType, int]] = [(frame.f_code, frame.f_lasti) for frame in _and_callers(innermost, DEPTH * 2)]
    return innermost, tuple(taken)


def request_of_frames(frame: FrameType | None) -> RequestContext | None:
    """Return the request whose middleware call is among the callers of `frame`; for code that runs in no task of its own."""
    for one in () if frame is None else _and_callers(frame, _WALKED):
        if one.f_code.co_qualname == _MIDDLEWARE and one.f_globals.get("__name__") == _MIDDLEWARE_MODULE:
            request = one.f_locals.get("request")
            return request if type(request) is RequestContext else None
    return None


def _and_callers(frame: FrameType, limit: int) -> list[FrameType]:
    """Return a frame of another thread and its callers, innermost first.

    In one go inside of the interpreter, where no other thread runs: in a loop of ours the thread would run on between two steps,
    and where it then leaves a greenlet or a generator, the next step may find what is no frame any more.
    """
    chain = accumulate(chain_of((frame,), repeat("f_back", limit - 1)), getattr)  # type: ignore[arg-type]  # of each frame its caller
    return [one for one in list(takewhile(bool, chain)) if type(one) is FrameType]
