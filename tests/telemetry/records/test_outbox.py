"""The outbox against a real HTTP server that is up, down, slow, refusing and broken."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from isolation_monitor.telemetry.records.outbox import Outbox


class Collector(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.status = 200
        self.delay_s = 0.0
        self.attempts = 0
        self.close_after_answer = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.attempts += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                time.sleep(server.delay_s)
                if server.status == 200:
                    server.stored += json.loads(body)["records"]
                answer = b'{"rejected": []}'
                self.send_response(server.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                # Without saying so in a header: as an idle timeout does.
                self.close_connection = server.close_after_answer

            def log_message(self, format: str, *args: Any) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    yield server
    server.shutdown()
    server.server_close()


def until(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def outbox(url: str | None, counts: Counter[str], limit: int = 1000) -> Outbox:
    return Outbox("tests", url, "token", limit, lambda what, n: counts.update({what: n}))


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
    collector.delay_s = 0.2
    box = outbox(collector.url, counts)

    box.put({"id": 0})
    until(lambda: collector.attempts, "a request is under way")
    for n in range(1, 200):
        box.put({"id": n})

    assert not collector.stored, "all were put while the first request was still unanswered"
    until(lambda: len(collector.stored) == 200, "all arrive")
    box.close()


def test_a_record_that_json_cannot_carry_does_not_end_the_sender(collector) -> None:
    counts: Counter[str] = Counter()
    box = outbox(collector.url, counts)

    box.put({"id": 1, "odd": object()})
    box.put({"id": 2})
    until(lambda: len(collector.stored) == 2, "both arrive, the odd value as text")
    box.close()


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

    assert silent._thread is None
    assert [r["id"] for r in collector.stored] == [2]
