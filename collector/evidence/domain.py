"""Evidence in plain values: what a batch holds and how later records change a violation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from isolation_monitor.collector.affected import Affected
from isolation_monitor.telemetry.names import SESSION_LEAK

Json = dict[str, Any]  # Any: whatever JSON the sender put there

GRADE_ORDER: Final = {"hygiene": 0, "reachable": 1, "crossed": 2}


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent a batch, and when it came."""

    service: str
    instance: str
    received_at: datetime


@dataclass(slots=True)
class ViolationRecord:
    """A violation as it was sent. Nothing changes it; a frozen one takes six times as long to make, and each record of a storm is one."""

    id: str
    time: datetime
    kind: str
    grade: str
    detector: str
    arm: str
    synthetic: bool
    summary: str
    fingerprint: str
    count: int
    resource: Json | None
    victim: Json | None
    offender: Json | None
    detail: Json
    extra: Json

    @property
    def is_suppressed(self) -> bool:
        """Say whether the suppressions file of its service accepts it for now."""
        return self.detail.get("suppressed") is not None


@dataclass(frozen=True, slots=True)
class Amendment:
    """An escalation (`grade` is the new one) or a retraction (`grade` is None) of a violation."""

    id: str
    time: datetime
    type: Literal["escalation", "retraction"]
    violation_id: str
    grade: str | None
    reason: str
    extra: Json


@dataclass(frozen=True, slots=True)
class RunRecord:
    id: str
    time: datetime
    run_id: str
    principal: str | None
    outcome: str
    duration_s: float | None
    events: list[Any]
    anomalies: Json
    detail: Json
    extra: Json


@dataclass(frozen=True, slots=True)
class QueueStatement:
    """Who waits in one worker now: numbers of all, and its deepest queues as they came. The higher `sequence` of an `id` holds."""

    id: str
    time: datetime
    sequence: int
    users: int
    events: int
    bytes: int
    deepest: list[Any]


@dataclass(frozen=True, slots=True)
class UnknownRecord:
    """A record of a type that only a newer version knows."""

    id: str
    time: datetime
    type: str
    body: Json


Record = ViolationRecord | Amendment | RunRecord | QueueStatement | UnknownRecord


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that cannot be stored: its place in the batch and why."""

    index: int
    reason: str


@dataclass(slots=True)
class Batch:
    """A batch taken apart: what can be stored and what cannot."""

    service: str
    instance: str
    violations: list[ViolationRecord] = field(default_factory=list)
    amendments: list[Amendment] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    queues: list[QueueStatement] = field(default_factory=list)
    unknown: list[UnknownRecord] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    """Where in the batch each id stands first."""

    def add(self, record: Record, index: int = 0) -> None:
        self.places.setdefault(record.id, index)
        match record:
            case ViolationRecord():
                self.violations.append(record)
            case Amendment():
                self.amendments.append(record)
            case RunRecord():
                self.runs.append(record)
            case QueueStatement():
                self.queues.append(record)
            case UnknownRecord():
                self.unknown.append(record)

    @property
    def may_be_harm(self) -> bool:
        """Say whether a rollout of the service should be looked at now; its gate then decides what counts."""
        return any(v.grade != "hygiene" or v.kind == SESSION_LEAK for v in self.violations if not v.synthetic) or any(
            amendment.grade is not None for amendment in self.amendments
        )

    def __len__(self) -> int:
        return len(self.violations) + len(self.amendments) + len(self.runs) + len(self.queues) + len(self.unknown)


@dataclass(frozen=True, slots=True)
class Stored:
    """Numbers of an acknowledged batch, and what the store itself does not take, however often it is sent."""

    accepted: int
    duplicate: int
    refused: tuple[Rejection, ...] = ()


def amended(grade_sent: str, amendments: Iterable[Amendment]) -> tuple[str, datetime | None]:
    """Return the grade a violation has now, and when it was retracted, whatever the order in which records came.

    >>> amended("reachable", [])
    ('reachable', None)
    """
    grade, retracted_at = grade_sent, None
    for amendment in amendments:
        if amendment.type == "retraction":
            retracted_at = amendment.time if retracted_at is None else min(retracted_at, amendment.time)
        elif amendment.grade is not None and GRADE_ORDER[amendment.grade] > GRADE_ORDER[grade]:
            grade = amendment.grade
    return grade, retracted_at


@dataclass(frozen=True, slots=True)
class Violation:
    """A stored violation: the record as it came and what later records made of it."""

    record: ViolationRecord
    service: str
    instance: str
    received_at: datetime
    grade: str
    retracted_at: datetime | None


@dataclass(frozen=True, slots=True)
class ViolationQuery:
    """What to list: each field narrows, None does not. `since` is inclusive, `until` exclusive; newest first."""

    service: str | None = None
    kind: str | None = None
    grade: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    synthetic: bool | None = None
    limit: int = 100
    after: tuple[datetime, str] | None = None
    """Time and id of the last row of the page before."""
    detector: str | None = None
    arm: str | None = None
    fingerprint: str | None = None
    instance: str | None = None
    retracted: bool | None = None
    principal: str | None = None
    """On either side."""
    run_id: str | None = None
    """On either side."""
    is_oldest_first: bool = False
    suppressed: bool | None = None
    """Accepted for now by the suppressions of its service."""
    request_id: str | None = None
    """On either side."""


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs to list, by the time of their records; newest first."""

    service: str | None = None
    outcome: str | None = None
    run_id: str | None = None
    principal: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100
    after: tuple[datetime, str] | None = None
    is_oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """A stored run."""

    record: RunRecord
    service: str
    instance: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """What to count: each field narrows. `since` is rounded down, `until` up, to a full hour or day."""

    since: datetime
    until: datetime
    by: str | None = None
    """service, kind, grade, detector or arm; None counts all together."""
    is_daily: bool = False
    service: str | None = None
    kind: str | None = None
    grade: str | None = None
    detector: str | None = None
    arm: str | None = None
    synthetic: bool | None = None
    suppressed: bool | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """Violations of one hour or day, and the records that told of them; `of` is the value of the dimension, empty without one."""

    start: datetime
    of: str
    records: int
    violations: int


@dataclass(frozen=True, slots=True)
class Group:
    """The violations of one fingerprint in one service. `grade` is the gravest; `latest` the newest of them."""

    latest: Violation
    grade: str
    first: datetime
    count: int
    records: int
    affected: Affected
