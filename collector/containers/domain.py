"""Containers in plain values: what an engine says of them, what is remembered of them, and what happened to them.

Times are the engine's own, with a time zone; sizes are bytes, durations seconds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from isolation_monitor.collector.docker_addresses import OWNER_LABELS

KINDS: Final = ("death", "stop", "kill", "stop_sigkill", "removal", "command_storm", "out_of_memory", "health", "engine")

SIGINT: Final = 2
SIGTERM: Final = 15
SIGKILL: Final = 9
_SIGNALS: Final = {1: "HUP", 2: "INT", 3: "QUIT", 6: "ABRT", 9: "KILL", 10: "USR1", 12: "USR2", 15: "TERM", 28: "WINCH", 37: "RTMIN+3"}
_TTL: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)")
_TTL_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

PROJECT_LABEL: Final = "com.docker.compose.project"
TTL_LABEL: Final = "isolation.ttl"
"""How long a container is wanted after its creation: `90s`, `2h`, `1d`."""
EXPIRES_LABEL: Final = "isolation.expires"
"""The moment from which it is not wanted any more, as RFC 3339."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the house asks of containers."""

    owner_labels: Sequence[str] = OWNER_LABELS
    """Labels that name whose a container is; the first one found counts."""
    orphan_after: timedelta = timedelta(hours=1)
    """A container without an owner may have stopped for so long, and a volume without one may have been unused."""
    cooldown: timedelta = timedelta(seconds=0.5)
    """One actor leaves so much time between two destructive commands."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One container as the engine shows it now. `started_at` None: it was never started."""

    id: str
    name: str
    image: str
    image_id: str
    labels: Mapping[str, str]
    status: str
    health: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    oom_killed: bool
    restart_count: int
    restarts_by_policy: bool
    auto_remove: bool
    stop_signal: int
    memory_limit: int | None
    cpu_limit: float | None

    @property
    def is_running(self) -> bool:
        return self.status in ("running", "paused")

    @property
    def life(self) -> int:
        """Return the number of policy restarts before the life that is shown, which is the last one when it has ended."""
        # The engine counts a restart when it decides on it: one that waits for its restart is one ahead.
        return self.restart_count - 1 if self.status == "restarting" else self.restart_count


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """One event of a container, as the engine tells it. `health` is that of a health event."""

    at: datetime
    action: str
    container_id: str
    name: str
    image: str
    labels: Mapping[str, str]
    exit_code: int | None = None
    signal: int | None = None
    health: str | None = None


@dataclass(frozen=True, slots=True)
class VolumeEvent:
    """One event of a volume: `create`, `mount`, `unmount`, `destroy`."""

    at: datetime
    action: str
    name: str


@dataclass(slots=True)
class Tracked:
    """What is remembered of one container, so that no death is missed and none counted twice."""

    id: str
    name: str
    image: str
    image_id: str = ""
    owner: str | None = None
    status: str = "created"
    health: str = "none"
    created_at: datetime | None = None
    expires_at: datetime | None = None
    started_at: datetime | None = None
    is_start_exact: bool = False
    """False: `started_at` is the time of the event, which comes a little after the start itself."""
    is_open: bool = False
    """It lives: its death has not been counted."""
    life: int = 0
    """Policy restarts before this life, as the engine counts them."""
    deaths: int = 0
    restarts: int = 0
    exit_code: int | None = None
    reason: str | None = None
    finished_at: datetime | None = None
    stop_asked_at: datetime | None = None
    killed_at: datetime | None = None
    was_forced: bool = False
    """Its last SIGKILL came without a stop signal before it, or at once behind one."""
    oom_at: datetime | None = None
    kill_to_judge: datetime | None = None
    """When it was killed by force, until it is known whether that was the first half of a removal."""
    oom_to_judge: datetime | None = None
    """When it ran out of memory, until it is known whether it lives on."""
    restarts_by_policy: bool = False
    auto_remove: bool = False
    stop_signal: int = SIGTERM
    memory_limit: int | None = None
    cpu_limit: float | None = None
    """In processors."""
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    image_created_at: datetime | None = None
    removed_at: datetime | None = None
    is_missing: bool = False
    """The last listing did not have it; its end may still be on its way."""

    @property
    def shown_health(self) -> str:
        """Return what its health check says; `none` once it has ended, which engines call unhealthy, even after an orderly stop."""
        return self.health if self.is_open else "none"

    def is_orphan(self, now: datetime, rules: Rules) -> bool:
        """Say whether it is nobody's and has stopped too long ago."""
        since = self.finished_at or self.created_at
        stopped = not self.is_open and self.status in ("exited", "dead", "created") and since is not None
        return stopped and self.owner is None and self.removed_at is None and now - since >= rules.orphan_after  # type: ignore[operator]

    def is_expired(self, now: datetime) -> bool:
        """Say whether its own label says that it should be gone."""
        return self.removed_at is None and self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened to a container or to its engine, to be stored once: its id follows from what it is."""

    id: str
    engine: str
    time: datetime
    kind: str
    container_id: str | None = None
    container: str | None = None
    image: str | None = None
    owner: str | None = None
    actor: str | None = None
    signal: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    forced: bool | None = None
    after_stop_s: float | None = None
    """Seconds from the stop signal to this SIGKILL."""
    found_by: str = "event"
    """`event`, or `listing` for what the event stream missed."""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that no container uses."""

    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Command:
    """One destructive command as the engine's events show it."""

    at: datetime
    action: str
    container_id: str
    container: str
    project: str | None = None
    """The Compose project that the container is of."""


@dataclass(frozen=True, slots=True)
class Action:
    """What somebody did, or was refused, by `isomon docker` or another tool that tells of it."""

    id: str
    time: datetime
    actor: str
    host: str
    command: str
    action: str
    container: str | None
    container_id: str | None
    image: str | None
    signal: str | None
    forced: bool
    result: str
    reason: str


@dataclass(frozen=True, slots=True)
class EngineState:
    """One engine as it was last seen. `events_until` is the time of the last event that is stored."""

    name: str
    engine_id: str
    is_up: bool
    since: datetime
    seen_at: datetime
    events_until: datetime | None = None
    version: str = ""
    error: str = ""
    dangling_volumes: int | None = None
    unused_volumes: Mapping[str, datetime] = field(default_factory=dict)
    """Volumes without an owner that no container uses, and since when that is known; by the engine's clock."""

    def orphan_volumes(self, now: datetime, rules: Rules) -> list[str]:
        """Return the names of volumes that are nobody's and have been unused for too long."""
        return sorted(name for name, since in self.unused_volumes.items() if now - since >= rules.orphan_after)


def happening_id(engine: str, kind: str, *parts: object) -> str:
    """Return the id of what happened: the same in every replica that sees the same."""
    return hashlib.sha256("\0".join([engine, kind, *map(str, parts)]).encode()).hexdigest()[:40]


def signal_name(number: int | None) -> str | None:
    """Return a signal's name as people write it.

    >>> signal_name(15), signal_name(99)
    ('SIGTERM', 'signal 99')
    """
    return None if number is None else f"SIG{_SIGNALS[number]}" if number in _SIGNALS else f"signal {number}"


def signal_number(text: str | None) -> int | None:
    """Return the number of a signal as Docker writes it: `15`, `TERM`, `SIGTERM`; None for what is none.

    >>> signal_number("SIGQUIT"), signal_number("9"), signal_number("")
    (3, 9, None)
    """
    bare = (text or "").strip().upper().removeprefix("SIG")
    if bare.isdigit():
        return int(bare)
    return next((number for number, name in _SIGNALS.items() if name == bare), None)


def owner_of(labels: Mapping[str, str], rules: Rules) -> str | None:
    """Return whose the container is by its labels; None for nobody's."""
    return next((labels[name] for name in rules.owner_labels if labels.get(name)), None)


def still_unused(
    volumes: Iterable[Volume], known: Mapping[str, datetime], now: datetime, rules: Rules, at_most: int = 1000
) -> dict[str, datetime]:
    """Return since when each volume of nobody is known to be unused, the longest first; `known` is so since the last look.

    A listing does not say since when: one that was not known is unused since now.
    """
    since = {one.name: known.get(one.name, now) for one in volumes if owner_of(one.labels, rules) is None}
    return dict(sorted(since.items(), key=lambda one: (one[1], one[0]))[:at_most])


def after_use(known: Mapping[str, datetime], event: VolumeEvent) -> Mapping[str, datetime]:
    """Return since when each volume is known to be unused, after an event told that one was used, made anew or removed.

    A job that takes a volume and lets it go between two looks is in neither of them.
    """
    if event.name not in known:
        return known
    others = {name: since for name, since in known.items() if name != event.name}
    return others if event.action == "destroy" else others | {event.name: max(known[event.name], event.at)}


def expiry_of(labels: Mapping[str, str], created_at: datetime | None) -> datetime | None:
    """Return when the container should be gone by its own labels; None where they say nothing that can be read."""
    if until := labels.get(EXPIRES_LABEL):
        try:
            moment = datetime.fromisoformat(until)
        except ValueError:
            return None
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    ttl = _TTL.fullmatch(labels.get(TTL_LABEL, "").strip().lower())
    if ttl is None or created_at is None:
        return None
    try:
        return created_at + timedelta(seconds=float(ttl[1]) * _TTL_UNITS[ttl[2]])
    except OverflowError:
        return None


def reason_of(exit_code: int | None, *, oom: bool, killed: bool, stop_signal: int = SIGTERM) -> str:
    """Return how a container ended: one of `container_metrics.EXIT_REASONS`; `unknown` where nobody knows its exit code.

    `killed`: the engine sent it SIGKILL. To an image whose stop signal that is, it is the stop that its author wanted.

    >>> [reason_of(code, oom=False, killed=False) for code in (0, 143, 130, 137, 3, None)]
    ['clean', 'clean', 'clean', 'killed', 'error', 'unknown']
    >>> reason_of(137, oom=True, killed=False), reason_of(137, oom=True, killed=False, stop_signal=SIGKILL)
    ('oom_killed', 'oom_killed')
    >>> [reason_of(137, oom=False, killed=by_engine, stop_signal=SIGKILL) for by_engine in (True, False)]
    ['clean', 'killed']
    """
    if exit_code is None:
        return "killed" if killed else "unknown"
    is_stopped = exit_code == 128 + stop_signal and (stop_signal != SIGKILL or (killed and not oom))
    if is_stopped or exit_code in (0, 128 + SIGINT, 128 + SIGTERM):
        return "clean"
    if oom:
        return "oom_killed"
    return "killed" if exit_code == 128 + SIGKILL else "error"
