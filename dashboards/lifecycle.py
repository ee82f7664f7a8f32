"""The row about start-up and clean-up on the dashboard `process`: do workers get ready, and do they leave nothing behind?"""

from __future__ import annotations

from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import Row
from isolation_monitor.dashboards.panels import NEUTRAL, RED, YELLOW, Panel, Query, bad_from, counts, graph, none_allowed, tile
from isolation_monitor.telemetry import names

_UNUSED = "not declared"


def row(t: Thresholds) -> Row:
    """Do workers get ready, and do they leave nothing behind?"""
    return Row("Start-up and clean-up", [hanging(), slowest_start(t), ready_since(), forced(), phases(t), left(), cleanups(t)])


def hanging() -> Panel:
    return none_allowed(
        "Phases that hang",
        queries.now(names.STARTUP_PHASE_HANGING),
        alerts=["StartupPhaseHanging"],
        no_value="none",
        width=6,
        description=(
            "Phases of start-ups that have not ended in their time, in all workers. 0 is good. Above: those workers take no traffic; their "
            "log has the line at which the phase stands, and what it waits for."
        ),
    )


def slowest_start(t: Thresholds) -> Panel:
    return tile(
        "Slowest start-up",
        Query(queries.highest(names.STARTUP_DURATION)),
        unit="s",
        decimals=1,
        steps=bad_from((t.lifecycle.max_startup_s, YELLOW)),
        alerts=["StartupSlow"],
        no_value=_UNUSED,
        width=6,
        description=(
            "Of the workers that live: how long the slowest took to get ready, or has taken so far. Green is good. Yellow: deployments and "
            "restarts take as long; the phases below tell which one it is."
        ),
    )


def ready_since() -> Panel:
    return tile(
        "Latest worker ready since",
        Query(queries.age_of(names.STARTUP_READY)),
        unit="s",
        decimals=0,
        steps=NEUTRAL,
        alerts=["StartupFailed"],
        no_value="none is ready",
        width=6,
        description=(
            "Time since the latest worker got ready. As long as the last deployment is good. Ever short: workers end and start again; the "
            "dashboard on containment has those that died."
        ),
    )


def forced() -> Panel:
    return tile(
        "Clean-up steps forced",
        Query(queries.grown(names.CLEANUP_FORCED, queries.RANGE)),
        unit="none",
        decimals=0,
        steps=bad_from((1, RED)),
        no_value=_UNUSED,
        alerts=["CleanupSlow"],
        width=6,
        description=(
            "Steps of clean-ups in the chosen time that did not end in their time. 0 is good. Above: the log of the process that ended "
            "names them; what they should have closed was let go by force, or cut off."
        ),
    )


def phases(t: Thresholds) -> Panel:
    return graph(
        "Start-up by phase, slowest 5 %",
        Query(queries.quantile(0.95, names.STARTUP_PHASE_DURATION, "isolation_phase", isolation_result="done"), "{{isolation_phase}}"),
        Query(
            queries.grown(names.STARTUP_PHASE_DURATION, queries.STEP, "isolation_phase", suffix="_count", isolation_result="failed")
            + " > 0",
            "{{isolation_phase}} failed, number",
        ),
        unit="s",
        no_value="no start",
        alerts=["StartupSlow", "StartupFailed"],
        description=(
            "How long the phases of start-ups took. Points at deployments and restarts are good. One phase rising: look at what it loads "
            "or waits for. Failed ones never got ready; the service's log has the error."
        ),
    )


def left() -> Panel:
    return counts(
        "Left after clean-ups",
        Query(queries.grown(names.CLEANUP_LEFT, queries.STEP, "isolation_resource"), "{{isolation_resource}}"),
        alerts=["CleanupLeftovers"],
        description=(
            "What processes held after their clean-up and had not held before their start. Zero is good. Above: the log of the process "
            "that ended names each; give it a step of the clean-up."
        ),
    )


def cleanups(t: Thresholds) -> Panel:
    return graph(
        "Duration of clean-ups",
        Query(queries.quantile(0.5, names.CLEANUP_DURATION), "half of all"),
        Query(queries.quantile(0.95, names.CLEANUP_DURATION), "slowest 5 %"),
        unit="s",
        steps=bad_from((t.lifecycle.max_cleanup_s, YELLOW)),
        no_value="no clean-up",
        alerts=["CleanupSlow"],
        description=(
            "How long processes took to clean up. Below the line is good. Above: platforms kill what takes too long; the log names the "
            "steps, and the tile above counts those that were forced."
        ),
    )
