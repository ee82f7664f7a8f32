"""Queues seen from outside: how many events wait for each user, how much text that is, and since when the oldest waits.

A client that does not keep up shows here long before it shows in memory. Once a second each user with something waiting
is one observation, in three histograms and three maxima; no user is named here (see `deepest_queues.py` for that).
Connections that did not ask for the envelope count with what the server still holds for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from isolation_monitor.telemetry import names

if TYPE_CHECKING:
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    from isolation_monitor.telemetry.principals import Principal

SHOW_EVERY_S: Final = 1.0


class Backlog(NamedTuple):
    """What waits for one user, or on one connection. Ages are seconds."""

    events: int
    bytes: int
    age_s: float
    """Of the oldest event."""
    owner: Principal | None
    """None while nobody knows whose connection it is."""
    connections: int
    """Open ones; 0 when the user is not there."""


class QueueGauges:
    """The metrics of the queues of one process."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._histograms = [registry.histogram(m) for m in (names.QUEUE_EVENTS, names.QUEUE_BYTES, names.QUEUE_AGE)]
        self._shown_at = 0.0
        self.seen: Callable[[Sequence[Backlog], float], None] = lambda backlogs, now: None
        """Handed each look and its time; must not raise."""
        self._maxima = [registry.gauge(m) for m in (names.QUEUE_EVENTS_MAX, names.QUEUE_BYTES_MAX, names.QUEUE_AGE_MAX)]

    def show_all(self, sources: Iterable[Callable[[float], Iterable[Backlog]]], is_last: bool) -> None:
        """Take a look at everybody who waits, at most once a second; always when it is the last look for now."""
        now = time.monotonic()
        if is_last or now - self._shown_at >= SHOW_EVERY_S:
            self._shown_at = now
            backlogs = [backlog for source in sources for backlog in source(now)]
            self.show(backlogs)
            self.seen(backlogs, now)

    def show(self, backlogs: Iterable[Backlog]) -> None:
        """Take one look at these."""
        most = (0.0, 0.0, 0.0)
        for backlog in backlogs:
            for histogram, number in zip(self._histograms, backlog[:3], strict=True):
                histogram.observe(float(number))
            most = (max(most[0], backlog.events), max(most[1], backlog.bytes), max(most[2], backlog.age_s))
        for gauge, number in zip(self._maxima, most, strict=True):
            gauge.set(number)
