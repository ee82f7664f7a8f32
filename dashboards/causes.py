"""The row of `isolation-overview` on where violations come from: failures, instances, sessions, context."""

from __future__ import annotations

from typing import Final

from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import Row
from isolation_monitor.dashboards.panels import GREEN, YELLOW, Panel, Query, bad_from, counts, good_from, graph, milliseconds
from isolation_monitor.telemetry import names

POOL_ALMOST_FULL: Final = 0.8
"""Share of a pool in use from which the next burst waits; no alert, the wait itself has one."""

_CONTEXT_DETECTORS: Final = f"=~{names.INHERITED_CONTEXT}|{names.FOREIGN_IDENTITY}"


def row(t: Thresholds) -> Row:
    """Failures, instances, database sessions, context."""
    instances = [creation(t), reset(t), shared_instances()]
    sessions = [sessions_leaked(), acquisition(t), pool_use(), held()]
    return Row("Containment, instances, sessions, context", [containment(), *instances, *sessions, context_checks()])


def containment() -> Panel:
    return graph(
        "Failures that touched nobody else",
        Query(queries.recorded(names.FAILURE_CONTAINMENT_RATE), "{{service}}"),
        unit="percent",
        steps=good_from((100, GREEN)),
        minimum=None,
        maximum=100,
        no_value="no failures",
        description=(
            "Share of failed requests and runs that touched no other user. 100 is good; a gap means that nothing failed. Below 100 a "
            "failure cascades: find the failing request of that minute and what it shares."
        ),
    )


def creation(t: Thresholds) -> Panel:
    return graph(
        "Instance creation, slowest 5 %",
        Query(queries.recorded(names.INSTANCE_CREATION_TIME_MS), "{{service}}, all components"),
        Query(queries.p95_ms(names.INSTANCE_CREATE, "component"), "{{component}}"),
        unit="ms",
        steps=bad_from((milliseconds(t.creation.max_creation_s), YELLOW)),
        alerts=["InstanceCreationSlow"],
        description=(
            f"Time a factory takes to make a fresh instance. Below {milliseconds(t.creation.max_creation_s):g} ms is good. Above: the "
            "factory loads, connects or reads something on every request; move it to start-up."
        ),
    )


def reset(t: Thresholds) -> Panel:
    return graph(
        "Instance reset, slowest 5 %",
        Query(queries.p95_ms(names.INSTANCE_RESET, "component"), "{{component}}"),
        unit="ms",
        steps=bad_from((milliseconds(t.creation.max_reset_s), YELLOW)),
        no_value="no resets",
        alerts=["InstanceResetSlow"],
        description=(
            f"Time to clear an instance's state. Below {milliseconds(t.creation.max_reset_s):g} ms is good. Above: state of the last "
            "request lives on for so long; make the instance anew instead."
        ),
    )


def shared_instances() -> Panel:
    return counts(
        "Instances given to a second request",
        Query(queries.grown(names.INSTANCE_SHARED, queries.STEP, "component"), "{{component}}"),
        stacked=False,
        alerts=["SingletonReuse", "IsolationViolation"],
        description=(
            "Instances that were declared fresh for each request and were not. Zero is good. Above: a cache or a module-level "
            "singleton sits behind that factory."
        ),
    )


def sessions_leaked() -> Panel:
    return counts(
        "Database sessions leaked and not given back",
        Query(queries.recorded(names.SESSION_LEAK_COUNT), "{{service}}"),
        Query(queries.grown(names.SESSION_LEAKS, queries.STEP), "new"),
        stacked=False,
        alerts=["SessionLeak"],
        description=(
            "Connections that stayed out after their request, since the service started, and new ones. A flat line is good, at zero "
            "best. Rising: some error or cancel path keeps its session; the evidence has its stack. A full pool hangs everybody."
        ),
    )


def acquisition(t: Thresholds) -> Panel:
    return graph(
        "Wait for a database connection, slowest 5 %",
        Query(queries.p95_ms(names.DB_CONNECTION_WAIT, "db_client_connection_pool_name"), "{{db_client_connection_pool_name}}"),
        unit="ms",
        steps=bad_from((milliseconds(t.sessions.max_wait_s), YELLOW)),
        no_value="no database",
        alerts=["SessionAcquisitionSlow"],
        description=(
            f"Below {milliseconds(t.sessions.max_wait_s):g} ms is good. Above: the pool is too small, sessions are held too long, or "
            "some have leaked; compare with the three graphs around."
        ),
    )


def pool_use() -> Panel:
    return graph(
        "Pool in use",
        Query(queries.share_of_pool_used(), "{{db_client_connection_pool_name}}"),
        unit="percentunit",
        maximum=1,
        steps=bad_from((POOL_ALMOST_FULL, YELLOW)),
        no_value="no database",
        alerts=["SessionLeak", "SessionAcquisitionSlow"],
        description=(
            "Connections in use, as a share of all that the pools of all workers may open. Room above the line is good. Near the top "
            "without traffic: leaked sessions. With traffic: make the pool larger or requests shorter."
        ),
    )


def held() -> Panel:
    return graph(
        "Connections held, slowest 5 %",
        Query(queries.p95_ms(names.DB_CONNECTION_USE, "db_client_connection_pool_name"), "{{db_client_connection_pool_name}}"),
        unit="ms",
        no_value="no database",
        alerts=["SessionAcquisitionSlow"],
        description=(
            "Time between taking a connection and giving it back. Short and steady is good. Rising: a request waits for something "
            "else, such as an agent, with a connection in its hand."
        ),
    )


def context_checks() -> Panel:
    return graph(
        "Context and identity checks that found a violation",
        Query(queries.rate(names.CHECKS, "detector", detector=_CONTEXT_DETECTORS, result="violation"), "{{detector}} found"),
        Query(queries.rate(names.CHECKS, "detector", detector=_CONTEXT_DETECTORS), "{{detector}} looked"),
        unit="ops",
        alerts=["IsolationViolation"],
        description=(
            "How often requests were examined for another request's context and for another user's identity in their answers, and how "
            "often something was found. Good: looked follows the traffic, found stays at zero."
        ),
    )
