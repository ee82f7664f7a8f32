"""The application's spool and a real collector, with a network between them that does its worst: nothing lost, nothing twice."""

from __future__ import annotations

import itertools
import json
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from isolation_monitor.telemetry.records.outbox import Outbox
from isolation_monitor.telemetry.records.sender import Patience
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder
from tests.real_parts.collector import Collector, collector
from tests.real_parts.fault_proxy import FAULTS, Fault, FaultProxy, fault_proxy
from tests.real_parts.killing import NOW
from tests.real_parts.processes import PATIENCE_S, eventually

RECORDS = 600
HURRY = Patience(first_s=0.05, longest_s=0.2, refused_s=0.2, timeout_s=1.0)
"""Short pauses; the timeout is what a black hole costs each time."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("collector")) as one:
        yield one


@pytest.fixture
def proxy(running: Collector) -> Iterator[FaultProxy]:
    with fault_proxy(urlsplit(running.url).port or 0) as one:
        yield one


def violation(id: str) -> dict[str, Any]:
    about = {"kind": "instance_reuse", "grade": "crossed", "detector": "instance_reuse", "arm": "none", "synthetic": False}
    text = {"summary": "s" * 400, "fingerprint": "f", "count": 1, "detail": {}}
    return {"type": "violation", "id": id, "time": NOW, **about, **text}


def stored(running: Collector, service: str) -> Counter[str]:
    """Return how often each id is among the violations of a service."""
    ids: Counter[str] = Counter()
    cursor = ""
    while cursor is not None:
        url = f"{running.url}/v1/violations?service={service}&limit=1000&cursor={cursor}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=running.reading), timeout=PATIENCE_S) as answer:
            page = json.load(answer)
        ids.update(item["id"] for item in page["items"])
        cursor = page["next_cursor"]
    return ids


def duplicates(running: Collector) -> float:
    request = urllib.request.Request(f"{running.url}/metrics", headers=running.reading)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        found = re.search(r'^isolation_collector_records_total\{.*"duplicate".*\} (\S+)$', answer.read().decode(), re.M)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_spooled_is_stored_once_whatever_the_network_does(running, proxy, tmp_path: Path, fault: Fault) -> None:
    """And nobody has to do anything for it: the network is well again, and the records are there."""
    counts: Counter[str] = Counter()
    before = duplicates(running)
    count = lambda what, n: counts.update({what: n})  # noqa: E731
    folder = SpoolFolder(str(tmp_path), fault)
    box = Outbox(fault, proxy.url, running.send_token, 10_000, count, folder=folder, patience=HURRY)
    proxy.fault = fault
    for n in range(RECORDS):
        box.put(violation(f"{fault}-{n}"))
    assert box.sync(PATIENCE_S)
    eventually(lambda: proxy.injected >= 3, f"{fault} happens again and again")
    if fault == "reset_before_answer":
        assert counts["sent"] == 0, "nobody heard of what was stored"

    proxy.fault = "none"

    eventually(lambda: len(box) == 0, "all of it is acknowledged")
    box.close()
    assert stored(running, fault) == Counter({f"{fault}-{n}": 1 for n in range(RECORDS)})
    assert counts["sent"] == counts["spooled"] == RECORDS
    assert +Counter({what: counts[what] for what in ("queue_full", "spool_full", "rejected", "shutdown")}) == Counter()
    if fault == "reset_before_answer":
        assert duplicates(running) > before, "the collector was given the same records again, and knew them"
    assert not list(folder.path.glob("*.spool"))


def test_faults_that_come_and_go_lose_nothing(running, proxy, tmp_path: Path) -> None:
    """Each fault in turn, while records go on coming; the process dies in the middle, and the next one takes over."""
    counts: Counter[str] = Counter()
    count = lambda what, n: counts.update({what: n})  # noqa: E731
    folder = SpoolFolder(str(tmp_path), "mixed")
    numbers = itertools.count()

    def open_box() -> Outbox:
        return Outbox("mixed", proxy.url, running.send_token, 10_000, count, folder=folder, patience=HURRY)

    box = open_box()
    for fault in (*FAULTS, *FAULTS):
        proxy.fault, before = fault, proxy.injected
        for _ in range(50):
            box.put(violation(f"m-{next(numbers)}"))
        assert box.sync(PATIENCE_S)
        eventually(lambda before=before: proxy.injected > before, f"{fault} happens")
        box.close(flush_s=0.0)
        box = open_box()
        box.start()

    proxy.fault = "none"

    eventually(lambda: len(stored(running, "mixed")) == 600, "all arrive")
    box.close()
    assert stored(running, "mixed") == Counter({f"m-{n}": 1 for n in range(600)})
