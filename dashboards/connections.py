"""The dashboard `connections`: can users connect as themselves, do their connections live, and do events find them?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import CONNECTIONS_UID, Row, dashboard
from isolation_monitor.dashboards.panels import GREEN, NEUTRAL, RED, Panel, Query, counts, graph, none_allowed, tile
from isolation_monitor.telemetry import names


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Can users connect as themselves, do their connections live, and do events find them?"""
    return dashboard(
        uid=CONNECTIONS_UID,
        description="Can users connect as themselves, do their connections live, and do events find them?",
        links=links,
        rows=[
            Row("Can users connect, as themselves?", [failing(t), wrong_users(), taken_ids(), unrouted_now(), open_now(), dead_now()]),
            Row("Handshakes", [outcomes(), failed_share(t), contexts()]),
            Row("Connections", [states(), closes(), reasons(), reuse()]),
            Row("Queues in front of them", [depths(), deepest()]),
            Row("Events that find nobody", [starts(), unrouted()]),
        ],
    )


# --- can users connect, as themselves ---------------------------------------------------------------------------------


def failing(t: Thresholds) -> Panel:
    return tile(
        "Handshakes that failed",
        Query(queries.handshakes_failed(queries.RANGE)),
        unit="percentunit",
        decimals=1,
        steps=((None, GREEN), (t.connections.max_failed_ratio, RED)),
        no_value="no handshakes",
        alerts=["WebSocketHandshakesFailing"],
        description=(
            "Share of the handshakes in the chosen time that were refused, not answered in time, or failed. A few per cent "
            "is good, it is expired tokens. High: users cannot open their connection; see below which outcome it is."
        ),
    )


def wrong_users() -> Panel:
    return none_allowed(
        "Let in as nobody or another",
        queries.grown(names.WEBSOCKET_CONNECTIONS, queries.RANGE, outcome="=~no_principal|principal_disagrees"),
        alerts=["WebSocketUserContextBad"],
        description=(
            "Connections accepted in the chosen time without a user where others have one, or for another user than they say. 0 is good. "
            "Above: the evidence names the endpoint and the line."
        ),
    )


def taken_ids() -> Panel:
    return none_allowed(
        "Connection ids of another user",
        queries.grown(names.WEBSOCKET_ID_REUSE, queries.RANGE, by="another_user"),
        alerts=["WebSocketUserContextBad"],
        description=(
            "Connections in the chosen time that came with an id that was another user's. 0 is good. Above: late events of one user can "
            "reach the next; make ids on the server. Needs `connection_id_field`."
        ),
    )


def unrouted_now() -> Panel:
    return none_allowed(
        "Events with nowhere to go",
        queries.grown(names.EVENTS_UNROUTED, queries.RANGE, reason="no_connection"),
        alerts=["EventsUnrouted"],
        description=(
            "Events emitted in the chosen time for users who had no connection. 0 is good. Above: work is done that nobody sees; the "
            "evidence has the code that started it."
        ),
    )


def open_now() -> Panel:
    return tile(
        "Connections open",
        Query(f"sum({queries.scraped(names.WEBSOCKET_ACTIVE)})"),
        unit="none",
        decimals=0,
        steps=NEUTRAL,
        trend=True,
        description="WebSocket connections open now. Following the number of users is good; a cliff is a deploy or a crash.",
    )


def dead_now() -> Panel:
    return tile(
        "Connections dead",
        Query(f"sum({queries.scraped(names.WEBSOCKET_STATE, state='dead')})"),
        unit="none",
        decimals=0,
        steps=NEUTRAL,
        trend=True,
        description=(
            "Connections that were sent something and have not answered for a minute, though they answer otherwise. Near 0 is good. High: "
            "a proxy or a network drops connections without closing them."
        ),
    )


# --- handshakes -------------------------------------------------------------------------------------------------------


def outcomes() -> Panel:
    return graph(
        "Handshakes by outcome",
        Query(queries.rate(names.WEBSOCKET_CONNECTIONS, "outcome"), "{{outcome}}"),
        unit="cps",
        stacked=True,
        alerts=["WebSocketHandshakesFailing"],
        description=(
            "Accepted is good. refused: tokens. timed_out: the application does not answer. error: it fails. A wave of accepted: everybody "
            "reconnects."
        ),
    )


def failed_share(t: Thresholds) -> Panel:
    return graph(
        "Share of handshakes that failed",
        Query(queries.handshakes_failed(queries.STEP, "service"), "{{service}}"),
        unit="percentunit",
        maximum=1,
        steps=((None, GREEN), (t.connections.max_failed_ratio, RED)),
        no_value="no handshakes",
        alerts=["WebSocketHandshakesFailing"],
        description="Near 0 is good. A step up with a deploy: roll back. A slow rise: clients that retry with expired tokens.",
    )


def contexts() -> Panel:
    return counts(
        "Let in as nobody or another, by outcome",
        Query(
            queries.grown(names.WEBSOCKET_CONNECTIONS, queries.STEP, "outcome", outcome="=~no_principal|principal_disagrees"), "{{outcome}}"
        ),
        alerts=["WebSocketUserContextBad"],
        description=(
            "Zero is good. no_principal: nobody is signed in where others are. principal_disagrees: the path, the id or the session names "
            "another user than the credential."
        ),
    )


# --- connections ------------------------------------------------------------------------------------------------------


def states() -> Panel:
    return counts(
        "Connections by state",
        Query(f"sum by (state) ({queries.scraped(names.WEBSOCKET_STATE)})", "{{state}}"),
        width=6,
        description=(
            "busy that follows the traffic is good. Many idle: tabs that nobody looks at, they cost memory alone. A floor of dead: "
            "connections that the network has lost and nobody closes."
        ),
    )


def closes() -> Panel:
    return graph(
        "Closes, by who closed",
        Query(queries.rate(names.WEBSOCKET_CLOSES, "by"), "{{by}}"),
        unit="cps",
        stacked=True,
        width=6,
        alerts=["EventsUnrouted"],
        description="client is good, a user who leaves. server in a wave: a restart. nobody: the handler ended without a close.",
    )


def reasons() -> Panel:
    return graph(
        "Closes, by reason",
        Query(queries.rate(names.WEBSOCKET_CLOSES, "reason"), "{{reason}}"),
        unit="cps",
        stacked=True,
        width=6,
        description=(
            "normal and going_away are good. abnormal: the network or a crash. error: the application failed. policy and application: "
            "it refused, for its own reasons. protocol: frames too large or malformed."
        ),
    )


def reuse() -> Panel:
    return counts(
        "Connection ids that came again",
        Query(queries.grown(names.WEBSOCKET_ID_REUSE, queries.STEP, "by"), "{{by}}"),
        width=6,
        alerts=["WebSocketUserContextBad"],
        description=(
            "None is good. same_user: a second tab, or a client that did not close its first connection. another_user: ids are guessed, "
            "copied or too short; zero is the only good number."
        ),
    )


# --- queues -----------------------------------------------------------------------------------------------------------


def depths() -> Panel:
    return graph(
        "Items that wait",
        Query(queries.quantile(0.5, names.QUEUE_DEPTH, "queue"), "{{queue}}, half of all"),
        Query(queries.quantile(0.95, names.QUEUE_DEPTH, "queue"), "{{queue}}, deepest 5 %"),
        unit="none",
        no_value="no queues",
        width=12,
        description=(
            "Items in the queues that feed WebSockets, and in those that were declared. Near zero is good. Only the upper line rises: "
            "single clients take no data. Both rise: the writers are too slow for all."
        ),
    )


def deepest() -> Panel:
    return counts(
        "Deepest queue",
        Query(f"max by (queue) ({queries.scraped(names.QUEUE_DEPTH_MAX)})", "{{queue}}"),
        stacked=False,
        width=12,
        description=(
            "The queue that holds most, by name. A line that falls back to zero is good. One that only rises: a client that takes nothing; "
            "give its queue a limit and close it, before memory is used up."
        ),
    )


# --- events that find nobody ------------------------------------------------------------------------------------------


def starts() -> Panel:
    return graph(
        "Runs started, by their way to the user",
        Query(queries.rate(names.RUNS_STARTED, "route"), "{{route}}"),
        unit="cps",
        stacked=True,
        width=12,
        alerts=["EventsUnrouted"],
        description=(
            "connection and answer are good. none: the run was started for somebody who is not here, by a job or after he left; right for "
            "work whose result is kept."
        ),
    )


def unrouted() -> Panel:
    return counts(
        "Events that find nobody, by reason",
        Query(queries.grown(names.EVENTS_UNROUTED, queries.STEP, "reason"), "{{reason}}"),
        width=12,
        alerts=["EventsUnrouted"],
        description=(
            "Zero is good. no_connection: nobody is there to see it. unknown_run: frames of runs that were never started in this process; "
            "right where workers hand events to each other."
        ),
    )
