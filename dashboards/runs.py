"""The dashboard `runs`: does every run start, go on and end as its user expects, and if not, where does it stand?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.recording import RUNS_IN_ORDER
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import RUNS_UID, Row, dashboard
from isolation_monitor.dashboards.panels import NEUTRAL, Panel, Query, counts, graph, none_allowed, tile
from isolation_monitor.telemetry import names


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Does every run start, go on and end as its user expects?"""
    return dashboard(
        uid=RUNS_UID,
        description="Does every run start, go on and end as its user expects, and if not, where does it stand?",
        links=links,
        rows=[
            Row("Do runs go on and end?", [stuck_now(), not_in_order(), in_order_now()]),
            Row("What did users see?", [in_order(), verdicts(), wrong_by_verdict()]),
            Row("Runs that stand still", [stuck(), stuck_found()]),
        ],
    )


def stuck_now() -> Panel:
    return none_allowed(
        "Runs stuck",
        queries.runs_stuck(),
        alerts=["RunStuck"],
        width=8,
        description=(
            "Runs that have not ended and made no progress for `stuck_after_s`, now. 0 is good. Above: their users watch an agent that "
            "does nothing; the evidence has the line at which each one stands."
        ),
    )


def not_in_order() -> Panel:
    return none_allowed(
        "Runs not in order",
        queries.verdicts_not_in_order(queries.RANGE),
        alerts=["RunsOutOfOrder", "RunIncomplete"],
        width=8,
        description=(
            "Runs in the chosen time whose user saw no end, a gap, disorder or something twice, or whose events went to somebody else. "
            "0 is good. Above: the row below says which it was."
        ),
    )


def in_order_now() -> Panel:
    return tile(
        "Complete and in order",
        Query(queries.lowest_in_order()),
        unit="percentunit",
        decimals=2,
        steps=NEUTRAL,
        no_value="no runs ended",
        trend=True,
        width=8,
        description=(
            "Share of the runs of the last minute whose user saw everything once and in order, lowest of the chosen services; what users "
            "feel. 100 % is good. An honest error or cancellation is complete; runs whose user had gone are left out."
        ),
    )


def in_order() -> Panel:
    return graph(
        "Complete and in order, by service",
        Query(queries.recorded(RUNS_IN_ORDER), "{{service}}"),
        unit="percentunit",
        minimum=None,
        maximum=1,
        no_value="no runs ended",
        description="A flat line at 100 % is good, a gap means that no run ended. Below: see which verdict grows beside.",
    )


def verdicts() -> Panel:
    return graph(
        "Runs by verdict",
        Query(queries.rate(names.RUN_VERDICTS_TOTAL, "verdict"), "{{verdict}}"),
        unit="cps",
        stacked=True,
        alerts=["RunIncomplete"],
        description=(
            "complete_in_order alone is good. undeliverable: users leave before the end, perhaps because it takes long. Anything else "
            "is a defect of a run's code."
        ),
    )


def wrong_by_verdict() -> Panel:
    return counts(
        "Runs not in order, by verdict",
        Query(queries.verdicts_not_in_order(queries.STEP, "verdict"), "{{verdict}}"),
        alerts=["RunsOutOfOrder", "RunIncomplete", "WebSocketIsolationViolation"],
        description=(
            "Zero is good. no_end and gap: an exception on the way. disorder and duplicate: several writers on one connection. "
            "wrong_owner: a leak, roll back."
        ),
    )


def stuck() -> Panel:
    return counts(
        "Runs stuck, by service",
        Query(queries.runs_stuck("service"), "{{service}}"),
        stacked=False,
        width=12,
        alerts=["RunStuck"],
        description=(
            "Zero is good. A step in all workers at a time: something that all runs wait for, a model or a lock. A slow rise: single "
            "calls hang and never come back."
        ),
    )


def stuck_found() -> Panel:
    return counts(
        "Runs found stuck",
        Query(queries.found(names.STUCK_RUN, queries.STEP, "service"), "{{service}}"),
        width=12,
        alerts=["RunStuck"],
        description=(
            "Each run when it was found to stand still. Zero is good. Many found and few stuck: they go on by themselves; then the time "
            "that a step may take is set too short, or what they call is slow."
        ),
    )
