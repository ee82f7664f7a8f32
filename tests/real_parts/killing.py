"""Real programs that are killed without warning while records pass through them, and what each of them had promised.

Acknowledged means: the collector answered 200, or the application's spool said that it is on disk. Ids are `PHASE-NUMBER`,
so that what was promised is a list of ranges.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from isolation_monitor.telemetry.violations import iso_time
from tests.real_parts.collector import Collector, collector
from tests.real_parts.killable_postgres import Cluster
from tests.real_parts.processes import PATIENCE_S, eventually, free_port

BATCH: Final = 200
SENDERS: Final = 4
PROGRAMS: Final = Path(__file__).resolve().parent
ROOT: Final = PROGRAMS.parent.parent
NOW: Final = iso_time(time.time())
"""The time of all records of a run: the collector forgets old ones by itself, and a batch sent again has to be the same."""


@dataclass
class Outcome:
    """What one kind of killing came to. `promised` holds the numbers of records that were acknowledged."""

    name: str
    kills: int = 0
    promised: set[int] = field(default_factory=set)
    lost: int = 0
    twice: int = 0

    def judge(self, stored: list[str]) -> Outcome:
        """Compare with what is there in the end."""
        numbers = [int(id.rpartition("-")[2]) for id in stored if id.startswith(f"{self.name}-")]
        found = set(numbers)
        self.lost, self.twice = len(self.promised - found), len(numbers) - len(found)
        return self


def body(name: str, start: int, size: int = BATCH) -> bytes:
    """Return a batch of violations as the wire has it."""
    rest = (
        f'","time":"{NOW}","kind":"instance_reuse","grade":"reachable","detector":"instance_reuse","arm":"none",'
        '"synthetic":false,"summary":"s","fingerprint":"f","count":1,"detail":{}}'
    )
    records = ",".join(f'{{"type":"violation","id":"{name}-{n}{rest}' for n in range(start, start + size))
    head = f'{{"schema":"records/1","service":"{name}","instance":"i","sent_at":"{NOW}","records":['
    return f"{head}{records}]}}".encode()


def feed(url: str, token: str, outcome: Outcome, numbers: Iterator[int], stop: threading.Event) -> None:
    """Send batches until told to stop; note those that were answered 200."""
    address = urlsplit(url)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection: http.client.HTTPConnection | None = None
    while not stop.is_set():
        start = next(numbers)
        try:
            connection = connection or http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE_S)
            connection.request("POST", "/v1/records", body(outcome.name, start), headers)
            answer = connection.getresponse()
            reply = answer.read()
            if answer.status == 200 and not json.loads(reply)["rejected"]:
                outcome.promised.update(range(start, start + BATCH))
            else:
                stop.wait(0.05)
        except (OSError, http.client.HTTPException, ValueError):
            # Reset or cut off: nothing was promised.
            if connection is not None:
                connection.close()
            connection = None
            stop.wait(0.02)
    if connection is not None:
        connection.close()


@contextlib.contextmanager
def feeding(url: str, token: str, outcome: Outcome, numbers: Iterator[int]) -> Iterator[None]:
    """Feed from several senders until the block ends."""
    stop = threading.Event()
    with ThreadPoolExecutor(SENDERS) as pool:
        senders = [pool.submit(feed, url, token, outcome, numbers, stop) for _ in range(SENDERS)]
        try:
            yield
        finally:
            stop.set()
        for sender in senders:
            sender.result()


def stored(running: Collector, name: str) -> list[str]:
    """Return the ids of all violations of a service, as the collector shows them."""
    ids: list[str] = []
    cursor = ""
    while cursor is not None:
        page = _page(running, f"/v1/violations?service={name}&fields=id&limit=1000&cursor={cursor}")
        ids += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    return ids


def _page(running: Collector, path: str) -> dict[str, Any]:
    """Return an answer, asked again while the store has no time: everything that was left is being written at once."""
    until = time.monotonic() + 5 * PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(running.url + path, headers=running.reading), timeout=PATIENCE_S) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 503 or time.monotonic() > until:
                raise
            time.sleep(float(error.headers.get("Retry-After", 1)))


def numbers_of_batches() -> Iterator[int]:
    """Return the first number of each batch; safe for threads, as `next` on a count is one step."""
    return itertools.count(0, BATCH)


def more_than(outcome: Outcome, promised: int) -> Callable[[], bool]:
    return lambda: len(outcome.promised) >= promised


def kill_collectors(folder: Path, kills: int, per_kill: int, progress: Callable[[str], None]) -> Outcome:
    """Kill a collector on SQLite again and again while it is fed, and start it again on the same file."""
    outcome, numbers = Outcome("sqlite"), numbers_of_batches()
    for number in range(kills):
        goal = len(outcome.promised) + random.randint(per_kill // 2, per_kill * 3 // 2)
        with (
            collector(folder, port=free_port(), migrated=not number) as running,
            feeding(running.url, running.send_token, outcome, numbers),
        ):
            eventually(more_than(outcome, goal), "records are acknowledged")
            running.process.kill()
            running.process.wait()
        outcome.kills += 1
        progress(f"  collector killed {outcome.kills} times, {len(outcome.promised):,} records acknowledged")
    with collector(folder, migrated=False) as running:
        return outcome.judge(stored(running, outcome.name))


def kill_postgres(folder: Path, cluster: Cluster, kills: int, per_kill: int, progress: Callable[[str], None]) -> Outcome:
    """Kill PostgreSQL, all its processes, again and again while a collector writes to it; the collector itself lives through it."""
    outcome, numbers = Outcome("postgres"), numbers_of_batches()
    with collector(folder, database_url=cluster.create("killed")) as running:
        with feeding(running.url, running.send_token, outcome, numbers):
            for _ in range(kills):
                goal = len(outcome.promised) + random.randint(per_kill // 2, per_kill * 3 // 2)
                eventually(more_than(outcome, goal), "records are acknowledged")
                cluster.kill()
                outcome.kills += 1
                cluster.start()
                progress(f"  PostgreSQL killed {outcome.kills} times, {len(outcome.promised):,} records acknowledged")
        cluster.analyze()
        return outcome.judge(stored(running, outcome.name))


def kill_applications(
    folder: Path, kills: int, per_kill: int, progress: Callable[[str], None], *, early: bool = False, name: str = "application"
) -> Outcome:
    """Kill an application again and again while it finds and spools violations; the collector is away half of the time.

    `early`: the control. It says that a record is kept before it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcome, first = Outcome(name), 0
    with collector(folder / "collector") as running:
        nowhere = f"http://127.0.0.1:{free_port()}"
        for number in range(kills):
            url = nowhere if number % 2 else running.url
            with _application(folder, name, url, running.send_token, first, early) as process:
                goal = len(outcome.promised) + random.randint(per_kill // 2, per_kill * 3 // 2)
                first = _promises(process, outcome, lambda goal=goal: len(outcome.promised) >= goal)  # type: ignore[misc]
                time.sleep(random.uniform(0.0, 0.05))
                process.kill()
                first = max(first, _promises(process, outcome, lambda: False))
                process.wait()
            # Far enough behind what it had put without having heard of it.
            first += 100_000
            outcome.kills += 1
            progress(f"  application killed {outcome.kills} times, {len(outcome.promised):,} records spooled")
        # The next one finds nothing more, and sends what the others left.
        with _application(folder, name, running.url, running.send_token, -1, False) as process:
            assert process.wait(PATIENCE_S * 10) == 0
        return outcome.judge(stored(running, name))


@contextlib.contextmanager
def _application(folder: Path, name: str, url: str, token: str, first: int, early: bool) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(PROGRAMS / "spooling_program.py"), name, url, str(folder / "spool"), str(first), str(int(early))]
    environment = {**os.environ, "SPOOLING_TOKEN": token}
    with (folder / "application.log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _promises(process: subprocess.Popen[str], outcome: Outcome, enough: Callable[[], bool]) -> int:
    """Read promises, `first size` a line, until there are enough or the process ends; return the number after the last."""
    last = 0
    assert process.stdout is not None
    while not enough() and (line := process.stdout.readline()):
        if line.endswith("\n"):
            start, size = map(int, line.split())
            outcome.promised.update(range(start, start + size))
            last = start + size
    return last


def kill_early_collectors(folder: Path, kills: int, per_kill: int, progress: Callable[[str], None]) -> Outcome:
    """The control: something in front of the collector answers 200 at once and hands the batch on afterwards. It must lose."""
    outcome, numbers = Outcome("early"), numbers_of_batches()
    with collector(folder) as running:
        for _ in range(kills):
            port = free_port()
            command = [sys.executable, str(PROGRAMS / "early_collector.py"), str(port), running.url]
            process = subprocess.Popen(command)
            try:
                goal = len(outcome.promised) + per_kill
                with feeding(f"http://127.0.0.1:{port}", running.send_token, outcome, numbers):
                    eventually(more_than(outcome, goal), "records are acknowledged")
                    process.send_signal(signal.SIGKILL)
                    process.wait()
            finally:
                process.kill()
                process.wait()
            outcome.kills += 1
            progress(f"  early collector killed {outcome.kills} times, {len(outcome.promised):,} records acknowledged")
        return outcome.judge(stored(running, outcome.name))
