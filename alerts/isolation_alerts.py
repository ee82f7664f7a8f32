"""Alerts on isolation itself: someone could have seen, or has seen, what belongs to another."""

from __future__ import annotations

from isolation_monitor.alerts.expressions import grew, p95, selector, summed
from isolation_monitor.alerts.model import COMPONENT, DURATION, NUMBER, SERVICE, Alert, Group
from isolation_monitor.alerts.thresholds import Duration, Thresholds
from isolation_monitor.telemetry import names

_COUNT = "_count"


def groups(t: Thresholds) -> list[Group]:
    """Return the groups of violation, failure and instance alerts, evaluated each second, and of session alerts."""
    return [
        Group("isolation-violations", "1s", [violation(t), wrong_socket(t), _score(t), _incomplete_run(t), _session_leak(t)]),
        Group("isolation-failures", "1s", [_containment(t), _cascade(t), _loop_stall(t), _resource_trend(t)]),
        Group("isolation-instances", "1s", [_singleton_reuse(t), _slow_creation(t), _slow_reset(t)]),
        Group("isolation-sessions", "15s", [_slow_acquisition(t)]),
    ]


def _grown_violations(t: Thresholds, **matchers: str) -> str:
    inner = grew(selector(names.VIOLATIONS, **matchers), t.violation.window, t.violation.memory)
    return summed(inner, "kind", "synthetic")


def violation(t: Thresholds) -> Alert:
    """Return the alert on state of one user that reached another's request, or could."""
    return Alert(
        "IsolationViolation",
        _grown_violations(t, kind=f"!~{names.WRONG_SOCKET}|{names.ID_RESOLUTION}", grade="=~crossed|reachable"),
        "critical",
        "page",
        summary="{{ $labels.service }}: isolation broken ({{ $labels.kind }})",
        description=(
            "State of one user reached, or could reach, another user's request: {{ $labels.kind }} in {{ $labels.service }}, "
            f"about {NUMBER} requests in the last {t.violation.window}. "
            "Both sides of each are in the collector's evidence. Roll back first, then read it."
        ),
        rollback=True,
        keep_firing_for=t.violation.keep_firing_for,
    )


def wrong_socket(t: Thresholds) -> Alert:
    """Return the alert on events that left on a connection of somebody else."""
    return Alert(
        "WebSocketIsolationViolation",
        _grown_violations(t, kind=names.WRONG_SOCKET),
        "critical",
        "page",
        summary="{{ $labels.service }}: events of one user were sent to another user's WebSocket",
        description=(
            f"About {NUMBER} events in the last {t.violation.window} left {SERVICE} on the connection of "
            "a user who does not own them. Foreign data has been shown. "
            "Roll back first; the evidence names both users' hashes and connections."
        ),
        dashboard="event-delivery",
        rollback=True,
        keep_firing_for=t.violation.keep_firing_for,
    )


def _score(t: Thresholds) -> Alert:
    violated = selector(names.REQUESTS, verdict="violated", exposed="true")
    return Alert(
        "IsolationScoreBelow100",
        summed(grew(violated, t.violation.window, t.violation.memory)),
        "critical",
        "page",
        summary="{{ $labels.service }}: the isolation score is below 100",
        description=(
            f"About {NUMBER} requests of the last {t.violation.window} in {SERVICE} were violated while "
            "requests of other users could reach them. This alert counts requests; it does not read the rounded score."
        ),
        rollback=True,
        keep_firing_for=t.violation.keep_firing_for,
    )


def _incomplete_run(t: Thresholds) -> Alert:
    return Alert(
        "RunIncomplete",
        _grown_violations(t, kind=names.INCOMPLETE_RUN),
        "error",
        "page",
        summary="{{ $labels.service }}: runs end without the events they owe their users",
        description=(
            f"About {NUMBER} runs of the last {t.violation.window} in {SERVICE} ended, or their task died, "
            "before every event had left. Each is a user who watches a run that never finishes."
        ),
        dashboard="event-delivery",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _session_leak(t: Thresholds) -> Alert:
    return Alert(
        "SessionLeak",
        _grown_violations(t, kind=names.SESSION_LEAK),
        "error",
        "page",
        summary="{{ $labels.service }}: database sessions stay out after their request",
        description=(
            f"About {NUMBER} database connections of {SERVICE} were not given back in the last "
            f"{t.violation.window}, after their request and the grace time. When the pool is empty every user's request hangs."
        ),
        dashboard="sessions",
        rollback=True,
        keep_firing_for=t.violation.keep_firing_for,
    )


def _containment(t: Thresholds) -> Alert:
    return Alert(
        "ContainmentBelow100",
        summed(grew(selector(names.FAILURES, outcome="escaped"), t.violation.window, t.violation.memory)),
        "error",
        "page",
        summary="{{ $labels.service }}: one user's failure reaches other users",
        description=(
            f"About {NUMBER} requests of {SERVICE} failed in the last {t.violation.window} because a request of another user failed, "
            "held what they needed, or made them wait. This alert counts failures; it does not read the rounded rate."
        ),
        dashboard="containment",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _cascade(t: Thresholds) -> Alert:
    return Alert(
        "Cascade",
        summed(grew(selector(names.CASCADES), t.violation.window, t.violation.memory)),
        "critical",
        "page",
        summary="{{ $labels.service }}: a failure spreads from user to user",
        description=(
            f"About {NUMBER} failures of {SERVICE} in the last {t.violation.window} each drew in the requests of two other users or more, "
            "through something that these requests share. It goes on spreading as long as that is shared."
        ),
        dashboard="containment",
        rollback=True,
        keep_firing_for=t.violation.keep_firing_for,
        labels={"trigger": "cascade"},
    )


def _loop_stall(t: Thresholds) -> Alert:
    return Alert(
        "LoopStall",
        _grown_violations(t, kind=names.LOOP_STALL),
        "warning",
        "ticket",
        summary="{{ $labels.service }}: one request stops the event loop for all",
        description=(
            f"The event loop of {SERVICE} stood still about {NUMBER} times in the last {t.violation.window}, "
            "while users were served. Each of them waited as long. The evidence names the request and the line that held the loop."
        ),
        dashboard="containment",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _resource_trend(t: Thresholds) -> Alert:
    return Alert(
        "ResourceTrend",
        _grown_violations(t, kind=names.RESOURCE_TREND),
        "warning",
        "ticket",
        summary="{{ $labels.service }}: memory, files, threads or tasks grow steadily",
        description=(
            f"About {NUMBER} resources of workers of {SERVICE} were found to grow without a pause, in the last {t.violation.window}. "
            "When one of them is used up, the requests of all users in that worker fail. The evidence names it and its growth in an hour."
        ),
        dashboard="process",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _singleton_reuse(t: Thresholds) -> Alert:
    return Alert(
        "SingletonReuse",
        summed(grew(selector(names.INSTANCE_SHARED), t.violation.window, t.violation.memory), "component"),
        "error",
        "ticket",
        summary="{{ $labels.service }}: {{ $labels.component }} is shared between requests",
        description=(
            f"About {NUMBER} instances of {COMPONENT} in the last {t.violation.window} were given to a second "
            "request, though its factory is declared to make a fresh one for each. Requests of different users page by IsolationViolation."
        ),
        dashboard="factories",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _slow(metric: names.Metric, above_s: float, t: Thresholds) -> str:
    def enough(window: Duration) -> str:
        return f"{summed(f'increase({selector(metric, _COUNT)}[{window}])', 'component')} >= {t.creation.min_creations}"

    def slow(window: Duration) -> str:
        return f"{p95(metric, window, 'component')} > {above_s:g} and {enough(window)}"

    # The long window speaks only for components that are created seldom: a busy one clears soon after its fix.
    short, long = t.creation.window, t.creation.long_window
    return f"({slow(short)})\nor\n({slow(long)} unless {enough(short)})"


def _slow_creation(t: Thresholds) -> Alert:
    return Alert(
        "InstanceCreationSlow",
        _slow(names.INSTANCE_CREATE, t.creation.max_creation_s, t),
        "warning",
        "ticket",
        summary="{{ $labels.service }}: creating {{ $labels.component }} is slow",
        description=(
            f"The slowest 5 % of creations of {COMPONENT} in {SERVICE} take {DURATION} or longer; "
            f"{t.creation.max_creation_s * 1000:g} ms is the budget. Every request that needs an instance waits for it."
        ),
        dashboard="factories",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _slow_reset(t: Thresholds) -> Alert:
    return Alert(
        "InstanceResetSlow",
        _slow(names.INSTANCE_RESET, t.creation.max_reset_s, t),
        "warning",
        "ticket",
        summary="{{ $labels.service }}: resetting {{ $labels.component }} is slow",
        description=(
            f"The slowest 5 % of resets of {COMPONENT} in {SERVICE} take {DURATION} or longer; "
            f"{t.creation.max_reset_s * 1000:g} ms is the budget. State of the last request lives on until the reset is done."
        ),
        dashboard="factories",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _slow_acquisition(t: Thresholds) -> Alert:
    s, pool = t.sessions, "db_client_connection_pool_name"
    acquired = summed(f"increase({selector(names.DB_CONNECTION_WAIT, '_count')}[{s.window}])", pool)
    return Alert(
        "SessionAcquisitionSlow",
        f"{p95(names.DB_CONNECTION_WAIT, s.window, pool)} > {s.max_wait_s:g}\nand\n{acquired} >= {s.min_acquisitions}",
        "warning",
        "ticket",
        summary="{{ $labels.service }}: requests wait for a database connection",
        description=(
            f"The slowest 5 % of requests of {SERVICE} wait {DURATION} or longer for a connection of pool "
            f"{{{{ $labels.db_client_connection_pool_name }}}}; {s.max_wait_s * 1000:g} ms is the budget."
        ),
        dashboard="sessions",
        for_=s.for_,
        keep_firing_for=t.violation.keep_firing_for,
    )
