"""One violation as two columns: what each side was, what they shared, and the course of both requests on one line of time.

Evidence comes as the sender put it: every field is looked at before it is shown, and what has another shape than expected
is left to the JSON at the end of the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from isolation_monitor.collector.clock import parse_time
from isolation_monitor.collector.evidence.domain import Violation

Json = Mapping[str, Any]  # Any: whatever JSON the sender put there

_FACTS: Final = (
    ("principal", "user (keyed hash)"),
    ("transport", "transport"),
    ("route", "route"),
    ("endpoint", "endpoint"),
    ("task", "task"),
    ("request_id", "request"),
    ("run_id", "run"),
    ("connection_id", "connection"),
    ("trace_id", "trace"),
    ("span_id", "span"),
)
_EVENTS_LIMIT: Final = 64
_VIOLATION: Final = re.compile(r"(violation \S+ \(\w+\)) ([0-9A-Za-z_.:-]{1,64})")
"""How a request's course tells of a violation (telemetry/evidence.py)."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side. `stack` has the innermost call first, as a reader looks for it."""

    name: str
    title: str
    time: datetime | None
    facts: Sequence[tuple[str, str]]
    stack: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a request. `time` None: only the fact was kept."""

    side: str
    time: datetime | None
    what: str
    offset_s: float | None
    violation_id: str = ""
    """Of the violation that the step is; empty where it is something else."""


@dataclass(frozen=True, slots=True)
class OneViolation:
    """What the page shows of one violation."""

    sides: Sequence[Side]
    missing: Sequence[str]
    steps: Sequence[Step]
    resource_detail: Sequence[tuple[str, str]]
    affected: Json | None
    configuration: Sequence[tuple[str, str]]
    rollouts: Sequence[tuple[str, str]]
    suppressed: Json | None
    detail: Sequence[tuple[str, str]]


def arranged(violation: Violation) -> OneViolation:
    """Return a violation arranged for the page."""
    record = violation.record
    given = (("victim", "Victim: whose it was", record.victim), ("offender", "Offender: who touched it", record.offender))
    sides = [_side(name, title, side) for name, title, side in given if isinstance(side, dict)]
    missing = [name for name, _, side in given if not isinstance(side, dict)]
    steps = [step for name, _, side in given if isinstance(side, dict) for step in _steps(name, side, record.time)]
    steps.append(Step("found", record.time, "the violation was found", 0.0))
    # Facts without a time keep their place behind the one before them.
    ordered = sorted(_with_times(steps), key=lambda pair: pair[0])
    resource = record.resource if isinstance(record.resource, dict) else {}
    affected, configuration = record.extra.get("affected"), record.extra.get("configuration")
    suppressed = record.detail.get("suppressed")
    facts = [("revision", record.extra.get("revision")), *(_pairs(configuration))]
    return OneViolation(
        sides,
        missing,
        [step for _, step in ordered],
        [(name, _text(value)) for name, value in _pairs(resource.get("detail"))],
        affected if isinstance(affected, dict) else None,
        [(name, _text(value)) for name, value in facts if value not in (None, [], "")],
        [(name, _text(value)) for name, value in _pairs(record.extra.get("rollouts"))],
        suppressed if isinstance(suppressed, dict) else None,
        [(name, _text(value)) for name, value in record.detail.items() if name != "suppressed"],
    )


def _side(name: str, title: str, side: Json) -> Side:
    facts = [(label, _text(side[key])) for key, label in _FACTS if side.get(key) not in (None, "")]
    lines = side.get("stack")
    stack = [_line(line) for line in reversed(lines) if isinstance(line, str)] if isinstance(lines, list) else []
    return Side(name, title, _moment(side.get("time")), facts, stack)


def _line(line: str) -> tuple[str, str]:
    """Return place and function of `file:line function`."""
    place, _, function = line.partition(" ")
    return place, function


def _steps(name: str, side: Json, found: datetime) -> list[Step]:
    events = side.get("events")
    steps = []
    for event in (events if isinstance(events, list) else [])[:_EVENTS_LIMIT]:
        if isinstance(event, dict) and isinstance(what := event.get("what"), str):
            time = _moment(event.get("time"))
            named = _VIOLATION.fullmatch(what)
            offset_s = None if time is None else (time - found).total_seconds()
            steps.append(Step(name, time, named[1] if named else what, offset_s, named[2] if named else ""))
    return steps


def _with_times(steps: Sequence[Step]) -> list[tuple[float, Step]]:
    """Return each step with the time that orders it: its own, or that of the last step of its side."""
    last: dict[str, float] = {}
    placed = []
    for step in steps:
        at = step.time.timestamp() if step.time is not None else last.get(step.side, 0.0)
        last[step.side] = at
        placed.append((at, step))
    return placed


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        return parse_time(value)
    except ValueError:
        return None


def _pairs(value: object) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _text(value: object) -> str:
    """Return a value on one line, as people write it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
