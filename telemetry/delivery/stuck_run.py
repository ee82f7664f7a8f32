"""Stuck run: a run that has not ended and makes no progress, with what it was last doing.

Sees: an open run that has neither emitted nor sent an event, nor said `run.progress()`, for `stuck_after_s` (20 s as shipped,
so that its page is out 30 s after its last event). The evidence has the stack of its task through all that it awaits, into
the tasks that it waits for, what the innermost one waits for, the run's latest events and for how long nothing came.
When the run moves again, or ends, the finding is retracted.
Cannot see: runs that nobody declared; what a run does in a thread of a pool (it says that it waits for one); runs whose last
event has been emitted are over for their user and not judged.
Cost: two clock reads an event; a walk over the open runs, once a second, and a stack for each that is stuck.
Precision: that of the time: a model that thinks for longer without an event needs `run.progress(patience_s=...)`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from isolation_monitor.telemetry import awaiting, evidence, names
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from isolation_monitor.telemetry.delivery.run import Run
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.principals import Principal


class StuckRuns:
    """Looks at the open runs, once a second, on the housekeeper's thread."""

    def __init__(self, ledger: Ledger, stuck_after_s: float, make_run: Callable[[str, Principal], Run]) -> None:
        """`make_run(id, owner)` makes a run that nobody else knows, for planted faults."""
        self._ledger = ledger
        self._stuck_after_s = stuck_after_s
        self._make_run = make_run

    def look(self, runs: list[Run]) -> None:
        """Judge open runs: report who stands still, retract who goes on, and show how many are stuck now."""
        try:
            switches = self._ledger.switches
            if self._stuck_after_s and (switches is None or switches[names.STUCK_RUN].is_on):
                now = time.perf_counter()
                for run in runs:
                    self._judge(run, now)
            self._ledger.registry.gauge(names.RUN_STUCK).set(float(sum(run.stuck is not None for run in runs)))
        except Exception as error:
            self._ledger.check_failed(names.STUCK_RUN, "run", error)

    def ended(self, run: Run) -> None:
        """A run is over: one check passed, unless it was stuck until now."""
        if run.stuck is None:
            if not run.is_planted:
                self._ledger.checked(names.STUCK_RUN)
        else:
            self._retract(run, f"it ended, {time.perf_counter() - run.moved:.0f} s after it last moved")

    def plant(self, lab: Lab) -> None:
        """Look at a run of the victim that last moved long ago."""
        run = self._make_run(f"planted-{lab.name}", lab.victim)
        run.moved -= self._limit_s(run) + 1.0
        self._judge(run, time.perf_counter())

    def _judge(self, run: Run, now: float) -> None:
        quiet_s = now - run.moved
        if run.stuck is not None:
            if quiet_s < self._limit_s(run):
                self._retract(run, "it went on")
        elif run.order.ended is None and run.seen.ended is None and quiet_s >= self._limit_s(run):
            run.stuck = self._report(run, quiet_s)

    def _limit_s(self, run: Run) -> float:
        return self._stuck_after_s if run.patience_s is None else max(run.patience_s, self._stuck_after_s)

    def _retract(self, run: Run, reason: str) -> None:
        violation, run.stuck = run.stuck, None
        if violation is not None:
            self._ledger.retract(violation, reason)

    def _report(self, run: Run, quiet_s: float) -> Violation:
        task: asyncio.Task[object] | None = run.actor() or run.task()
        if task is not None:
            found: awaiting.Waiting | None = awaiting.of_task(task, run.thread_id)
        else:
            found = awaiting.of_thread(run.thread_id, run.stack)
        course = list(run.course)
        last = course[-1][1] if course else "its start"
        waits = found.text if found is not None else "nothing is known: no task of it is left"
        side = side_of(run.request, found.stack if found else run.stack, principal=run.owner, run_id=run.id, at=run.started_at)
        told = [(at, f"emitted {event}") for at, event in course]
        violation = Violation(
            kind=names.STUCK_RUN,
            grade="hygiene",
            summary=f"a run stands still for {quiet_s:.0f} s after {last}; it waits for {waits}",
            # Named by where it stands, not by its id: a hundred runs that hang at one place are one defect.
            resource=Resource(
                "run",
                f"after {last}",
                {
                    "run_id": run.id,
                    "waits_for": waits,
                    "last_event": course[-1][1] if course else None,
                    "quiet_s": round(quiet_s, 1),
                    "runs_since_s": round(time.perf_counter() - run.started, 1),
                    "tools_open": max(run.order.tools_open, run.seen.tools_open),
                    "user_is_connected": None if run.connection is None else not run.connection.closed,
                },
            ),
            victim=replace(
                side,
                trace=run.trace or side.trace,
                task=evidence.task_name(task) if task is not None else None,
                events=[*side.events, *told],
            ),
            offender=None,
            arm=run.request.arm if run.request else "none",
            synthetic=run.is_planted,
        )
        self._ledger.report(violation)
        return violation
