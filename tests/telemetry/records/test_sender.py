"""What each answer of the collector does to the records that wait on disk: a real HTTP server, real files."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.telemetry.records.outbox import Outbox
from isolation_monitor.telemetry.records.sender import LONGEST_RETRY_AFTER_S, Patience, _retry_after_s
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder
from tests.telemetry.records.receiving import Collector, held, until

QUICK = Patience(first_s=0.02, longest_s=0.1, refused_s=0.05)


@pytest.fixture
def counts() -> Counter[str]:
    return Counter()


@pytest.fixture
def make(tmp_path: Path, counts: Counter[str]) -> Iterator[Callable[..., Outbox]]:
    made: list[Outbox] = []

    def open(url: str, *, patience: Patience = QUICK, sync_from: int | None = None, limit: int = 1000) -> Outbox:
        folder = SpoolFolder(str(tmp_path / "spool"), "chat")
        count = lambda what, n: counts.update({what: n})  # noqa: E731
        made.append(Outbox("chat", url, "token", limit, count, folder=folder, patience=patience, sync_from=sync_from))
        return made[-1]

    yield open
    for one in made:
        one.close(flush_s=0.5)


def violation(id: object, grade: str = "crossed") -> dict[str, Any]:
    return {"type": "violation", "id": id, "grade": grade}


def ids(collector: Collector) -> list[Any]:
    return [record["id"] for record in collector.stored]


def letters(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "spool" / "chat" / "dead-letters.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_an_outage_loses_nothing_and_outlives_the_process(make, collector, counts) -> None:
    before = make("http://127.0.0.1:1")
    for n in range(700):
        before.put(violation(n))
    assert before.sync(30)
    before.close(flush_s=0.2)
    assert counts["shutdown"] == 0

    make(collector.url).start()

    until(lambda: len(collector.stored) == 700, "the next process sends what waited")
    assert ids(collector) == list(range(700))
    until(lambda: counts["sent"] == 700, "all are acknowledged")


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503])
def test_what_is_not_final_is_tried_until_it_is_taken(make, collector, counts, status) -> None:
    collector.status = status
    box = make(collector.url)
    box.put(violation(1))
    until(lambda: collector.attempts > 3, "it is tried again and again")

    collector.status = 200
    until(lambda: collector.stored, "the record arrives")

    until(lambda: len(box) == 0, "it is forgotten")
    assert counts["sent"] == 1
    assert counts["rejected"] == 0


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_is_refused_for_good_is_a_dead_letter(make, collector, counts, tmp_path, status) -> None:
    collector.status = status
    collector.answer = lambda records: b'{"detail": "no such schema"}'
    box = make(collector.url)

    box.put(violation(1))
    until(lambda: counts["rejected"], "it is counted")
    until(lambda: len(box) == 0, "it is forgotten")

    (letter,) = letters(tmp_path)
    assert (letter["status"], letter["records"]) == (status, [violation(1)])
    assert "no such schema" in letter["reason"]
    assert (tmp_path / "spool" / "chat" / "dead-letters.jsonl").stat().st_mode & 0o077 == 0


def test_of_a_batch_only_the_records_that_were_named_are_dead_letters(make, collector, counts, tmp_path) -> None:
    def answer(records: list[dict[str, Any]]) -> bytes:
        bad = [{"index": n, "reason": "time is no time"} for n, record in enumerate(records) if record["id"] == 2]
        return json.dumps({"rejected": bad}).encode()

    collector.answer = answer
    box = make(collector.url)
    for n in range(4):
        box.put(violation(n))
    until(lambda: counts["sent"] == 4 and len(box) == 0, "all are answered for")

    assert counts["rejected"] == 1
    assert [record["id"] for letter in letters(tmp_path) for record in letter["records"]] == [2]


def test_a_batch_that_is_too_large_goes_in_halves(make, collector, counts) -> None:
    """A proxy in front of the collector takes less than we send."""
    collector.limit = 10
    box = make(collector.url)
    for n in range(64):
        box.put(violation(n))

    until(lambda: len(collector.stored) == 64, "all arrive")

    assert sorted(ids(collector)) == list(range(64))
    assert counts["rejected"] == 0


def test_one_record_that_the_collector_refuses_costs_no_others(make, collector, counts, tmp_path) -> None:
    collector.refuses = 13
    box = make(collector.url)
    for n in range(64):
        box.put(violation(n))

    until(lambda: len(collector.stored) == 63, "all others arrive")

    until(lambda: len(box) == 0, "the bad one is given up")
    assert counts["rejected"] == 1
    assert [record["id"] for letter in letters(tmp_path) for record in letter["records"]] == [13]


def test_retry_after_is_honoured(make, collector) -> None:
    collector.status = 503
    collector.headers = {"Retry-After": "1"}
    box = make(collector.url)
    box.put(violation(1))
    until(lambda: collector.answered == 1, "it is tried")
    first = time.monotonic()

    collector.status = 200
    until(lambda: collector.stored, "the record arrives")

    # Without the header it would be 0.02 s; only waiting too little is wrong on a busy machine.
    assert time.monotonic() - first > 0.9


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 0), ("7", 7), ("99999999", LONGEST_RETRY_AFTER_S), ("-3", 0), ("soon", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("²", 0)],
)
def test_retry_after_is_read_as_number_or_date(value, seconds) -> None:
    assert _retry_after_s(value) == seconds


@pytest.mark.parametrize("answer", [b"<html>sign in to the network</html>", b"[]", b'{"ok": true}', b'{"rejected": 1}'])
def test_an_answer_that_is_not_the_collectors_is_no_acknowledgement(make, collector, counts, answer) -> None:
    collector.answer = lambda records: answer
    box = make(collector.url)
    box.put(violation(1))
    until(lambda: counts["failed"] > 1, "it is tried again")
    assert len(box) == 1

    collector.answer = lambda records: b'{"rejected": []}'

    until(lambda: counts["sent"] == 1, "it is acknowledged")


def test_a_batch_that_the_collector_chokes_on_does_not_hold_up_the_others(make, collector, counts) -> None:
    collector.chokes_on = "bad"
    box = make(collector.url)
    box.put(violation("bad"))
    assert box.sync(30)
    for n in range(3):
        box.put(violation(n))
        assert box.sync(30)

    until(lambda: len(collector.stored) >= 3, "the others arrive")

    assert sorted(ids(collector)) == [0, 1, 2]
    collector.chokes_on = None
    until(lambda: "bad" in ids(collector), "and the bad one when the collector is mended")


def test_what_crossed_arrives_before_what_is_only_untidy(make, collector) -> None:
    collector.status = 503
    box = make(collector.url)
    box.put(violation("hygiene", "hygiene"))
    box.put({"type": "run", "id": "run"})
    box.put({"type": "retraction", "id": "retraction", "grade": "hygiene"})
    box.put(violation("planted") | {"synthetic": True})
    box.put(violation("crossed"))
    assert box.sync(30)

    collector.status = 200

    until(lambda: len(collector.stored) == 5, "all arrive")
    assert ids(collector) == ["crossed", "hygiene", "retraction", "run", "planted"]


def test_grave_records_wait_for_the_disk_where_that_is_asked_for(make, collector, counts) -> None:
    box = make("http://127.0.0.1:1", sync_from=3)

    assert box.put(violation(1)) is True
    assert counts["spooled"] == 1
    assert box.put(violation(2, "reachable")) is False, "below the grade nothing waits"


def test_a_record_that_is_dropped_is_not_said_to_be_on_disk(make, tmp_path) -> None:
    box = make("http://127.0.0.1:1", sync_from=3)

    assert box.put(violation(1) | {"ratio": float("nan")}) is False, "nothing that JSON can carry"
    assert box.put(violation(2)) is True
    box.spool._rooms_bytes = (0, 0, 0, 0)
    assert box.put(violation(3)) is False, "no room"


async def test_an_event_loop_is_never_held_for_long(make, counts, tmp_path) -> None:
    """The disk hangs: the record stays in the queue, and the loop goes on after 50 ms."""
    box = make("http://127.0.0.1:1", sync_from=3)
    with held(box.spool):
        began = time.monotonic()
        assert box.put(violation(1)) is False
        stood_still = time.monotonic() - began
        assert 0.04 < stood_still < 1.5, "far below the two seconds that a thread waits"

    assert box.sync(30)
    assert counts["spooled"] == 1


def test_a_flood_of_runs_leaves_room_for_a_violation(make, counts, tmp_path) -> None:
    box = make("http://127.0.0.1:1", limit=100)
    with held(box.spool):
        for n in range(300):
            box.put({"type": "run", "id": n})
        for n in range(300):
            box.put(violation(n))
        assert counts["queue_full"] in range(499, 502), "one may be on its way into the writer's hand"

    assert box.sync(30)
    assert counts["spooled"] in range(99, 102)


def test_a_batch_too_large_that_the_disk_does_not_let_us_divide_is_no_dead_letter(make, collector, counts, monkeypatch) -> None:
    collector.limit = 10
    box = make(collector.url)
    real = box.spool.split
    monkeypatch.setattr(box.spool, "split", lambda store, batch: False)
    for n in range(30):
        box.put(violation(n))
    until(lambda: counts["failed"], "it is tried")

    monkeypatch.setattr(box.spool, "split", real)

    until(lambda: counts["sent"] == 30, "all arrive when the disk lets us again")
    assert counts["rejected"] == 0


def test_an_error_of_our_own_does_not_end_the_sending(make, collector, counts, monkeypatch) -> None:
    box = make(collector.url)
    real, errors = box.spool.next, []

    def broken(without: Any) -> Any:
        errors.append(1)
        raise RuntimeError("a defect")

    monkeypatch.setattr(box.spool, "next", broken)
    box.put(violation(1))
    until(lambda: len(errors) > 1, "it fails, more than once")

    monkeypatch.setattr(box.spool, "next", real)

    until(lambda: counts["sent"] == 1, "it goes on")
