"""The batch parser under arbitrary input: it answers or refuses, it never breaks, and what it keeps every store takes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.collector import jsontext
from isolation_monitor.collector.evidence.domain import Amendment, Batch, Record, amended
from isolation_monitor.collector.evidence.schemas import parse_batch, parse_record
from isolation_monitor.collector.problems import Problem

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)

# Surrogates, NUL and numbers out of range included: JSON text can carry all of them.
texts = st.text(st.characters(), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
times = st.sampled_from(["2026-01-01T11:59:59.900Z", "2026-01-01T11:59:59+00:00", "2026-01-01", "", "0001-01-01T00:00:00+14:00"]) | texts
fields: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["violation", "escalation", "retraction", "run", "queues", "novelty"]) | values,
    "id": st.from_regex(r"\A[0-9a-f-]{1,36}\Z") | values,
    "time": times | values,
    "kind": st.sampled_from(["instance_reuse", "novelty"]) | values,
    "grade": st.sampled_from(["crossed", "reachable", "hygiene"]) | values,
    "detector": texts | values,
    "synthetic": st.booleans() | values,
    "summary": texts,
    "count": st.integers(1, 100) | values,
    "resource": st.fixed_dictionaries({"type": texts, "name": texts}) | values,
    "victim": st.fixed_dictionaries({"principal": texts, "stack": st.lists(texts, max_size=3)}) | values,
    "detail": st.dictionaries(texts, values, max_size=3) | values,
    "violation_id": st.just("0197-a") | values,
    "run_id": texts | values,
    "outcome": texts | values,
    "sequence": st.integers(0, 9) | values,
    "waiting": st.fixed_dictionaries({"users": st.integers(), "events": st.integers(0), "bytes": st.integers(0)}) | values,
    "users": st.lists(st.fixed_dictionaries({"principal": texts, "events": st.integers(), "oldest": times}), max_size=2) | values,
    "extra": values,
}
records = st.fixed_dictionaries({}, optional=fields)
valid = st.fixed_dictionaries(
    {
        "type": st.just("violation"),
        "id": st.from_regex(r"\A[0-9a-f-]{1,36}\Z"),
        "time": st.just("2026-01-01T11:59:59.900Z"),
        "kind": st.just("instance_reuse"),
        "grade": st.sampled_from(["crossed", "reachable", "hygiene"]),
        "detector": st.just("instance_reuse"),
        "synthetic": st.booleans(),
        "detail": st.dictionaries(texts, values, max_size=3),
    }
)


def parse(body: bytes) -> Batch | Problem:
    """Return the batch, or the problem that refused it; anything else that is raised fails the test."""
    try:
        return parse_batch(body, NOW, max_records=50, max_record_bytes=10_000)
    except Problem as problem:
        return problem


def envelope(items: list[Any]) -> bytes:
    return json.dumps(
        {"schema": "records/1", "service": "chat", "instance": "i", "sent_at": "2026-01-01T12:00:00Z", "records": items}
    ).encode()


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_problem_and_nothing_else(body: bytes) -> None:
    refused = parse(body)

    assert isinstance(refused, Problem)
    assert refused.status in (400, 422)


@given(values)
def test_arbitrary_json_is_a_problem_and_nothing_else(value: Any) -> None:
    refused = parse(json.dumps(value).encode())

    assert isinstance(refused, Problem)
    assert refused.status in (400, 422)


@given(st.lists(records | valid | values, max_size=8))
def test_each_record_is_either_kept_or_named_with_its_reason(items: list[Any]) -> None:
    batch = parse(envelope(items))
    if isinstance(batch, Problem):
        # NaN and infinity have no JSON: Python wrote them all the same.
        assert batch.status == 400
        assert any(word in json.dumps(items) for word in ("NaN", "Infinity"))
        return

    assert len(batch) + len(batch.rejected) == len(items)
    assert all(item.reason and 0 <= item.index < len(items) for item in batch.rejected)
    everything: list[Record] = [*batch.violations, *batch.amendments, *batch.runs, *batch.queues, *batch.unknown]
    for kept in everything:
        text = jsontext.dumps({name: str(value) if name == "time" else value for name, value in asdict(kept).items()})
        assert "\\u0000" not in text
        text.encode("utf-8")


@given(values)
def test_cleaning_keeps_the_shape_and_cleaning_again_changes_nothing(value: Any) -> None:
    try:
        cleaned = jsontext.clean(value)
    except jsontext.JsonError:
        return
    assert jsontext.clean(cleaned) == cleaned
    assert type(cleaned) is type(value)
    if isinstance(cleaned, float):
        assert math.isfinite(cleaned)


@given(st.dictionaries(texts, values, max_size=4))
def test_what_is_not_cleaned_needs_no_cleaning(value: dict[str, Any]) -> None:
    """Most records come by a short way round the cleaning; it may only be taken where cleaning would change nothing."""
    encoded = json.dumps(value).encode()
    if not jsontext.is_plain(encoded) or any(word in encoded for word in (b"NaN", b"Infinity")):
        return
    try:
        cleaned = jsontext.clean(value)
    except jsontext.JsonError:
        assert not jsontext.fits(value)
    else:
        assert jsontext.fits(value)
        assert cleaned == value


blanks = st.text(st.sampled_from("ab .  "), max_size=6)
usual = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["violation", "violation", " violation", "run"]),
        "id": st.sampled_from(["v-1", "", "a b", "019b76da-a800-7000-8000-000000000000"]),
        "time": st.sampled_from(
            [
                *("2026-01-01T11:59:59.900Z", "2026-01-01T11:59:59+00:00", "2026-01-01T11:59:59.9+02:00", "2026-01-01T11:59:59"),
                *("2026-01-01", "", "2026-01-02T12:00:00.001Z", "20260101T120000Z", "2026-01-01T11:59:59." + "0" * 30 + "Z"),
                *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", "2026-01-01T11:59:59-00:00", "2026-01-01 11:59:59Z"),
            ]
        ),
        "kind": blanks | st.just("instance_reuse"),
        "grade": st.sampled_from(["crossed", "hygiene", "novel"]),
        "detector": blanks,
        "synthetic": st.booleans(),
    },
    optional={
        "summary": blanks | st.just("b  " * 700),
        "count": st.sampled_from([1, 0, 10**10, 2**70, 1.5]),
        "victim": st.sampled_from([None, {}, {"principal": "p", "route": "/ws", "n": 2**64}, {"stack": ["a" * 1001]}, [[]]]),
        "detail": st.recursive(st.integers(0, 3), lambda inner: st.dictionaries(st.just("a"), inner, max_size=1), max_leaves=20),
        "outcome": blanks,
        "reason": blanks,
        "novelty": st.none() | st.just([]),
    },
)


@given(usual)
def test_the_short_way_to_a_violation_says_what_the_long_one_says(record: dict[str, Any]) -> None:
    """Most records are read by it: it may only be taken where the other would keep them as they came."""

    def read(is_plain: bool) -> Record | str:
        try:
            return parse_record(record, is_plain, NOW + timedelta(days=1))
        except ValueError as error:
            return str(error)

    assert read(True) == read(False)


amendments = st.lists(
    st.builds(
        Amendment,
        id=st.just("a"),
        time=st.datetimes(timezones=st.just(UTC)),
        type=st.sampled_from(["escalation", "retraction"]),
        violation_id=st.just("v"),
        grade=st.sampled_from(["crossed", "reachable", "hygiene"]),
        reason=st.just(""),
        extra=st.just({}),
    ),
    max_size=5,
)


@given(st.sampled_from(["crossed", "reachable", "hygiene"]), amendments, st.randoms(use_true_random=False))
def test_the_order_of_later_records_never_matters(grade: str, later: list[Amendment], random: Any) -> None:
    shuffled = list(later)
    random.shuffle(shuffled)

    assert amended(grade, later) == amended(grade, shuffled)
