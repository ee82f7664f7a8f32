"""What is told of a start-up and a clean-up: metrics, a record each for the collector, and the log. Never raises."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.lifecycle.cleanup import StepResult
from isolation_monitor.telemetry.lifecycle.inventory import Left
from isolation_monitor.telemetry.violations import iso_time, uuid7

if TYPE_CHECKING:
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.lifecycle.course import Course
    from isolation_monitor.telemetry.lifecycle.hangs import Hang
    from isolation_monitor.telemetry.lifecycle.phases import Phase

logger = logging.getLogger("isolation_monitor")


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What a clean-up did. `left` is None where nothing was known of before; `reason` is who asked: `application`, `signal`, `exit`."""

    reason: str
    duration_s: float
    steps: list[StepResult]
    left: Left | None

    @property
    def is_clean(self) -> bool:
        """Return whether every step ended by itself and nothing was left."""
        return all(one.outcome in ("done", "not_needed") for one in self.steps) and not (self.left and self.left.total)


class Telling:
    """Tells for one application; `is_on` is the monitor's kill switch."""

    def __init__(self, ledger: Ledger, is_on: Callable[[], bool]) -> None:
        self._ledger = ledger
        self._is_on = is_on

    def elapsed(self, course: Course) -> None:
        """Show how long the start-up has taken so far."""
        self._safely(lambda: self._ledger.registry.gauge(names.STARTUP_DURATION).set(course.startup_s))

    def phase_begins(self, phase: Phase) -> None:
        """Show that it does not hang: a series that is not there yet cannot be told from one that nobody measures."""
        self._safely(lambda: self._ledger.registry.gauge(names.STARTUP_PHASE_HANGING, isolation_phase=phase.name).set(0.0))

    def phase_ended(self, phase: Phase) -> None:
        def tell() -> None:
            registry = self._ledger.registry
            if phase.state != "cancelled":
                cell = registry.histogram(names.STARTUP_PHASE_DURATION, isolation_phase=phase.name, isolation_result=phase.state)
                cell.observe(phase.duration_s)
            if phase.told_at:
                registry.gauge(names.STARTUP_PHASE_HANGING, isolation_phase=phase.name).set(0.0)
                logger.warning("isolation monitor: start-up phase %r is %s after %.1f s", phase.name, phase.state, phase.duration_s)

        self._safely(tell)

    def hangs(self, hang: Hang) -> None:
        def tell() -> None:
            where = "\n  ".join(hang.stack) or "nowhere of the application"
            text = "isolation monitor: start-up phase %r hangs: %.0f s so far, waits for %s, at\n  %s"
            logger.warning(text, hang.phase, hang.seconds, hang.waits_for, where)
            self._ledger.registry.gauge(names.STARTUP_PHASE_HANGING, isolation_phase=hang.phase).set(1.0)
            self._put(
                "startup", state="hanging", phase=hang.phase, duration_s=round(hang.seconds, 3), waits_for=hang.waits_for, stack=hang.stack
            )

        self._safely(tell)

    def started(self, course: Course) -> None:
        def tell() -> None:
            registry = self._ledger.registry
            registry.gauge(names.STARTUP_DURATION).set(course.startup_s)
            if course.was_ready:
                registry.gauge(names.STARTUP_READY).set(time.time())
            logger.info("isolation monitor: start-up %s after %.2f s", "done" if course.was_ready else "failed", course.startup_s)
            for phase in course.phases:
                if phase.told_at and not phase.is_over:
                    # Nobody waits for it any more: a block that was never run, or one beside a start-up that failed.
                    registry.gauge(names.STARTUP_PHASE_HANGING, isolation_phase=phase.name).set(0.0)
            phases = [_phase(one) for one in course.phases]
            self._put("startup", state="ready" if course.was_ready else "failed", duration_s=round(course.startup_s, 3), phases=phases)

        self._safely(tell)

    def cleaned(self, report: CleanupReport) -> None:
        def tell() -> None:
            registry = self._ledger.registry
            registry.histogram(names.CLEANUP_DURATION).observe(report.duration_s)
            late = [one for one in report.steps if one.outcome in ("timed_out", "not_run")]
            if late:
                registry.counter(names.CLEANUP_FORCED).inc(float(len(late)))
            for one in report.steps:
                if one.outcome not in ("done", "not_needed"):
                    logger.warning(
                        "isolation monitor: clean-up step %r %s after %.1f s%s%s",
                        *(one.name, one.outcome.replace("_", " "), one.duration_s, f" ({one.error})" if one.error else ""),
                        ", forced" if one.forced else "",
                    )
            left = report.left or Left()
            for resource, count in left.counts.items():
                if count:
                    registry.counter(names.CLEANUP_LEFT, isolation_resource=resource).inc(float(count))
                    logger.warning(
                        "isolation monitor: left after the clean-up: %s %s: %s",
                        count,
                        resource.replace("_", " "),
                        "; ".join(left.descriptions[resource]),
                    )
            logger.info("isolation monitor: clean-up over after %.2f s", report.duration_s)
            # Paths and addresses stay in the log: a record holds what code says, and numbers.
            told = {name: left.descriptions[name] for name in ("tasks", "threads", "children", "zombies") if name in left.descriptions}
            self._put(
                "cleanup",
                reason=report.reason,
                duration_s=round(report.duration_s, 3),
                steps=[asdict(one) | {"duration_s": round(one.duration_s, 3)} for one in report.steps],
                left={name: count for name, count in left.counts.items() if count},
                detail=told,
            )

        self._safely(tell)

    def failed(self, error: BaseException) -> None:
        self._ledger.internal_error("lifecycle", error)

    def _put(self, type: str, **fields: Any) -> None:  # Any: JSON
        self._ledger.outbox.put({"type": type, "id": uuid7(), "time": iso_time(time.time()), **fields})

    def _safely(self, tell: Callable[[], None]) -> None:
        if not self._is_on():
            return
        try:
            tell()
        except Exception as error:
            self.failed(error)


def _phase(one: Phase) -> dict[str, Any]:  # Any: JSON
    # Its class alone: what an error says may hold a user's value.
    error = type(one.error).__name__ if one.state == "failed" and one.error is not None else None
    return {"phase": one.name, "state": one.state, "duration_s": round(one.duration_s, 3), "error": error}
