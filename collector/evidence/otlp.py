"""OpenTelemetry's logs, as OTLP/HTTP brings them in protobuf or JSON, taken apart into records (docs/records.md, "OTLP").

A log record that names a record, by attributes `isolation.record.*`, becomes that record. Every other one is kept as an
unknown record of type `log`. One without an id of its own gets one from its content: UUIDv7 in form, with the log
record's time and a hash, so that a batch that is sent again meets what it brought before.

Sources: opentelemetry-proto `logs/v1`, `common/v1`; OTLP specification 1.9, "OTLP/HTTP". In its JSON, ids are
hexadecimal, bytes base64, and 64-bit numbers may be texts.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from isolation_monitor.collector import jsontext
from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.evidence.domain import Batch, Rejection
from isolation_monitor.collector.evidence.schemas import MAX_AHEAD, is_dense, parse_record, reason
from isolation_monitor.collector.problems import MalformedBody, TooLarge

Json = dict[str, Any]  # Any: values of log records

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
PREFIX: Final = "isolation.record."
"""Attributes that begin so are fields of a record; points part the steps of a path, `isolation.record.victim.principal`."""
LOG: Final = "log"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Line:
    """One log record in plain values, the same whichever encoding it came in. Times are nanoseconds since 1970, 0 where not given."""

    time_ns: int
    observed_ns: int
    severity: int
    severity_text: str
    body: Any  # Any: a value of OTLP
    attributes: Json
    trace_id: str
    span_id: str
    event_name: str


@dataclass(slots=True)
class Lines:
    """The log records of one resource and scope."""

    resource: Json
    scope: str
    lines: Iterable[Line | Rejection]


def parse_logs(body: bytes, media: str, now: datetime, *, max_records: int, max_record_bytes: int) -> list[Batch]:
    """Take a request apart into batches, one for each resource; refused log records are numbered through the request.

    Raises:
        MalformedBody: no OTLP request of logs.
        TooLarge: more than `max_records` log records.
    """
    groups = (_from_protobuf if media == PROTOBUF else _from_json)(body, max_records, max_record_bytes)
    batches: list[Batch] = []
    number = 0
    latest = now + MAX_AHEAD
    for group in groups:
        batch = Batch(*_sender(group.resource))
        for line in group.lines:
            try:
                if isinstance(line, Rejection):
                    raise ValueError(line.reason)
                raw = _record(line, group, batch)
                if (size := len(jsontext.dumps(raw).encode("utf-8", "replace"))) > max_record_bytes:
                    raise ValueError(f"has {size} bytes, at most {max_record_bytes} are taken")
                batch.add(parse_record(raw, False, latest), number)
            except ValueError as error:
                batch.rejected.append(Rejection(number, str(error)))
            number += 1
        batches.append(batch)
    return batches


def _sender(resource: Json) -> tuple[str, str]:
    def text(name: str) -> str:
        return jsontext.one_line(str(resource.get(name, "")))

    instance = text("service.instance.id") or ":".join(part for part in (text("host.name"), text("process.pid")) if part)
    # The name that OpenTelemetry gives to a service that has none.
    return (text("service.name") or "unknown_service")[:100], (instance or "unknown")[:200]


def _record(line: Line, group: Lines, batch: Batch) -> Json:
    """Return the record that a log record names, or the one that keeps it.

    Raises:
        ValueError: it has no time, or its attributes contradict each other.
    """
    if not (at_ns := line.time_ns or line.observed_ns):
        raise ValueError("has neither time_unix_nano nor observed_time_unix_nano: without a time it cannot be kept in order")
    time = _moment(at_ns)
    named = _named(line)
    record = _log(line, group) if named is None else named
    for name, value in (("trace_id", line.trace_id), ("span_id", line.span_id)):
        if value:
            record.setdefault(name, value)
    record.setdefault("time", rfc3339(time))
    if "id" not in record:
        # Neither the order of attributes nor the encoding may make another id of the same log record.
        content = msgspec.json.encode((batch.service, batch.instance, at_ns, jsontext.clean(record)), order="sorted")
        record["id"] = _uuid7(at_ns, hashlib.sha256(content).digest())
    return record


def _named(line: Line) -> Json | None:
    """Return the fields that the log record gives a record; None when it names no record."""
    record: Json = {}
    for name, value in line.attributes.items():
        if name.startswith(PREFIX):
            _put(record, name.removeprefix(PREFIX).split("."), value)
    if not isinstance(record.get("type"), str):
        return None
    if isinstance(line.body, dict):
        return line.body | record
    if isinstance(line.body, str) and line.body:
        record.setdefault("summary" if record["type"] == "violation" else "reason", line.body)
    return record


def _put(record: Json, path: list[str], value: object) -> None:
    for step in path[:-1]:
        inner = record.setdefault(step, {})
        if not isinstance(inner, dict):
            raise ValueError(f"the attribute {PREFIX}{'.'.join(path)} is below one that is no map")
        record = inner
    record[path[-1]] = value


def _log(line: Line, group: Lines) -> Json:
    known: Json = {
        "type": LOG,
        "severity_number": line.severity,
        "severity_text": line.severity_text,
        "body": line.body,
        "attributes": line.attributes,
        "event_name": line.event_name,
        "scope": group.scope,
        "resource": group.resource,
    }
    return {name: value for name, value in known.items() if value not in (None, "", 0, {})}


def _moment(at_ns: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=at_ns // 1000)
    except OverflowError:
        raise ValueError("its time is beyond the calendar") from None


def _uuid7(at_ns: int, digest: bytes) -> str:
    value = (at_ns // 1_000_000 & (2**48 - 1)) << 80 | int.from_bytes(digest[:10], "big")
    value = value & ~(0xF << 76) | 7 << 76
    text = f"{value & ~(0b11 << 62) | 0b10 << 62:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _unhindered(make: Callable[[], Line]) -> Line | Rejection:
    """Return the line, or why it cannot be read: one that nests too deeply does not take the others with it."""
    try:
        return make()
    except msgspec.ValidationError as error:
        return Rejection(0, reason(error))
    except (ValueError, RecursionError) as error:
        return Rejection(0, "nests without end" if isinstance(error, RecursionError) else str(error))


# ---- protobuf


def _from_protobuf(body: bytes, max_records: int, max_bytes: int) -> Iterator[Lines]:
    """Read the request by its outer fields, and its log records one by one: a message can hold four million of two bytes each."""
    steps = _Steps(50 * max_records)
    found = 0
    try:
        for sent in steps.fields(memoryview(body), 1):
            resource = Resource()
            for part in steps.fields(sent, 1):
                if len(part) > max_bytes:
                    raise TooLarge(f"a resource has {len(part)} bytes, at most {max_bytes} are taken")
                resource.MergeFromString(part.tobytes())
            attributes = _plain_attributes(resource.attributes)
            for scope in steps.fields(sent, 2):
                name = "".join(_scope_name(part, max_bytes) for part in steps.fields(scope, 1))
                records = []
                for record in steps.fields(scope, 2):
                    found += 1
                    _check_number(found, max_records)
                    records.append(record)
                yield Lines(attributes, name, [_protobuf_line(record, max_bytes) for record in records])
    except (DecodeError, IndexError, ValueError):
        raise MalformedBody("the body is no ExportLogsServiceRequest in protobuf") from None


class _Steps:
    """Walks over the fields of messages, at most so many of them in all."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def fields(self, message: memoryview, wanted: int) -> Iterator[memoryview]:
        """Give each length-delimited field with the number `wanted`; others are passed over.

        Raises:
            IndexError, DecodeError: it is no message.
            TooLarge: too many fields.
        """
        at = 0
        while at < len(message):
            self._left -= 1
            if self._left < 0:
                raise TooLarge("the request has more fields than log records need: send smaller batches")
            key, at = _varint(message, at)
            match key & 7:
                case 0:
                    _, at = _varint(message, at)
                case 1:
                    at += 8
                case 2:
                    size, at = _varint(message, at)
                    if at + size > len(message):
                        raise DecodeError("cut off")
                    if key >> 3 == wanted:
                        yield message[at : at + size]
                    at += size
                case 5:
                    at += 4
                case _:
                    raise DecodeError("no wire type of today")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise DecodeError("a number without end")


def _scope_name(sent: memoryview, max_bytes: int) -> str:
    if len(sent) > max_bytes:
        raise TooLarge(f"a scope has {len(sent)} bytes, at most {max_bytes} are taken")
    return str(InstrumentationScope.FromString(sent.tobytes()).name)


def _protobuf_line(sent: memoryview, max_bytes: int) -> Line | Rejection:
    if len(sent) > max_bytes:
        return Rejection(0, f"has {len(sent)} bytes, at most {max_bytes} are taken")
    record = LogRecord.FromString(sent.tobytes())
    return _unhindered(lambda: _plain_line(record))


def _plain_line(sent: LogRecord) -> Line:
    return Line(
        sent.time_unix_nano,
        sent.observed_time_unix_nano,
        int(sent.severity_number),
        sent.severity_text,
        _plain(sent.body),
        _plain_attributes(sent.attributes),
        sent.trace_id.hex(),
        sent.span_id.hex(),
        sent.event_name,
    )


def _plain_attributes(attributes: Iterable[Any], depth: int = jsontext.MAX_DEPTH) -> Json:  # Any: as above
    return {one.key: _plain(one.value, depth) for one in attributes}


def _plain(value: AnyValue, depth: int = jsontext.MAX_DEPTH) -> Any:  # Any: a value of OTLP
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_plain(item, _deeper(depth)) for item in value.array_value.values]
        case "kvlist_value":
            return _plain_attributes(value.kvlist_value.values, _deeper(depth))
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "double_value":
            return _finite(value.double_value)
        case name:
            return getattr(value, name)


def _deeper(depth: int) -> int:
    if depth <= 1:
        raise ValueError(f"values nest deeper than {jsontext.MAX_DEPTH} levels")
    return depth - 1


def _finite(value: float) -> float | str:
    # As protobuf's JSON writes what JSON has no number for.
    return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


# ---- JSON


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    array_value: _Array | None = None
    kvlist_value: _Pairs | None = None
    bytes_value: str | None = None


class _Array(msgspec.Struct):
    values: list[_Value | None] = []


class _Pair(msgspec.Struct):
    key: str = ""
    value: _Value | None = None


class _Pairs(msgspec.Struct):
    values: list[_Pair] = []


class _LogRecord(msgspec.Struct, rename="camel"):
    time_unix_nano: int | str = 0
    observed_time_unix_nano: int | str = 0
    severity_number: int = 0
    severity_text: str = ""
    body: _Value | None = None
    attributes: list[_Pair] = []
    trace_id: str = ""
    span_id: str = ""
    event_name: str = ""


class _Scope(msgspec.Struct):
    name: str = ""


class _ScopeLogs(msgspec.Struct, rename="camel"):
    scope: _Scope | None = None
    log_records: list[msgspec.Raw] = []


class _Resource(msgspec.Struct):
    attributes: list[_Pair] = []


class _ResourceLogs(msgspec.Struct, rename="camel"):
    resource: _Resource | None = None
    scope_logs: list[_ScopeLogs] = []


class _Request(msgspec.Struct, rename="camel"):
    resource_logs: list[_ResourceLogs] = []


_REQUEST: Final = msgspec.json.Decoder(_Request)
_RECORD: Final = msgspec.json.Decoder(_LogRecord)


def _from_json(body: bytes, max_records: int, max_bytes: int) -> Iterator[Lines]:
    if is_dense(body):
        raise TooLarge("the request holds more values than log records need: send smaller batches")
    try:
        request = _REQUEST.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        request = _read_slowly(body, error)
    _check_number(sum(len(scope.log_records) for one in request.resource_logs for scope in one.scope_logs), max_records)
    for one in request.resource_logs:
        try:
            resource = _pairs(one.resource.attributes) if one.resource else {}
        except ValueError as error:
            raise MalformedBody(f"the attributes of a resource cannot be read: {error}") from None
        for scope in one.scope_logs:
            name = scope.scope.name if scope.scope else ""
            yield Lines(resource, name, [_raw_line(bytes(sent), max_bytes) for sent in scope.log_records])


def _read_slowly(body: bytes, error: Exception) -> _Request:
    """Read what only Python's own decoder does: texts that were cut within a character, as JavaScript writes them."""
    try:
        # Made again without them.
        text = jsontext.dumps(jsontext.clean(jsontext.loads(body), 64))
        return _REQUEST.decode(text)
    except jsontext.JsonError as worse:
        raise MalformedBody(str(worse)) from None
    except msgspec.MsgspecError:
        shown = str(error) if isinstance(error, msgspec.ValidationError) else "its shape is another"
        raise MalformedBody(f"the body is no ExportLogsServiceRequest in JSON: {shown}") from None


def _raw_line(sent: bytes, max_bytes: int) -> Line | Rejection:
    if len(sent) > max_bytes:
        return Rejection(0, f"has {len(sent)} bytes, at most {max_bytes} are taken")
    return _unhindered(lambda: _json_line(_RECORD.decode(sent)))


def _json_line(sent: _LogRecord) -> Line:
    return Line(
        _number(sent.time_unix_nano),
        _number(sent.observed_time_unix_nano),
        sent.severity_number,
        sent.severity_text,
        None if sent.body is None else _json(sent.body),
        _pairs(sent.attributes),
        sent.trace_id.lower(),
        sent.span_id.lower(),
        sent.event_name,
    )


def _pairs(pairs: Iterable[_Pair], depth: int = jsontext.MAX_DEPTH) -> Json:
    return {pair.key: None if pair.value is None else _json(pair.value, depth) for pair in pairs}


def _json(value: _Value, depth: int = jsontext.MAX_DEPTH) -> Any:  # Any: a value of OTLP
    if value.array_value is not None:
        inner = _deeper(depth)
        return [None if item is None else _json(item, inner) for item in value.array_value.values]
    if value.kvlist_value is not None:
        return _pairs(value.kvlist_value.values, _deeper(depth))
    if value.int_value is not None:
        return _number(value.int_value)
    if value.double_value is not None:
        try:
            return _finite(float(value.double_value))
        except ValueError:
            raise ValueError("a doubleValue is no number") from None
    return next((one for one in (value.string_value, value.bool_value, value.bytes_value) if one is not None), None)


def _number(value: int | str) -> int:
    try:
        if isinstance(value, str) and len(value) > 20:
            raise ValueError
        return int(value)
    except ValueError:
        raise ValueError("a 64-bit number is none") from None


def _check_number(found: int, max_records: int) -> None:
    if found > max_records:
        raise TooLarge(f"the request has {found} log records, at most {max_records} are taken: send smaller batches")
