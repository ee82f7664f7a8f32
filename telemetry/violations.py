"""A violation: proof that isolation broke, with both sides and the resource between them, as ThreadSanitizer reports a race."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from isolation_monitor.telemetry import evidence, stacks

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.principals import Principal

GRADE_ORDER = {"hygiene": 0, "reachable": 1, "crossed": 2}


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a violation. `principal` is the keyed hash; `stack` is text, innermost last; `time` is Unix seconds."""

    principal: str | None
    request_id: str | None
    run_id: str | None
    connection_id: str | None
    transport: str | None
    route: str | None
    time: float
    stack: list[str]
    endpoint: str | None = None
    """Where the endpoint is defined."""
    task: str | None = None
    """The asyncio task that acted; known of the side whose code ran when the violation was reported."""
    trace: tuple[str, str] | None = None
    """Trace and span id."""
    events: list[tuple[float | None, str]] = field(default_factory=list)
    """The course of its request up to the report (`evidence.events_of`)."""

    def as_record(self) -> dict[str, Any]:
        return {
            "principal": self.principal,
            "request_id": self.request_id,
            "run_id": self.run_id,
            "connection_id": self.connection_id,
            "transport": self.transport,
            "route": self.route,
            "time": iso_time(self.time),
            "stack": self.stack,
            "endpoint": self.endpoint,
            "task": self.task,
            "trace_id": self.trace[0] if self.trace else None,
            "span_id": self.trace[1] if self.trace else None,
            "events": [{"time": None if at is None else iso_time(at), "what": what} for at, what in self.events],
        }


@dataclass(frozen=True, slots=True)
class Resource:
    """What was shared. `type` is one of docs/records.md; `detail` holds plain JSON values, never the host's objects."""

    type: str
    name: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Violation:
    """One violation as kept in this process and sent to the collector. `grade` can only rise."""

    kind: str
    grade: str
    summary: str
    resource: Resource
    victim: Side | None
    offender: Side | None
    arm: str = "none"
    """The strongest arm of both sides: `on` before `off` before `none`."""
    rollouts: dict[str, str] = field(default_factory=dict)
    """By rollout, the strongest arm that a side was given."""
    synthetic: bool = False
    detail: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid7())
    time: float = field(default_factory=time.time)
    retracted: str | None = None
    """Why it was taken back, where it was."""

    @property
    def fingerprint(self) -> str:
        """The same defect has the same fingerprint: kind, resource name and the innermost line of each side."""
        sites = [side.stack[-1] if side is not None and side.stack else "" for side in (self.victim, self.offender)]
        return hashlib.sha256("\0".join([self.kind, self.resource.name, *sites]).encode()).hexdigest()[:16]

    def as_record(self, count: int = 1) -> dict[str, Any]:
        """Return the record of docs/records.md."""
        return {
            "type": "violation",
            "id": self.id,
            "time": iso_time(self.time),
            "kind": self.kind,
            "grade": self.grade,
            "detector": self.kind,
            "arm": self.arm,
            "rollouts": self.rollouts,
            "synthetic": self.synthetic,
            "summary": self.summary,
            "fingerprint": self.fingerprint,
            "count": count,
            "resource": {"type": self.resource.type, "name": self.resource.name, "detail": self.resource.detail},
            "victim": self.victim.as_record() if self.victim else None,
            "offender": self.offender.as_record() if self.offender else None,
            "detail": self.detail,
        }


class Reporter(Protocol):
    """What a detector needs from the rest: count checks, report and escalate violations. Nothing here raises."""

    def checked(self, detector: str) -> None: ...
    def skipped(self, detector: str) -> None: ...
    def check_failed(self, detector: str, hook: str, error: BaseException) -> None: ...
    def report(self, violation: Violation, *requests: RequestContext | None) -> None: ...
    def escalate(self, violation: Violation, reason: str, request: RequestContext | None) -> None: ...
    def retract(self, violation: Violation, reason: str) -> None: ...


def escalate_causes(reporter: Reporter, request: RequestContext, victim: Principal, reason: str) -> Violation | None:
    """Raise the grade of what made a crossing possible: what was found on the request against the same victim; return the first."""
    causes = [one for one in request.violations or () if one.victim is not None and one.victim.principal == victim.hash]
    for cause in causes:
        if cause.grade == "reachable":
            reporter.escalate(cause, reason, request)
    return causes[0] if causes else None


def side_of(
    request: RequestContext | None,
    stack: stacks.RawStack = (),
    *,
    principal: Principal | None = None,
    run_id: str | None = None,
    at: float | None = None,
) -> Side:
    """Describe one side from a request (may be over) and the raw stack of the act; falls back to the endpoint's definition."""
    who = principal or (request.principal if request else None)
    connection = request.connection if request else None
    return Side(
        principal=who.hash if who else None,
        request_id=request_id(request.serial) if request else None,
        run_id=run_id,
        connection_id=request_id(connection.serial) if connection else None,
        transport=request.transport if request else None,
        route=request.route if request else None,
        time=at if at is not None else time.time(),
        stack=stacks.render(stack or (request.endpoint_stack if request else ())),
        endpoint=evidence.endpoint_of(request) if request else None,
        trace=evidence.trace_of(request) if request else None,
        events=evidence.events_of(request) if request else [],
    )


def request_id(serial: int) -> str:
    """Return the id of a request or connection as evidence names it: unique on the host while the process lives."""
    return f"{os.getpid():x}-{serial:x}"


def iso_time(unix_s: float) -> str:
    """Return RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(unix_s * 1000) % 1000:03d}Z"


def uuid7() -> str:
    """Return a UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then random bits, so ids sort by time of minting."""
    value = (int(time.time() * 1000) & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
