"""Pace: how far a walk may go and how long until the next, so that all of them together cost what they may.

Most services are seen whole by each walk. In a service of hundreds of modules a walk ends at its limit; there, one walk
now and then goes to the end, at a share of the processor of its own. The first of those comes at once: what stays
unseen cannot be judged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from isolation_monitor.telemetry.detectors.object_walk import NODES_LIMIT, WHOLE_LIMIT

SHORTEST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 4.0
SHARE: Final = 0.01
"""Of one processor, for walks up to the usual limit; more where one of them takes longer than 40 ms."""
WHOLE_SHARE: Final = 0.02
"""The same for walks to the end of a large service."""
HURRIED_SHARE: Final = 0.05
"""The same while suspicions wait for a walk."""
SLICE_S: Final = 0.0008
"""Longest stretch of a walk on the housekeeper's thread; the event loop may wait that long for the interpreter."""
PAUSE_S: Final = 0.004
"""Between two slices of a walk."""
HELD_UP_SHARE: Final = 0.25
"""Of the slices that there is time for: a walk that has had fewer does not come on, because others have the processor."""
LATE_S: Final = 1.0
"""A walk that has not begun so long after its time is held up as well."""
LOST_AFTER_S: Final = 60.0
"""An appointment of which nothing was heard for so long was lost."""


class WalkPace:
    """Written by whoever walks. `wait_s` is the time from the end of the latest walk to the next one.

    Args:
        after: makes an appointment so many seconds from now (`Housekeeper.after`).
        walk_on: begins a walk, or goes on with it.
    """

    def __init__(self, after: Callable[[float, Callable[[], None]], None], walk_on: Callable[[], None]) -> None:
        self._after = after
        self._walk_on = walk_on
        self._appointment = 0
        self._due_at = 0.0
        self.is_due = False
        """A walk has an appointment or is on its way."""
        self.wait_s = SHORTEST_WAIT_S
        self.is_large = False
        """Whether there is more than a usual walk sees."""
        self._begun: float | None = None
        """When the walk that is under way began; None while the next one is awaited."""
        self._slices = 0
        self._spent_s = 0.0
        self._is_whole = False
        self._whole_due = 0.0
        """When the next walk to the end may begin (`time.monotonic()`)."""

    def schedule(self) -> None:
        """Make an appointment for the next walk; an earlier one no longer counts."""
        self.is_due = True
        self._begun = None
        self._due_at = time.monotonic() + self.wait_s
        self._appointment = mine = self._appointment + 1
        self._after(self.wait_s, lambda: self._walk_on() if mine == self._appointment else None)

    def hurry(self) -> None:
        """Walk soon: somebody waits for what a walk that begins now will see."""
        wait_s = max(SHORTEST_WAIT_S, self._spent_s / HURRIED_SHARE)
        if not self.is_due or self._due_at > time.monotonic() + wait_s:
            self.wait_s = wait_s
            self.schedule()

    def go_on_later(self) -> None:
        """Make an appointment for the next slice of the walk that is under way."""
        self._slices += 1
        self._after(PAUSE_S, self._walk_on)

    def is_held_up(self) -> bool:
        """Return whether the walk that is due does not come on, because others have the processor."""
        # Read once: the event loop may make an appointment meanwhile.
        now, begun = time.monotonic(), self._begun
        if begun is None:
            return self.is_due and now - self._due_at > LATE_S
        return self.is_due and self._slices < HELD_UP_SHARE * (now - begun) / (SLICE_S + PAUSE_S) - 1

    def is_lost(self, now: float) -> bool:
        return self.is_due and now - self._due_at > LOST_AFTER_S

    def begin(self, now: float, *, is_glimpse: bool, is_last: bool) -> int:
        """Begin a walk; return its limit in objects. A glimpse ends early by the clock; the last walk of a process leaves nothing out."""
        self._spent_s = 0.0
        if not is_glimpse:
            self._slices, self._begun = 0, now
        self._is_whole = is_last or (self.is_large and not is_glimpse and now >= self._whole_due)
        return WHOLE_LIMIT if self._is_whole else NODES_LIMIT

    def spent(self, seconds: float) -> None:
        """Add processor time to the walk."""
        self._spent_s += seconds

    def ended(self, *, was_cut: bool, is_eventful: bool) -> None:
        """End a walk. An eventful one, which found something or something changed, is repeated sooner."""
        if self._is_whole:
            self._whole_due = time.monotonic() + self._spent_s / WHOLE_SHARE
        self.is_large = self.is_large or was_cut
        least = max(SHORTEST_WAIT_S, self._spent_s / SHARE)
        self.wait_s = min(LONGEST_WAIT_S, least if is_eventful else max(least, self.wait_s * 1.5))
        if self.is_large and not self._whole_due:
            self.wait_s = SHORTEST_WAIT_S
