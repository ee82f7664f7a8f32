"""What a task waits for: its chain of awaits down to the future that nobody resolves, seen from another thread.

Nothing of the host is called: coroutines, generators and frames are read as the interpreter made them, futures and tasks
only where they are exactly asyncio's. A task that waits for other tasks (`await task`, `gather`, `wait`, `wait_for`, a
`TaskGroup`) is followed into the first of them that is not done. Raw stacks hold code, never frames (`stacks.py`).
"""

from __future__ import annotations

import asyncio
import gc
from asyncio import tasks as asyncio_tasks
from dataclasses import dataclass
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, FunctionType, GeneratorType
from typing import Any, Final

from isolation_monitor.telemetry import running, stacks
from isolation_monitor.telemetry.stacks import RawStack

TASKS_FOLLOWED: Final = 8
STEPS_LIMIT: Final = 64
"""Frames of one chain that are looked at: a deeper one is of a recursion and says nothing new."""

_STEPPABLE: Final = (CoroutineType, GeneratorType, AsyncGeneratorType)
_WRAPPERS: Final = frozenset({"coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable"})
"""Objects of the interpreter that stand between an await and what it runs, by the names of their types."""
_FUT_WAITER: Final = asyncio.Task.__dict__.get("_fut_waiter")
_GATHERING: Final[type | None] = getattr(asyncio_tasks, "_GatheringFuture", None)
_WAITS_FOR_TASKS: Final = {"_wait", "wait_for", "TaskGroup.__aexit__", "TaskGroup._aexit"}
_LINK_TO_EXECUTOR: Final = "_chain_future.<locals>._call_check_cancel"
_ASYNCIO: Final = str(Path(asyncio.__file__).parent)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Where a task stands. `stack` is innermost first, of all tasks of the chain; `text` says what the last one waits for."""

    stack: RawStack
    text: str


def of_task(task: object, thread_id: int | None = None) -> Waiting:
    """Return what a task waits for; `thread_id` is its event loop's thread, to see code that does not wait but runs."""
    taken: list[tuple[CodeType, int]] = []
    waits, through = "nothing is known of what it waits for", ""
    for _ in range(TASKS_FOLLOWED):
        if not isinstance(task, asyncio.Task):
            break
        coroutine = asyncio.Task.get_coro(task)
        if getattr(coroutine, "cr_running", False) is True and type(coroutine) is CoroutineType:
            found = running.stack_of_thread(thread_id) if thread_id is not None else None
            taken.extend(reversed(found[1]) if found is not None else ())
            waits = "nothing: its code is running and has not come back to the event loop"
            break
        frame = _walk(coroutine, taken)
        waiter = _FUT_WAITER.__get__(task) if _FUT_WAITER is not None else None
        following, number = _tasks_behind(waiter, frame)
        waits = _describe(frame, waiter)
        if following is None:
            break
        if not through:
            through = ", in a task that it waits for" if number == 1 else f", in the first of {number} tasks that it waits for"
        task = following
    return Waiting(tuple(reversed(taken)), waits + through)


def first_of(task: object) -> asyncio.Task[Any] | None:
    """Return the first task that is not done among those that a task waits for; None where it waits for none."""
    if not isinstance(task, asyncio.Task):
        return None
    frame = _walk(asyncio.Task.get_coro(task), [])
    return _tasks_behind(_FUT_WAITER.__get__(task) if _FUT_WAITER is not None else None, frame)[0]


def of_thread(thread_id: int, opened_by: RawStack) -> Waiting | None:
    """Return where a thread stands, if it still runs the function that `opened_by` begins with; None when it went on to other work."""
    found = running.stack_of_thread(thread_id)
    if found is None or not opened_by or all(code is not opened_by[0][0] for code, _ in found[1]):
        return None
    return Waiting(found[1], "its thread has not come back")


def _walk(coroutine: object, taken: list[tuple[CodeType, int]]) -> FrameType | None:
    """Add the frames of a chain of awaits to `taken`, outermost first; return the innermost."""
    innermost: FrameType | None = None
    step: object = coroutine
    for _ in range(STEPS_LIMIT):
        kind = type(step)
        frame: FrameType | None
        if kind is CoroutineType:
            frame, step = step.cr_frame, step.cr_await  # type: ignore[attr-defined]  # exactly a coroutine
        elif kind is GeneratorType:
            frame, step = step.gi_frame, step.gi_yieldfrom  # type: ignore[attr-defined]
        elif kind is AsyncGeneratorType:
            frame, step = step.ag_frame, step.ag_await  # type: ignore[attr-defined]
        elif kind.__name__ in _WRAPPERS and kind.__module__ == "builtins":
            frame, step = None, next((one for one in gc.get_referents(step) if type(one) in _STEPPABLE), None)
        else:
            break
        if frame is not None:
            taken.append((frame.f_code, frame.f_lasti))
            innermost = frame
    return innermost


def _tasks_behind(waiter: object, frame: FrameType | None) -> tuple[asyncio.Task[Any] | None, int]:
    """Return the first task that is not done among those waited for, and how many there are."""
    candidates: list[object] = []
    if type(waiter) is asyncio.Task:
        candidates = [waiter]
    elif _GATHERING is not None and type(waiter) is _GATHERING:
        candidates = list(getattr(waiter, "_children", ()))
    elif frame is not None and frame.f_code.co_qualname in _WAITS_FOR_TASKS and frame.f_code.co_filename.startswith(_ASYNCIO):
        for value in frame.f_locals.values():
            if type(value) is asyncio.TaskGroup:
                value = vars(value).get("_tasks")
            candidates.extend(value if type(value) in (set, list, frozenset) else [value])
    # By identity: a loop variable may hold one of the tasks, too.
    undone = list({id(one): one for one in candidates if type(one) is asyncio.Task and not one.done()}.values())
    return (undone[0] if undone else None), len(undone)


def _describe(frame: FrameType | None, waiter: object) -> str:
    if frame is None:
        return "nothing: it has not begun"
    code = frame.f_code
    if code.co_filename.startswith(_ASYNCIO) and code.co_qualname == "sleep":
        return "asyncio.sleep"
    if stacks.is_library(code.co_filename):
        file = Path(code.co_filename)
        return f"{code.co_qualname} ({file.parent.name}/{file.name}:{stacks.line_of(code, frame.f_lasti)})"
    if waiter is None:
        return "its turn on the event loop"
    return "a job in a thread or another process" if _is_of_executor(waiter) else "a future that nobody has resolved"


def _is_of_executor(waiter: object) -> bool:
    """Return whether a future stands for one of `concurrent.futures`: asyncio links the two by a callback of its own."""
    if type(waiter) is not asyncio.Future:
        return False
    callbacks = getattr(waiter, "_callbacks", None)
    return any(type(one[0]) is FunctionType and one[0].__qualname__ == _LINK_TO_EXECUTOR for one in callbacks or () if one)
