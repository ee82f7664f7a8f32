"""The ledger: every judgement ends here, as a count in a cell and, for violations, as a record on its way to the collector.

Called from the event loop and from worker threads; never raises, never blocks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import evidence, names
from isolation_monitor.telemetry.context import CURRENT, Exposure, RequestContext
from isolation_monitor.telemetry.flags import arms
from isolation_monitor.telemetry.flags.cells import RolloutCells
from isolation_monitor.telemetry.suppressions import Suppressions
from isolation_monitor.telemetry.violations import GRADE_ORDER, Violation, iso_time, request_id, uuid7

if TYPE_CHECKING:
    from isolation_monitor.telemetry.metrics.cells import Cell
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    from isolation_monitor.telemetry.principals import Principal
    from isolation_monitor.telemetry.records.outbox import Outbox
    from isolation_monitor.telemetry.switches import Switches

logger = logging.getLogger("isolation_monitor")

RECENT_LIMIT: Final = 256
PLANTED_LIMIT: Final = 32
NOTED_REQUESTS: Final = 200
"""Requests that are over and still know what was found on them: a crossing that is proven later names what made it possible."""
NOTED_EACH: Final = 32
PLANTED_RECORD_EVERY_S: Final = 3600.0
"""A planted fault of each detector is sent once an hour: proof that evidence arrives, and no flood."""
FULL_RECORDS_PER_MINUTE: Final = 20
"""Full records of one fingerprint in a minute; the rest arrive as one record with their number (docs/records.md)."""
_MUTED_FINGERPRINTS: Final = 1_000


class Ledger:
    """Counts checks, verdicts and violations, and hands records to the outbox."""

    def __init__(self, registry: MetricRegistry, outbox: Outbox, suppressions: Suppressions | None = None) -> None:
        self.registry = registry
        self.outbox = outbox
        self.rollouts = RolloutCells(registry)
        """The numbers of rollouts by arm."""
        self.suppressions = suppressions or Suppressions()
        self.switches: Switches | None = None
        """Set by the detection: a detector that is off reports nothing, whatever still asks it."""
        self.about: evidence.About | None = None
        """Set by the detection: which code and configuration records come from."""
        self.exposure = Exposure()
        self.recent: deque[Violation] = deque(maxlen=RECENT_LIMIT)
        """Of users; those that are suppressed say so in their detail."""
        self.planted: deque[Violation] = deque(maxlen=PLANTED_LIMIT)
        self._noted: deque[RequestContext] = deque()
        """What detectors reported of planted faults."""
        self._planting: set[int] = set()
        """The threads on which a fault is being planted now."""
        self._planted_sent: dict[str, float] = {}
        self.on_violation: list[Any] = []
        """Callables given each violation, planted ones too, but none that is suppressed."""
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
        self._muted: dict[str, _Burst] = {}
        self._last_warning = 0.0

    # --- Reporter ---------------------------------------------------------------------------------------------------

    def checked(self, detector: str) -> None:
        # Checks tell whether the host's acts reach a detector: those on planted faults do not.
        if not self._planting or threading.get_ident() not in self._planting:
            self.passes[detector].inc()

    def skipped(self, detector: str) -> None:
        if not self._planting or threading.get_ident() not in self._planting:
            self._checks[detector, "skipped"].inc()

    def check_failed(self, detector: str, hook: str, error: BaseException) -> None:
        self._checks[detector, "error"].inc()
        self.internal_error(hook, error)

    def report(self, violation: Violation, *requests: RequestContext | None) -> None:
        """Count the violation, mark the requests of both sides, and send the evidence."""
        try:
            if self.switches is not None and not self.switches[violation.kind].is_on:
                return
            if self._is_planted(requests):
                violation.synthetic = True
            _tell_who_acts(violation)
            _tell_arms(violation, requests)
            if violation.synthetic:
                self._report_planted(violation, requests)
                return
            self._checks[violation.kind, "violation"].inc()
            suppression = self.suppressions.matching(violation)
            self.recent.append(violation)
            if suppression is not None:
                violation.detail["suppressed"] = suppression.as_detail()
                self._report_suppressed(violation, requests)
                return
            self._count(violation)
            for request in requests:
                if request is not None:
                    self._note(request, violation)
                    if violation.grade != "hygiene":
                        self._mark_violated(request)
            self._send(violation)
            for listener in self.on_violation:
                listener(violation)
        except Exception as error:
            self.internal_error("middleware", error)

    @contextmanager
    def planting(self) -> Iterator[None]:
        """While a fault is planted on the calling thread: what is reported there is synthetic, what is checked there does not count."""
        thread = threading.get_ident()
        self._planting.add(thread)
        try:
            yield
        finally:
            self._planting.discard(thread)

    def escalate(self, violation: Violation, reason: str, request: RequestContext | None) -> None:
        """Raise a violation's grade to `crossed`: what could cross did cross."""
        if GRADE_ORDER[violation.grade] >= GRADE_ORDER["crossed"] or "crossed" not in names.KIND_GRADES[violation.kind]:
            return
        violation.grade = "crossed"
        if violation.synthetic:
            return
        if "suppressed" in violation.detail:
            if request is not None:
                self._mark_unverifiable(request)
        else:
            self._count(violation)
            if request is not None:
                self._mark_violated(request)
        self._send_note("escalation", violation, {"grade": "crossed", "reason": reason})

    def retract(self, violation: Violation, reason: str) -> None:
        violation.retracted = reason
        if not violation.synthetic:
            self._send_note("retraction", violation, {"grade": violation.grade, "reason": reason})

    @property
    def latest_finished(self) -> int:
        """Serial number of the request that was judged last; 0 before the first."""
        return self.exposure.latest_finished

    def isolated_cells(self, transport: str) -> dict[str, tuple[Cell, Cell]]:
        """Return the cells of the verdict `isolated`: by arm, then by whether the request was exposed."""
        cells = self.verdict_cells
        return {arm: (cells[transport, "isolated", False, arm], cells[transport, "isolated", True, arm]) for arm in names.ARMS}

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

    def _note(self, request: RequestContext, violation: Violation) -> None:
        found = request.violations
        if found is not None:
            if len(found) >= NOTED_EACH:
                if self._is_slight(violation):
                    return
                del found[next((at for at, one in enumerate(found) if self._is_slight(one)), 0)]
            found.append(violation)
            return
        request.violations = [violation]
        noted = self._noted
        noted.append(request)
        for _ in range(2):
            if len(noted) <= NOTED_REQUESTS:
                return
            with suppress(IndexError):  # Another thread was faster.
                oldest = noted.popleft()
                if oldest.finished:
                    oldest.violations = None
                else:
                    noted.append(oldest)

    def _is_slight(self, violation: Violation) -> bool:
        """Whether nothing depends on a violation being known of its request: it neither refuses an answer nor makes a crossing."""
        return violation.grade == "hygiene" and not (self.switches is not None and self.switches[violation.kind].blocks)

    def _mark_violated(self, request: RequestContext) -> None:
        if request.violated:
            return
        request.violated = True
        if request.finished and request.principal is not None and not request.unverifiable:
            # Already counted isolated: count again as violated, and say so, because counters never go down.
            self.verdict_cells[request.transport, "violated", request.exposed, request.arm].inc()
            self.registry.counter(names.RECLASSIFIED, exposed=str(request.exposed).lower(), arm=request.arm).inc()

    def _mark_unverifiable(self, request: RequestContext) -> None:
        """What was found on the request is suppressed: it cannot be called isolated, nor is it counted as violated."""
        if request.violated or request.unverifiable:
            return
        request.unverifiable = True
        if request.finished and request.principal is not None:
            self.verdict_cells[request.transport, "unverified", request.exposed, request.arm].inc()
            self.registry.counter(names.RECLASSIFIED, exposed=str(request.exposed).lower(), arm=request.arm).inc()

    # --- housekeeping -----------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Send one record for what the rate limit held back. Called by the housekeeper about once a second."""
        for fingerprint, burst in list(self._muted.items()):
            if now - burst.since >= 60:
                self._muted.pop(fingerprint, None)
                if burst.last is not None:
                    over = burst.seen - FULL_RECORDS_PER_MINUTE
                    self._put(burst.last, over, burst.affected)

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

    def _is_planted(self, requests: tuple[RequestContext | None, ...]) -> bool:
        return threading.get_ident() in self._planting or any(
            request is not None and request.principal is not None and request.principal.is_synthetic for request in requests
        )

    def _report_planted(self, violation: Violation, requests: tuple[RequestContext | None, ...]) -> None:
        """Count and keep what a detector saw of a planted fault, apart from users' violations; no log line, few records."""
        # Not among the violations, synthetic ones neither: those are the drills', and cause the alerts that they test. Planted
        # faults have counters of their own (`power.py`), or every service would keep every alert firing for ever.
        self.planted.append(violation)
        for request in requests:
            if request is not None:
                # Not remembered: planted requests are nobody's, and never end.
                request.violations = [*(request.violations or ()), violation]
        now = time.monotonic()
        if now - self._planted_sent.get(violation.kind, -PLANTED_RECORD_EVERY_S) >= PLANTED_RECORD_EVERY_S:
            self._planted_sent[violation.kind] = now
            self._put(violation)
        for listener in self.on_violation:
            listener(violation)

    def _report_suppressed(self, violation: Violation, requests: tuple[RequestContext | None, ...]) -> None:
        """Count a violation that the service accepts for now: it pages nobody and blocks nothing, and no request is green for it."""
        self.registry.counter(names.VIOLATIONS_SUPPRESSED, kind=violation.kind).inc()
        if violation.grade != "hygiene":
            for request in requests:
                if request is not None:
                    self._mark_unverifiable(request)
        self._send(violation)

    def _count(self, violation: Violation) -> None:
        self.registry.counter(
            names.VIOLATIONS,
            kind=violation.kind,
            grade=violation.grade,
            arm=violation.arm,
            synthetic="true" if violation.synthetic else "false",
        ).inc()
        if violation.rollouts and not violation.synthetic:
            self.rollouts.violated(violation)

    def _send(self, violation: Violation) -> None:
        now = time.monotonic()
        fingerprint = violation.fingerprint
        burst = self._muted.get(fingerprint)
        if burst is None:
            burst = self._muted[fingerprint] = _Burst(now)
        burst.seen = seen = burst.seen + 1
        burst.affected.add(violation, self.exposure.principals)
        if seen <= FULL_RECORDS_PER_MINUTE:
            self._put(violation, 1, burst.affected)
        else:
            burst.last = violation
        if len(self._muted) > _MUTED_FINGERPRINTS:
            self._muted.pop(next(iter(self._muted)), None)
        if seen == 1:
            is_accepted = "suppressed" in violation.detail
            logger.log(
                logging.INFO if is_accepted else logging.ERROR,
                "isolation violation %s (%s): %s [victim %s, offender %s, id %s]" + (" (suppressed)" if is_accepted else ""),
                violation.kind,
                violation.grade,
                violation.summary,
                violation.victim.principal if violation.victim else None,
                violation.offender.principal if violation.offender else None,
                violation.id,
            )

    def _put(self, violation: Violation, count: int = 1, affected: evidence.Affected | None = None) -> None:
        record = violation.as_record(count)
        if self.about is not None:
            record |= self.about.as_record()
        if affected is not None:
            record["affected"] = affected.as_record(names_them=count > 1)
        self.outbox.put(record)

    def _send_note(self, type: str, violation: Violation, fields: dict[str, Any]) -> None:
        self.outbox.put({"type": type, "id": uuid7(), "time": iso_time(time.time()), "violation_id": violation.id, **fields})


class _Burst:
    """The violations of one fingerprint in a minute. `since` is `time.monotonic()`."""

    __slots__ = ("affected", "last", "seen", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.seen = 0
        self.last: Violation | None = None
        """The latest that was held back."""
        self.affected = evidence.Affected()


def _tell_who_acts(violation: Violation) -> None:
    """Add task and trace to the side whose request the reporting code runs for."""
    current = CURRENT.get()
    if current is None or current.finished:
        return
    here = request_id(current.serial)
    for name in ("victim", "offender"):
        side = getattr(violation, name)
        if side is not None and side.request_id == here:
            setattr(violation, name, replace(side, task=evidence.current_task(), trace=evidence.current_trace() or side.trace))


def _tell_arms(violation: Violation, requests: tuple[RequestContext | None, ...]) -> None:
    """Say what each side was given: harm that touches the new code is the new code's until somebody looked."""
    if rollouts := arms.merged(requests):
        violation.rollouts = rollouts
        violation.arm = arms.strongest({**rollouts, "": violation.arm})
