"""The outbox against a real HTTP server that is up, down, slow, refusing and broken."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest

from isolation_monitor.telemetry.records.outbox import Outbox
from isolation_monitor.telemetry.records.sender import Patience
from tests.telemetry.records.receiving import until


def outbox(url: str | None, counts: Counter[str], limit: int = 1000) -> Outbox:
    return Outbox("tests", url, "token", limit, lambda what, n: counts.update({what: n}), patience=Patience(refused_s=0.5))


def test_records_arrive_in_order_and_are_counted(collector) -> None:
    counts: Counter[str] = Counter()
    box = outbox(collector.url, counts)

    for n in range(500):
        box.put({"id": n, "text": "x" * 50})
    until(lambda: len(collector.stored) == 500, "all records arrive")
    box.close()

    assert [r["id"] for r in collector.stored] == list(range(500))
    assert counts["queued"] == counts["sent"] == 500


@pytest.mark.parametrize("status", [500, 503, 429, 401, 302])
def test_what_was_refused_for_now_is_sent_again_and_lost_nowhere(collector, status) -> None:
    counts: Counter[str] = Counter()
    collector.status = status
    box = outbox(collector.url, counts)

    box.put({"id": 1})
    until(lambda: counts["failed"], "an attempt fails")
    collector.status = 200
    until(lambda: collector.stored, "the record arrives after all")
    box.close()

    assert [r["id"] for r in collector.stored] == [1]


def test_a_kept_connection_that_the_collector_closed_is_no_failure(collector) -> None:
    """Servers close idle connections after seconds; the next record must not wait for a retry because of it."""
    counts: Counter[str] = Counter()
    collector.close_after_answer = True
    box = outbox(collector.url, counts)

    for n in range(3):
        box.put({"id": n})
        until(lambda n=n: len(collector.stored) == n + 1, "the record arrives")
    box.close()

    assert counts["failed"] == 0


def test_a_final_refusal_is_counted_and_not_tried_again(collector) -> None:
    counts: Counter[str] = Counter()
    collector.status = 422
    box = outbox(collector.url, counts)

    box.put({"id": 1})
    until(lambda: counts["rejected"], "the refusal is counted")
    box.close()

    assert collector.attempts == 1


def test_a_collector_that_is_down_fills_the_queue_to_its_limit_and_no_further() -> None:
    counts: Counter[str] = Counter()
    box = outbox("http://127.0.0.1:1", counts, limit=10)

    for n in range(100):
        box.put({"id": n})

    assert len(box) <= 10
    assert counts["queue_full"] >= 90
    box.close(flush_s=0.1)
    until(lambda: counts["shutdown"] + counts["queue_full"] >= 90, "what is left at the end is counted")


def test_putting_never_waits_for_a_slow_collector(collector) -> None:
    counts: Counter[str] = Counter()
    collector.may_answer.clear()
    box = outbox(collector.url, counts)

    box.put({"id": 0})
    until(lambda: collector.attempts, "a request is under way")
    for n in range(1, 200):
        box.put({"id": n})

    assert not collector.stored, "all were put while the first request was still unanswered"
    collector.may_answer.set()
    until(lambda: len(collector.stored) == 200, "all arrive")
    box.close()


def test_a_record_that_json_cannot_carry_does_not_end_the_sender(collector) -> None:
    counts: Counter[str] = Counter()
    box = outbox(collector.url, counts)

    box.put({"id": 1, "odd": object()})
    box.put({"id": 2})
    until(lambda: len(collector.stored) == 2, "both arrive, the odd value as text")
    box.close()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_know_costs_no_other_record(collector, number) -> None:
    """A collector refuses the whole body for it, and with it up to 200 sound records."""
    counts: Counter[str] = Counter()
    box = outbox(collector.url, counts)

    box.put({"id": 1, "detail": {"ratio": number}})
    box.put({"id": 2})
    until(lambda: collector.stored, "the other one arrives")
    box.close()

    assert [record["id"] for record in collector.stored] == [2]
    assert +counts == {"queued": 2, "rejected": 1, "sent": 1}


def test_nobody_waits_for_an_outbox_that_has_ended(collector) -> None:
    box = outbox(collector.url, Counter())
    box.put({"id": 1})
    box.close()
    began = time.monotonic()

    box.sync(60)

    assert time.monotonic() - began < 30


async def test_the_last_wait_for_the_disk_does_not_hold_the_event_loop(make_monitor, monkeypatch) -> None:
    monitor = make_monitor()
    waited_on = []
    monkeypatch.setattr(monitor.outbox, "sync", lambda timeout_s: waited_on.append(threading.current_thread()))

    async def application(scope: Any, receive: Any, send: Any) -> None:
        return

    await monitor.instrument(application)({"type": "lifespan"}, None, None)

    assert len(waited_on) == 1
    assert threading.current_thread() not in waited_on


def test_a_sender_for_which_there_was_no_thread_starts_later(collector, monkeypatch) -> None:
    """Until then the writer goes on, one and the same: a process at its limit of threads is not asked for more with each record."""
    real, asked = threading.Thread.start, Counter[str]()

    def start(thread: threading.Thread) -> None:
        asked[thread.name] += 1
        if thread.name == "isolation-monitor-sender":
            raise RuntimeError("can't start new thread")
        real(thread)

    box = outbox(collector.url, Counter())
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        for n in range(20):
            box.put({"id": n})
        until(lambda: asked["isolation-monitor-sender"], "it is tried")

    box.put({"id": 20})

    until(lambda: len(collector.stored) == 21, "all arrive")
    box.close()
    assert asked["isolation-monitor-outbox"] == 1


def test_without_a_collector_nothing_is_queued() -> None:
    counts: Counter[str] = Counter()
    box = outbox(None, counts)

    box.put({"id": 1})

    assert len(box) == 0
    assert not counts


def test_a_statement_goes_with_the_next_batch_and_counts_as_no_record(collector) -> None:
    counts: Counter[str] = Counter()
    box = outbox(collector.url, counts)

    box.put({"id": 1})
    box.tell({"id": "how things stand"})
    until(lambda: len(collector.stored) == 2, "both arrive")
    box.tell({"id": "how they stand now"})
    until(lambda: len(collector.stored) == 3, "a statement needs no record to be sent")
    box.close()

    assert counts == {"queued": 1, "sent": 1}


def test_of_statements_only_the_newest_waits(collector) -> None:
    counts: Counter[str] = Counter()
    collector.delay_s = 0.2
    box = outbox(collector.url, counts)
    box.put({"id": 0})
    until(lambda: collector.attempts, "a request is under way")

    for n in range(1, 500):
        box.tell({"id": n})
    until(lambda: len(collector.stored) == 2, "one of them arrives")
    box.close()

    assert [r["id"] for r in collector.stored] == [0, 499]
    assert len(box) == 0


@pytest.mark.parametrize("status", [503, 422])
def test_statements_that_do_not_get_through_take_no_room_and_no_time_from_records(collector, status) -> None:
    """The collector is away for long; when it is back, a violation must not wait for pauses that only statements caused."""
    counts: Counter[str] = Counter()
    collector.status = status
    box = outbox(collector.url, counts, limit=1)
    for n in range(12):
        before = collector.attempts
        box.tell({"id": n})
        until(lambda before=before: collector.attempts > before, "it is tried at once")

    assert len(box) == 0
    collector.status = 200
    box.put({"id": "violation"})
    until(lambda: {"id": "violation"} in collector.stored, "the record arrives")
    box.close()

    # Twelve pauses would have grown to a minute: the test's deadline holds that against it.
    assert +counts == {"queued": 1, "sent": 1}


def test_nothing_is_told_without_a_collector_or_after_the_end(collector) -> None:
    counts: Counter[str] = Counter()
    silent, box = outbox(None, counts), outbox(collector.url, counts)

    silent.tell({"id": 1})
    box.put({"id": 2})
    box.close()
    box.tell({"id": 3})

    assert silent._writer is None
    assert [r["id"] for r in collector.stored] == [2]
