"""What is fuzzed: every decoder that reads bytes of somebody else, and what makes records harmless.

Each takes any bytes, or refuses them in the way it says it does.

Whatever else comes out of a target is a finding: another exception, a hang, memory without end.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from isolation_monitor.cli.junit import JUnitError, read_reports
from isolation_monitor.collector.alerts.schemas import parse_webhook
from isolation_monitor.collector.body import BodyLimits, read_body
from isolation_monitor.collector.ci.schemas import parse_run
from isolation_monitor.collector.evidence.domain import Batch
from isolation_monitor.collector.evidence.otlp import JSON, PROTOBUF, parse_logs
from isolation_monitor.collector.evidence.rows import TABLES, delivery
from isolation_monitor.collector.evidence.schemas import parse_batch
from isolation_monitor.collector.jsontext import dumps
from isolation_monitor.collector.paging import read_cursor
from isolation_monitor.collector.problems import Problem
from tests.fuzz import telemetry_targets

NOW: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIMITS: Final = BodyLimits(10_000, 50_000, 60.0)
_LOOP: Final = asyncio.new_event_loop()
_SEEDS: Final = Path(__file__).resolve().parent / "seeds"
_JUNIT_FILES: Final = Path(__file__).resolve().parent.parent / "junit_files"


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder. `words` are what its inputs are made of: a fuzzer puts them together faster than it finds them."""

    name: str
    take: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    words: tuple[str, ...] = ()


def is_storable(batches: list[Batch]) -> None:
    """Every value of every row is what the drivers take: their own types, whole text, JSON that is JSON."""
    for dialect in ("sqlite", "postgresql"):
        made = delivery(batches, NOW, dialect)
        for table in TABLES:
            for row in made.rows.get(table, ()):
                assert len(row) == len(table.columns)
                for value in row:
                    if isinstance(value, str):
                        assert "\0" not in value
                        value.encode()
                    elif isinstance(value, int):
                        assert -(2**63) <= value < 2**63
    for batch in batches:
        assert batch.service
        assert batch.instance
        assert all(item.reason for item in batch.rejected)


def is_refusal(problem: Problem, *statuses: int) -> None:
    """A refusal has one of the statuses that its caller knows, and says why in text that can be sent."""
    assert problem.status in statuses
    assert problem.detail
    problem.detail.encode()


def _records(data: bytes) -> None:
    try:
        batch = parse_batch(data, NOW, max_records=50, max_record_bytes=2_000)
    except Problem as problem:
        is_refusal(problem, 400, 413, 422)
    else:
        is_storable([batch])


def _logs(media: str) -> Callable[[bytes], None]:
    def take(data: bytes) -> None:
        try:
            batches = parse_logs(data, media, NOW, max_records=50, max_record_bytes=2_000)
        except Problem as problem:
            is_refusal(problem, 400, 413)
        else:
            is_storable(batches)

    return take


def inflated(sent: bytes, piece: int) -> bytes:
    """Return what is read of a gzip body that arrives in pieces."""

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(sent), piece):
            yield sent[start : start + piece]

    request: Any = SimpleNamespace(headers={"content-encoding": "gzip"}, stream=stream)
    return _LOOP.run_until_complete(read_body(request, LIMITS, ("application/json",)))[1]


def _gzip(data: bytes) -> None:
    try:
        found = inflated(data, 1 + len(data) // 3)
    except Problem as problem:
        is_refusal(problem, 400, 413)
    else:
        assert len(found) <= LIMITS.inflated_bytes
        assert found == gzip.decompress(data)


def _junit(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".xml", prefix="isomon-fuzz-") as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        try:
            report = read_reports([path], path.parent)
        except JUnitError as error:
            str(error).encode()
        else:
            # What is sent on is JSON that every parser takes.
            for test in report.tests:
                dumps([test.group, test.name, test.file, test.duration_s, test.resources, test.left_behind]).encode()
            dumps([report.duration_s, report.resources, report.suite_names]).encode()


def _webhook(data: bytes) -> None:
    try:
        notifications = parse_webhook(data)
    except Problem as problem:
        is_refusal(problem, 400, 422)
    else:
        for one in notifications:
            assert len(one.id) <= 64
            dumps([one.labels, one.annotations, one.group_key, one.fingerprint]).encode()
            assert one.starts_at.astimezone(UTC).tzinfo is UTC


def _ci_run(data: bytes) -> None:
    try:
        run = parse_run(data, NOW)
    except Problem as problem:
        is_refusal(problem, 400, 422)
    else:
        assert run.started_at.astimezone(UTC)
        dumps([run.id, run.suite, run.duration_s, run.resources]).encode()


def _cursor(data: bytes) -> None:
    try:
        found = read_cursor(data.decode("utf-8", "replace"))
    except Problem as problem:
        is_refusal(problem, 422)
    else:
        assert found is None or found[0].astimezone(UTC)


RECORDS: Final = json.dumps(
    {
        "schema": "records/1",
        "service": "chat",
        "instance": "i",
        "sent_at": "2026-01-01T12:00:00Z",
        "records": [
            {
                "type": "violation",
                "id": "v",
                "time": "2026-01-01T11:59:59Z",
                "kind": "k",
                "grade": "crossed",
                "detector": "d",
                "synthetic": True,
            },
            {"type": "retraction", "id": "r", "time": "2026-01-01T11:59:59Z", "violation_id": "v", "extra": [1e3, -2, "\u00e9\ud800"]},
        ],
    }
).encode()
_WEBHOOK: Final = json.dumps(
    {
        "version": "4",
        "groupKey": "g",
        "receiver": "r",
        "alerts": [
            {
                "status": "resolved",
                "labels": {"alertname": "A"},
                "annotations": {},
                "startsAt": "2026-01-01T12:00:00Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "fingerprint": "f",
            }
        ],
    }
).encode()
_CI_RUN: Final = json.dumps(
    {
        "schema": "ci-run/1",
        "id": "run-00001",
        "suite": "unit",
        "started_at": "2026-01-01T11:00:00Z",
        "duration_s": 1.5,
        "tests": [{"name": "t", "result": "fail", "failure": {"type": "AssertionError", "message": "assert 1 == 2", "detail": "E   x"}}],
    }
).encode()


def _written(name: str) -> list[bytes]:
    """Return the inputs under seeds/NAME: what was found once, and what no other seed comes near."""
    return [path.read_bytes() for path in sorted((_SEEDS / name).glob("*"))]


def _log_seeds(media: str) -> list[bytes]:
    from tests.collector.test_otlp import VIOLATION, as_json, export

    logs = export(
        {"attributes": VIOLATION, "body": "text"}, {"attributes": {"n": 1, "raw": b"\x00"}, "body": {"a": [1.5, None, {"b": True}]}}
    )
    return [logs.SerializeToString() if media == PROTOBUF else as_json(logs)]


def _junit_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(_JUNIT_FILES.rglob("*.xml")) if path.stat().st_size < 4_000][:40]


_JSON_WORDS: Final = ("null", "true", "1e999", "-0.0", "NaN", "\\ud800", "\\u0000", "9999999999999999999", "[[[[", "{}", '"":')
_FIELDS: Final = (
    *("schema", "records/1", "records/2", "service", "instance", "sent_at", "records", "type", "violation", "escalation", "retraction"),
    *("run", "queues", "id", "time", "kind", "grade", "crossed", "hygiene", "detector", "synthetic", "arm", "summary", "fingerprint"),
    *("count", "resource", "victim", "offender", "detail", "extra", "violation_id", "reason", "run_id", "outcome", "duration_s"),
    *("events", "anomalies", "sequence", "waiting", "users", "bytes", "oldest", "principal", "stack", "0001-01-01T00:00:00+23:59"),
)
TARGETS: Final = {
    target.name: target
    for target in (
        Target("records", _records, lambda: [RECORDS, *_written("records")], (*_JSON_WORDS, *_FIELDS)),
        Target("otlp-protobuf", _logs(PROTOBUF), lambda: [*_log_seeds(PROTOBUF), *_written("otlp-protobuf")], _FIELDS),
        Target(
            "otlp-json",
            _logs(JSON),
            lambda: [*_log_seeds(JSON), *_written("otlp-json")],
            (*_JSON_WORDS, *_FIELDS, "resourceLogs", "scopeLogs", "logRecords", "timeUnixNano", "stringValue", "kvlistValue", "intValue"),
        ),
        Target("gzip", _gzip, lambda: [gzip.compress(RECORDS, mtime=0), gzip.compress(b"0" * 60_000, mtime=0), *_written("gzip")]),
        Target(
            "junit",
            _junit,
            lambda: [*_junit_seeds(), *_written("junit")],
            ("<testsuites>", "<testsuite", "<testcase", "name=", "time=", "timestamp=", "<failure", "<property", "&#x0;", "<![CDATA["),
        ),
        Target("alertmanager", _webhook, lambda: [_WEBHOOK, *_written("alertmanager")], (*_JSON_WORDS, "startsAt", "endsAt", "labels")),
        Target("ci-run", _ci_run, lambda: [_CI_RUN, *_written("ci-run")], (*_JSON_WORDS, "tests", "failure", "resources", "left_behind")),
        Target(
            "spool",
            telemetry_targets.spool,
            lambda: [*telemetry_targets.spool_seeds(), *_written("spool")],
            ("SQLite format 3", "batches", "INTEGER", "BLOB", "host:1"),
        ),
        Target(
            "redaction",
            telemetry_targets.redaction,
            lambda: [*telemetry_targets.redaction_seeds(), *_written("redaction")],
            (
                *_JSON_WORDS,
                "password",
                "secret=",
                "token:",
                "Bearer ",
                "://",
                "@",
                "eyJ",
                "AKIA",
                "ghp_",
                "-----BEGIN ",
                "PRIVATE KEY-----",
            ),
        ),
        Target("cursor", _cursor, lambda: [b"MjAyNi0wMS0wMVQxMjowMDowMCswMDowMHx2LTE", *_written("cursor")]),
    )
}
