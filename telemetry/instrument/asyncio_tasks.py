"""asyncio: which request starts which task and async generator, and who works off whose queue items.

A task factory is put onto the running loop, in front of the one that is there; it hands everything through and keeps a
weak reference to the task. Tasks inherit the request by their context, so ownership is there before the coroutine runs,
eager factories (3.12) included. Works with any loop that has task factories, uvloop too. Async generators are noted when they
are first run, by the interpreter's hook, in front of the loop's own. Queues and events tell the foreign-task detector.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.task_leak import code_of
from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

Factory = Callable[..., Any]
_Loop = asyncio.AbstractEventLoop

NEWEST_KNOWN: Final = (3, 15)
"""Python versions from this one on are not hooked: nobody has looked at what they pass to task factories."""


class AsyncioTasks:
    """The hooks of one monitor on asyncio, on every loop that has served."""

    def __init__(self, detection: Detection) -> None:
        self._detection = detection
        self._leaks = detection.task_leak
        self._foreign = detection.foreign_task
        self._switch = detection.switches[names.TASK_LEAK]
        self._loops: list[tuple[weakref.ref[_Loop], Factory, Factory | None]] = []
        self._hooks: tuple[Any, Any] | None = None
        self._undo: list[Callable[[], None]] = []

    def install(self) -> Installed:
        version = sys.version.split()[0]
        if sys.version_info >= NEWEST_KNOWN:
            return Installed([Patch("asyncio", version, "task factory", True, False, "this Python is newer than the hooks")], lambda: None)
        for owner, attribute, make in (
            (asyncio.Queue, "put_nowait", self._make_put),
            (asyncio.Queue, "get_nowait", self._make_get),
            (asyncio.Event, "set", self._make_set),
            (asyncio.Event, "clear", self._make_clear),
        ):
            self._undo.append(patches.replace(owner, attribute, make))
        targets = ("task factory of the running loop", "asyncgen hooks", "Queue.put_nowait", "Queue.get_nowait", "Event.set", "Event.clear")
        return Installed([Patch("asyncio", version, target, True, True) for target in targets], self.undo, self.serving)

    def serving(self) -> None:
        """Put the task factory onto the loop that runs in this thread, and the hook for async generators into the thread."""
        loop = asyncio.get_running_loop()
        self._loops = [entry for entry in self._loops if entry[0]() is not None]
        if all(entry[0]() is not loop for entry in self._loops):
            previous = loop.get_task_factory()
            factory = self._make_factory(previous)
            loop.set_task_factory(factory)
            self._loops.append((weakref.ref(loop), factory, previous))
        if self._hooks is None or sys.get_asyncgen_hooks().firstiter is not self._hooks[0]:
            self._hook_generators()

    def undo(self) -> None:
        """Take everything off. A factory that somebody has wrapped since stays below theirs, and only hands through."""
        for undo in self._undo:
            undo()
        for reference, factory, previous in self._loops:
            loop = reference()
            if loop is not None and not loop.is_closed() and loop.get_task_factory() is factory:
                loop.set_task_factory(previous)
        self._loops.clear()
        if self._hooks is not None:
            ours, previous_hook = self._hooks
            self._hooks = None
            if sys.get_asyncgen_hooks().firstiter is ours:
                sys.set_asyncgen_hooks(firstiter=previous_hook)

    # --- tasks and generators ---------------------------------------------------------------------------------------

    def _make_factory(self, previous: Factory | None) -> Factory:
        leaks, switch, failed = self._leaks, self._switch, self._detection.ledger.check_failed
        contexts = self._detection.foreign_context

        # Every task of the process comes through here, each request's own too, so what it does is written out and bound before.
        new_task, current = asyncio.Task, CURRENT.get

        def task_factory(loop: _Loop, coro: Any, **kwargs: Any) -> Any:
            task = new_task(coro, loop=loop, **kwargs) if previous is None else previous(loop, coro, **kwargs)
            try:
                if switch.is_on:
                    # A context of the caller's choice decides: a server may start a request inside another one's.
                    context = kwargs.get("context") if kwargs else None
                    owner = current() if context is None else context.get(CURRENT)
                    if owner is not None and not owner.finished:
                        leaks.started(task, "task", code_of(coro), owner, 2)
                    if contexts.glances_left > 0 and contexts.wants_glance():
                        # After the task's first step, which is where requests most often say whose they are.
                        loop.call_soon(contexts.glance, context=Context())
            except Exception as error:
                failed(names.TASK_LEAK, "asyncio", error)
            return task

        return task_factory

    def _hook_generators(self) -> None:
        previous = sys.get_asyncgen_hooks().firstiter
        leaks, failed = self._leaks, self._detection.ledger.check_failed

        def first_iteration(generator: Any) -> None:
            try:
                owner = CURRENT.get()
                if owner is not None and not owner.finished and self._hooks is not None:
                    leaks.started(generator, "generator", code_of(generator), owner, 2)
            except Exception as error:
                failed(names.TASK_LEAK, "asyncio", error)
            if previous is not None:
                previous(generator)

        self._hooks = (first_iteration, previous)
        sys.set_asyncgen_hooks(firstiter=first_iteration)

    # --- queues and events ------------------------------------------------------------------------------------------

    def _make_put(self, original: Callable[..., None]) -> Callable[..., None]:
        foreign, failed = self._foreign, self._detection.ledger.check_failed

        def put_nowait(self: Any, item: Any) -> None:
            original(self, item)
            if type(self) is asyncio.Queue:
                try:
                    foreign.put(self, item, len(self._queue))  # type: ignore[attr-defined]  # the queue's own deque
                except Exception as error:
                    failed(names.FOREIGN_TASK, "asyncio", error)

        return put_nowait

    def _make_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        foreign, failed, content = self._foreign, self._detection.ledger.check_failed, self._detection.foreign_content
        detection = self._detection

        def get_nowait(self: Any) -> Any:
            item = original(self)
            if type(self) is asyncio.Queue:
                try:
                    owner = foreign.taken(self, item, len(self._queue))  # type: ignore[attr-defined]
                    taker = CURRENT.get()
                    if owner is not None and taker is not None and taker.principal is not owner.principal:
                        content.made(item, owner)
                    detection.on_taken(self)
                except Exception as error:
                    failed(names.FOREIGN_TASK, "asyncio", error)
            return item

        return get_nowait

    def _make_set(self, original: Callable[..., None]) -> Callable[..., None]:
        foreign, failed = self._foreign, self._detection.ledger.check_failed

        def set(self: Any) -> None:
            original(self)
            try:
                foreign.signalled(self)
            except Exception as error:
                failed(names.FOREIGN_TASK, "asyncio", error)

        return set

    def _make_clear(self, original: Callable[..., None]) -> Callable[..., None]:
        foreign, failed = self._foreign, self._detection.ledger.check_failed

        def clear(self: Any) -> None:
            original(self)
            try:
                foreign.cleared(self)
            except Exception as error:
                failed(names.FOREIGN_TASK, "asyncio", error)

        return clear


def install(detection: Detection) -> Installed:
    return AsyncioTasks(detection).install()
