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
            Row("Do runs go on and end?", [stuck_now(), not_in_order(), in_order_now(), under_way(), first_event_now(), duration_now()]),
            Row("What did users see?", [in_order(), verdicts(), wrong_by_verdict()]),
            Row("Runs that stand still", [stuck(), stuck_found()]),
            Row("How long do users wait?", [first_events(), durations()]),
        ],
    )


def stuck_now() -> Panel:
    return none_allowed(
        "Runs stuck",
        queries.runs_stuck(),
        alerts=["RunStuck"],
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
        description=(
            "Share of the runs of the last minute whose user saw everything once and in order, lowest of the chosen services; what users "
            "feel. 100 % is good. An honest error or cancellation is complete; runs whose user had gone are left out."
        ),
    )


def under_way() -> Panel:
    return tile(
        "Runs under way",
        Query(f"sum({queries.scraped(names.RUN_ACTIVE)})"),
        unit="none",
        decimals=0,
        steps=NEUTRAL,
        trend=True,
        description="Runs started and not ended. Following the traffic is good. Rising without more traffic: runs take longer, or hang.",
    )


def first_event_now() -> Panel:
    return tile(
        "First event, slowest 5 %",
        Query(queries.quantile(0.95, names.RUN_FIRST_EVENT)),
        unit="s",
        decimals=2,
        steps=NEUTRAL,
        no_value="no runs",
        trend=True,
        description=(
            "How long the slowest twentieth of users waits for any sign of life. Steady is good. Rising: instances take long to create, "
            "sessions are waited for, or the event loop is held."
        ),
    )


def duration_now() -> Panel:
    return tile(
        "Run duration, slowest 5 %",
        Query(queries.quantile(0.95, names.RUN_DURATION)),
        unit="s",
        decimals=1,
        steps=NEUTRAL,
        no_value="no runs ended",
        trend=True,
        description=(
            "What the slowest twentieth of users waits for a whole answer. Steady is good. Rising: tools or the model behind the agent "
            "are slow."
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


# --- how long do users wait -------------------------------------------------------------------------------------------


def first_events() -> Panel:
    return _quantiles(
        "Time to the first event",
        names.RUN_FIRST_EVENT,
        "From a run's start until its first event was sent. Three steady lines are good. All rise: what a run does before its first event "
        "is slow for everybody. Only the top one: single users wait.",
    )


def durations() -> Panel:
    return _quantiles(
        "Run durations",
        names.RUN_DURATION,
        "From a run's start to its end. Three steady lines are good. Only the top one rises: single users wait. All rise: the agent or "
        "what it calls is slow.",
    )


def _quantiles(title: str, metric: names.Metric, description: str) -> Panel:
    parts = ((0.5, "half of all"), (0.95, "slowest 5 %"), (0.99, "slowest 1 %"))
    return graph(
        title,
        *(Query(queries.quantile(q, metric), name) for q, name in parts),
        unit="s",
        no_value="no runs ended",
        width=12,
        description=description,
    )
