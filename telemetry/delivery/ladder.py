"""The ladder: how far events got, and what became of each in the end.

Rungs, from the lowest: `emitted` by the application, `enqueued` for its user, `sent` (the server took it), `kernel_acked`
(the next hop's kernel has it), `pong_acked` (the peer's WebSocket stack has read it), `client_acked` (the client's code
said so). An event counts under the highest rung that its connection supports, so each rung has a denominator of its own.
Each emitted event is settled once: `acknowledged` on that highest rung, `replayed` (acknowledged after it was sent
again), `expired` (nobody came for it, or a limit was reached), or `unknown`. Unknown is never counted as delivered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names

if TYPE_CHECKING:
    from isolation_monitor.telemetry.metrics.cells import Cell
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry

CLIENT_ACKED: Final = "client_acked"
"""The highest rung: events of a connection that asked for the envelope, or of Socket.IO that asked for an answer, can reach it."""
RESULTS: Final = {"acknowledged": "delivered", "replayed": "delivered", "expired": "lost", "unknown": "unknown"}
"""What an outcome means for the delivery rate, `isolation_event_deliveries_total`, where nothing else is said."""


class Ladder:
    """The counters of delivery, in cells that survive a killed worker."""

    def __init__(self, registry: MetricRegistry) -> None:
        self.registry = registry
        self._rungs = {
            (rung, highest): registry.counter(names.EVENT_RUNGS, rung=rung, highest=highest)
            for rung in names.RUNGS
            for highest in names.HIGHEST_RUNGS
        }
        self._settled = {
            (outcome, highest): registry.counter(names.EVENTS_SETTLED, outcome=outcome, highest=highest)
            for outcome in names.EVENT_OUTCOMES
            for highest in names.HIGHEST_RUNGS
        }
        self._results = {
            (result, arm): registry.counter(names.EVENT_DELIVERIES, result=result, arm=arm)
            for result in ("delivered", "lost", "unknown")
            for arm in names.ARMS
        }
        self._dropped = {reason: registry.counter(names.EVENTS_DROPPED, reason=reason) for reason in names.EVENT_DROP_REASONS}
        self._resumes = {outcome: registry.counter(names.RESUMES, outcome=outcome) for outcome in names.RESUME_OUTCOMES}
        self._client = {what: registry.counter(names.CLIENT_REPORTS, report=what) for what in names.CLIENT_REPORT_KINDS}

    def cell(self, rung: str, highest: str) -> Cell:
        """Return the counter of one rung, for events of connections with that highest rung."""
        return self._rungs[rung, highest]

    def climbed(self, rung: str, highest: str, events: int = 1) -> None:
        self._rungs[rung, highest].inc(float(events))

    def settled(self, outcome: str, highest: str, events: int = 1, *, arm: str = "none", result: str | None = None) -> None:
        """Count what became of `events`; once for each event.

        Args:
            arm: of the requests that they were events of.
            result: what it means for the delivery rate, where that is not what `RESULTS` says.
        """
        if events > 0:
            self._settled[outcome, highest].inc(float(events))
            self._results[result or RESULTS[outcome], arm].inc(float(events))

    def dropped(self, reason: str, events: int = 1) -> None:
        """Count events that will not be sent again, by one of `names.EVENT_DROP_REASONS`."""
        self._dropped[reason].inc(float(events))

    def resumed(self, outcome: str) -> None:
        self._resumes[outcome].inc()

    def reported(self, what: str, events: int) -> None:
        """Count what a client says it saw: gaps, duplicates, disorder."""
        self._client[what].inc(float(events))
