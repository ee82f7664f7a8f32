"""Own work: whether a task is one principal's, though it outlives the message or request that started it.

A run of an agent is started as a task and handed whom it is for: an argument, or a variable of the function around it, names its
principal and nobody else. A task that serves everybody, as a forwarder of events, is handed none, by whoever it was started; and
one that is handed several brings something from one to the others. Looked at once for each task: about 5 us.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.detectors.knowledge import Knowledge
from isolation_monitor.telemetry.detectors.naming import names_in

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.principals import Principal

ARGUMENTS_LIMIT: Final = 16


class OwnWork:
    """Answers for the running task. Called on the event loop."""

    def __init__(self, known: Callable[[str], Principal | None]) -> None:
        """`known` gives the principal of an id, if it is one."""
        self._known = known
        self._whose: weakref.WeakKeyDictionary[asyncio.Task[Any], str | None] = weakref.WeakKeyDictionary()

    def is_of(self, request: RequestContext) -> bool:
        """Return whether the running code works for a request's principal: itself, or as a task that was handed him."""
        connection = request.connection
        try:
            task = asyncio.current_task()
        except RuntimeError:  # another library's loop
            task = None
        if not request.finished if connection is None else connection.task is not None and connection.task() is task:
            return True
        if task is None or request.principal is None:
            return False
        if task not in self._whose:
            self._whose[task] = self._whose_is(task)
        return self._whose[task] == request.principal.id

    def _whose_is(self, task: asyncio.Task[Any]) -> str | None:
        """Return the id of the one principal that a task was handed; None for nobody, and for several."""
        running: Any = task.get_coro()
        if type(running) is not CoroutineType or running.cr_frame is None:
            return None
        code, held = running.cr_code, running.cr_frame.f_locals
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        named: set[str] = set()
        for name in (*arguments, *code.co_freevars)[:ARGUMENTS_LIMIT]:
            for path, id in names_in(held.get(name), self._known):
                if Knowledge.is_strong(id, path.rpartition(".")[2] or name):
                    named.add(id)
        return named.pop() if len(named) == 1 else None
