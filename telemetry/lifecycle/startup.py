"""Runs the phases of a start-up: each as soon as those that it comes after are done, so concurrently where the order allows.

When one fails, the others are cancelled and its error is raised: it is the application's own. A plain function that runs in a
thread cannot be cancelled; it is left behind, and the process may end without it.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Final

from isolation_monitor.telemetry.errors import LifecycleError
from isolation_monitor.telemetry.lifecycle.phases import Phase, Phases
from isolation_monitor.telemetry.lifecycle.work import begin

CANCEL_WAIT_S: Final = 2.0
"""How long cancelled phases may take to end before the error is raised all the same."""


async def run(phases: Phases) -> None:
    """Run all phases that have not run yet, and wait for those that run as blocks elsewhere.

    Raises:
        BaseException: what the first phase that failed raised, with a note that names the phase.
    """
    tasks = {asyncio.create_task(_run(phase, phases), name=f"startup {phase.name}"): phase for phase in phases if not phase.is_over}
    failed = next((phase for phase in phases if phase.state == "failed"), None)
    try:
        if tasks and failed is None:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            failed = next((phase for phase in phases if phase.state == "failed"), None)
    finally:
        await _cancel(tasks)
    if failed is not None and failed.error is not None:
        # Once: a phase that failed as a block raised where it ran, and again here.
        note = f"start-up phase {failed.name!r} failed after {failed.duration_s:.1f} s"
        if note not in getattr(failed.error, "__notes__", ()):
            failed.error.add_note(note)
        raise failed.error
    if lost := [phase.name for phase in phases if phase.state == "cancelled"]:
        raise LifecycleError(f"start-up phase {lost[0]!r} was cancelled from outside: the start-up cannot go on")


async def _cancel(tasks: dict[asyncio.Task[None], Phase]) -> None:
    undone = [task for task in tasks if not task.done()]
    for task in undone:
        task.cancel()
    if undone:
        await asyncio.wait(undone, timeout=CANCEL_WAIT_S)
    for task, phase in tasks.items():
        if task.done() and not task.cancelled():
            # Seen: the phases keep their errors themselves.
            task.exception()
        if not phase.is_over and phase.function is not None and (not task.done() or task.cancelled()):
            phase.end(asyncio.CancelledError())


async def _run(phase: Phase, phases: Phases) -> None:
    if phase.function is None:
        # A block: whoever declared it runs it.
        await asyncio.wrap_future(phase.over)
        if phase.state != "done":
            raise _Failed(phase.name)
        return
    await phases.leaders_done(phase)
    phase.begin(asyncio.current_task())
    try:
        async with asyncio.timeout(phase.timeout_s):
            await _call(phase)
    except TimeoutError as error:
        if phase.timeout_s is not None and phase.duration_s >= phase.timeout_s and not error.args:
            error = TimeoutError(f"start-up phase {phase.name!r} did not end within its timeout_s={phase.timeout_s:g}")
        phase.end(error)
    except BaseException as error:
        phase.end(error)
        if isinstance(error, asyncio.CancelledError):
            raise
    else:
        phase.end(None)
    if phase.state == "failed":
        raise _Failed(phase.name)


class _Failed(Exception):
    """Ends the wait for all: the phase keeps the error itself."""


async def _call(phase: Phase) -> None:
    function = phase.function
    assert function is not None  # for the type checker: blocks do not come here
    if inspect.iscoroutinefunction(function) or not phase.in_thread:
        result = function()
        if inspect.iscoroutine(result):
            await result
        return
    work = begin(function, asyncio.get_running_loop(), f"startup {phase.name}")
    phase.task, phase.thread_id = None, work.thread_id
    await asyncio.wrap_future(work.future)
