"""Acknowledged means durable: a real collector is killed without warning while it is fed; nothing it answered for is lost."""

from __future__ import annotations

import http.client
import itertools
import json
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.collector.retention.domain import Policy
from tests.real_parts.collector import Collector, collector
from tests.real_parts.killing import NOW, body
from tests.real_parts.processes import PATIENCE_S, eventually, free_port

BATCH = 20


def batch(ids: list[str]) -> bytes:
    records = [
        {
            "type": "violation", "id": record_id, "time": NOW, "kind": "instance_reuse", "grade": "reachable",
            "detector": "instance_reuse", "arm": "none", "synthetic": False, "summary": "s", "fingerprint": "f", "count": 1, "detail": {},
        }
        for record_id in ids
    ]  # fmt: skip
    return json.dumps({"schema": "records/1", "service": "chat", "instance": "i", "sent_at": NOW, "records": records}).encode()


def feed(running: Collector, numbers: Iterator[int], acknowledged: list[str], stop: threading.Event) -> None:
    """Send batches until the collector is gone; note the ids of each batch that was answered 200."""
    while not stop.is_set():
        start = next(numbers)
        ids = [f"r-{start}-{n}" for n in range(BATCH)]
        headers = running.sending | {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{running.url}/v1/records", batch(ids), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                if json.load(answer)["accepted"] == BATCH:
                    acknowledged.extend(ids)
        except urllib.error.HTTPError as error:
            # Refused. The answer holds its connection until it is closed.
            error.close()
        except (http.client.HTTPException, OSError, ValueError):
            # Reset or cut off: not acknowledged, so nothing is promised.
            if running.process.poll() is not None:
                return


def kill_while_feeding(folder: Path, numbers: Iterator[int], batches: int) -> list[str]:
    """Feed a collector from four senders, kill it after `batches` acknowledged ones, and return what it acknowledged."""
    acknowledged: list[str] = []
    stop = threading.Event()
    with collector(folder, port=free_port()) as running, ThreadPoolExecutor(4) as pool:
        senders = [pool.submit(feed, running, numbers, acknowledged, stop) for _ in range(4)]
        try:
            eventually(lambda: len(acknowledged) >= batches * BATCH, "records are acknowledged")
            running.process.kill()
            running.process.wait()
        finally:
            stop.set()
        for sender in senders:
            sender.result()
    return acknowledged


def stored(folder: Path) -> set[str]:
    with collector(folder) as running:
        ids: set[str] = set()
        cursor = ""
        while True:
            request = urllib.request.Request(f"{running.url}/v1/violations?limit=1000&cursor={cursor}", headers=running.reading)
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                page: dict[str, Any] = json.load(answer)
            ids |= {item["id"] for item in page["items"]}
            cursor = page["next_cursor"]
            if cursor is None:
                return ids


def is_intact(folder: Path) -> bool:
    database = sqlite3.connect(folder / "collector.sqlite3")
    try:
        return bool(database.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    finally:
        database.close()


@pytest.mark.parametrize("sent", [batch(["r-1"]), body("sqlite", 0, 1)])
def test_what_is_sent_to_be_counted_is_young_enough_to_be_kept(sent: bytes) -> None:
    """A collector forgets old records when it starts, and here it starts again after each kill."""
    (record,) = json.loads(sent)["records"]

    assert datetime.fromisoformat(record["time"]).date() > Policy().first_kept(datetime.now(UTC))


def test_what_was_acknowledged_is_there_after_kill_9(tmp_path: Path) -> None:
    acknowledged = kill_while_feeding(tmp_path, itertools.count(), batches=20)

    found = stored(tmp_path)

    assert set(acknowledged) <= found
    # Batches are stored whole or not at all, also the ones that were never answered.
    assert len(found) % BATCH == 0
    assert is_intact(tmp_path)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_in_ten_kills(tmp_path: Path) -> None:
    numbers, acknowledged = itertools.count(), list[str]()

    for round_number in range(10):
        acknowledged += kill_while_feeding(tmp_path, numbers, batches=5 + round_number % 7)

    found = stored(tmp_path)
    assert len(acknowledged) > 1000
    assert set(acknowledged) <= found
    assert is_intact(tmp_path)


def test_a_record_is_readable_well_within_a_second_of_being_sent(tmp_path: Path) -> None:
    """Order, not speed, is asserted: the answer comes after the commit, so the very next read finds the record."""
    with collector(tmp_path) as running:
        for n in range(20):
            request = urllib.request.Request(
                f"{running.url}/v1/records", batch([f"r-{n}"]), running.sending | {"Content-Type": "application/json"}, method="POST"
            )
            urllib.request.urlopen(request, timeout=PATIENCE_S).close()
            check = urllib.request.Request(f"{running.url}/v1/violations/r-{n}", headers=running.reading)
            urllib.request.urlopen(check, timeout=PATIENCE_S).close()


def test_a_collector_that_is_asked_to_stop_stops(tmp_path: Path) -> None:
    with collector(tmp_path) as running:
        running.process.terminate()
        started = time.monotonic()

        running.process.wait(PATIENCE_S)

        assert time.monotonic() - started < PATIENCE_S
