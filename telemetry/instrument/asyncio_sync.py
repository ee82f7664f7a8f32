"""asyncio's locks, semaphores, queues and task groups: who holds, who waits, who was cancelled because of whom.

What is known of a lock is kept in its own `__dict__`, so it lives exactly as long as the lock and costs no table.
Everything here runs on the loop's thread, between two awaits; the originals always run, whatever happens in ours.
"""

from __future__ import annotations

import asyncio
import platform
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import running
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.starvation import NOBODY, Holder, Holding, Starvation, clock, near
from isolation_monitor.telemetry.instrument import patches
from isolation_monitor.telemetry.instrument.integrations import Installed
from isolation_monitor.telemetry.instrument.patches import Patch

if TYPE_CHECKING:
    from isolation_monitor.telemetry.containment import Containment
    from isolation_monitor.telemetry.detection import Detection

NEWEST: Final = (3, 15)
"""The first Python whose asyncio has not been looked at: its classes are left alone."""
HOLDERS_LIMIT: Final = 256
_KEY: Final = "_isolation_monitor_holding"
_PLAIN: Final = frozenset({dict, list, tuple, str, bytes, int, float, bool, type(None)})
"""What no pool hands out."""


def install(detection: Detection) -> Installed:
    """Patch the classes of asyncio, and watch the loop once it serves."""
    version = platform.python_version()
    starvation, stalls, containment = detection.starvation, detection.loop_stall, detection.containment
    trends = detection.resource_trend
    made: list[Patch] = []
    undo: list[Callable[[], None]] = []
    if sys.version_info >= NEWEST:
        made.append(Patch("asyncio", version, "asyncio.Lock", True, False, "this Python is newer than what is supported: not patched"))
    else:
        for owner, attribute, make in (
            (asyncio.Lock, "acquire", lambda original: _acquire(original, starvation, "lock")),
            (asyncio.Lock, "release", lambda original: _release(original, starvation)),
            (asyncio.Semaphore, "acquire", lambda original: _acquire(original, starvation, "semaphore")),
            (asyncio.Semaphore, "release", lambda original: _release(original, starvation)),
            (asyncio.Queue, "get", lambda original: _get(original, starvation)),
            (asyncio.Queue, "get_nowait", lambda original: _get_nowait(original, starvation)),
            (asyncio.Queue, "put_nowait", lambda original: _put_nowait(original, starvation)),
            (asyncio.TaskGroup, "_on_task_done", lambda original: _on_task_done(original, containment)),
        ):
            if attribute not in vars(owner):
                made.append(
                    Patch("asyncio", version, f"{owner.__qualname__}.{attribute}", True, False, "there is no such method: not patched")
                )
                continue
            undo.append(patches.replace(owner, attribute, make))
            made.append(Patch("asyncio", version, f"asyncio.{owner.__qualname__}.{attribute}", True, True))

    def serving() -> None:
        loop = asyncio.get_running_loop()
        stalls.watch(loop)
        trends.serving(loop)

    def take_off() -> None:
        stalls.unwatch()
        for one in reversed(undo):
            one()

    return Installed(made, take_off, serving)


# --- locks and semaphores -----------------------------------------------------------------------------------------------


def _acquire(original: Callable[[Any], Any], starvation: Starvation, kind: str) -> Callable[[Any], Any]:
    switch = starvation.switch
    is_lock = kind == "lock"
    is_taken: Callable[[Any], bool] = asyncio.Lock.locked if is_lock else asyncio.Semaphore.locked

    async def acquire(self: Any) -> Any:
        if not switch.is_on:
            return await original(self)
        holding = self.__dict__.get(_KEY)
        if holding is None or not holding.holders or not is_taken(self):
            result = await original(self)
        else:
            result = await starvation.waiting(holding, near(sys._getframe(1)), original, self)
        # No await from here on: nobody else can have come in between.
        try:
            request = CURRENT.get()
            if holding is None:
                if request is None:
                    return result
                holding = self.__dict__[_KEY] = Holding(kind)
            # Of a semaphore each place is kept count of, also those of nobody.
            holder = NOBODY if request is None or request.finished else Holder(request, near(sys._getframe(1)), clock())
            if is_lock:
                # A lock has one holder: whoever gave it back without our seeing is forgotten here.
                holding.holders[:] = (holder,)
            else:
                holding.came(holder)
                if len(holding.holders) > HOLDERS_LIMIT:
                    del holding.holders[0]
        except Exception as error:
            starvation.failed(error)
        return result

    return acquire


def _release(original: Callable[[Any], Any], starvation: Starvation) -> Callable[[Any], Any]:
    def release(self: Any) -> Any:
        result = original(self)
        try:
            holding = self.__dict__.get(_KEY)
            if holding is not None:
                holding.given_back(CURRENT.get())
        except Exception as error:
            starvation.failed(error)
        return result

    return release


# --- queues that serve as pools -----------------------------------------------------------------------------------------


class _Pool(Holding):
    """The taken items of a queue, each by a weak reference. `is_known`: an item was put back, so it is a pool, not a stream."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        super().__init__("queue")
        self.is_known = False
        self.taken: dict[int, tuple[weakref.ref[Any], Holder]] = {}

    def take(self, item: object, holder: Holder) -> None:
        if len(self.taken) >= HOLDERS_LIMIT:
            # Nobody puts back what so many have taken.
            self.taken.clear()
            self.holders.clear()
        self.taken[id(item)] = (weakref.ref(item), holder)
        self.came(holder)

    def put(self, item: object) -> None:
        found = self.taken.get(id(item))
        if found is not None and found[0]() is item:
            self.is_known = True
            self._drop(id(item))
            return
        # A new one in place of one that is gone.
        gone = next((key for key, (reference, _) in self.taken.items() if reference() is None), None)
        if gone is not None:
            self._drop(gone)

    def _drop(self, key: int) -> None:
        _, holder = self.taken.pop(key)
        holder.gave_back()
        if holder in self.holders:
            self.holders.remove(holder)


def _get(original: Callable[[Any], Any], starvation: Starvation) -> Callable[[Any], Any]:
    async def get(self: Any) -> Any:
        holding = self.__dict__.get(_KEY)
        if holding is None or not holding.is_known or not holding.holders or not starvation.switch.is_on:
            return await original(self)
        return await starvation.waiting(holding, near(sys._getframe(1)), original, self)

    return get


def _get_nowait(original: Callable[[Any], Any], starvation: Starvation) -> Callable[[Any], Any]:
    def get_nowait(self: Any) -> Any:
        item = original(self)
        request = CURRENT.get()
        if request is None or request.finished or type(item) in _PLAIN or not starvation.switch.is_on:
            return item
        try:
            pool = self.__dict__.get(_KEY)
            if pool is None:
                pool = self.__dict__[_KEY] = _Pool()
            pool.take(item, Holder(request, near(sys._getframe(1)), clock()))
        except TypeError:
            # No weak reference to it can be made: it is not followed.
            pass
        except Exception as error:
            starvation.failed(error)
        return item

    return get_nowait


def _put_nowait(original: Callable[[Any, Any], Any], starvation: Starvation) -> Callable[[Any, Any], Any]:
    def put_nowait(self: Any, item: Any) -> Any:
        try:
            return original(self, item)
        finally:
            # Also where there is no room: a pool closes what it has too many of, and nobody holds that any more.
            try:
                pool = self.__dict__.get(_KEY)
                if pool is not None and pool.taken:
                    pool.put(item)
            except Exception as error:
                starvation.failed(error)

    return put_nowait


# --- task groups --------------------------------------------------------------------------------------------------------


def _on_task_done(original: Callable[[Any, Any], Any], containment: Containment) -> Callable[[Any, Any], Any]:
    def on_task_done(self: Any, task: Any) -> Any:
        was_aborting = self._aborting
        # Only a failure makes a group abort: a list of the others for each task that ends well would make ten thousand of them slow.
        if was_aborting or task.cancelled() or task.exception() is None:
            return original(self, task)
        members = list(self._tasks)
        result = original(self, task)
        try:
            if self._aborting:
                root = running.request_of_task(task)
                containment.aborted(root, [running.request_of_task(one) for one in (*members, self._parent_task)])
        except Exception as error:
            containment.failed_inside(error)
        return result

    return on_task_done
