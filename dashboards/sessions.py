"""The dashboard `sessions`: do database connections come back, in time and clean, and does each have one user at a time?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import causes, queries
from isolation_monitor.dashboards.causes import POOL_ALMOST_FULL
from isolation_monitor.dashboards.layout import SESSIONS_UID, Row, dashboard
from isolation_monitor.dashboards.panels import YELLOW, Panel, Query, bad_from, counts, graph, milliseconds, none_allowed, tile
from isolation_monitor.telemetry import names

_POOL = "db_client_connection_pool_name"


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Is there a connection for everyone? Do they come back, clean? Does any serve two users at a time?"""
    tiles = [pool_now(), wait_now(t), leaked(), dirty(), shared(), unscoped()]
    return dashboard(
        uid=SESSIONS_UID,
        description="Do database connections come back, in time and clean, and does each serve one user at a time?",
        links=links,
        rows=[
            Row("Does everyone have a session, alone and clean?", tiles),
            Row("Pools", [causes.pool_use(), causes.acquisition(t), hold_times()]),
            Row("Connections", [connections(), acquisitions(), came_back()]),
            Row("Leaks, handovers, sharing", [causes.sessions_leaked(), handovers(), sharing()]),
        ],
    )


# --- does everyone have a session -------------------------------------------------------------------------------------


def pool_now() -> Panel:
    return tile(
        "Fullest pool",
        Query(queries.fullest_pool()),
        unit="percentunit",
        decimals=0,
        steps=bad_from((POOL_ALMOST_FULL, YELLOW)),
        no_value="no database",
        trend=True,
        alerts=["SessionLeak", "SessionAcquisitionSlow"],
        description=(
            "Connections in use of all that the fullest pool may open. Well below the line is good. Full: the next request of any user "
            "waits; see below whether sessions leak or are held too long."
        ),
    )


def wait_now(t: Thresholds) -> Panel:
    return tile(
        "Wait, slowest 5 %",
        Query(queries.slowest_ms(names.DB_CONNECTION_WAIT)),
        unit="ms",
        decimals=1,
        steps=bad_from((milliseconds(t.sessions.max_wait_s), YELLOW)),
        no_value="no database",
        trend=True,
        alerts=["SessionAcquisitionSlow"],
        description=(
            f"What the slowest twentieth of requests waits for a connection. Below {milliseconds(t.sessions.max_wait_s):g} ms is good. "
            "Above: a pool is too small, or its connections are held or lost."
        ),
    )


def leaked() -> Panel:
    return none_allowed(
        "Sessions leaked",
        queries.grown(names.SESSION_LEAKS, queries.RANGE),
        alerts=["SessionLeak"],
        description=(
            "Connections in the chosen time that stayed out after their request and the grace time. 0 is good. Above: some error or "
            "cancel path keeps its session; the evidence has the stack that took it."
        ),
    )


def dirty() -> Panel:
    return none_allowed(
        "Dirty handovers",
        queries.found(names.DIRTY_HANDOVER, queries.RANGE),
        no_value="blind",
        alerts=["IsolationViolation"],
        description=(
            "Connections in the chosen time that were handed on with state of the user before: an open transaction, a SET, unread "
            "replies. 0 is the only good number. Above: reset connections when they come back."
        ),
    )


def shared() -> Panel:
    return none_allowed(
        "Shared connections",
        queries.found(names.SHARED_CONNECTION, queries.RANGE),
        no_value="blind",
        alerts=["IsolationViolation"],
        description=(
            "Sessions or connections in the chosen time that two users' requests used at a time, or whose answer another than the asker "
            "read. 0 is the only good number. Above: one session for each request, taken inside of it."
        ),
    )


def unscoped() -> Panel:
    return none_allowed(
        "Reads of others' rows",
        queries.found(names.UNSCOPED_ACCESS, queries.RANGE),
        no_value="blind",
        alerts=["IsolationViolation"],
        description=(
            "Reads of owned models in the chosen time without their owner in the query, or that loaded another's row. 0 is good. Above: "
            "add the owner to the query; the evidence has the place."
        ),
    )


# --- pools and connections --------------------------------------------------------------------------------------------


def hold_times() -> Panel:
    return graph(
        "Connections held for",
        Query(queries.quantile(0.5, names.DB_CONNECTION_USE), "half of all"),
        Query(queries.quantile(0.95, names.DB_CONNECTION_USE), "longest 5 %"),
        Query(queries.quantile(0.99, names.DB_CONNECTION_USE), "longest 1 %"),
        unit="s",
        no_value="no database",
        alerts=["SessionAcquisitionSlow"],
        description=(
            "From taking a connection to giving it back. Short and steady is good. Only the longest rise: single requests wait for "
            "something else with a connection in their hand. All rise: the database is slow."
        ),
    )


def connections() -> Panel:
    return counts(
        "Connections, by state",
        Query(queries.pool_connections(), "{{db_client_connection_state}}"),
        alerts=["SessionLeak"],
        description=(
            "Open connections of all pools. Used that follows the traffic is good. Used that stays high without traffic: sessions are "
            "not given back."
        ),
    )


def acquisitions() -> Panel:
    return graph(
        "Connections taken, by pool",
        Query(queries.rate(names.DB_CONNECTION_WAIT, _POOL, suffix="_count"), f"{{{{{_POOL}}}}}"),
        unit="ops",
        no_value="no database",
        alerts=["SessionAcquisitionSlow"],
        description=(
            "How often connections are taken. Following the traffic is good. Many more than requests: each takes several, and one that "
            "waits for its second with the first in hand can lock all up."
        ),
    )


def came_back() -> Panel:
    return counts(
        "Leaked sessions that came back",
        Query(queries.grown(names.SESSION_LEAKS_RETRACTED, queries.STEP), "came back late"),
        alerts=["SessionLeak"],
        description=(
            "Connections counted as leaked that were given back after the grace time. Zero is good. Above: requests are slow to end "
            "rather than forgetful; compare with the time that connections are held."
        ),
    )


# --- handovers and sharing --------------------------------------------------------------------------------------------


def handovers() -> Panel:
    return counts(
        "Dirty handovers, by grade",
        Query(queries.found(names.DIRTY_HANDOVER, queries.STEP, "grade"), "{{grade}}"),
        alerts=["IsolationViolation"],
        description=(
            "Zero is good. Reachable: state of the user before was there. Crossed: it was used or read for the next user; roll back, "
            "then read the evidence of that minute."
        ),
    )


def sharing() -> Panel:
    return counts(
        "Connections shared, rows of others read",
        Query(queries.found(names.SHARED_CONNECTION, queries.STEP, "grade"), "shared connection, {{grade}}"),
        Query(queries.found(names.UNSCOPED_ACCESS, queries.STEP, "grade"), "others' rows, {{grade}}"),
        alerts=["IsolationViolation"],
        description=(
            "Zero is good. Any step is a user's data within another's reach: a session at module level or in a closure, or a query "
            "without its owner. The evidence names both requests."
        ),
    )
