"""The dashboard `process`: what do the processes hold, does any of it only ever grow, and does the event loop keep up?"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import lifecycle, queries
from isolation_monitor.dashboards.layout import PROCESS_UID, Row, dashboard
from isolation_monitor.dashboards.panels import NEUTRAL, Panel, Query, counts, graph, none_allowed, tile
from isolation_monitor.telemetry import names

_WORDS: Final = {
    "memory": ("Memory", "bytes", "Resident memory of all workers", "caches and lists without a limit, or instances that something keeps"),
    "fds": ("Open files", "none", "Files, sockets and pipes that the workers hold open", "connections and files that nobody closes"),
    "threads": ("Threads", "none", "Threads of all workers", "executors made for each request, or threads that wait for ever"),
    "tasks": ("Tasks", "none", "Tasks of the event loops", "tasks that outlive their requests; the kind task_leak names them"),
    "children": (
        "Child processes",
        "none",
        "Processes that the workers started",
        "children that are started by requests and never awaited",
    ),
}
"""By resource: title, unit, what it counts, and what usually makes it grow. All of `names.PROCESS_RESOURCE_NAMES`."""


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """What do the processes hold, does any of it only grow, and does the event loop keep up?"""
    resources = names.PROCESS_RESOURCE_NAMES
    return dashboard(
        uid=PROCESS_UID,
        description="What do the processes hold, does any of it only ever grow, and does the event loop keep up?",
        links=links,
        rows=[
            Row("What do the processes hold?", [*(held_now(resource) for resource in resources), trends_found()]),
            Row("By service", [*(held(resource) for resource in resources), leaks()]),
            Row("Growth in an hour, by instance", [*(growing(resource) for resource in resources), trends()]),
            Row("The event loop", [stall_durations(), standing_still()]),
            lifecycle.row(t),
        ],
    )


# --- what the processes hold ------------------------------------------------------------------------------------------


def held_now(resource: str) -> Panel:
    title, unit, what, causes = _WORDS[resource]
    return tile(
        title,
        Query(queries.holds(resource)),
        unit=unit,
        decimals=None if unit == "bytes" else 0,
        steps=NEUTRAL,
        trend=True,
        description=f"{what}, now. Following the traffic up and down is good. Only ever up: {causes}.",
    )


def trends_found() -> Panel:
    return none_allowed(
        "Growing without a pause",
        queries.found(names.RESOURCE_TREND, queries.RANGE),
        alerts=["ResourceTrend"],
        description=(
            "Resources of workers that were found in the chosen time to grow steadily, whatever the traffic. 0 is good. Above: the "
            "evidence names the resource; see its growth in an hour below, and when it will be used up."
        ),
    )


def held(resource: str) -> Panel:
    title, unit, what, causes = _WORDS[resource]
    return graph(
        f"{title}, by service",
        Query(queries.holds(resource, "service"), "{{service}}"),
        unit=unit,
        decimals=None if unit == "bytes" else 0,
        alerts=["ResourceTrend"],
        description=f"{what}. A line that falls back to its floor when traffic ends is good. A floor that rises: {causes}.",
    )


def leaks() -> Panel:
    return counts(
        "Left behind by requests",
        Query(queries.found(names.TASK_LEAK, queries.STEP), "tasks, threads and generators"),
        Query(queries.found(names.SESSION_LEAK, queries.STEP), "database sessions"),
        alerts=["SessionLeak", "ResourceTrend"],
        description=(
            "What was still there after its request and the grace time. Zero is good. Above: these are the usual causes of steady "
            "growth; each evidence has the stack that started it."
        ),
    )


# --- growth -----------------------------------------------------------------------------------------------------------


def growing(resource: str) -> Panel:
    title, unit, _, causes = _WORDS[resource]
    return graph(
        f"{title}, growth in an hour",
        Query(queries.growth_per_hour(resource), "{{instance}}"),
        unit=unit,
        minimum=None,
        alerts=["ResourceTrend"],
        description=(
            f"The slope of the last {queries.GROWTH_WINDOW}, by instance. Around zero is good; a start or a change of traffic shows for as "
            f"long. Lasting above zero: {causes}."
        ),
    )


def trends() -> Panel:
    return counts(
        "Steady growth found",
        Query(queries.found(names.RESOURCE_TREND, queries.STEP, "service"), "{{service}}"),
        alerts=["ResourceTrend"],
        description=(
            "Growth that no change of traffic explains. Zero is good. Above: restart that worker before the resource is used up, then "
            "find what keeps it with the evidence's slope."
        ),
    )


# --- the event loop ---------------------------------------------------------------------------------------------------


def stall_durations() -> Panel:
    return graph(
        "Lag of the event loop",
        Query(queries.quantile(0.5, names.LOOP_STALL_DURATION), "half of all stalls"),
        Query(queries.quantile(0.95, names.LOOP_STALL_DURATION), "longest 5 %"),
        unit="s",
        no_value="no stalls",
        width=12,
        alerts=["LoopStall"],
        description=(
            "How long the loop stood still when it did. No stalls is good. Above a tenth of a second users notice: the dashboard on "
            "containment tells whose requests did it."
        ),
    )


def standing_still() -> Panel:
    return graph(
        "Share of the time that the loop stood still",
        Query(queries.standing_still(), "{{service}}"),
        unit="percentunit",
        width=12,
        alerts=["LoopStall"],
        description=(
            "Of all workers of a service together: two workers that stand still all the time make 200 %. Near zero is good. Rising with "
            "the traffic: computing that should be in a thread or another process."
        ),
    )
