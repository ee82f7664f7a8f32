"""Replies: whose the answers are that come back over queues, where requests hand their calls to tasks of nobody's.

A task that took a request's item from a queue works for that request until it takes the next. What it puts into a queue in
the meantime is the reply to that call: not the task's, nor that of the request which happened to start the task. A reply is in the
wrong hands when a request of another principal takes it that put a call into the same queue and waits for its own, from a queue
that requests of several principals take from. Evidence only: what was in it is judged when it leaves (`foreign_content.py`).
Silent: queues of one's own, also where others' news come in by them; jobs that are handed out to whoever works them off and has
called nobody; what is passed on as it came, by a task or by a request that gives back what it took from a pool.
Cost: about 1 us for an item put and 1 us for one taken.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.by_identity import ByIdentity
from isolation_monitor.telemetry.recent import forget_oldest

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext

QUEUES_LIMIT: Final = 10_000
TASKS_LIMIT: Final = 10_000
CALLS_LIMIT: Final = 4_000
"""Requests whose calls are remembered."""
CALLED_LIMIT: Final = 8
"""Queues remembered of one request."""
TAKERS_LIMIT: Final = 16
TAKEN_KEPT: Final = 2
"""Items remembered that a task took last: who uses two things of a pool gives them back in any order."""
PARTS_LIMIT: Final = 20
"""Parts of a call in which what was passed on is looked for."""


class Reply(NamedTuple):
    """An item that a task put into a queue while it worked for a request. `calls` is the number of the queue with the calls."""

    by: RequestContext
    calls: int


class _Queue:
    __slots__ = ("number", "takers")

    def __init__(self, number: int) -> None:
        self.number = number
        """Never used again, as an identity is."""
        self.takers: set[str] = set()
        """Ids of principals whose requests took replies from it."""


class _Work:
    """What a task took last, and whose the latest of it was: None for nobody's; `queue` is the number of where it came from."""

    __slots__ = ("by", "queue", "taken")

    def __init__(self) -> None:
        self.by: RequestContext | None = None
        self.queue = 0
        self.taken: tuple[object, ...] = ()
        """Held until the task takes others or ends, as its own variables mostly hold it."""


class Replies:
    """Knows for whom tasks of nobody's work, and who has called whom. Called on the event loop."""

    def __init__(self) -> None:
        self._numbers = 0
        self._queues: ByIdentity[_Queue] = ByIdentity(QUEUES_LIMIT)
        self._work: ByIdentity[_Work] = ByIdentity(TASKS_LIMIT)
        self._called: dict[int, list[int]] = {}
        """By serial number of the request: the queues that it put something into."""

    def owner_of_put(self, queue: Any, item: object) -> RequestContext | Reply | None:
        """Return whose an item is that the running code is putting into a queue: a request's, or a reply to one."""
        mine = CURRENT.get()
        work = self._work.get(asyncio.current_task()) if len(self._work) else None
        if work is not None:
            if any(_is_part_of(item, call) for call in work.taken):
                return None
            if work.by is not None and work.by is not mine:
                return Reply(work.by, work.queue)
        if mine is not None and mine.principal is not None and not _is_nobodys(mine):
            number = self._queue(queue).number
            called = self._called.get(mine.serial)
            if called is None:
                self._called[mine.serial] = [number]
                forget_oldest(self._called, CALLS_LIMIT, 0.1)
            elif number not in called and len(called) < CALLED_LIMIT:
                called.append(number)
        return mine

    def taken(self, queue: Any, item: object, owner: RequestContext | Reply | None) -> RequestContext | None:
        """Note that the running code took an item from a queue, nobody's where `owner` is None; return for whom it was made.

        Of replies only those are told that another principal's request took in place of its own.
        """
        by = owner.by if isinstance(owner, Reply) else owner
        self._works_for(by, item, queue)
        if owner is None:
            return None
        mine = CURRENT.get()
        if not isinstance(owner, Reply):
            return owner
        if mine is None or mine.principal is None or _is_nobodys(mine):
            return None
        takers = self._queue(queue).takers
        if len(takers) < TAKERS_LIMIT:
            takers.add(mine.principal.id)
        is_in_place_of_its_own = len(takers) > 1 and owner.calls in self._called.get(mine.serial, ())
        return owner.by if owner.by.is_of_another(mine) and is_in_place_of_its_own else None

    def _works_for(self, by: RequestContext | None, item: object, queue: Any) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        work = self._work.get(task)
        if work is None:
            self._work.put(task, work := _Work())
        work.by = by if by is not None and by.principal is not None else None
        work.queue = self._queue(queue).number if work.by is not None else 0
        work.taken = (*work.taken[1 - TAKEN_KEPT :], item)

    def _queue(self, queue: Any) -> _Queue:
        known = self._queues.get(queue)
        if known is None:
            self._numbers += 1
            known = _Queue(self._numbers)
            self._queues.put(queue, known)
        return known


def _is_nobodys(request: RequestContext | None) -> bool:
    """Return whether code that runs in this context works for nobody in particular: nor for a request that is over, which started it."""
    return request is None or (request.finished and (request.connection is None or request.connection.closed))


def _is_part_of(item: object, call: object) -> bool:
    """Return whether a task passes on what it was handed, or a part of it: no reply of its own making."""
    if item is call:
        return True
    if type(call) in (list, tuple):
        return any(part is item for part in call[:PARTS_LIMIT])  # type: ignore[index]  # an exact sequence
    return type(call) is dict and any(part is item for part in list(call.values())[:PARTS_LIMIT])
