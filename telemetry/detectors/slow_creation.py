"""Slow creation: a declared factory that has become slow, not one slow call.

Sees: wall-clock time of each creation. Reports when half or more of a factory's last ten creations exceeded the budget
(10 ms, requirement R3), at most once every ten creations: one long pause of a busy machine is not a defect.
Cannot see: time spent before or after the factory. Cost: two clock reads. Precision: depends on the budget.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.violations import Reporter, Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.lab import Lab

WINDOW: Final = 10
ENOUGH: Final = 5


class SlowCreation:
    """Judges the last ten creations of each component."""

    def __init__(self, reporter: Reporter, budget_ms: float) -> None:
        self._reporter = reporter
        self._budget_s = budget_ms / 1000
        self._recent: dict[str, deque[float]] = {}

    def created(self, component: str, duration_s: float, request: RequestContext | None) -> None:
        """Note one creation; `duration_s` in seconds."""
        recent = self._recent.setdefault(component, deque(maxlen=WINDOW))
        recent.append(duration_s)
        slow = sorted(d for d in recent if d > self._budget_s)
        if duration_s <= self._budget_s or len(slow) < ENOUGH:
            self._reporter.checked(names.SLOW_CREATION)
            return
        recent.clear()
        self._reporter.report(
            Violation(
                kind=names.SLOW_CREATION,
                grade="hygiene",
                summary=f"{component}: {len(slow)} of the last creations took over {self._budget_s * 1000:g} ms, "
                f"median of these {slow[len(slow) // 2] * 1000:.1f} ms",
                resource=Resource(
                    "factory", component, {"budget_ms": self._budget_s * 1000, "slow_ms": [round(d * 1000, 2) for d in slow]}
                ),
                victim=None,
                offender=side_of(request, stacks.capture(3)) if request is not None else None,
                arm=request.arm if request else "none",
            ),
            request,
        )

    def plant(self, lab: Lab) -> None:
        """Let a factory that nobody has be slow as often as it takes."""
        component = f"planted-{lab.name}"
        try:
            for _ in range(ENOUGH):
                self.created(component, self._budget_s * 2 + 0.001, lab.request(of_offender=True))
        finally:
            self._recent.pop(component, None)
