"""The decoders under input that was made to break them: each byte string is taken, or refused by a problem, and nothing else.

Mutations of valid requests reach deeper than noise: bits turned, parts cut out, doubled or moved.
"""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isolation_monitor.collector.evidence.otlp import JSON, PROTOBUF, parse_logs
from isolation_monitor.collector.evidence.schemas import parse_batch
from isolation_monitor.collector.problems import Problem
from tests.collector.test_otlp import VIOLATION, as_json, export
from tests.fuzz.targets import LIMITS, NOW, RECORDS, inflated, is_refusal, is_storable

LOGS = export({"attributes": VIOLATION, "body": "text"}, {"attributes": {"n": 1, "raw": b"\x00"}, "body": {"a": [1.5, None, {"b": True}]}})


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
