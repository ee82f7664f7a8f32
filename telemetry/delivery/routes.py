"""Unrouted event: an event that has nowhere to go, or comes from a run that nobody knows.

Sees: an event that is emitted for a user who has no connection to this process, by a run that no connection and no request
carries; and a frame on a user's socket that names a run which was never started here. Only in a process whose runs are
carried by connections (some run's events went over one), for a service that is polled keeps its events elsewhere.
How each run starts is counted: over a connection, within a request's answer, or with no connection at all.
Cannot see: whether the application keeps an event for later; connections to other workers: where workers hand events to
each other (a broker between them), switch it off: `ISOLATION_DETECTORS=unrouted_event=off`.
Cost: nothing for runs of a connection or a request; for others a look at the user's connections, once an event.
Precision: 0.8; an unknown run alone harms nobody and pages nobody. Grades: `hygiene`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.violations import Resource, Violation, request_id, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import Connection, RequestContext
    from isolation_monitor.telemetry.delivery.run import Run
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.principals import Principal


class Routes:
    """Knows whether a run's events can reach its user."""

    def __init__(self, ledger: Ledger, has_open: Callable[[Principal], bool], make_run: Callable[[str, Principal], Run]) -> None:
        """`has_open(principal)` tells whether a user has an open connection; `make_run` is for planted faults."""
        self._ledger = ledger
        self._has_open = has_open
        self._make_run = make_run
        registry = ledger.registry
        self._started = {route: registry.counter(names.RUNS_STARTED, route=route) for route in names.RUN_ROUTES}
        self._unrouted = {reason: registry.counter(names.EVENTS_UNROUTED, reason=reason) for reason in names.UNROUTED_REASONS}
        self.carries_runs = False
        """Whether some run's events went over a connection."""

    def started(self, run: Run) -> None:
        """Count how a run can reach its user as it starts."""
        self._started[self._route_of(run)].inc()

    def lacks(self, run: Run, event: str) -> bool:
        """Return whether an event that is being emitted has nowhere to go; count it, and report the first of its run."""
        if not self.carries_runs or run.connection is not None or self._route_of(run) != "none":
            return False
        self._unrouted["no_connection"].inc()
        run.unrouted += 1
        if run.unrouted == 1:
            self._report(run, event)
        return True

    def unknown(self, event: str, connection: Connection, request: RequestContext | None) -> None:
        """A frame names a run that was never started here."""
        if not self.carries_runs:
            return
        self._unrouted["unknown_run"].inc()
        self._ledger.report(
            Violation(
                kind=names.UNROUTED_EVENT,
                grade="hygiene",
                summary=f"{event} of a run that nobody knows was sent to a user",
                resource=Resource("run", f"unknown, {event}", {"event": event, "connection_id": request_id(connection.serial)}),
                victim=side_of(request, stacks.capture(4), principal=connection.principal),
                offender=None,
                arm=request.arm if request is not None else "none",
            )
        )

    def plant(self, lab: Lab) -> None:
        """Let a run of the victim, who has no connection, emit an event."""
        self._report(self._make_run(f"planted-{lab.name}", lab.victim), "planted")

    def _route_of(self, run: Run) -> str:
        request = run.request
        connection = request.connection if request is not None else None
        if connection is not None and not connection.closed:
            return "connection"
        if request is not None and connection is None and not request.finished:
            return "answer"
        return "connection" if run.owner is not None and run.owner.live and self._has_open(run.owner) else "none"

    def _report(self, run: Run, event: str) -> None:
        side = side_of(run.request, stacks.capture(5), principal=run.owner, run_id=run.id)
        self._ledger.report(
            Violation(
                kind=names.UNROUTED_EVENT,
                grade="hygiene",
                summary=f"{event} was emitted for a user who has no connection",
                resource=Resource("run", f"without a connection, {event}", {"run_id": run.id, "event": event}),
                victim=replace(side, trace=run.trace or side.trace),
                offender=None,
                arm=run.request.arm if run.request else "none",
                synthetic=run.is_planted,
            )
        )
