"""The dashboard `containment`: does one user's failure stay with that user?

A failure is contained when no other user's request failed, waited or died with it. What lets failures spread is shared:
the event loop, a lock, a pool, a worker.
"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import causes, queries
from isolation_monitor.dashboards.answers import FULL_SCORE
from isolation_monitor.dashboards.layout import CONTAINMENT_UID, Row, dashboard
from isolation_monitor.dashboards.panels import GREEN, Panel, Query, counts, good_from, graph, none_allowed, tile
from isolation_monitor.telemetry import names


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Does one user's failure stay with that user? If not, how far does it reach, and through what?"""
    tiles = [containment_now(t), escaped(), cascades(), stalled(), starved(), deaths()]
    return dashboard(
        uid=CONTAINMENT_UID,
        description="Does one user's failure stay with that user? If not, how far does it reach, and through what?",
        links=links,
        rows=[
            Row("Does a failure stay with its user?", tiles),
            Row("Failures", [causes.containment(), outcomes(), blast_radius()]),
            Row("Who waits for whom", [stall_durations(), waits(), principals()]),
            Row("What spreads, and what dies", [cascades_over_time(), deaths_over_time()]),
        ],
    )


# --- does a failure stay with its user --------------------------------------------------------------------------------


def containment_now(t: Thresholds) -> Panel:
    return tile(
        "Containment",
        Query(queries.lowest_containment()),
        unit="percent",
        decimals=2,
        steps=good_from((FULL_SCORE, GREEN)),
        no_value="no failures",
        trend=True,
        alerts=["ContainmentBelow100"],
        description=(
            f"Share of the failures of the last {t.containment.window} that touched no other user, lowest of the chosen services, rounded "
            "down. 100 is good. Below: look how far it reached and what the requests share."
        ),
    )


def escaped() -> Panel:
    return none_allowed(
        "Failures that escaped",
        queries.grown(names.FAILURES, queries.RANGE, outcome="escaped"),
        alerts=["ContainmentBelow100"],
        description=(
            "Failures in the chosen time that reached another user's request. 0 is good. Above: the evidence names the failure that "
            "began it and the edge by which it spread."
        ),
    )


def cascades() -> Panel:
    return none_allowed(
        "Cascades",
        queries.grown(names.CASCADES, queries.RANGE),
        alerts=["Cascade"],
        description=(
            "Failures in the chosen time that reached two other users or more. 0 is good. Above: stop what spreads first: roll back, "
            "or take the shared part out of use."
        ),
    )


def stalled() -> Panel:
    return none_allowed(
        "Requests that stopped the loop",
        queries.found(names.LOOP_STALL, queries.RANGE),
        alerts=["LoopStall"],
        description=(
            "Requests in the chosen time whose code held the event loop while other users were served. 0 is good. Above: move that "
            "code to a thread; the evidence has its line."
        ),
    )


def starved() -> Panel:
    return none_allowed(
        "Requests that starved",
        queries.found(names.STARVATION, queries.RANGE),
        description=(
            "Requests in the chosen time that waited for, or failed with, another user's. 0 is good. Above: the evidence names the "
            "lock, queue or pool and who held it; give users limits of their own."
        ),
    )


def deaths() -> Panel:
    return none_allowed(
        "Workers that died",
        queries.grown(names.WORKER_DEATHS, queries.RANGE),
        description=(
            "Worker processes in the chosen time that vanished without closing. 0 is good; a deploy closes its workers and counts none. "
            "Above: killed for memory, or a crash in native code; all of a worker's users fail with it."
        ),
    )


# --- failures ---------------------------------------------------------------------------------------------------------


def outcomes() -> Panel:
    return counts(
        "Failures, by outcome",
        Query(queries.grown(names.FAILURES, queries.STEP, "outcome"), "{{outcome}}"),
        alerts=["ContainmentBelow100"],
        description=(
            "Failed requests and runs. Only contained is good. Common cause: many users failed at once by something that is nobody's, "
            "such as a database that is away. Escaped: one user's failure took others with it."
        ),
    )


def blast_radius() -> Panel:
    return graph(
        "Users that one failure touched",
        Query(queries.quantile(0.5, names.FAILURE_PRINCIPALS), "half of all"),
        Query(queries.quantile(0.95, names.FAILURE_PRINCIPALS), "widest 5 %"),
        unit="none",
        no_value="no failures",
        alerts=["Cascade", "ContainmentBelow100"],
        description=(
            "The blast radius: the user it began with included. 1 is good. Rising: the same failure draws in one user after the other; "
            "find in its evidence what they share."
        ),
    )


# --- who waits for whom -----------------------------------------------------------------------------------------------


def stall_durations() -> Panel:
    return graph(
        "The event loop stood still for",
        Query(queries.quantile(0.5, names.LOOP_STALL_DURATION), "half of all stalls"),
        Query(queries.quantile(0.95, names.LOOP_STALL_DURATION), "longest 5 %"),
        unit="s",
        no_value="no stalls",
        alerts=["LoopStall"],
        description=(
            "Each stall holds every user of that worker for as long. None, or a few hundredths of a second, is good. Above: blocking "
            "calls or long computing in a request; the evidence has the line."
        ),
    )


def waits() -> Panel:
    return counts(
        "Stalls and starvation found",
        Query(queries.found(names.LOOP_STALL, queries.STEP), "stopped the event loop"),
        Query(queries.found(names.STARVATION, queries.STEP), "starved by another user's request"),
        alerts=["LoopStall"],
        description=(
            "Zero is good. Stops of the loop touch everybody at once; starvation touches who needs the same lock, queue or pool. Start "
            "with the newest evidence."
        ),
    )


def principals() -> Panel:
    return counts(
        "Users at work",
        Query(f"sum by (service) ({queries.scraped(names.PRINCIPALS_ACTIVE)})", "{{service}}"),
        stacked=False,
        description=(
            "Users with a live request or connection. Following the time of day is good. It is what a failure could touch: with one user "
            "alone nothing can escape. A cliff: a worker died, or nobody can log in."
        ),
    )


# --- what spreads, and what dies --------------------------------------------------------------------------------------


def cascades_over_time() -> Panel:
    return counts(
        "Cascades",
        Query(queries.grown(names.CASCADES, queries.STEP, "service"), "{{service}}"),
        width=12,
        alerts=["Cascade"],
        description=(
            "Failures that reached two other users or more. Zero is good. Above: a retry storm, a poisoned cache entry or a shared "
            "connection passes it on; it goes on for as long as that is shared."
        ),
    )


def deaths_over_time() -> Panel:
    return counts(
        "Workers that died",
        Query(queries.grown(names.WORKER_DEATHS, queries.STEP, "service"), "{{service}}"),
        width=12,
        description=(
            "Workers that vanished without closing, counted by those that remain. Zero is good. Steps: look at the memory of that time "
            "and at the system's log for kills."
        ),
    )
