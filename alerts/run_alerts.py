"""Alerts on runs and connections: users who watch an agent that does nothing, or whose events have nowhere to go."""

from __future__ import annotations

from isolation_monitor.alerts.expressions import grew, selector, summed
from isolation_monitor.alerts.model import NUMBER, SERVICE, Alert, Group
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.telemetry import names


def groups(t: Thresholds) -> list[Group]:
    """Return the group of run alerts, evaluated each second, and the one of connections, which reads the slower page."""
    return [
        Group("isolation-runs", "1s", [_stuck(t), _out_of_order(t), _bad_handshake(t), _unrouted(t)]),
        Group("isolation-connections", "15s", [_handshakes(t)]),
    ]


def _stuck(t: Thresholds) -> Alert:
    return Alert(
        "RunStuck",
        f"{summed(selector(names.RUN_STUCK))} > 0",
        "error",
        "page",
        summary=f"{SERVICE}: runs stand still",
        description=(
            f"{NUMBER} runs of {SERVICE} have neither ended nor made any progress for longer than `stuck_after_s`. Each is a user who "
            "watches an agent that does nothing. The evidence has the line at which each run stands, and what it awaits."
        ),
        dashboard="runs",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _out_of_order(t: Thresholds) -> Alert:
    verdicts = selector(names.RUN_VERDICTS_TOTAL, verdict="=~disorder|duplicate")
    return Alert(
        "RunsOutOfOrder",
        summed(grew(verdicts, t.violation.window, t.violation.memory)),
        "warning",
        "ticket",
        summary=f"{SERVICE}: runs tell their story in the wrong order, or twice",
        description=(
            f"About {NUMBER} runs of the last {t.violation.window} in {SERVICE} sent all of their events, but not in order, or an end "
            "or start twice. Their users saw a tool end before it began, or an answer go on after its end."
        ),
        dashboard="runs",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _bad_handshake(t: Thresholds) -> Alert:
    return Alert(
        "WebSocketUserContextBad",
        summed(grew(selector(names.VIOLATIONS, kind=names.BAD_HANDSHAKE), t.violation.window, t.violation.memory), "synthetic"),
        "error",
        "page",
        summary=f"{SERVICE}: WebSockets are let in for nobody, or for somebody else than they say",
        description=(
            f"About {NUMBER} connections of the last {t.violation.window} in {SERVICE} have no user where others have one, another user "
            "than their handshake carried, or another user's connection id. What is sent on them may reach a stranger, or nobody."
        ),
        dashboard="connections",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _handshakes(t: Thresholds) -> Alert:
    c = t.connections
    failed = summed(f"increase({selector(names.WEBSOCKET_CONNECTIONS, outcome='=~refused|timed_out|error')}[{c.window}])")
    every = summed(f"increase({selector(names.WEBSOCKET_CONNECTIONS)}[{c.window}])")
    return Alert(
        "WebSocketHandshakesFailing",
        f"{failed} / ({every} >= {c.min_handshakes}) > {c.max_failed_ratio:g}",
        "error",
        "page",
        summary=f"{SERVICE}: users cannot open their WebSocket",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the handshakes of {SERVICE} in the last {c.window} were refused, not answered in "
            f"time, or failed; {c.max_failed_ratio * 100:g} % is allowed. These users see no events at all."
        ),
        dashboard="connections",
        keep_firing_for=t.blindness.keep_ticket_for,
    )


def _unrouted(t: Thresholds) -> Alert:
    return Alert(
        "EventsUnrouted",
        summed(grew(selector(names.EVENTS_UNROUTED, reason="no_connection"), t.violation.window, t.violation.memory)),
        "warning",
        "ticket",
        summary=f"{SERVICE}: runs emit events for users who have no connection",
        description=(
            f"About {NUMBER} events of the last {t.violation.window} in {SERVICE} had nowhere to go: their run was started for a user "
            "without a connection, and no answer carries it. The work is done and nobody sees it."
        ),
        dashboard="connections",
        keep_firing_for=t.violation.keep_firing_for,
    )
