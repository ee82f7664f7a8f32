"""Queues that feed sockets: how many items wait in them, looked at once a second.

An `asyncio.Queue` is known for one when a task takes an item from it and, before it waits again, sends on a WebSocket; no
declaration is needed. Others are declared by `monitor.queue`. What the server itself queues for the application to receive
is not meant. Depth alone tells of a slow consumer long before memory does.
"""

from __future__ import annotations

import asyncio
import queue as thread_queues
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError

if TYPE_CHECKING:
    from isolation_monitor.telemetry.ledger import Ledger

UNDECLARED: Final = "socket"
"""Name of the queues that nobody declared."""
QUEUES_LIMIT: Final = 10_000

_COUNTED: Final[dict[type, Callable[[Any], int]]] = {
    asyncio.Queue: asyncio.Queue.qsize,
    asyncio.PriorityQueue: asyncio.Queue.qsize,
    asyncio.LifoQueue: asyncio.Queue.qsize,
    thread_queues.Queue: thread_queues.Queue.qsize,
    thread_queues.SimpleQueue: thread_queues.SimpleQueue.qsize,
    deque: len,
}
"""How many items wait, for the types whose code is not the host's."""


class QueueDepths:
    """The queues of one process that feed sockets; each is held weakly."""

    def __init__(self, ledger: Ledger, has_sockets: Callable[[], object]) -> None:
        """`has_sockets()` is true while a connection is open: without one, no queue can feed any."""
        self._ledger = ledger
        self._has_sockets = has_sockets
        self._known: dict[int, tuple[Callable[[], Any], str]] = {}
        self._declared: list[tuple[Callable[[], int], str]] = []
        self.latest: tuple[Callable[[], Any], int] | None = None
        """The queue from which an item was taken last, and the identity of the task that took it."""

    def declare(self, name: str, queue: object) -> None:
        """Watch a queue; see `monitor.queue`.

        Raises:
            SettingsError: it is neither a queue of a known type nor a function.
        """
        if type(queue) in _COUNTED:
            self._add(queue, name)
        elif callable(queue):
            self._declared.append((queue, name))
        else:
            raise SettingsError(
                f"queue({name!r}) got {type(queue).__qualname__}: pass a queue, a deque, or a function that returns its length"
            )

    def taken(self, queue: Any) -> None:
        """Note that the running task took an item from an `asyncio.Queue`."""
        if id(queue) not in self._known and self._has_sockets():
            self.latest = (weakref.ref(queue), id(asyncio.current_task()))

    def sent(self) -> None:
        """Note that the running task sends on a WebSocket: with what it has just taken, if it has."""
        latest, self.latest = self.latest, None
        # Nothing here can fail: both calls are the interpreter's and asyncio's own, on the loop's thread.
        if latest is not None and latest[1] == id(asyncio.current_task()) and (queue := latest[0]()) is not None:
            self._add(queue, UNDECLARED)

    def tick(self, _: float) -> None:
        """Look at each queue; about once a second, on the housekeeper's thread."""
        deepest: dict[str, int] = dict.fromkeys((UNDECLARED, *(name for _, name in list(self._known.values()))), 0)
        for reference, name in list(self._known.values()):
            queue = reference()
            if queue is not None:
                self._saw(name, _COUNTED[type(queue)](queue), deepest)
        for length, name in self._declared:
            try:
                self._saw(name, int(length()), deepest)
            except Exception as error:
                self._ledger.internal_error("run", error)
        for name, depth in deepest.items():
            self._ledger.registry.gauge(names.QUEUE_DEPTH_MAX, queue=name).set(float(depth))

    def _saw(self, name: str, depth: int, deepest: dict[str, int]) -> None:
        self._ledger.registry.histogram(names.QUEUE_DEPTH, queue=name).observe(float(depth))
        deepest[name] = max(deepest.get(name, 0), depth)

    def _add(self, queue: Any, name: str) -> None:
        key = id(queue)
        if key not in self._known or name != UNDECLARED:
            if len(self._known) >= QUEUES_LIMIT:
                self._known.pop(next(iter(self._known)), None)
            self._known[key] = (weakref.ref(queue, lambda _: self._known.pop(key, None)), name)
