"""Alerts on containers: those that are ill, die, starve or restart in a loop, and those that somebody ends by force.

The collector that follows the Docker engine shows them; a page `/containers` has who and what of each. All names are those of
containers, so the alerts are of no service.
"""

from __future__ import annotations

from isolation_monitor.alerts.expressions import grew, growth
from isolation_monitor.alerts.model import NUMBER, Alert, Group
from isolation_monitor.alerts.prometheus_config import COLLECTOR_JOB
from isolation_monitor.alerts.thresholds import Thresholds

HEALTH = "isolation_container_health_state"
RESTARTS = "isolation_container_restarts_total"
EXITS = "isolation_container_exits_total"
REMOVALS = "isolation_container_removals_total"
STORMS = "isolation_container_command_storms_total"
STOP_SIGKILLS = "isolation_container_stop_sigkills_total"
MEMORY = "isolation_container_memory_usage_bytes"
MEMORY_LIMIT = "isolation_container_memory_limit_bytes"
ENGINE_UP = "isolation_container_engine_up"
KILLS = "isolation_container_kills_total"
OOM_SURVIVED = "isolation_container_oom_survived_total"
ORPHANS = "isolation_container_orphans"
EXPIRED = "isolation_container_expired"
ORPHAN_VOLUMES = "isolation_container_orphan_volumes"
COLLECTOR_SERIES = {
    HEALTH: frozenset({"container_name", "isolation_state"}),
    RESTARTS: frozenset({"container_name"}),
    EXITS: frozenset({"container_name", "isolation_reason"}),
    REMOVALS: frozenset({"isolation_mode"}),
    STORMS: frozenset[str](),
    STOP_SIGKILLS: frozenset[str](),
    MEMORY: frozenset({"container_name"}),
    MEMORY_LIMIT: frozenset({"container_name"}),
    ENGINE_UP: frozenset({"isolation_engine"}),
    KILLS: frozenset({"container_name"}),
    OOM_SURVIVED: frozenset({"container_name"}),
    ORPHANS: frozenset({"isolation_engine"}),
    EXPIRED: frozenset({"isolation_engine"}),
    ORPHAN_VOLUMES: frozenset({"isolation_engine"}),
}
"""Series of the collector that rules read, with their labels; no service exposes them."""

CONTAINER = "{{ $labels.container_name }}"
_SERVICE = {"service": "isolation-containers"}
# A drill's target carries the labels `synthetic` and `drill`, real collectors carry none.
_ALL = "by (synthetic, drill)"
_EACH = "by (container_name, synthetic, drill)"
_EACH_ENGINE = "by (isolation_engine, synthetic, drill)"
_ITS_PAGE = "/containers?container={{ $labels.container_name | urlquery }}"
_ENGINE = "{{ $labels.isolation_engine }}"


def groups(t: Thresholds) -> list[Group]:
    """Return the group of what happens to containers, and the group of the state that they and their engines are in."""
    return [
        Group(
            "isolation-container-events",
            "5s",
            [
                _out_of_memory(t),
                _process_out_of_memory(t),
                _crashed(t),
                _restarting(t),
                _forced(t),
                _killed(t),
                _stop_killed(t),
                _storm(t),
            ],
        ),
        Group("isolation-container-state", "5s", [_unhealthy(t), _memory(t), _engine_down(t), _orphans(t), _expired(t), _volumes(t)]),
    ]


def _of(metric: str, **matchers: str) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in {"job": COLLECTOR_JOB, **matchers}.items())
    return f"{metric}{{{labels}}}"


def _out_of_memory(t: Thresholds) -> Alert:
    counter = _of(EXITS, isolation_reason="oom_killed")
    return Alert(
        "ContainerOutOfMemory",
        f"sum {_EACH} ({grew(counter, t.containers.window, t.violation.memory)})",
        "error",
        "page",
        summary=f"Container {CONTAINER} was ended for want of memory",
        description=(
            f"Container {CONTAINER} needed more memory than its limit, and the kernel ended it ({NUMBER} in the last "
            f"{t.containers.window}). Whatever it had in hand is lost, without a chance to clean up."
        ),
        dashboard="containers",
        labels=_SERVICE,
        page=_ITS_PAGE,
    )


def _crashed(t: Thresholds) -> Alert:
    counter = _of(EXITS, isolation_reason="error")
    return Alert(
        "ContainerCrashed",
        f"sum {_EACH} ({grew(counter, t.containers.window, t.violation.memory)})",
        "warning",
        "ticket",
        summary=f"Container {CONTAINER} ended with an error",
        description=(
            f"Container {CONTAINER} ended with an exit code that is neither 0 nor that of an obeyed stop ({NUMBER} in the last "
            f"{t.containers.window}). Its page has the code, and how long it had lived."
        ),
        dashboard="containers",
        labels=_SERVICE,
        page=_ITS_PAGE,
    )


def _restarting(t: Thresholds) -> Alert:
    counter = _of(RESTARTS)
    return Alert(
        "ContainerRestarting",
        f"sum {_EACH} ({growth(counter, t.containers.restart_window, t.violation.memory)}) >= {t.containers.max_restarts}",
        "error",
        "page",
        summary=f"Container {CONTAINER} restarts again and again",
        description=(
            f"Container {CONTAINER} was started again {NUMBER} times in the last {t.containers.restart_window}. Each time whoever was "
            "served by it is cut off."
        ),
        dashboard="containers",
        labels=_SERVICE,
        page=_ITS_PAGE,
    )


def _forced(t: Thresholds) -> Alert:
    counter = _of(REMOVALS, isolation_mode="forced")
    return Alert(
        "ContainerForcedRemoval",
        f"sum {_ALL} ({grew(counter, t.containers.window, t.violation.memory)})",
        "error",
        "ticket",
        summary="A container was removed by force",
        description=(
            f"{NUMBER} containers in the last {t.containers.window} were removed together with a SIGKILL that no stop came before: "
            "connections cut, data unwritten. The page of containers has which, and who as far as anybody told."
        ),
        dashboard="containers",
        labels=_SERVICE,
        page="/containers?kind=removal",
    )


def _killed(t: Thresholds) -> Alert:
    return Alert(
        "ContainerKilled",
        f"sum {_EACH} ({grew(_of(KILLS), t.containers.window, t.violation.memory)})",
        "warning",
        "ticket",
        summary=f"Container {CONTAINER} was killed",
        description=(
            f"Container {CONTAINER} was sent SIGKILL through its engine without a stop before it ({NUMBER} in the last "
            f"{t.containers.window}), as docker kill does, or docker stop without any time. What it had in hand is lost. Its page has "
            "who and from where, as far as anybody told."
        ),
        dashboard="containers",
        labels=_SERVICE,
        page=_ITS_PAGE,
    )


def _process_out_of_memory(t: Thresholds) -> Alert:
    return Alert(
        "ContainerProcessOutOfMemory",
        f"sum {_EACH} ({grew(_of(OOM_SURVIVED), t.containers.window, t.violation.memory)})",
        "error",
        "ticket",
        summary=f"A process of container {CONTAINER} was ended for want of memory",
        description=(
            f"Container {CONTAINER} reached its memory limit, the kernel ended one of its processes, and the container lives on "
            f"({NUMBER} in the last {t.containers.window}). Whoever that worker served was cut off, and nothing else shows it."
        ),
        dashboard="containers",
        labels=_SERVICE,
        page=_ITS_PAGE,
    )


def _stop_killed(t: Thresholds) -> Alert:
    return Alert(
        "ContainerStopNeededKill",
        f"sum {_ALL} ({grew(_of(STOP_SIGKILLS), t.containers.window, t.violation.memory)})",
        "warning",
        "ticket",
        summary="A container did not stop when it was asked to",
        description=(
            f"{NUMBER} stops in the last {t.containers.window} were obeyed only by SIGKILL: the container hangs on its stop signal, or "
            "needs longer than it is given."
        ),
        dashboard="containers",
        labels=_SERVICE,
        page="/containers?kind=stop_sigkill",
    )


def _storm(t: Thresholds) -> Alert:
    return Alert(
        "ContainerCommandStorm",
        f"sum {_ALL} ({grew(_of(STORMS), t.containers.window, t.violation.memory)})",
        "warning",
        "ticket",
        summary="Destructive commands came at containers without a pause",
        description=(
            f"{NUMBER} times in the last {t.containers.window} one actor stopped, killed or removed several containers less than half a "
            "second apart: a script that leaves the engine no time, or a loop gone wrong."
        ),
        dashboard="containers",
        labels=_SERVICE,
        page="/containers?kind=command_storm",
    )


def _unhealthy(t: Thresholds) -> Alert:
    return Alert(
        "ContainerUnhealthy",
        f"max {_EACH} ({_of(HEALTH, isolation_state='unhealthy')}) > 0",
        "error",
        "page",
        summary=f"Container {CONTAINER} is unhealthy",
        description=(
            f"Container {CONTAINER} runs, and its own health check has failed as often as it may, for {t.containers.unhealthy_for}. "
            "Whoever is sent to it is not served."
        ),
        dashboard="containers",
        for_=t.containers.unhealthy_for,
        labels=_SERVICE,
        page=_ITS_PAGE,
    )


def _memory(t: Thresholds) -> Alert:
    used = f"max {_EACH} ({_of(MEMORY)}) / max {_EACH} ({_of(MEMORY_LIMIT)})"
    return Alert(
        "ContainerMemoryNearLimit",
        f"{used} > {t.containers.max_memory_ratio}",
        "warning",
        "ticket",
        summary=f"Container {CONTAINER} has almost used up its memory",
        description=(
            f"Container {CONTAINER} uses {{{{ $value | humanizePercentage }}}} of the memory that it may use, cache not counted. At 100 % "
            "the kernel ends it."
        ),
        dashboard="containers",
        for_=t.containers.memory_for,
        labels=_SERVICE,
        page=_ITS_PAGE,
    )


def _engine_down(t: Thresholds) -> Alert:
    return Alert(
        "ContainerEngineDown",
        # Only the replica that follows an engine shows it: where two do for a moment, one that reaches it is enough.
        f"max {_EACH_ENGINE} ({_of(ENGINE_UP)}) == 0",
        "error",
        "page",
        summary="Docker engine {{ $labels.isolation_engine }} does not answer",
        description=(
            f"The Docker engine {{{{ $labels.isolation_engine }}}} has not answered for {t.containers.engine_down_for}. Its containers may "
            "live on, and nobody sees them: what dies meanwhile is found and told when the engine is back."
        ),
        dashboard="containers",
        for_=t.containers.engine_down_for,
        labels=_SERVICE,
        page="/containers",
    )


def _left_behind(t: Thresholds, alert: str, gauge: str, summary: str, description: str) -> Alert:
    return Alert(
        alert,
        f"max {_EACH_ENGINE} ({_of(gauge)}) > 0",
        "warning",
        "ticket",
        summary=f"{summary} on engine {_ENGINE}",
        description=description,
        dashboard="containers",
        for_=t.containers.left_behind_for,
        labels=_SERVICE,
        page="/containers",
    )


def _orphans(t: Thresholds) -> Alert:
    return _left_behind(
        t, "ContainerOrphaned", ORPHANS, "Stopped containers belong to nobody",
        f"{NUMBER} containers on engine {_ENGINE} stopped long ago and carry no owner's label: nobody will start them again, nobody cleans "
        "them up, and they keep their disk, their names and their volumes.",
    )  # fmt: skip


def _expired(t: Thresholds) -> Alert:
    return _left_behind(
        t, "ContainerExpired", EXPIRED, "Containers outlive their own label",
        f"{NUMBER} containers on engine {_ENGINE} are there although their own label says that they should be gone: a job did not clean "
        "up, or whoever removes what has expired does not run.",
    )  # fmt: skip


def _volumes(t: Thresholds) -> Alert:
    return _left_behind(
        t, "ContainerVolumesUnused", ORPHAN_VOLUMES, "Volumes belong to nobody",
        f"{NUMBER} volumes on engine {_ENGINE} carry no owner's label, and no container has used them for long: they fill the disk, and "
        "their data may be what somebody misses.",
    )  # fmt: skip
