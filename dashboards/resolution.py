"""The dashboard `resolution`: does every run id lead to its thread, by whom, how fast, and to the right user?

Five sources are asked in order: registry, orchestrator, connections, the id's own text, and else it is an error (docs/ids.md).
"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import RESOLUTION_UID, Row, dashboard
from isolation_monitor.dashboards.panels import GREEN, NEUTRAL, Panel, Query, counts, good_from, graph, none_allowed, tile
from isolation_monitor.telemetry import names


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Does every run id lead to its thread? If not, which source let us down?"""
    return dashboard(
        uid=RESOLUTION_UID,
        description="Does every run id lead to its thread? If not, which source let us down?",
        links=links,
        rows=[
            Row("Does every run id lead to its thread?", [share_now(t), failed(), conflicts(), served(), denied(), slowest_now()]),
            Row("By which source", [share(t), by_source(), durations()]),
            Row("The sources", [answers(), trouble(), circuits()]),
            Row("Whose, and how it was read", [outcomes(), patterns(), registrations()]),
        ],
    )


# --- does every run id lead to its thread -----------------------------------------------------------------------------


def share_now(t: Thresholds) -> Panel:
    return tile(
        "Run ids resolved",
        Query(queries.lowest_resolved()),
        unit="percent",
        decimals=2,
        steps=good_from((float(t.resolution.page_below_percent), GREEN)),
        no_value="none asked for",
        trend=True,
        alerts=["ResolutionBelow99"],
        description=(
            f"Share of the run ids of the last {t.resolution.window} that some source resolved, lowest of the chosen services, rounded "
            "down. 100 is good. Below: see which source used to answer and does not any more."
        ),
    )


def failed() -> Panel:
    return none_allowed(
        "Led nowhere",
        queries.grown(names.ID_RESOLUTIONS, queries.RANGE, source="error"),
        alerts=["ResolutionBelow99"],
        description=(
            "Run ids in the chosen time that no source resolved, or two contradicted. 0 is good. Above: the evidence has what each "
            "source said."
        ),
    )


def conflicts() -> Panel:
    return none_allowed(
        "Sources disagreed",
        queries.found(names.ID_RESOLUTION, queries.RANGE, grade="reachable"),
        alerts=["ResolutionConflict"],
        description=(
            "Run ids in the chosen time for which two sources named different threads or owners. 0 is good. Above: one of them is wrong "
            "about whose a run is; nobody was answered."
        ),
    )


def served() -> Panel:
    return none_allowed(
        "Foreign threads served",
        queries.found(names.ID_RESOLUTION, queries.RANGE, grade="crossed"),
        alerts=["ResolutionConflict"],
        description=(
            "Threads of another user in the chosen time that a request resolved and was answered from. 0 is good. Above: a data "
            "incident; the evidence names the endpoint."
        ),
    )


def denied() -> Panel:
    return tile(
        "Foreign threads denied",
        Query(queries.grown(names.ID_OUTCOMES_TOTAL, queries.RANGE, outcome="foreign_denied")),
        unit="none",
        decimals=0,
        steps=NEUTRAL,
        description=(
            "Requests in the chosen time that asked for a run of another user and were refused. A few, from old links, are normal. Many: "
            "somebody tries ids, or a client mixes up its runs."
        ),
    )


def slowest_now() -> Panel:
    return tile(
        "Resolution, slowest 5 %",
        Query(queries.slowest_ms(names.ID_RESOLUTION_DURATION)),
        unit="ms",
        decimals=2,
        steps=NEUTRAL,
        no_value="none asked for",
        trend=True,
        description=(
            "What the slowest twentieth of resolutions takes. Below a millisecond is good: the registry knows. Higher: later sources are "
            "asked, or a source hangs until its time is over."
        ),
    )


# --- by which source --------------------------------------------------------------------------------------------------


def share(t: Thresholds) -> Panel:
    return graph(
        "Share of run ids resolved",
        Query(queries.resolved(), "{{service}}"),
        unit="percent",
        steps=good_from((float(t.resolution.page_below_percent), GREEN)),
        maximum=100,
        minimum=None,
        alerts=["ResolutionBelow99"],
        description="100 is good. A step down with a deploy: ids of a form that nobody reads. A dip: a source was away.",
    )


def by_source() -> Panel:
    return counts(
        "Resolutions, by source",
        Query(queries.grown(names.ID_RESOLUTIONS, queries.STEP, "source"), "{{source}}"),
        alerts=["ResolutionBelow99"],
        description=(
            "Who resolved the run ids. Nearly all by the registry is good. The orchestrator takes over: the registry forgets or is away. "
            "The pattern: both are."
        ),
    )


def durations() -> Panel:
    return graph(
        "Resolution by source, slowest 5 %",
        Query(queries.quantile(0.95, names.ID_RESOLUTION_DURATION, "source"), "{{source}}"),
        unit="s",
        description=(
            "Each source includes the wait for those before it. Steady lines are good. All at the time limit: the first of them hangs."
        ),
    )


# --- the sources ------------------------------------------------------------------------------------------------------


def answers() -> Panel:
    return counts(
        "Runs that a source knew",
        Query(queries.grown(names.ID_SOURCE_ANSWERS, queries.STEP, "source", answer="hit"), "{{source}}"),
        description=(
            "Answers with a thread. A steady mix, mostly of the registry, is good. A source that falls silent while a later one rises has "
            "stopped knowing."
        ),
    )


def trouble() -> Panel:
    return counts(
        "No answers, by source and reason",
        Query(queries.grown(names.ID_SOURCE_ANSWERS, queries.STEP, "source", "answer", answer="!=hit"), "{{source}}: {{answer}}"),
        alerts=["ResolutionBelow99"],
        description=(
            "miss is normal where a later source knows. timeout and failed: the source is ill. skipped: it failed so often that it is "
            "left alone. invalid: it answers with something that is no thread."
        ),
    )


def circuits() -> Panel:
    return counts(
        "Sources left alone",
        Query(queries.circuits_open(), "{{source}}"),
        description="Workers whose circuit of a source is open. 0 is good. Above: repair the source; it is tried again by itself.",
    )


# --- whose, and how it was read ---------------------------------------------------------------------------------------


def outcomes() -> Panel:
    return counts(
        "Outcomes",
        Query(queries.grown(names.ID_OUTCOMES_TOTAL, queries.STEP, "outcome"), "{{outcome}}"),
        alerts=["ResolutionConflict"],
        description=(
            "own, shared and created are good. unowned: nobody told whose the thread is. defaulted: a wrong thread was taken for want "
            "of one. invalid: clients send what is no id."
        ),
    )


def patterns() -> Panel:
    return counts(
        "Ids by how their text was read",
        Query(queries.grown(names.ID_PATTERN_READS, queries.STEP, "algorithm"), "{{algorithm}}"),
        description=(
            "own is good: ids of the library. damaged: something cuts or changes ids. unconfirmed and ambiguous: declare the shape of "
            "thread ids."
        ),
    )


def registrations() -> Panel:
    return counts(
        "Runs registered",
        Query(queries.grown(names.ID_REGISTRATIONS_TOTAL, queries.STEP, "source", "result"), "{{source}}: {{result}}"),
        alerts=["ResolutionConflict"],
        description=(
            "created: stored is good. orchestrator and below: filled in from a later source, many mean that runs are not registered when "
            "made. failed: the database is away."
        ),
    )
