"""Phases that hang: named, with where they stand and what they wait for.

The housekeeper's thread looks once a second, so a phase that holds the event loop is seen as well, and nothing here ever waits
for it. A phase is told of when it has run for its `hangs_after_s`, and again each time that has doubled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from isolation_monitor.telemetry import awaiting, running, stacks
from isolation_monitor.telemetry.lifecycle.phases import Phase


@dataclass(frozen=True, slots=True)
class Hang:
    """One phase that hangs. `stack` is `file:line function`, innermost last; `is_new` is False for an update."""

    phase: str
    seconds: float
    waits_for: str
    stack: list[str]
    is_new: bool


class Hangs:
    """Looks for phases that hang, and tells each `Hang` to `tell`."""

    def __init__(self, tell: Callable[[Hang], None]) -> None:
        self._tell = tell

    def look(self, phases: Iterable[Phase], now: float, waiting_since: float) -> None:
        """Look at all phases; `waiting_since` is since when the start-up waits for blocks that nobody has begun, 0 for never."""
        for phase in phases:
            if phase.is_over:
                continue
            seconds = phase.hung_s(now)
            if not seconds and phase.function is None and phase.state == "waiting" and waiting_since:
                seconds = now - waiting_since if now - waiting_since >= phase.hangs_after_s else 0.0
            if not seconds or seconds < 2 * phase.told_at:
                continue
            is_new = not phase.told_at
            phase.told_at = seconds
            where = _where(phase)
            self._tell(Hang(phase.name, seconds, where.text, stacks.render(where.stack), is_new))


def _where(phase: Phase) -> awaiting.Waiting:
    task, thread_id = phase.task, phase.thread_id
    if phase.state == "waiting":
        return awaiting.Waiting((), "somebody to run it: it is a block that has not begun")
    if isinstance(task, asyncio.Task):
        found = awaiting.of_task(task, thread_id)
        if found.stack:
            return found
    seen = running.stack_of_thread(thread_id) if thread_id is not None else None
    if seen is None:
        return awaiting.Waiting((), "nothing: its thread is gone")
    return awaiting.Waiting(seen[1], "its thread to come back")
