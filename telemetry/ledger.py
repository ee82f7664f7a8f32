"""The ledger: every judgement ends here, as a count in a cell and, for violations, as a record on its way to the collector.

Called from the event loop and from worker threads; never raises, never blocks.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import Exposure, RequestContext
from isolation_monitor.telemetry.violations import GRADE_ORDER, Violation, iso_time, uuid7

if TYPE_CHECKING:
    from isolation_monitor.telemetry.metrics.cells import Cell
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    from isolation_monitor.telemetry.principals import Principal
    from isolation_monitor.telemetry.records.outbox import Outbox

logger = logging.getLogger("isolation_monitor")

RECENT_LIMIT: Final = 256
FULL_RECORDS_PER_MINUTE: Final = 20
"""Full records of one fingerprint in a minute; the rest arrive as one record with their number (docs/records.md)."""
_MUTED_FINGERPRINTS: Final = 1_000


class Ledger:
    """Counts checks, verdicts and violations, and hands records to the outbox."""

    def __init__(self, registry: MetricRegistry, outbox: Outbox) -> None:
        self.registry = registry
        self.outbox = outbox
        self.exposure = Exposure()
        self.recent: deque[Violation] = deque(maxlen=RECENT_LIMIT)
        self.on_violation: list[Any] = []
        """Callables given each violation; for tests and the pytest plugin."""
        self.verdict_cells: dict[tuple[str, str, bool, str], Cell] = {
            (transport, verdict, exposed, arm): registry.counter(
                names.REQUESTS, transport=transport, verdict=verdict, exposed=str(exposed).lower(), arm=arm
            )
            for transport in names.TRANSPORTS
            for verdict in names.VERDICTS
            for exposed in (False, True)
            for arm in names.ARMS
        }
        self._checks = {(d, r): registry.counter(names.CHECKS, detector=d, result=r) for d in names.DETECTORS for r in names.CHECK_RESULTS}
        self.passes = {d: self._checks[d, "pass"] for d in names.DETECTORS}
        self._muted: dict[str, tuple[float, int, Violation | None]] = {}
        self._last_warning = 0.0

    # --- Reporter ---------------------------------------------------------------------------------------------------

    def checked(self, detector: str) -> None:
        self.passes[detector].inc()

    def skipped(self, detector: str) -> None:
        self._checks[detector, "skipped"].inc()

    def check_failed(self, detector: str, hook: str, error: BaseException) -> None:
        self._checks[detector, "error"].inc()
        self.internal_error(hook, error)

    def report(self, violation: Violation, *requests: RequestContext | None) -> None:
        """Count the violation, mark the requests of both sides, and send the evidence."""
        try:
            if any(request is not None and request.principal is not None and request.principal.is_synthetic for request in requests):
                violation.synthetic = True
            self._checks[violation.kind, "violation"].inc()
            self._count(violation)
            self.recent.append(violation)
            for request in requests:
                if request is not None:
                    if request.violations is None:
                        request.violations = []
                    request.violations.append(violation)
                    if violation.grade != "hygiene":
                        self._mark_violated(request)
            self._send(violation)
            for listener in self.on_violation:
                listener(violation)
        except Exception as error:
            self.internal_error("middleware", error)

    def escalate(self, violation: Violation, reason: str, request: RequestContext | None) -> None:
        """Raise a violation's grade to `crossed`: what could cross did cross."""
        if GRADE_ORDER[violation.grade] >= GRADE_ORDER["crossed"] or "crossed" not in names.KIND_GRADES[violation.kind]:
            return
        violation.grade = "crossed"
        self._count(violation)
        if request is not None:
            self._mark_violated(request)
        self._send_note("escalation", violation, {"grade": "crossed", "reason": reason})

    def retract(self, violation: Violation, reason: str) -> None:
        self._send_note("retraction", violation, {"reason": reason})

    @property
    def latest_finished(self) -> int:
        """Serial number of the request that was judged last; 0 before the first."""
        return self.exposure.latest_finished

    # --- requests ---------------------------------------------------------------------------------------------------

    def finish(self, request: RequestContext, late_principal: Principal | None = None) -> None:
        """Judge a request at its end, its exposure being known. The middleware has the commonest case written out.

        `late_principal` is whom authentication inside the application named, for a request that had none at entry.
        """
        if late_principal is not None:
            request.principal = late_principal
        request.finished = True
        self.exposure.latest_finished = request.serial
        if request.violated:
            verdict = "violated"
        elif request.principal is None or request.unverifiable:
            verdict = "unverified"
        else:
            verdict = "isolated"
        cell = self.verdict_cells[request.transport, verdict, request.exposed, request.arm]
        cell.values[cell.index] += 1.0

    def _mark_violated(self, request: RequestContext) -> None:
        if request.violated:
            return
        request.violated = True
        if request.finished and request.principal is not None and not request.unverifiable:
            # Already counted isolated: count again as violated, and say so, because counters never go down.
            self.verdict_cells[request.transport, "violated", request.exposed, request.arm].inc()
            self.registry.counter(names.RECLASSIFIED, exposed=str(request.exposed).lower(), arm=request.arm).inc()

    # --- housekeeping -----------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Send one record for what the rate limit held back. Called by the housekeeper about once a second."""
        for fingerprint, (since, held, last) in list(self._muted.items()):
            if now - since >= 60:
                self._muted.pop(fingerprint, None)
                if last is not None:
                    over = held - FULL_RECORDS_PER_MINUTE
                    self.outbox.put(last.as_record(count=over))

    def internal_error(self, hook: str, error: BaseException) -> None:
        """Count an error of our own; log at most one a minute. The host never sees it."""
        try:
            self.registry.counter(names.MONITOR_ERRORS, hook=hook).inc()
            now = time.monotonic()
            if now - self._last_warning > 60:
                self._last_warning = now
                logger.warning("isolation monitor: %s failed (%r); the application is not affected", hook, error, exc_info=error)
        except Exception:
            # Nothing is left to report to: even counting failed.
            return

    def _count(self, violation: Violation) -> None:
        self.registry.counter(
            names.VIOLATIONS,
            kind=violation.kind,
            grade=violation.grade,
            arm=violation.arm,
            synthetic="true" if violation.synthetic else "false",
        ).inc()

    def _send(self, violation: Violation) -> None:
        now = time.monotonic()
        fingerprint = violation.fingerprint
        since, seen, _ = self._muted.get(fingerprint, (now, 0, None))
        seen += 1
        if seen <= FULL_RECORDS_PER_MINUTE:
            self._muted[fingerprint] = (since, seen, None)
            self.outbox.put(violation.as_record())
        else:
            self._muted[fingerprint] = (since, seen, violation)
        if len(self._muted) > _MUTED_FINGERPRINTS:
            self._muted.pop(next(iter(self._muted)), None)
        if seen == 1:
            logger.error(
                "isolation violation %s (%s): %s [victim %s, offender %s, id %s]",
                violation.kind,
                violation.grade,
                violation.summary,
                violation.victim.principal if violation.victim else None,
                violation.offender.principal if violation.offender else None,
                violation.id,
            )

    def _send_note(self, type: str, violation: Violation, fields: dict[str, Any]) -> None:
        self.outbox.put({"type": type, "id": uuid7(), "time": iso_time(time.time()), "violation_id": violation.id, **fields})
