"""What is counted of resolutions. Every child of the closed label sets exists from the start; nothing here raises."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names

if TYPE_CHECKING:
    from isolation_monitor.telemetry.metrics.cells import Cell, HistogramCell
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    from isolation_monitor.telemetry.resolution.sources import Answer

AFFECTED_LIMIT: Final = 1_000
AFFECTED_WINDOW_S: Final = 60.0


class Counts:
    """The cells of one monitor's resolutions."""

    def __init__(self, registry: MetricRegistry) -> None:
        self.resolved: dict[str, Cell] = {source: registry.counter(names.ID_RESOLUTIONS, source=source) for source in names.ID_RESULTS}
        self.durations: dict[str, HistogramCell] = {
            source: registry.histogram(names.ID_RESOLUTION_DURATION, source=source) for source in names.ID_RESULTS
        }
        self.outcomes = {outcome: registry.counter(names.ID_OUTCOMES_TOTAL, outcome=outcome) for outcome in names.ID_OUTCOMES}
        self.patterns = {algorithm: registry.counter(names.ID_PATTERN_READS, algorithm=algorithm) for algorithm in names.ID_PATTERNS}
        self.registrations = {
            (source, result): registry.counter(names.ID_REGISTRATIONS_TOTAL, source=source, result=result)
            for source in names.ID_REGISTRATIONS
            for result in names.ID_STORED
        }
        self._answers = {
            (source, answer): registry.counter(names.ID_SOURCE_ANSWERS, source=source, answer=answer)
            for source in names.ID_ASKED
            for answer in names.ID_ANSWERS
        }
        self.circuits = {source: registry.gauge(names.ID_CIRCUIT_OPEN, source=source) for source in names.ID_ASKED}

    def answered(self, answer: Answer) -> None:
        self._answers[answer.source, answer.result].inc()


class AffectedUsers:
    """How many different users asked in vain in the minute so far."""

    def __init__(self) -> None:
        self._since = 0.0
        self._users: set[str] = set()

    def add(self, user: str | None) -> int:
        """Note one; return how many there were, at most 1,000. Without a known user nobody is added."""
        now = time.monotonic()
        if now - self._since >= AFFECTED_WINDOW_S:
            self._since, self._users = now, set()
        if user is not None and len(self._users) < AFFECTED_LIMIT:
            self._users.add(user)
        return len(self._users)
