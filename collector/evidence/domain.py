"""Evidence in plain values: what a batch holds and how later records change a violation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from isolation_monitor.telemetry.names import SESSION_LEAK

Json = dict[str, Any]  # Any: whatever JSON the sender put there

GRADE_ORDER: Final = {"hygiene": 0, "reachable": 1, "crossed": 2}


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent a batch, and when it came."""

    service: str
    instance: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class ViolationRecord:
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

    def add(self, record: Record) -> None:
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
    """Numbers of an acknowledged batch."""

    accepted: int
    duplicate: int


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


READ_FOR_AFFECTED: Final = 10_000
"""Records whose sides are read to count the users of all groups of one answer; beyond it the numbers are lower bounds."""


@dataclass(slots=True)
class Affected:
    """Whom violations touched: distinct principals and runs on either side, counted over records of all workers."""

    principals: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    active: int = 0
    """The most principals that one worker had live at one of these times."""
    is_lower_bound: bool = False

    def add(self, victim: Json | None, offender: Json | None, extra: Json) -> None:
        """Count one record. Fields of any shape are taken: they come as the sender put them."""
        for side in (victim, offender):
            if isinstance(side, dict):
                if isinstance(principal := side.get("principal"), str):
                    self.principals.add(principal)
                if isinstance(run := side.get("run_id"), str):
                    self.runs.add(run)
        told = extra.get("affected")
        if isinstance(told, dict):
            hashes, active = told.get("hashes"), told.get("active")
            if isinstance(hashes, list):
                self.principals.update(one for one in hashes if isinstance(one, str))
            if type(active) is int:
                self.active = max(self.active, active)
            self.is_lower_bound = self.is_lower_bound or told.get("at_least") is True


@dataclass(frozen=True, slots=True)
class Group:
    """The violations of one fingerprint in one service. `grade` is the gravest; `latest` the newest of them."""

    latest: Violation
    grade: str
    first: datetime
    count: int
    records: int
    affected: Affected
