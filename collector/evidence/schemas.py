"""The wire format of records (docs/records.md) at the HTTP edge: JSON in, domain values out.

Closed where a mistake would mislead a gate (grade, types, times), open where a newer telemetry may know more: unknown
kinds, unknown types of record and unknown fields are kept as they came.

A batch is taken apart without looking into its records, so that each is judged alone and by its own size. What the fast
decoder does not take, Python's own has the last word on: it reads lone surrogates, and names the place of an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

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
MAX_TIME: Final = 40
"""Characters of a time: RFC 3339 takes as many digits of a second as one likes."""
_NO_TIME: Final = "is not RFC 3339 text, such as 2026-01-01T12:00:00.000Z"

Id = Annotated[str, Meta(pattern=r"\A[0-9A-Za-z_.:-]{1,64}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=100)]
Arm = Annotated[str, Meta(pattern=r"\A[0-9A-Za-z_.-]{1,20}\Z")]
Line = Annotated[str, Meta(max_length=2000)]
Grade = Literal["crossed", "reachable", "hygiene"]
Number = Annotated[int, Meta(ge=0, le=2**53)]
Principal = Annotated[str, Meta(max_length=64)]


class SideIn(msgspec.Struct):
    """One side. Checked, then stored as it came."""

    principal: Principal | None = None
    stack: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=100)] = []


class ResourceIn(msgspec.Struct):
    type: Name
    name: Annotated[str, Meta(max_length=500)]


class RecordIn(msgspec.Struct, kw_only=True):
    """What every record has."""

    type: Name
    id: Id
    time: str

    def as_domain(self, time: datetime, raw: Json) -> Record:
        """Return the record; `raw` is all that came."""
        return UnknownRecord(self.id, time, self.type, raw)


class ViolationIn(RecordIn, kw_only=True):
    kind: Name
    grade: Grade
    detector: Name
    arm: Arm = "none"
    synthetic: bool
    summary: Line = ""
    fingerprint: Annotated[str, Meta(max_length=64)] = ""
    count: Annotated[int, Meta(ge=1, le=10**9)] = 1
    resource: ResourceIn | None = None
    victim: SideIn | None = None
    offender: SideIn | None = None
    detail: Json = {}

    def as_domain(self, time: datetime, raw: Json) -> Record:
        return ViolationRecord(
            self.id, time, self.kind, self.grade, self.detector, self.arm, self.synthetic, self.summary, self.fingerprint,
            self.count, raw.get("resource"), raw.get("victim"), raw.get("offender"), self.detail, _unknown_fields(self, raw),
        )  # fmt: skip


class EscalationIn(RecordIn, kw_only=True):
    violation_id: Id
    grade: Grade
    reason: Line = ""

    def as_domain(self, time: datetime, raw: Json) -> Record:
        return Amendment(self.id, time, "escalation", self.violation_id, self.grade, self.reason, _unknown_fields(self, raw))


class RetractionIn(RecordIn, kw_only=True):
    violation_id: Id
    reason: Line = ""

    def as_domain(self, time: datetime, raw: Json) -> Record:
        return Amendment(self.id, time, "retraction", self.violation_id, None, self.reason, _unknown_fields(self, raw))


class RunIn(RecordIn, kw_only=True):
    run_id: Annotated[str, Meta(min_length=1, max_length=200)]
    principal: Principal | None = None
    outcome: Name
    duration_s: Annotated[float, Meta(ge=0)] | None = None
    events: Annotated[list[Json], Meta(max_length=200)] = []
    anomalies: Json = {}
    detail: Json = {}

    def as_domain(self, time: datetime, raw: Json) -> Record:
        return RunRecord(
            self.id, time, self.run_id, self.principal, self.outcome, self.duration_s, self.events, self.anomalies, self.detail,
            _unknown_fields(self, raw),
        )  # fmt: skip


class WaitingIn(msgspec.Struct):
    users: Number
    events: Number
    bytes: Number


class WaitingUserIn(msgspec.Struct):
    """One user of a statement; only these fields are kept."""

    principal: Id
    events: Number
    bytes: Number
    oldest: str
    connections: Number = 0

    def as_kept(self) -> Json:
        return {
            "principal": self.principal,
            "events": self.events,
            "bytes": self.bytes,
            "oldest": _time(self.oldest, "users.oldest").isoformat(),
            "connections": self.connections,
        }


class QueuesIn(RecordIn, kw_only=True):
    sequence: Number
    waiting: WaitingIn
    users: Annotated[list[WaitingUserIn], Meta(max_length=100)]

    def as_domain(self, time: datetime, raw: Json) -> Record:
        waiting, deepest = self.waiting, [user.as_kept() for user in self.users]
        return QueueStatement(self.id, time, self.sequence, waiting.users, waiting.events, waiting.bytes, deepest)


_KNOWN: Final[dict[str, type[RecordIn]]] = {
    "violation": ViolationIn,
    "escalation": EscalationIn,
    "retraction": RetractionIn,
    "run": RunIn,
    "queues": QueuesIn,
}
_FIELDS: Final = {model: frozenset(model.__struct_fields__) for model in _KNOWN.values()}
_LINES: Final = ("type", "kind", "detector", "summary", "reason", "outcome")
"""Texts that are shown in lists: whatever they hold, they are one line."""


class BatchIn(msgspec.Struct):
    """The envelope; its records are looked into one by one, so that a bad one does not take the others with it."""

    schema: Annotated[str, Meta(pattern=r"\Arecords/[1-9][0-9]{0,3}\Z")]
    service: str
    instance: str
    sent_at: str
    records: list[msgspec.Raw]


class _ReadBatchIn(BatchIn):
    """The envelope of a batch that Python's decoder had to read."""

    records: list[Any]  # Any: JSON


_BATCH: Final = msgspec.json.Decoder(BatchIn)
_VALUE: Final = msgspec.json.Decoder()


def parse_batch(body: bytes, now: datetime, *, max_records: int, max_record_bytes: int) -> Batch:
    """Take a batch apart: records that can be stored, and those that cannot, each with its reason.

    Raises:
        MalformedBody: not JSON at all.
        Invalid: JSON, but no batch.
        TooLarge: more than `max_records` records.
    """
    envelope = _envelope(body, max_records)
    service, instance = jsontext.one_line(envelope.service), jsontext.one_line(envelope.instance)
    for name, text, longest in (("service", service, 100), ("instance", instance, 200)):
        if not 1 <= len(text) <= longest:
            raise Invalid(f"the body is no batch: {name}: has {len(text)} characters, 1 to {longest} are taken")
    try:
        _time(envelope.sent_at, "sent_at")
    except ValueError as error:
        raise Invalid(f"the body is no batch: {error}") from None
    if len(envelope.records) > max_records:
        raise TooLarge(f"the batch has {len(envelope.records)} records, at most {max_records} are taken: send smaller batches")
    batch = Batch(service, instance)
    latest = now + MAX_AHEAD
    for index, sent in enumerate(envelope.records):
        try:
            batch.add(parse_record(*_value(sent, max_record_bytes), latest), index)
        except ValueError as error:
            batch.rejected.append(Rejection(index, str(error)))
    return batch


def parse_record(raw: object, is_plain: bool, latest: datetime) -> Record:
    """Return one record from a decoded value; `is_plain` when it comes from JSON whose texts need no cleaning.

    Raises:
        ValueError: it cannot be stored, for instance because it is later than `latest`; the text says why.
    """
    if not isinstance(raw, dict):
        raise ValueError("is not an object")
    has_fit = is_plain and jsontext.fits(raw)
    if has_fit and raw.get("type") == "violation" and (usual := _usual(raw, latest)) is not None:
        return usual
    value = raw if has_fit else jsontext.clean(raw)
    kind = value.get("type")
    model = _KNOWN.get(kind, RecordIn) if isinstance(kind, str) else RecordIn
    lines = {name: " ".join(text.split()) for name in _LINES if isinstance(text := value.get(name), str)}
    try:
        # What came is what an unknown record keeps; the known ones keep their lines.
        record = msgspec.convert(value | lines, model)
    except msgspec.ValidationError as error:
        raise ValueError(reason(error)) from None
    time = _time(record.time, "time")
    if time > latest:
        raise ValueError("time is more than 24 h in the future: check the clock of the sender")
    return record.as_domain(time, value)


def _usual(raw: Json, latest: datetime) -> Record | None:
    """Return a clean violation of which nothing is to be changed; None for one that is to be looked at closely, or refused."""
    try:
        sent = msgspec.convert(raw, ViolationIn)
        # As `parse_time`, for what senders write: in UTC.
        time = datetime.fromisoformat(sent.time)
    except ValueError:
        return None
    summary = sent.summary
    # Of white space, plain texts have blanks alone.
    if " " in sent.kind or " " in sent.detector or "  " in summary or summary[:1] == " " or summary[-1:] == " ":
        return None
    if time.tzinfo is not UTC or time > latest or len(sent.time) > MAX_TIME:
        return None
    return sent.as_domain(time, raw)


def reason(error: msgspec.ValidationError) -> str:
    """Say in one line what is wrong and where, without repeating any input."""
    text, _, place = str(error).partition(" - at `$")
    if text.startswith("Invalid enum value"):
        text = "is none of the values that are known here"
    where = place.rstrip("`").lstrip(".")
    return f"{where}: {text}" if where else text


def _envelope(body: bytes, max_records: int) -> BatchIn:
    try:
        if is_dense(body):
            _refuse_too_many(body, max_records)
        envelope = _BATCH.decode(body)
        # The decoder skips over the records unread: bytes that are no text would pass.
        if not body.isascii():
            body.decode()
        return envelope
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        value = jsontext.loads(body)
        if isinstance(value, dict):
            # What the decoder did not take may be in the envelope itself. Its records are cleaned one by one.
            value = {jsontext.clean_text(name): item if name == "records" else jsontext.clean(item) for name, item in value.items()}
        return msgspec.convert(value, _ReadBatchIn)
    except jsontext.JsonError as error:
        raise MalformedBody(str(error)) from None
    except msgspec.ValidationError as error:
        raise Invalid(f"the body is no batch: {reason(error)}") from None


def _value(sent: object, max_bytes: int) -> tuple[Any, bool]:  # Any: JSON
    """Return what one record of a batch says, and whether its texts need no cleaning.

    Raises:
        ValueError: it is too large, or holds what JSON cannot say.
    """
    if isinstance(sent, msgspec.Raw):
        encoded = bytes(sent)
        size = len(encoded)
    else:
        size = len(jsontext.dumps(jsontext.clean(sent)).encode()) if isinstance(sent, dict) else 0
    if size > max_bytes:
        raise ValueError(f"has {size} bytes, at most {max_bytes} are taken")
    if not isinstance(sent, msgspec.Raw):
        return sent, False
    try:
        return _VALUE.decode(encoded), jsontext.is_plain(encoded)
    except (msgspec.MsgspecError, RecursionError):
        return jsontext.loads(encoded), False


def is_dense(body: bytes) -> bool:
    """Say whether the body may hold far more values than bytes of records would: millions of `{}` cost more than they weigh."""
    return len(body) > 65_536 and 4 * body.count(b",") > len(body)


class _RecordsUnread(msgspec.Struct):
    records: msgspec.Raw = msgspec.Raw()


_UNREAD: Final = msgspec.json.Decoder(_RecordsUnread)
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_ONE: Final = json.JSONDecoder()


def _refuse_too_many(body: bytes, max_records: int) -> None:
    """Raise `TooLarge` for a list of records that is too long, without making its values all at once."""
    # One character a byte: the places are the same, and what the texts say does not matter here.
    text = bytes(_UNREAD.decode(body).records).decode("latin-1")
    at = 1
    for _ in range(max_records):
        try:
            _, at = _ONE.raw_decode(text, _after_space(text, at))
        except (ValueError, RecursionError):
            return
        at = _after_space(text, at)
        if text[at : at + 1] != ",":
            return
        at += 1
    raise TooLarge(f"the batch has more than {max_records} records: send smaller batches")


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _unknown_fields(record: RecordIn, raw: Json) -> Json:
    known = _FIELDS[type(record)]
    if raw.keys() <= known:
        return {}
    return {name: value for name, value in raw.items() if name not in known}


def _time(value: str, name: str) -> datetime:
    if not 10 < len(value) <= MAX_TIME:
        raise ValueError(f"{name}: {_NO_TIME}")
    try:
        return parse_time(value)
    except ValueError as error:
        text = str(error)
        raise ValueError(f"{name}: {text if text.startswith(('has no', 'is beyond')) else _NO_TIME}") from None


def texts_of(problems: Sequence[Rejection]) -> str:
    """Say in one line why records were refused: the first three, and how many more there are."""
    more = len(problems) - 3
    return "; ".join(f"{item.index}: {item.reason}" for item in problems[:3]) + (f"; and {more} more" if more > 0 else "")
