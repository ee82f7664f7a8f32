"""Starts and ends of processes in plain values, out of what telemetry's records `startup` and `cleanup` say (docs/records.md).

Such a record is kept as it came, from any version of telemetry: what is not of the expected shape is left out here, and never an error.
Durations are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

Json = dict[str, Any]  # Any: whatever JSON the sender put there

STARTUP, CLEANUP = "startup", "cleanup"
KINDS: Final = ("hanging", "failed", "startup", "left", "cleanup")
"""What can be asked for: phases that hang, start-ups that failed, all start-ups, clean-ups that left something, all clean-ups."""
ORDERLY: Final = ("done", "not_needed")
"""Outcomes of phases and steps that nobody needs to look at."""
_LONGEST: Final = 1000
_MOST: Final = 200


@dataclass(frozen=True, slots=True)
class Part:
    """One phase of a start-up, or one step of a clean-up. `outcome` is done, failed, …; `error` the class of what it raised."""

    name: str
    outcome: str
    duration_s: float | None
    forced: bool
    error: str


@dataclass(frozen=True, slots=True)
class LifecycleRecord:
    """What one process told of its start or end.

    `state`: of a start-up `hanging`, `ready` or `failed`; of a clean-up `clean`, `forced` (a step failed or did not end in time), or
    `left`. `phase`, `waits_for` and `stack` (innermost last) are of a phase that hangs; `reason` is who asked for a clean-up.
    """

    id: str
    service: str
    instance: str
    time: datetime
    received_at: datetime
    type: str
    state: str
    duration_s: float | None
    phase: str
    waits_for: str
    stack: tuple[str, ...]
    parts: tuple[Part, ...]
    reason: str
    left: Mapping[str, int]
    named: Mapping[str, tuple[str, ...]]
    """By resource what was left, where it may be named: where tasks and threads stand, names of children."""

    @property
    def troubled(self) -> list[Part]:
        """Return the phases or steps that did not go as they should."""
        return [one for one in self.parts if one.outcome not in ORDERLY]

    @property
    def slowest(self) -> list[Part]:
        """Return the phases or steps, the slowest first."""
        return sorted(self.parts, key=lambda one: -(one.duration_s or 0.0))


@dataclass(frozen=True, slots=True)
class LifecycleQuery:
    """What is asked of starts and ends: None for all; `kind` is one of `KINDS`."""

    service: str | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100
    after: tuple[datetime, str] | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """One record, and what else its process told, oldest first; `ended` is how a start-up with a hanging phase went on, None so far."""

    record: LifecycleRecord
    others: Sequence[LifecycleRecord]
    ended: LifecycleRecord | None


def read_record(
    record_id: str, service: str, instance: str, time: datetime, received_at: datetime, record_type: str, body: Json
) -> LifecycleRecord:
    """Return a record as its body tells it."""
    parts = tuple(_parts(body.get("phases" if record_type == STARTUP else "steps")))
    left = {name: count for name, count in _pairs(body.get("left")) if _is_count(count) and count > 0}
    if record_type == STARTUP:
        state = _text(body.get("state")) or "unknown"
    else:
        state = "left" if left else "clean" if all(one.outcome in ORDERLY for one in parts) else "forced"
    named = {name: tuple(_texts(lines)) for name, lines in _pairs(body.get("detail")) if name in left}
    return LifecycleRecord(
        record_id, service, instance, time, received_at, record_type, state, _seconds(body.get("duration_s")), _text(body.get("phase")),
        _text(body.get("waits_for")), tuple(_texts(body.get("stack"))), parts, _text(body.get("reason")), left, named,
    )  # fmt: skip


def still_hanging(hangs: Iterable[LifecycleRecord], later: Iterable[LifecycleRecord]) -> list[LifecycleRecord]:
    """Return of each phase of each process what was told of it last, the newest first, where its start-up is not known to be over.

    `hangs` are the newest first; `later` is all that may have been told of the end of their start-ups.
    """
    over = {(one.service, one.instance): one.time for one in sorted(later, key=lambda one: one.time) if one.state != "hanging"}
    found: dict[tuple[str, str, str], LifecycleRecord] = {}
    for one in hangs:
        process = (one.service, one.instance)
        if process not in over or over[process] < one.time:
            found.setdefault((*process, one.phase), one)
    return list(found.values())


def of_one_life(record: LifecycleRecord, told: Iterable[LifecycleRecord]) -> list[LifecycleRecord]:
    """Return, oldest first, what the process of `record` told, out of all that was told under its name.

    A name is a host and a process number: a container that is started again has both once more. So a life ends with its clean-up, its
    start-up is over once, and what hangs does so for longer each time that it is told.
    """
    lives: list[list[LifecycleRecord]] = [[]]
    for one in sorted(told, key=lambda each: (each.time, each.id)):
        if _is_another_life(one, lives[-1]):
            lives.append([])
        lives[-1].append(one)
    return next((life for life in lives if any(one.id == record.id for one in life)), [record])


def _is_another_life(one: LifecycleRecord, life: Sequence[LifecycleRecord]) -> bool:
    if any(before.type == CLEANUP for before in life):
        return True
    if one.type == CLEANUP:
        return False
    if any(before.state != "hanging" for before in life):
        return True
    return any(before.phase == one.phase and (before.duration_s or 0.0) > (one.duration_s or 0.0) for before in life if one.phase)


def how_it_went_on(record: LifecycleRecord, others: Sequence[LifecycleRecord]) -> LifecycleRecord | None:
    """Return the end of the start-up in which a phase hung; None where nothing is known of it."""
    if record.state != "hanging":
        return None
    return next((one for one in others if one.time >= record.time and one.state != "hanging"), None)


def _parts(value: object) -> Iterable[Part]:
    for one in (value if isinstance(value, list) else [])[:_MOST]:
        if not isinstance(one, dict):
            continue
        name, outcome = _text(one.get("phase") or one.get("name")), _text(one.get("state") or one.get("outcome"))
        if name:
            yield Part(name, outcome or "unknown", _seconds(one.get("duration_s")), one.get("forced") is True, _text(one.get("error")))


def _pairs(value: object) -> list[tuple[str, Any]]:
    return list(value.items())[:_MOST] if isinstance(value, dict) else []


def _texts(value: object) -> list[str]:
    return [text for one in (value if isinstance(value, list) else [])[:_MOST] if (text := _text(one))]


def _text(value: object) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return max(0.0, float(value))
