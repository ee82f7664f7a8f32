"""What `/metrics` shows of containers: what the replica that follows their engine saw last, and what it counted.

Another replica shows nothing of them, and nothing is shown of an engine that does not answer but that it is down: a
plain gauge would freeze on its last value. Names are capped; a name is given up ten minutes after its container is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from isolation_monitor.telemetry.names import OTHER

CONTAINER_STATES: Final = ("running", "exited", "restarting", "paused", "dead", "created")
CONTAINER_HEALTH: Final = ("healthy", "unhealthy", "starting", "none")
EXIT_REASONS: Final = ("clean", "error", "oom_killed", "killed", "unknown")
"""How a container ended. `error`: another exit code, or a SIGKILL that did not come by the engine.
`unknown`: it ended unseen, and is gone or lives again, so that nobody knows its exit code."""
REMOVAL_MODES: Final = ("graceful", "forced", "unknown")
"""How a container was removed. `forced`: together with a SIGKILL that no stop signal came before; `unknown`: nobody saw it."""
NAME_CAP: Final = 50
KEPT_S: Final = 600.0
"""So long a name is kept when its container is gone: the alerts' windows look back no further."""

NAME: Final = "container_name"
STATE: Final = "isolation_state"
REASON: Final = "isolation_reason"
MODE: Final = "isolation_mode"
ENGINE: Final = "isolation_engine"


@dataclass(frozen=True, slots=True)
class Shown:
    """One container now; bytes, CPU seconds and processors, None where they are not known or without a limit."""

    name: str
    state: str
    health: str
    image_created_at: float | None = None
    memory_bytes: int | None = None
    memory_limit: int | None = None
    cpu_seconds: float | None = None
    cpu_limit: float | None = None


@dataclass(slots=True)
class _Counted:
    restarts: int = 0
    kills: int = 0
    ooms_survived: int = 0
    exits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EXIT_REASONS, 0))


@dataclass(slots=True)
class _Engine:
    is_up: bool = False
    shown: tuple[Shown, ...] = ()
    orphans: int = 0
    expired: int = 0
    dangling_volumes: int | None = None
    orphan_volumes: int | None = None


class ContainerMetrics(Collector):
    """Gauges and counters of the engines that this replica follows, made when they are read."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._engines: dict[str, _Engine] = {}
        self._counted: dict[str, _Counted] = {}
        self._last_there: dict[str, float] = {}
        self._removals = dict.fromkeys(REMOVAL_MODES, 0)
        self._storms = 0
        self._stop_sigkills = 0

    # --- what followers tell ------------------------------------------------------------------------------------------

    def followed(self, engine: str, *, is_up: bool) -> None:
        """Show that an engine is followed, and whether it answers."""
        one = self._engines.setdefault(engine, _Engine())
        one.is_up = is_up
        if not is_up:
            one.shown, one.orphans, one.expired, one.dangling_volumes, one.orphan_volumes = (), 0, 0, None, None

    def left(self, engine: str) -> None:
        """Show nothing of an engine any more: another replica follows it."""
        self._engines.pop(engine, None)
        if not self._engines:
            # What it counted is the other's to go on with: counters that stand still would hide that.
            self._counted.clear()
            self._last_there.clear()

    def show(
        self,
        engine: str,
        shown: Iterable[Shown],
        *,
        orphans: int,
        expired: int,
        dangling_volumes: int | None,
        orphan_volumes: int | None = None,
    ) -> None:
        """Show the containers of an engine that answers; None for volumes that nobody has counted yet."""
        self._engines[engine] = _Engine(True, tuple(shown), orphans, expired, dangling_volumes, orphan_volumes)
        for one in self._engines[engine].shown:
            self._of(one.name)

    def restarted(self, name: str, number: int) -> None:
        self._of(name).restarts += number

    def exited(self, name: str, reason: str) -> None:
        """Count one death by one of `EXIT_REASONS`."""
        self._of(name).exits[reason] += 1

    def killed(self, name: str) -> None:
        """Count one container that was killed by force, and not removed with it."""
        self._of(name).kills += 1

    def survived_oom(self, name: str) -> None:
        """Count one container that the kernel took a process from for want of memory, and that lives on."""
        self._of(name).ooms_survived += 1

    def removed(self, mode: str) -> None:
        """Count one removal by one of `REMOVAL_MODES`."""
        self._removals[mode] += 1

    def stormed(self) -> None:
        self._storms += 1

    def stop_needed_sigkill(self) -> None:
        self._stop_sigkills += 1

    def _of(self, name: str) -> _Counted:
        name = self._label(name)
        self._last_there[name] = self._monotonic()
        return self._counted.setdefault(name, _Counted())

    def _label(self, name: str) -> str:
        if name in self._counted or len(self._counted.keys() - {OTHER}) < NAME_CAP:
            return name
        old = self._monotonic() - KEPT_S
        there = {one.name for engine in self._engines.values() for one in engine.shown}
        gone = [known for known, at in self._last_there.items() if at < old and known not in there and known != OTHER]
        for known in gone:
            del self._counted[known], self._last_there[known]
        return name if gone else OTHER

    # --- what Prometheus reads ----------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Yield every family, also those without a sample: the documentation lists what is here."""
        up = GaugeMetricFamily(
            "isolation_container_engine_up",
            "1 while a followed Docker engine answers, 0 while it does not; only in the replica that follows it.",
            labels=[ENGINE],
        )
        volumes = GaugeMetricFamily("isolation_container_dangling_volumes", "Volumes that no container uses.", labels=[ENGINE])
        orphans = GaugeMetricFamily(
            "isolation_container_orphans", "Containers without an owner's label that stopped too long ago.", labels=[ENGINE]
        )
        expired = GaugeMetricFamily(
            "isolation_container_expired", "Containers that are there although their own label says they should be gone.", labels=[ENGINE]
        )
        unowned = GaugeMetricFamily(
            "isolation_container_orphan_volumes",
            "Volumes without an owner's label that no container has used for too long.",
            labels=[ENGINE],
        )
        for name, engine in self._engines.items():
            up.add_metric([name], float(engine.is_up))
            if engine.is_up:
                orphans.add_metric([name], engine.orphans)
                expired.add_metric([name], engine.expired)
                if engine.dangling_volumes is not None:
                    volumes.add_metric([name], engine.dangling_volumes)
                if engine.orphan_volumes is not None:
                    unowned.add_metric([name], engine.orphan_volumes)
        yield from (up, orphans, expired, volumes, unowned)
        yield from self._gauges()
        yield from self._counters()

    def _gauges(self) -> Iterator[Metric]:
        by_name: dict[str, list[Shown]] = {}
        for engine in self._engines.values():
            for one in engine.shown:
                by_name.setdefault(self._label(one.name), []).append(one)
        yield _one_hot(
            "isolation_container_state", "1 for the state that a container is in.", by_name, CONTAINER_STATES, lambda one: one.state
        )
        yield _one_hot(
            "isolation_container_health_state",
            "1 for what a container's own health check says; none: it has no check.",
            by_name,
            CONTAINER_HEALTH,
            lambda one: one.health,
        )
        yield _summed(
            "isolation_container_memory_usage_bytes",
            "Memory that a running container uses, without cache that can be given back.",
            by_name,
            lambda one: one.memory_bytes,
        )
        yield _summed(
            "isolation_container_memory_limit_bytes",
            "Memory that a running container may use; none without a limit.",
            by_name,
            # Beside its use alone: a stopped container near its limit is none.
            lambda one: one.memory_limit if one.memory_bytes is not None else None,
        )
        yield _summed(
            "isolation_container_cpu_limit_cores",
            "Processors that a running container may keep busy; none without a limit.",
            by_name,
            lambda one: one.cpu_limit if one.cpu_seconds is not None else None,
        )
        yield _summed(
            "isolation_container_image_created_timestamp_seconds",
            "Unix time at which the image of a running container was made.",
            {name: those[:1] for name, those in by_name.items() if name != OTHER},
            lambda one: one.image_created_at if one.state == "running" else None,
        )
        cpu = CounterMetricFamily(
            "isolation_container_cpu_seconds", "CPU time that a running container has used since its start.", labels=[NAME]
        )
        for name, those in by_name.items():
            if name != OTHER and (used := [one.cpu_seconds for one in those if one.cpu_seconds is not None]):
                cpu.add_metric([name], sum(used))
        yield cpu

    def _counters(self) -> Iterator[Metric]:
        restarts = CounterMetricFamily("isolation_container_restarts", "Times that a container was started again.", labels=[NAME])
        exits = CounterMetricFamily(
            "isolation_container_exits",
            "Ends of containers: clean, error (another exit code, or SIGKILL from outside of the engine), oom_killed, killed (SIGKILL by "
            "the engine), unknown (it ended unseen).",
            labels=[NAME, REASON],
        )
        removals = CounterMetricFamily(
            "isolation_container_removals",
            "Containers removed: graceful; forced, together with a SIGKILL that no stop signal came before; unknown, unseen.",
            labels=[MODE],
        )
        storms = CounterMetricFamily(
            "isolation_container_command_storms", "Bursts of destructive commands of one actor, less than 0.5 s apart.", labels=[]
        )
        stop_kills = CounterMetricFamily("isolation_container_stop_sigkills", "Stops that were obeyed only by SIGKILL.", labels=[])
        kills = CounterMetricFamily(
            "isolation_container_kills",
            "Containers killed by SIGKILL through the engine, without a stop before it; forced removals are not counted here.",
            labels=[NAME],
        )
        survived = CounterMetricFamily(
            "isolation_container_oom_survived",
            "Times that the kernel ended a process of a container for want of memory, and the container lived on; within seconds, once.",
            labels=[NAME],
        )
        if self._engines:
            for name, counted in self._counted.items():
                restarts.add_metric([name], counted.restarts)
                kills.add_metric([name], counted.kills)
                survived.add_metric([name], counted.ooms_survived)
                for reason, number in counted.exits.items():
                    exits.add_metric([name, reason], number)
            for mode, number in self._removals.items():
                removals.add_metric([mode], number)
            storms.add_metric([], self._storms)
            stop_kills.add_metric([], self._stop_sigkills)
        yield from (restarts, exits, removals, storms, stop_kills, kills, survived)


def _one_hot(name: str, text: str, by_name: Mapping[str, list[Shown]], values: Iterable[str], of: Callable[[Shown], str]) -> Metric:
    family = GaugeMetricFamily(name, f"{text} Beyond {NAME_CAP} names, the number of others.", labels=[NAME, STATE])
    for container, those in by_name.items():
        for value in values:
            family.add_metric([container, value], sum(of(one) == value for one in those))
    return family


def _summed(name: str, text: str, by_name: Mapping[str, list[Shown]], of: Callable[[Shown], float | None]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[NAME])
    for container, those in by_name.items():
        if container != OTHER and (values := [value for one in those if (value := of(one)) is not None]):
            family.add_metric([container], sum(values))
    return family
