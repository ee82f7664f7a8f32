"""Alerts on the resolution of run ids: runs that lead nowhere, or to the wrong user."""

from __future__ import annotations

from isolation_monitor.alerts.expressions import grew, selector, summed
from isolation_monitor.alerts.model import NUMBER, PERCENT, SERVICE, Alert, Group
from isolation_monitor.alerts.recording import IDS_RESOLVED
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.telemetry import names


def groups(t: Thresholds) -> list[Group]:
    """Return the one group of resolution alerts, evaluated each second."""
    return [Group("isolation-ids", "1s", [_unresolved(t), conflict(t)])]


def _unresolved(t: Thresholds) -> Alert:
    r = t.resolution
    asked = summed(f"increase({selector(names.ID_RESOLUTIONS)}[{r.window}])")
    return Alert(
        "ResolutionBelow99",
        f"{IDS_RESOLVED} < {r.page_below_percent}\nand\n{asked} >= {r.min_resolutions}",
        "error",
        "page",
        summary=f"{SERVICE}: fewer than {r.page_below_percent} % of run ids resolve to their thread",
        description=(
            f"{PERCENT} % of the run ids that {SERVICE} was to resolve in the last {r.window} led to a thread. For the others every source "
            "failed, knew nothing, or contradicted another: their users' events and answers go nowhere."
        ),
        dashboard="resolution",
        keep_firing_for=t.violation.keep_firing_for,
    )


def conflict(t: Thresholds) -> Alert:
    """Return the alert on runs that lead to somebody else's thread."""
    v = t.violation
    grown = grew(selector(names.VIOLATIONS, kind=names.ID_RESOLUTION, grade="=~crossed|reachable"), v.window, v.memory)
    return Alert(
        "ResolutionConflict",
        summed(grown, "kind", "synthetic"),
        "critical",
        "page",
        summary="{{ $labels.service }}: a run id leads to two users or threads",
        description=(
            f"About {NUMBER} times in the last {v.window}, sources of {SERVICE} named different threads or owners for one run, or a "
            "thread of another user was served. One user's run may answer into another's thread. Roll back first; the evidence has "
            "what each source said."
        ),
        dashboard="resolution",
        rollback=True,
        keep_firing_for=v.keep_firing_for,
    )
