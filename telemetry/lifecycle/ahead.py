"""Blocks that run ahead of the start-up: what they open is the application's, what is opened between them and the start is the server's."""

from __future__ import annotations

import asyncio

from isolation_monitor.telemetry.lifecycle.inventory import Baseline
from isolation_monitor.telemetry.lifecycle.phases import Phase


class Ahead:
    """Looks at what the process holds before and after each such block."""

    def __init__(self) -> None:
        self._before: dict[str, Baseline] = {}
        self._around: list[tuple[Baseline, Baseline]] = []

    def clear(self) -> None:
        """Forget what was seen: a start-up begins."""
        self._before.clear()
        self._around.clear()

    def begins(self, phase: Phase) -> None:
        if phase.function is None:
            self._before[phase.name] = Baseline(asyncio._get_running_loop())

    def ended(self, phase: Phase) -> None:
        before = self._before.pop(phase.name, None)
        if before is not None:
            self._around.append((before, Baseline(asyncio._get_running_loop())))

    def baseline(self, loop: asyncio.AbstractEventLoop | None) -> Baseline | None:
        """Return what the process holds now without what the blocks made; None where none ran."""
        around, self._around = self._around, []
        if not around:
            return None
        now = Baseline(loop)
        for before, after in around:
            now.take_out(before, after)
        return now
