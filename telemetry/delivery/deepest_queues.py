"""The users with the deepest queues, told to the collector: metrics know how deep, and may not know whose.

Each worker says who waits now; a statement takes the place of the one before it. Whoever has waited for less than
`WAITS_S` is being served, so a service whose clients keep up says nothing. It costs no event anything: the look that
feeds the metrics once a second is looked at again. Times are monotonic seconds. All on the event loop's thread.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.violations import iso_time, uuid7

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.queues import Backlog

TOLD_USERS: Final = 20
"""Users of one statement; of all others it has the numbers."""
WAITS_S: Final = 2.0
"""A client acknowledges several times a second; who has not for so long does not keep up, or is not there."""
TELL_EVERY_S: Final = 5.0
"""Shortest time between two statements; the one that nobody waits any more does not wait either."""
REPEAT_AFTER_S: Final = 30.0
"""A statement that still holds is made again, or the collector would take the worker for dead."""


@dataclass(slots=True)
class _Waiting:
    """What waits for one user in this process. `oldest` is when its oldest event was emitted."""

    principal: str
    events: int
    bytes: int
    oldest: float
    connections: int

    def add(self, backlog: Backlog, now: float) -> None:
        self.events += backlog.events
        self.bytes += backlog.bytes
        self.oldest = min(self.oldest, now - backlog.age_s)
        self.connections += backlog.connections

    @property
    def key(self) -> tuple[str, int, int, float, int]:
        """What makes it the same as before; the clock's last digits do not."""
        return self.principal, self.events, self.bytes, round(self.oldest, 1), self.connections


class DeepestQueues:
    """Says for one process whose queues are the deepest, by `tell(record)`."""

    def __init__(self, tell: Callable[[dict[str, Any]], None], on_error: Callable[[BaseException], None]) -> None:
        self._tell = tell
        self._on_error = on_error
        self.forked()

    def forked(self) -> None:
        """Begin anew in a child process: what was said is the parent's."""
        self._id = ""
        self._sequence = 0
        self._said: object = ()
        """What was said last; empty when nobody waited."""
        self._said_at = float("-inf")

    def look(self, backlogs: Iterable[Backlog], now: float) -> None:
        """Say who waits, if that is news. Never raises."""
        try:
            waiting = [one for one in backlogs if one.age_s >= WAITS_S and one.owner is not None and not one.owner.is_synthetic]
            if waiting:
                if now - self._said_at >= TELL_EVERY_S:
                    self._say(_by_user(waiting, now), now)
            elif self._said:
                self._say([], now)
        except Exception as error:
            self._on_error(error)

    def _say(self, users: list[_Waiting], now: float) -> None:
        deepest = heapq.nlargest(TOLD_USERS, users, key=lambda one: (one.events, one.bytes, -one.oldest))
        events, text = sum(one.events for one in users), sum(one.bytes for one in users)
        said = (len(users), events, text, *(one.key for one in deepest)) if users else ()
        if said == self._said and now - self._said_at < REPEAT_AFTER_S:
            return
        self._said, self._said_at = said, now
        self._id = self._id or uuid7()
        self._sequence += 1
        wall = time.time()
        self._tell(
            {
                "type": "queues",
                # The same for all statements of a process: a collector that does not know the type keeps one of them, not each.
                "id": self._id,
                "time": iso_time(wall),
                "sequence": self._sequence,
                "waiting": {"users": len(users), "events": events, "bytes": text},
                "users": [
                    {
                        "principal": one.principal,
                        "events": one.events,
                        "bytes": one.bytes,
                        "oldest": iso_time(wall - (now - one.oldest)),
                        "connections": one.connections,
                    }
                    for one in deepest
                ],
            }
        )


def _by_user(backlogs: Iterable[Backlog], now: float) -> list[_Waiting]:
    found: dict[str, _Waiting] = {}
    for backlog in backlogs:
        if backlog.owner is not None:
            one = found.get(backlog.owner.id)
            if one is None:
                one = found[backlog.owner.id] = _Waiting(backlog.owner.hash, 0, 0, now, 0)
            one.add(backlog, now)
    return list(found.values())
