"""The wire format of records (docs/records.md) at the HTTP edge: JSON in, domain values out.

Closed where a mistake would mislead a gate (grade, types, times), open where a newer telemetry may know more: unknown
kinds, unknown types of record and unknown fields are kept as they came.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from isolation_monitor.collector import jsontext
from isolation_monitor.collector.clock import parse_time
from isolation_monitor.collector.evidence.domain import (
    Amendment,
    Batch,
    QueueStatement,
    Record,
    Rejection,
    RunRecord,
    UnknownRecord,
    ViolationRecord,
)
from isolation_monitor.collector.problems import Invalid, MalformedBody, TooLarge

Json = dict[str, Any]  # Any: whatever JSON the sender put there

MAX_AHEAD: Final = timedelta(hours=24)
"""A record from further in the future has a broken clock behind it and could not be placed before or after anything."""


def _time(value: object) -> datetime:
    if not isinstance(value, str) or not 10 < len(value) <= 40:
        raise ValueError("is not RFC 3339 text, such as 2026-01-01T12:00:00.000Z")
    try:
        return parse_time(value)
    except ValueError as error:
        text = str(error)
        raise ValueError(
            text if text.startswith(("has no", "is beyond")) else "is not RFC 3339 text, such as 2026-01-01T12:00:00.000Z"
        ) from None


def _line(value: object) -> object:
    return jsontext.one_line(value) if isinstance(value, str) else value


Time = Annotated[datetime, BeforeValidator(_time)]
Id = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_.:-]{1,64}$")]
Name = Annotated[str, BeforeValidator(_line), StringConstraints(min_length=1, max_length=100)]
Arm = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_.-]{1,20}$")]
Line = Annotated[str, BeforeValidator(_line), StringConstraints(max_length=2000)]
Grade = Literal["crossed", "reachable", "hygiene"]


class _Open(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    def unknown_fields(self) -> Json:
        return dict(self.model_extra or {})


class SideIn(_Open):
    """One side. Checked, then stored as it came."""

    principal: Annotated[str, StringConstraints(max_length=64)] | None = None
    stack: list[Annotated[str, StringConstraints(max_length=1000)]] = Field(default_factory=list, max_length=100)


class ResourceIn(_Open):
    type: Name
    name: Annotated[str, StringConstraints(max_length=500)]


class RecordIn(_Open):
    type: Name
    id: Id
    time: Time


class ViolationIn(RecordIn):
    kind: Name
    grade: Grade
    detector: Name
    arm: Arm = "none"
    synthetic: bool
    summary: Line = ""
    fingerprint: Annotated[str, StringConstraints(max_length=64)] = ""
    count: int = Field(default=1, ge=1, le=10**9)
    resource: ResourceIn | None = None
    victim: SideIn | None = None
    offender: SideIn | None = None
    detail: Json = Field(default_factory=dict)

    def as_domain(self, raw: Json) -> Record:
        return ViolationRecord(
            self.id, self.time, self.kind, self.grade, self.detector, self.arm, self.synthetic, self.summary, self.fingerprint,
            self.count, raw.get("resource"), raw.get("victim"), raw.get("offender"), self.detail, self.unknown_fields(),
        )  # fmt: skip


class EscalationIn(RecordIn):
    violation_id: Id
    grade: Grade
    reason: Line = ""

    def as_domain(self, _raw: Json) -> Record:
        return Amendment(self.id, self.time, "escalation", self.violation_id, self.grade, self.reason, self.unknown_fields())


class RetractionIn(RecordIn):
    violation_id: Id
    reason: Line = ""

    def as_domain(self, _raw: Json) -> Record:
        return Amendment(self.id, self.time, "retraction", self.violation_id, None, self.reason, self.unknown_fields())


class RunIn(RecordIn):
    run_id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    principal: Annotated[str, StringConstraints(max_length=64)] | None = None
    outcome: Name
    duration_s: float | None = Field(default=None, ge=0)
    events: list[Json] = Field(default_factory=list, max_length=200)
    anomalies: Json = Field(default_factory=dict)
    detail: Json = Field(default_factory=dict)

    def as_domain(self, _raw: Json) -> Record:
        return RunRecord(
            self.id, self.time, self.run_id, self.principal, self.outcome, self.duration_s, self.events, self.anomalies, self.detail,
            self.unknown_fields(),
        )  # fmt: skip


Number = Annotated[int, Field(ge=0, le=2**53)]


class WaitingIn(_Open):
    users: Number
    events: Number
    bytes: Number


class WaitingUserIn(_Open):
    """One user of a statement; only these fields are kept."""

    principal: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_.:-]{1,64}$")]
    events: Number
    bytes: Number
    oldest: Time
    connections: Number = 0

    def as_kept(self) -> Json:
        return {
            "principal": self.principal,
            "events": self.events,
            "bytes": self.bytes,
            "oldest": self.oldest.isoformat(),
            "connections": self.connections,
        }


class QueuesIn(RecordIn):
    sequence: Number
    waiting: WaitingIn
    users: list[WaitingUserIn] = Field(max_length=100)

    def as_domain(self, _raw: Json) -> Record:
        waiting, deepest = self.waiting, [user.as_kept() for user in self.users]
        return QueueStatement(self.id, self.time, self.sequence, waiting.users, waiting.events, waiting.bytes, deepest)


class UnknownIn(RecordIn):
    def as_domain(self, raw: Json) -> Record:
        return UnknownRecord(self.id, self.time, self.type, raw)


_KNOWN: Final[dict[str, type[ViolationIn | EscalationIn | RetractionIn | RunIn | QueuesIn]]] = {
    "violation": ViolationIn,
    "escalation": EscalationIn,
    "retraction": RetractionIn,
    "run": RunIn,
    "queues": QueuesIn,
}


class BatchIn(_Open):
    schema_: Annotated[str, StringConstraints(pattern=r"^records/[1-9][0-9]{0,3}$")] = Field(alias="schema")
    service: Name
    instance: Annotated[str, BeforeValidator(_line), StringConstraints(min_length=1, max_length=200)]
    sent_at: Time
    records: list[Any]  # Any: each is judged alone, so that one bad record does not take the others with it


_BATCH = TypeAdapter(BatchIn)


def parse_batch(body: bytes, now: datetime, *, max_records: int, max_record_bytes: int) -> Batch:
    """Take a batch apart: records that can be stored, and those that cannot, each with its reason.

    Raises:
        MalformedBody: not JSON at all.
        Invalid: JSON, but no batch.
        TooLarge: more than `max_records` records.
    """
    try:
        value = jsontext.loads(body)
    except jsontext.JsonError as error:
        raise MalformedBody(str(error)) from None
    if not isinstance(value, dict):
        raise Invalid("the body is no batch: send an object with schema, service, instance, sent_at and records")
    try:
        envelope = _BATCH.validate_python(
            {key: jsontext.clean_text(item) if isinstance(item, str) else item for key, item in value.items()}
        )
    except ValidationError as error:
        raise Invalid(f"the body is no batch: {reasons(error)}") from None
    if len(envelope.records) > max_records:
        raise TooLarge(f"the batch has {len(envelope.records)} records, at most {max_records} are taken: send smaller batches")
    batch = Batch(envelope.service, envelope.instance)
    # A body within the limit of one record cannot hold a record beyond it.
    limit = max_record_bytes if len(body) > max_record_bytes else None
    for index, raw in enumerate(envelope.records):
        try:
            batch.add(parse_record(raw, now, limit))
        except ValueError as error:
            batch.rejected.append(Rejection(index, reasons(error) if isinstance(error, ValidationError) else str(error)))
    return batch


def parse_record(raw: object, now: datetime, max_bytes: int | None = None) -> Record:
    """Return one record.

    Raises:
        ValueError: it cannot be stored; the text (see `reasons` for pydantic's) says why.
    """
    if not isinstance(raw, dict):
        raise ValueError("is not an object")
    value = jsontext.clean(raw)
    if max_bytes is not None and (size := len(jsontext.dumps(value).encode())) > max_bytes:
        raise ValueError(f"has {size} bytes, at most {max_bytes} are taken")
    kind = value.get("type")
    record = (_KNOWN.get(kind, UnknownIn) if isinstance(kind, str) else UnknownIn).model_validate(value)
    if record.time > now + MAX_AHEAD:
        raise ValueError("time is more than 24 h in the future: check the clock of the sender")
    return record.as_domain(value)


def reasons(error: ValidationError) -> str:
    """Say in one line what is wrong, without repeating any input."""
    found = [
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_input=False, include_url=False)
    ]
    more = len(found) - 3
    return "; ".join(found[:3]) + (f"; and {more} more" if more > 0 else "")
