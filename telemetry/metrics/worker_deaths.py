"""Worker deaths: a worker that vanished while it served somebody, counted by a worker that remains, or by the next one.

A worker that ends well marks its counters closed. One that was killed does not: its last known number of principals
being served tells whether anybody was hit. Each death is counted once: whoever makes the dead worker's mark counts it.
The number is as of the last second, and taken back to 0 when the application shuts down.
Cannot see: the end of all workers at once, unless the metrics folder is set and a next service starts in it; workers
without a shared folder.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics.group import CLOSED_SUFFIX, series_files, worker_is_alive
from isolation_monitor.telemetry.metrics.sources import WorkerFiles

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import Exposure
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry

LOOK_EVERY_S: Final = 2.0


class WorkerDeaths:
    """Shows how many principals this worker serves, and counts the workers that died serving."""

    def __init__(self, registry: MetricRegistry, exposure: Exposure) -> None:
        self._registry = registry
        self._exposure = exposure
        self._looked_at = 0.0

    def tick(self, now: float) -> None:
        """Called about once a second by the housekeeper."""
        self._registry.gauge(names.PRINCIPALS_ACTIVE).set(float(self._exposure.principals))
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._look()

    def ended(self) -> None:
        """Note that the application has shut down: whatever becomes of this process now hits nobody."""
        self._registry.gauge(names.PRINCIPALS_ACTIVE).set(0.0)

    def _look(self) -> None:
        if self._registry.directory is None:
            return
        for path in series_files(self._registry.directory):
            if path.with_suffix(CLOSED_SUFFIX).exists() or worker_is_alive(path):
                continue
            served, unsettled = _left_behind(path)
            if not _claim(path.with_suffix(CLOSED_SUFFIX)):
                continue
            for highest, events in unsettled.items():
                # It died with what it knew of them.
                self._registry.counter(names.EVENTS_SETTLED, outcome="unknown", highest=highest).inc(events)
                self._registry.counter(names.EVENT_DELIVERIES, result="unknown", arm="none").inc(events)
            if served:
                self._registry.counter(names.WORKER_DEATHS).inc()
                # One failure that nobody contained, whoever it began with.
                self._registry.counter(names.FAILURES, outcome="escaped", arm="none").inc()
                self._registry.histogram(names.FAILURE_PRINCIPALS).observe(served)


def _claim(mark: Path) -> bool:
    """Return whether it was this process that made the mark."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    return True


def _left_behind(path: Path) -> tuple[float, dict[str, float]]:
    """Return how many principals a dead worker served last, and the events it had not settled, by their connections' highest rung."""
    try:
        worker = WorkerFiles(path)
    except OSError:
        return 0.0, {}
    with contextlib.closing(worker):
        for _ in worker.refresh():
            pass
        if not worker.is_whole():
            return 0.0, {}
        doubles = [value for piece in worker.doubles() for value in piece]

        def number(metric: names.Metric, *labels: str) -> float:
            at = worker.positions.get((metric.name, labels))
            return 0.0 if at is None else sum(doubles[at : at + 2])

        unsettled = {}
        for highest in names.HIGHEST_RUNGS:
            settled = sum(number(names.EVENTS_SETTLED, outcome, highest) for outcome in names.EVENT_OUTCOMES)
            # Handed over to a server that tells nothing: counted at once, when the run ends.
            if highest != "sent" and (left := number(names.EVENT_RUNGS, "emitted", highest) - settled) > 0:
                unsettled[highest] = left
        return number(names.PRINCIPALS_ACTIVE), unsettled
