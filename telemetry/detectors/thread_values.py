"""Thread values: what jobs write into thread-locals, and which later job finds what another principal's job wrote.

A request whose jobs run in several threads of a pool may write a thread-local in one and read it in the next. That it wrote one
value and finds another principal's is certain, whatever the value is: it need not name anybody. What belongs to the thread and
not to the request (a connection of its own, made by whoever needs it first) is told by its writer: that one leaves what is there.
Only identities of values are kept, no values; of texts the text, since equal ones may be copies.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import CodeType

    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.places import Place
    from isolation_monitor.telemetry.principals import Principal

REQUESTS_LIMIT: Final = 2_000
WRITERS_LIMIT: Final = 10_000
ATTRIBUTES_LIMIT: Final = 20
TEXT_LIMIT: Final = 200
HABITS_LIMIT: Final = 2_000
HABIT: Final = 5
"""A job that replaced what it found as often, and never left it, writes for each request."""

Slot = tuple[object, str]
"""A place's key and the attribute's name."""
Held = dict[Slot, tuple["Place", object]]


class ThreadValues:
    """Called on the threads that run the jobs: single operations on dictionaries only."""

    def __init__(self) -> None:
        self._written: dict[int, dict[Slot, object]] = {}
        """What each request's jobs wrote last, by its serial number."""
        self._habits: dict[tuple[Slot, CodeType | None], list[int]] = {}
        """How often a job's code found a slot filled, and how often it replaced the value."""
        self._writers: dict[tuple[int, Slot], tuple[Principal, object]] = {}
        """Whose job wrote what a thread holds, and what it was."""

    def held(self, places: Iterable[Place]) -> Held:
        """Return what the running thread's thread-locals hold, by reference: for as long as one job runs."""
        found: Held = {}
        for place in places:
            content = place.read() if place.kind == "thread_local" else None
            if type(content) is dict and content:
                for name, value in list(content.items())[:ATTRIBUTES_LIMIT]:
                    if type(name) is str:
                        found[place.key, name] = (place, value)
        return found

    def left_by_others(
        self, owner: RequestContext, code: CodeType | None, before: Held, after: Held
    ) -> Iterator[tuple[Place, str, Principal]]:
        """Note what a job of `owner`, which ran `code`, wrote; yield what it found of another principal's.

        Only where another job of the same request wrote something else before.
        """
        thread, principal = threading.get_ident(), owner.principal
        written = self._written.get(owner.serial)
        if principal is None or not after:
            return
        for slot, (place, value) in after.items():
            earlier = before.get(slot)
            is_written = earlier is None or earlier[1] is not value
            writer = self._writers.get((thread, slot))
            writer = writer if writer is not None and writer[1] == _mark(value) else None
            was_filled = earlier is not None and earlier[1] is not None
            # His own, found again: written once more or left, nobody can tell.
            is_own = not is_written and writer is not None and writer[0].id == principal.id
            is_habit = self._is_habit(slot, code, was_filled and not is_own, is_written)
            if is_written:
                if is_habit:
                    if written is None:
                        written = self._written[owner.serial] = {}
                        if len(self._written) > REQUESTS_LIMIT:
                            self._written.pop(next(iter(self._written)), None)
                    written[slot] = _mark(value)
                self._writers[thread, slot] = (principal, _mark(value))
                if len(self._writers) > WRITERS_LIMIT:
                    self._writers.pop(next(iter(self._writers)), None)
            elif value is None or written is None or writer is None:
                continue
            elif slot in written and written[slot] != _mark(value) and writer[0].id != principal.id:
                yield place, slot[1], writer[0]

    def _is_habit(self, slot: Slot, code: CodeType | None, was_filled: bool, is_written: bool) -> bool:
        habit = self._habits.get((slot, code))
        if was_filled:
            if habit is None:
                habit = self._habits[slot, code] = [0, 0]
                if len(self._habits) > HABITS_LIMIT:
                    self._habits.pop(next(iter(self._habits)), None)
            habit[0] += 1
            habit[1] += is_written
        return habit is not None and habit[1] == habit[0] >= HABIT


def _mark(value: object) -> object:
    # By its type, never by its own equality: that is the host's code.
    return value if type(value) is str and len(value) <= TEXT_LIMIT else id(value)
