"""Queues seen from outside: how many events wait for each user, how much text that is, and since when the oldest waits.

A client that does not keep up shows here long before it shows in memory. Once a second each user with something waiting
is one observation, in three histograms and three maxima; no user is named. Connections that did not ask for the envelope
count with what the server still holds for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names

if TYPE_CHECKING:
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry

SHOW_EVERY_S: Final = 1.0

Backlog = tuple[int, int, float]
"""Events, bytes, and age of the oldest in seconds."""


class QueueGauges:
    """The metrics of the queues of one process."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._histograms = [registry.histogram(m) for m in (names.QUEUE_EVENTS, names.QUEUE_BYTES, names.QUEUE_AGE)]
        self._shown_at = 0.0
        self._maxima = [registry.gauge(m) for m in (names.QUEUE_EVENTS_MAX, names.QUEUE_BYTES_MAX, names.QUEUE_AGE_MAX)]

    def show_all(self, sources: Iterable[Callable[[float], Iterable[Backlog]]], is_last: bool) -> None:
        """Take a look at everybody who waits, at most once a second; always when it is the last look for now."""
        now = time.monotonic()
        if is_last or now - self._shown_at >= SHOW_EVERY_S:
            self._shown_at = now
            self.show([backlog for source in sources for backlog in source(now)])

    def show(self, backlogs: Iterable[Backlog]) -> None:
        """Take one look at these."""
        most = (0.0, 0.0, 0.0)
        for backlog in backlogs:
            for histogram, number in zip(self._histograms, backlog, strict=True):
                histogram.observe(float(number))
            most = (max(most[0], backlog[0]), max(most[1], backlog[1]), max(most[2], backlog[2]))
        for gauge, number in zip(self._maxima, most, strict=True):
            gauge.set(number)
