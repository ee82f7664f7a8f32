"""Scenarios of the alerts on containers. What happened is told by grown counters, in every way in which these can move.

Alerts without a container's name are told apart by the label of a drill here, so that one scenario has all the ways.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.alerts.growth_scenarios import GROWTH, movements
from tests.real_parts.promtool import Firing, Scenario, series

_SERVICE = {"service": "isolation-containers"}
_PAGE = {"severity": "error", "action": "page", **_SERVICE}
_ERROR_TICKET = {"severity": "error", "action": "ticket", **_SERVICE}
_TICKET = {"severity": "warning", "action": "ticket", **_SERVICE}
_WINDOW_S = 60
_AT = 2 * _WINDOW_S
_COLLECTOR = {"job": "collector", "instance": "collector:1"}


def _grown(
    alert: str,
    metric: str,
    told_by: str,
    labels: dict[str, str],
    summary: Callable[[str], str],
    text: Callable[[str, int], str],
    of: dict[str, str],
    other: dict[str, str],
) -> Scenario:
    """`of` are labels of the series that the alert reads, `other` those of one that jumps by 9 and is none of its business."""
    seconds = 2 * _WINDOW_S
    inputs = {series(metric, {**_COLLECTOR, told_by: name, **of}): how for name, how in movements(_AT, _WINDOW_S, seconds).items()}
    inputs |= {series(metric, {**_COLLECTOR, told_by: "other", **other}): f"0x{_AT - 1} 9x{seconds}"} if other else {}
    firing = [Firing({told_by: name, **labels}, summary(name), text(name, number)) for name, number in GROWTH.items()]
    moments = {_AT - 12: [], _AT + 12: firing, _AT + _WINDOW_S - 24: firing, _AT + _WINDOW_S + 24: []}
    return Scenario(alert, inputs, alert, moments, every_s=12)


def _exits(alert: str, reason: str, other: str, labels: dict[str, str], summary: str, text: str) -> Scenario:
    return _grown(
        alert, "isolation_container_exits_total", "container_name", labels, lambda name: f"Container {name} {summary}",
        lambda name, number: f"Container {name} {text.format(number=number)}", {"isolation_reason": reason}, {"isolation_reason": other},
    )  # fmt: skip


def _nameless(
    alert: str, metric: str, labels: dict[str, str], summary: str, text: str, of: dict[str, str], other: dict[str, str]
) -> Scenario:
    return _grown(alert, metric, "drill", labels, lambda _: summary, lambda _, number: text.format(number=number), of, other)


def _restarting() -> Scenario:
    def restarts(name: str, values: str) -> dict[str, str]:
        return {series("isolation_container_restarts_total", {**_COLLECTOR, "container_name": name}): values}

    inputs = {
        **restarts("two", "0x399 1x19 2x600"),
        **restarts("three", "0x399 1x19 2x19 3x600"),
        **restarts("fresh", "_x400 3x600"),
        # Restarts of long ago.
        **restarts("old", "9x1000"),
        **restarts("restarted", "9x399 1x19 2x19 3x600"),
    }

    def firing(*names: str) -> list[Firing]:
        return [
            Firing(
                {"container_name": name, **_PAGE},
                f"Container {name} restarts again and again",
                f"Container {name} was started again 3 times in the last 5m. Each time whoever was served by it is cut off.",
            )
            for name in names
        ]

    moments = {
        396: [],
        420: firing("fresh"),
        444: firing("fresh", "three", "restarted"),
        684: firing("fresh", "three", "restarted"),
        756: [],
    }
    return Scenario("ContainerRestarting", inputs, "ContainerRestarting", moments, every_s=12)


def _unhealthy() -> Scenario:
    def health(name: str, state: str, values: str) -> dict[str, str]:
        labels = {**_COLLECTOR, "container_name": name, "isolation_state": state}
        return {series("isolation_container_health_state", labels): values}

    inputs = {
        **health("ill", "unhealthy", "0x99 1x99 0x200"),
        **health("well", "unhealthy", "0x400"),
        **health("well", "healthy", "1x400"),
        # Ill for a moment only.
        **health("brief", "unhealthy", "0x99 1x5 0x200"),
        **health("fresh", "unhealthy", "_x100 1x99 0x200"),
    }
    firing = [
        Firing(
            {"container_name": name, **_PAGE},
            f"Container {name} is unhealthy",
            f"Container {name} runs, and its own health check has failed as often as it may, for 10s. Whoever is sent to it is not served.",
        )
        for name in ("ill", "fresh")
    ]
    return Scenario("ContainerUnhealthy", inputs, "ContainerUnhealthy", {108: [], 112: firing, 198: firing, 202: []}, every_s=2)


def _memory() -> Scenario:
    def memory(name: str, used: str, limit: str | None = "100x400") -> dict[str, str]:
        labels = {**_COLLECTOR, "container_name": name}
        limits = {} if limit is None else {series("isolation_container_memory_limit_bytes", labels): limit}
        return {series("isolation_container_memory_usage_bytes", labels): used, **limits}

    inputs = {
        **memory("at", "50x99 90x300"),
        **memory("over", "50x99 91x99 50x300"),
        **memory("brief", "50x99 95x9 50x300"),
        **memory("unlimited", "1000x400", None),
        **memory("fresh", "_x100 91x99 50x300", "_x100 100x400"),
    }
    firing = [
        Firing(
            {"container_name": name, **_TICKET},
            f"Container {name} has almost used up its memory",
            f"Container {name} uses 91% of the memory that it may use, cache not counted. At 100 % the kernel ends it.",
        )
        for name in ("over", "fresh")
    ]
    moments = {112: [], 118: firing, 198: firing, 202: []}
    return Scenario("ContainerMemoryNearLimit", inputs, "ContainerMemoryNearLimit", moments, every_s=2)


def _engine_down() -> Scenario:
    def up(name: str, values: str, instance: str = "collector:1") -> dict[str, str]:
        labels = {"job": "collector", "instance": instance, "isolation_engine": name}
        return {series("isolation_container_engine_up", labels): values}

    inputs = {
        **up("away", "1x99 0x99 1x200"),
        **up("restarted", "1x99 0x9 1x300"),
        # One replica follows it still, the other one has just begun to.
        **up("handed over", "1x400"),
        **up("handed over", "0x400", "collector:2"),
        **up("fresh", "_x100 0x99 1x200"),
    }
    firing = [
        Firing(
            {"isolation_engine": name, **_PAGE},
            f"Docker engine {name} does not answer",
            f"The Docker engine {name} has not answered for 15s. Its containers may live on, and nobody sees them: "
            "what dies meanwhile is found and told when the engine is back.",
        )
        for name in ("away", "fresh")
    ]
    moments = {112: [], 118: firing, 198: firing, 202: []}
    return Scenario("ContainerEngineDown", inputs, "ContainerEngineDown", moments, every_s=2)


def _left_behind(alert: str, metric: str, summary: str, text: str) -> Scenario:
    def number(name: str, values: str) -> dict[str, str]:
        return {series(metric, {**_COLLECTOR, "isolation_engine": name}): values}

    inputs = {
        **number("left", "0x99 2x199 0x200"),
        # A sweeper came in time.
        **number("swept", "0x99 2x40 0x400"),
        **number("clean", "0x600"),
        # One is enough.
        **number("fresh", "_x100 1x199 0x200"),
    }
    firing = [
        Firing({"isolation_engine": name, **_TICKET}, f"{summary} on engine {name}", f"{shown} {text.format(engine=name)}")
        for name, shown in (("left", 2), ("fresh", 1))
    ]
    return Scenario(alert, inputs, alert, {156: [], 168: firing, 288: firing, 312: []}, every_s=12)


CONTAINER_SCENARIOS = [
    _exits(
        "ContainerOutOfMemory", "oom_killed", "error", _PAGE, "was ended for want of memory",
        "needed more memory than its limit, and the kernel ended it ({number} in the last 1m). "
        "Whatever it had in hand is lost, without a chance to clean up.",
    ),
    _exits(
        "ContainerCrashed", "error", "clean", _TICKET, "ended with an error",
        "ended with an exit code that is neither 0 nor that of an obeyed stop ({number} in the last 1m). "
        "Its page has the code, and how long it had lived.",
    ),
    _nameless(
        "ContainerForcedRemoval", "isolation_container_removals_total", _ERROR_TICKET, "A container was removed by force",
        "{number} containers in the last 1m were removed together with a SIGKILL that no stop came before: connections cut, data "
        "unwritten. The page of containers has which, and who as far as anybody told.",
        {"isolation_mode": "forced"}, {"isolation_mode": "graceful"},
    ),
    _grown(
        "ContainerKilled", "isolation_container_kills_total", "container_name", _TICKET, lambda name: f"Container {name} was killed",
        lambda name, number: (
            f"Container {name} was sent SIGKILL through its engine without a stop before it ({number} in the last 1m), as docker kill "
            "does, or docker stop without any time. What it had in hand is lost. Its page has who and from where, as far as anybody told."
        ),
        {}, {},
    ),
    _grown(
        "ContainerProcessOutOfMemory", "isolation_container_oom_survived_total", "container_name", _ERROR_TICKET,
        lambda name: f"A process of container {name} was ended for want of memory",
        lambda name, number: (
            f"Container {name} reached its memory limit, the kernel ended one of its processes, and the container lives on ({number} in "
            "the last 1m). Whoever that worker served was cut off, and nothing else shows it."
        ),
        {}, {},
    ),
    _nameless(
        "ContainerStopNeededKill", "isolation_container_stop_sigkills_total", _TICKET, "A container did not stop when it was asked to",
        "{number} stops in the last 1m were obeyed only by SIGKILL: the container hangs on its stop signal, "
        "or needs longer than it is given.",
        {}, {},
    ),
    _nameless(
        "ContainerCommandStorm", "isolation_container_command_storms_total", _TICKET,
        "Destructive commands came at containers without a pause",
        "{number} times in the last 1m one actor stopped, killed or removed several containers less than half a second apart: "
        "a script that leaves the engine no time, or a loop gone wrong.",
        {}, {},
    ),
    _restarting(),
    _unhealthy(),
    _memory(),
    _engine_down(),
    _left_behind(
        "ContainerOrphaned", "isolation_container_orphans", "Stopped containers belong to nobody",
        "containers on engine {engine} stopped long ago and carry no owner's label: nobody will start them again, nobody cleans them "
        "up, and they keep their disk, their names and their volumes.",
    ),
    _left_behind(
        "ContainerExpired", "isolation_container_expired", "Containers outlive their own label",
        "containers on engine {engine} are there although their own label says that they should be gone: a job did not clean up, or "
        "whoever removes what has expired does not run.",
    ),
    _left_behind(
        "ContainerVolumesUnused", "isolation_container_orphan_volumes", "Volumes belong to nobody",
        "volumes on engine {engine} carry no owner's label, and no container has used them for long: they fill the disk, and their data "
        "may be what somebody misses.",
    ),
]  # fmt: skip
CONTAINER_ALERTS = {scenario.alert for scenario in CONTAINER_SCENARIOS}
