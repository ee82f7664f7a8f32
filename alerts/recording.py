"""Recorded series: the six public names with the score's state, and what the blindness alerts share with the score.

The score counts requests of the last minute that were exposed. It has no sample when none was (not measurable) and
none when someone could have been missed (blind): a grey score, never a green one. Recorded names of our own read
`level:metric:operations`.
"""

from __future__ import annotations

from isolation_monitor.alerts.expressions import growth, p95, selector, summed
from isolation_monitor.alerts.model import Group, Recording
from isolation_monitor.alerts.prometheus_config import DRILL_SERVICES, ISOLATION_JOB
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.telemetry import names

SEEN = "service_instance:isolation_monitor_info:last"
KNOWN = f'{SEEN}{{service!~"{DRILL_SERVICES}"}}'
"""Services that should have a target. A drill takes its own away when it ends, and nobody is to miss it."""
TARGET_DOWN = "service:isolation_target_down:count"
DETECTORS_GREY = "service:isolation_detectors_grey:count"
"""Detectors whose planted fault goes unseen: what they would have found is missing in the score. 0 where all are proven."""
CHECKS_SILENT = "service:isolation_unchecked_requests:increase"
ACTIVITY = "service_detector:isolation_activity:increase"
RUNS_IN_ORDER = "service:isolation_runs_in_order:ratio_increase1m"
"""Share of the runs of the last minute whose user saw everything once and in order, 0-1; runs whose user had gone are left out."""
IDS_RESOLVED = "service:isolation_ids_resolved:percent"
"""Share of the ids of runs that some source resolved to their thread, 0-100; no sample while none was asked for."""
DELIVERY_FLOOR = "service:isolation_event_delivery:floor"
"""Delivery rate, 0-100, with every event that nobody knows the end of counted as lost."""
DELIVERY_CEILING = "service:isolation_event_delivery:ceiling"
"""The same with each of them counted as delivered."""
_FIRST_ISOLATED = "service:isolation_exposed_first_isolated:increase"
_ISOLATED = "service:isolation_exposed_isolated:increase"
_VIOLATED = "service:isolation_exposed_violated:increase"

DETECTOR_ACTIVITY: dict[str, str] = {
    names.INHERITED_CONTEXT: selector(names.REQUESTS),
    names.INSTANCE_REUSE: selector(names.INSTANCE_CREATE, "_count"),
    names.WRONG_SOCKET: selector(names.EVENTS, stage="sent"),
    names.FOREIGN_IDENTITY: selector(names.REQUESTS, verdict="!=unverified"),
    names.FOREIGN_CONTEXT: selector(names.REQUESTS, transport="http"),
    names.FOREIGN_CONTENT: selector(names.REQUESTS, verdict="!=unverified"),
    names.SESSION_LEAK: selector(names.DB_CONNECTION_USE, "_count"),
    names.SLOW_CREATION: selector(names.INSTANCE_CREATE, "_count"),
    names.INCOMPLETE_RUN: selector(names.RUNS),
    names.STUCK_RUN: selector(names.RUNS),
    names.UNROUTED_EVENT: selector(names.RUNS),
    names.BAD_HANDSHAKE: selector(names.WEBSOCKET_CONNECTIONS, outcome="accepted"),
    names.ID_RESOLUTION: selector(names.ID_RESOLUTIONS),
}
"""What each detector looks at. Silence is blindness only while this grows: no socket open means no socket to check."""

NO_ACTIVITY: dict[str, str] = {
    names.SHARED_STATE: "walks as often as its budget of time allows, and finds rather than passes while something is wrong",
    names.CANARY: "checks only where canaries are planted",
    names.FOREIGN_CREDENTIAL: "checks outgoing calls, which a service may make seldom; no series counts them",
    names.SHARED_CONNECTION: "checks what requests do; work outside of requests uses the same pools and gives it nothing to check",
    names.DIRTY_HANDOVER: "checks what requests take; work outside of requests uses the same pools and gives it nothing to check",
    names.UNSCOPED_ACCESS: "checks reads of declared models alone; no series counts them",
    names.CACHE_OWNER: "checks enveloped cache entries alone; no series counts their reads",
    names.FOREIGN_TASK: "checks tasks that requests start; no series counts them",
    names.TASK_LEAK: "checks tasks that requests start; no series counts them",
    names.LOOP_STALL: "checks by the clock while two users are there at a time, not by request",
    names.STARVATION: "checks only where a request waits for another: the good case has none",
    names.RESOURCE_TREND: "checks by the clock after its warm-up, not by request",
}
"""Detectors whose silence says nothing, and why: quiet can be right for them. A planted fault that they miss tells on them instead."""


def groups(t: Thresholds) -> list[Group]:
    """Return the groups of recorded series, in the order of their dependence."""
    return [
        Group("isolation-score", "1s", [*_blindness(t), *_score(t), *_public(t)]),
        Group("isolation-resolution", "1s", [_resolved(t)]),
        Group("isolation-activity", "15s", _activity(t)),
    ]


def _blindness(t: Thresholds) -> list[Recording]:
    b = t.blindness
    up = f'up{{job="{ISOLATION_JOB}"}}'
    down = f"max_over_time({up}[{t.score.blind_after}]) == 0"
    requests = summed(f"increase({selector(names.REQUESTS)}[{b.checks_window}])")
    http = summed(f"increase({selector(names.HTTP_DURATION, '_count', http_route='!~' + b.quiet_routes)}[{b.checks_window}])")
    checks = summed(f"increase({selector(names.CHECKS, result='!=error')}[{b.checks_memory}])")
    return [
        Recording(SEEN, f"max by (service, instance) (last_over_time({names.MONITOR_INFO.name}[{b.remembered}]))"),
        # Down: a known target that fails its scrapes, or a known service of which no target is left at all.
        Recording(
            TARGET_DOWN,
            f"count by (service) ({SEEN} and on (instance) ({down}))\n"
            f"or\n(count by (service) ({KNOWN}) unless on (service) ({SEEN} and on (instance) {up}))",
        ),
        Recording(CHECKS_SILENT, f"({requests} > 0 or {http})\nunless\n{checks} > 0"),
        Recording(
            DETECTORS_GREY,
            f"count by (service) (sum by (service, detector) ({selector(names.DETECTOR_STATE, state='grey')}) > 0)\n"
            f"or\n0 * count by (service) ({SEEN})",
        ),
    ]


def _score(t: Thresholds) -> list[Recording]:
    window, memory = t.score.window, t.violation.memory
    isolated = summed(growth(selector(names.REQUESTS, verdict="isolated", exposed="true"), window, memory))
    reclassified = summed(growth(selector(names.RECLASSIFIED, exposed="true"), window, memory))
    violated = summed(growth(selector(names.REQUESTS, verdict="violated", exposed="true"), window, memory))
    state, score, seen = names.ISOLATION_SCORE_STATE, names.ISOLATION_SCORE, f"count by (service) ({SEEN})"
    blind = f"({TARGET_DOWN} or {CHECKS_SILENT} > 0)"
    return [
        Recording(_FIRST_ISOLATED, isolated),
        # A request reclassified after the window of its first count would make the difference negative.
        Recording(_ISOLATED, f"clamp_min({_FIRST_ISOLATED} - ({reclassified} or 0 * {_FIRST_ISOLATED}), 0)"),
        Recording(_VIOLATED, violated),
        # Written from 100 downwards: without a violation it is 100 exactly, not 99.99999999999999.
        Recording(score, f"100 - 100 * {_VIOLATED} / ({_ISOLATED} + {_VIOLATED} > 0)\nunless on (service) {blind}"),
        Recording(state, f"count by (service) ({score}) or 0 * {seen}", {"state": "measured"}),
        Recording(state, f"count by (service) {blind} or 0 * {seen}", {"state": "blind"}),
        Recording(state, f"{seen} * 0 + 1 unless on (service) ({score} or {blind}) or 0 * {seen}", {"state": "not_measurable"}),
    ]


def _public(t: Thresholds) -> list[Recording]:
    escaped = summed(f"increase({selector(names.FAILURES, outcome='escaped')}[{t.containment.window}])")
    failures = summed(f"increase({selector(names.FAILURES)}[{t.containment.window}])")
    lost = summed(f"increase({selector(names.EVENT_DELIVERIES, result='lost')}[{t.delivery.window}])")
    known = summed(f"increase({selector(names.EVENT_DELIVERIES, result='!=unknown')}[{t.delivery.window}])")
    unknown = summed(f"increase({selector(names.EVENT_DELIVERIES, result='!=delivered')}[{t.delivery.window}])")
    owed = summed(f"increase({selector(names.EVENT_DELIVERIES)}[{t.delivery.window}])")
    in_order = summed(f"increase({selector(names.RUN_VERDICTS_TOTAL, verdict='complete_in_order')}[{t.delivery.window}])")
    judged = summed(f"increase({selector(names.RUN_VERDICTS_TOTAL, verdict='!=undeliverable')}[{t.delivery.window}])")
    leaks, retracted = summed(selector(names.SESSION_LEAKS)), summed(selector(names.SESSION_LEAKS_RETRACTED))
    return [
        Recording(names.FAILURE_CONTAINMENT_RATE, f"100 - 100 * {escaped} / ({failures} > 0)"),
        # `>= 0` drops NaN: no sample while nothing was created.
        Recording(names.INSTANCE_CREATION_TIME_MS, f"1000 * {p95(names.INSTANCE_CREATE, t.score.window)} >= 0"),
        Recording(RUNS_IN_ORDER, f"{in_order} / ({judged} > 0)"),
        # Of the events that somebody knows the end of; floor and ceiling say what the others could make of it.
        Recording(names.EVENT_DELIVERY_RATE, f"100 - 100 * {lost} / ({known} > 0)"),
        Recording(DELIVERY_FLOOR, f"100 - 100 * {unknown} / ({owed} > 0)"),
        Recording(DELIVERY_CEILING, f"100 - 100 * {lost} / ({owed} > 0)"),
        Recording(names.WEBSOCKET_ISOLATION_VIOLATIONS, summed(selector(names.VIOLATIONS, kind=names.WRONG_SOCKET, synthetic="false"))),
        Recording(names.SESSION_LEAK_COUNT, f"{leaks} - {retracted} or {leaks}"),
    ]


def _resolved(t: Thresholds) -> Recording:
    window = t.resolution.window
    failed = summed(f"increase({selector(names.ID_RESOLUTIONS, source='error')}[{window}])")
    asked = summed(f"increase({selector(names.ID_RESOLUTIONS)}[{window}])")
    return Recording(IDS_RESOLVED, f"100 - 100 * {failed} / ({asked} > 0)")


def _activity(t: Thresholds) -> list[Recording]:
    window = t.blindness.detector_window
    return [Recording(ACTIVITY, summed(f"increase({of}[{window}])"), {"detector": detector}) for detector, of in DETECTOR_ACTIVITY.items()]
