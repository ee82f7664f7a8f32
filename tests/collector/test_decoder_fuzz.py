"""The decoders under input that was made to break them: each byte string is taken, or refused by a problem, and nothing else.

Mutations of valid requests reach deeper than noise: bits turned, parts cut out, doubled or moved.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isolation_monitor.collector.body import BodyLimits, read_body
from isolation_monitor.collector.evidence.domain import Batch
from isolation_monitor.collector.evidence.otlp import JSON, PROTOBUF, parse_logs
from isolation_monitor.collector.evidence.rows import TABLES, delivery
from isolation_monitor.collector.evidence.schemas import parse_batch
from isolation_monitor.collector.problems import Problem
from tests.collector.test_otlp import VIOLATION, as_json, export

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIMITS = BodyLimits(10_000, 50_000, 60.0)

LOGS = export({"attributes": VIOLATION, "body": "text"}, {"attributes": {"n": 1, "raw": b"\x00"}, "body": {"a": [1.5, None, {"b": True}]}})
RECORDS = json.dumps(
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


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return `valid` after a few accidents."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 6))):
        at, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(1, 40))
        match draw(st.sampled_from(["turn", "cut", "double", "insert", "end"])):
            case "turn" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case "insert":
                data[at:at] = draw(
                    st.binary(max_size=12) | st.sampled_from([b"[" * 200, b"{", b"1e999", b'"\\ud800"', b"\xff", b"9" * 30, b"\\u0000"])
                )
            case _:
                del data[at:]
    return bytes(data)


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
    assert problem.status in statuses
    assert problem.detail


@given(mutated(RECORDS) | st.binary(max_size=200))
@example(RECORDS)
def test_a_batch_of_records_is_taken_apart_or_refused(body: bytes) -> None:
    try:
        batch = parse_batch(body, NOW, max_records=50, max_record_bytes=2_000)
    except Problem as problem:
        is_refusal(problem, 400, 413, 422)
    else:
        is_storable([batch])


@pytest.mark.parametrize(("media", "valid"), [(PROTOBUF, LOGS.SerializeToString()), (JSON, as_json(LOGS))])
def test_a_request_of_logs_is_taken_apart_or_refused(media: str, valid: bytes) -> None:
    taken = 0

    @given(mutated(valid) | st.binary(max_size=200))
    @example(valid)
    def one(body: bytes) -> None:
        nonlocal taken
        try:
            batches = parse_logs(body, media, NOW, max_records=50, max_record_bytes=2_000)
        except Problem as problem:
            is_refusal(problem, 400, 413)
        else:
            taken += 1
            is_storable(batches)

    one()
    assert taken > 1, "accidents are not all fatal: the deep parts were reached"


def inflated(sent: bytes, pieces: int) -> bytes:
    """Return what is read of a gzip body that arrives in pieces."""

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(sent), pieces):
            yield sent[start : start + pieces]

    request: Any = SimpleNamespace(headers={"content-encoding": "gzip"}, stream=stream)
    return asyncio.run(read_body(request, LIMITS, ("application/json",)))[1]


@given(st.binary(max_size=3_000), st.integers(1, 500))
def test_gzip_in_any_pieces_gives_what_went_in(content: bytes, pieces: int) -> None:
    assert inflated(gzip.compress(content), pieces) == content


@given(mutated(gzip.compress(RECORDS * 3, mtime=0)), st.integers(1, 500))
@example(gzip.compress(b"0" * 50_001), 7)
def test_broken_gzip_is_refused_or_was_not_broken(sent: bytes, pieces: int) -> None:
    try:
        found = inflated(sent, pieces)
    except Problem as problem:
        is_refusal(problem, 400, 413)
    else:
        assert len(found) <= LIMITS.inflated_bytes
        assert found == zlib.decompressobj(wbits=31).decompress(sent)
