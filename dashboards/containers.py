"""The dashboard `containers`: do they live, are they well, and who ended those that do not?

The series are the collector's, of the replica that follows the engine; who and what of each event is on its page `/containers`.
"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.container_alerts import (
    ENGINE_UP,
    EXITS,
    EXPIRED,
    HEALTH,
    KILLS,
    MEMORY,
    MEMORY_LIMIT,
    OOM_SURVIVED,
    ORPHAN_VOLUMES,
    ORPHANS,
    REMOVALS,
    RESTARTS,
    STOP_SIGKILLS,
    STORMS,
)
from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import queries
from isolation_monitor.dashboards.layout import CONTAINERS_UID, Row, dashboard
from isolation_monitor.dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    NEUTRAL,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Panel,
    Query,
    counts,
    graph,
    none_allowed,
    tile,
)
from isolation_monitor.telemetry.names import OTHER

NO_ENGINE = "no engine followed"
_STATE = "isolation_container_state"
_CPU = "isolation_container_cpu_seconds_total"
_CPU_LIMIT = "isolation_container_cpu_limit_cores"
_VOLUMES = "isolation_container_dangling_volumes"
_IMAGE = "isolation_container_image_created_timestamp_seconds"


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Do the containers live and do well, and who ended those that do not?"""
    return dashboard(
        uid=CONTAINERS_UID,
        description="Do the containers live, are they well, and how did those end that do not?",
        links=links,
        rows=[
            Row("Now", [engines(), running(), unhealthy(), starved(), forced(), storms()]),
            Row("Lives and deaths", [states(), exits(), restarts(), removals(), stops(), kills()]),
            Row("What they use", [memory(t), bytes_used(), cpu()]),
            Row("What is left behind", [left_behind(), image_age()]),
        ],
    )


# --- now --------------------------------------------------------------------------------------------------------------


def engines() -> Panel:
    return tile(
        "Engines that answer",
        Query(f"sum({ENGINE_UP}) / count({ENGINE_UP})"),
        unit="percentunit",
        steps=((None, RED), (1, GREEN)),
        no_value=NO_ENGINE,
        alerts=["ContainerEngineDown"],
        description=(
            "Share of the followed Docker engines that answer. 100 % is good. Below: nobody sees the containers of the others; the "
            "collector's page /containers has the error."
        ),
    )


def running() -> Panel:
    return tile(
        "Running",
        Query(f'sum({_STATE}{{isolation_state="running"}})'),
        unit="none",
        decimals=0,
        steps=NEUTRAL,
        trend=True,
        no_value=NO_ENGINE,
        description=(
            "Containers that run now. Steady is good. A step down: look at the ends below. None although some should: the engine is new."
        ),
    )


def unhealthy() -> Panel:
    return none_allowed(
        "Unhealthy",
        f'sum({HEALTH}{{isolation_state="unhealthy"}})',
        alerts=["ContainerUnhealthy"],
        no_value=NO_ENGINE,
        description=(
            "Containers whose own check fails. 0 is good. Above: whoever is sent to them is not served; the runbook has what to ask."
        ),
    )


def starved() -> Panel:
    return none_allowed(
        "Out of memory",
        f'sum(increase({EXITS}{{isolation_reason="oom_killed"}}[{queries.RANGE}]))',
        alerts=["ContainerOutOfMemory"],
        no_value=NO_ENGINE,
        description=(
            "Containers that the kernel ended for want of memory, in the chosen time. 0 is good. Above: compare use and limit below."
        ),
    )


def forced() -> Panel:
    return none_allowed(
        "Removed by force",
        f'sum(increase({REMOVALS}{{isolation_mode="forced"}}[{queries.RANGE}]))',
        alerts=["ContainerForcedRemoval"],
        no_value=NO_ENGINE,
        description=(
            "Containers that were removed without a stop, in the chosen time. 0 is good. Above: /v1/container-events says which, and who."
        ),
    )


def storms() -> Panel:
    return none_allowed(
        "Command storms",
        f"sum(increase({STORMS}[{queries.RANGE}]))",
        alerts=["ContainerCommandStorm"],
        no_value=NO_ENGINE,
        description=(
            "Bursts of stops, kills and removals less than half a second apart. 0 is good. Above: a script leaves the engine no time."
        ),
    )


# --- lives and deaths -------------------------------------------------------------------------------------------------


def states() -> Panel:
    return counts(
        "Containers, by state",
        Query(f"sum by (isolation_state) ({_STATE})", "{{isolation_state}}"),
        colors={"running": GREEN, "restarting": ORANGE, "paused": YELLOW, "dead": RED, "exited": GREY, "created": BLUE},
        width=12,
        description=(
            "Every container of the followed engines. Mostly running is good. Restarting for long: a loop; exited that grows: nobody "
            "cleans up; created that stays: a start that failed."
        ),
    )


def exits() -> Panel:
    return counts(
        "Ends, by how",
        Query(f"sum by (isolation_reason) (increase({EXITS}[{queries.STEP}]))", "{{isolation_reason}}"),
        colors={"clean": GREEN, "error": RED, "oom_killed": PURPLE, "killed": ORANGE, "unknown": GREY},
        width=12,
        alerts=["ContainerCrashed", "ContainerOutOfMemory"],
        description=(
            "How containers ended. Clean is good. Error: their own program failed, or was killed past the engine; killed: SIGKILL; "
            "oom_killed: no memory; unknown: it ended while nobody saw it, and is gone or lives again."
        ),
    )


def restarts() -> Panel:
    return counts(
        "Restarts, by container",
        Query(f"sum by (container_name) (increase({RESTARTS}[{queries.STEP}])) > 0", "{{container_name}}"),
        width=6,
        alerts=["ContainerRestarting"],
        description=("Containers that were started again. None is good. The same one again and again: its last words are in docker logs."),
    )


def removals() -> Panel:
    return counts(
        "Removals, by how",
        Query(f"sum by (isolation_mode) (increase({REMOVALS}[{queries.STEP}]))", "{{isolation_mode}}"),
        colors={"graceful": GREEN, "forced": RED, "unknown": GREY},
        width=6,
        alerts=["ContainerForcedRemoval"],
        description=(
            "Containers that were removed. Graceful is good. Forced: a SIGKILL without a stop before it. Unknown: it was gone when "
            "the engine came back."
        ),
    )


def stops() -> Panel:
    return counts(
        "Stops that needed SIGKILL",
        Query(f"sum(increase({STOP_SIGKILLS}[{queries.STEP}]))", "stops"),
        width=6,
        alerts=["ContainerStopNeededKill"],
        description=(
            "Stops that were not obeyed in their time. None is good. Above: a shell that passes no signal on, or an end that takes too "
            "long; the events of kind stop_sigkill say how long was waited."
        ),
    )


def kills() -> Panel:
    return counts(
        "Kills and starved processes, by container",
        Query(f"sum by (container_name) (increase({KILLS}[{queries.STEP}])) > 0", "{{container_name}} killed"),
        Query(f"sum by (container_name) (increase({OOM_SURVIVED}[{queries.STEP}])) > 0", "{{container_name}} lost a process"),
        width=6,
        alerts=["ContainerKilled", "ContainerProcessOutOfMemory"],
        description=(
            "Containers that were sent SIGKILL without a stop, and those that live on although the kernel ended one of their processes for "
            "want of memory. None is good. Above: the collector's page /containers has who, as far as anybody told; compare use and limit."
        ),
    )


# --- what they use ----------------------------------------------------------------------------------------------------


def memory(t: Thresholds) -> Panel:
    return graph(
        "Memory, of what each may use",
        Query(f"max by (container_name) ({MEMORY}) / max by (container_name) ({MEMORY_LIMIT})", "{{container_name}}"),
        unit="percentunit",
        maximum=1,
        steps=((None, GREEN), (t.containers.max_memory_ratio, ORANGE)),
        alerts=["ContainerMemoryNearLimit"],
        no_value="no limit set",
        description=(
            "Memory in use without cache, of the limit. Level and below the line is good. A slope towards it: a leak; the kernel ends the "
            "container at 100 %. Those without a limit are not here."
        ),
    )


def bytes_used() -> Panel:
    return graph(
        "Memory, by container",
        Query(f"max by (container_name) ({MEMORY})", "{{container_name}}"),
        unit="bytes",
        no_value=NO_ENGINE,
        description=(
            "Memory in use without cache that can be given back. Level is good. One that grows for hours: look at the dashboard Process."
        ),
    )


def cpu() -> Panel:
    return graph(
        "Processors, by container",
        # A container that starts again begins at zero, as a counter may.
        Query(f"sum by (container_name) (rate({_CPU}[{queries.STEP}]))", "{{container_name}}"),
        Query(f"max by (container_name) ({_CPU_LIMIT})", "{{container_name}} may use"),
        unit="short",
        no_value=NO_ENGINE,
        description=(
            "Processors that each keeps busy: 1 is one of them, always. Following the traffic is good. Flat at what "
            "it may use, or at a whole number: it wants more."
        ),
    )


# --- what is left behind ----------------------------------------------------------------------------------------------


def left_behind() -> Panel:
    return counts(
        "Nobody's, expired, unused",
        Query(f"sum({ORPHANS})", "containers of nobody"),
        Query(f"sum({EXPIRED})", "containers past their own end"),
        Query(f"sum({_VOLUMES})", "volumes of no container"),
        Query(f"sum({ORPHAN_VOLUMES})", "of these, volumes of nobody for long"),
        width=12,
        alerts=["ContainerOrphaned", "ContainerExpired", "ContainerVolumesUnused"],
        description=(
            "Stopped containers without an owner's label, containers that stay longer than their own label says, volumes that none uses. "
            "None is good. Growing: some job does not clean up; remove them with isomon docker."
        ),
    )


def image_age() -> Panel:
    return graph(
        "Age of images, by container",
        Query(f"time() - max by (container_name) ({_IMAGE})", "{{container_name}}"),
        unit="s",
        width=12,
        no_value=NO_ENGINE,
        description=(
            "How long ago the image of each running container was made. Days or weeks are good. Months: it lacks all fixes since. Beyond "
            f"fifty containers, those counted as {OTHER} are not here."
        ),
    )
