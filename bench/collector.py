"""`python -m bench.collector`: how many durable records a second a collector takes, how long senders wait, what it holds.

A collector in a process of its own, on a store that syncs each commit, fed over HTTP with batches of 100 violation records
from this process. Capacity is a closed loop: each of 16 connections sends its next batch when the last one is answered.
Latency is an open loop at the promised rate: batches are due at fixed times, and their time counts from then, also while
they wait for a connection. Overload is ten times that rate; what is refused with 503 is not sent again. Afterwards the
store is asked: fewer rows than were acknowledged end the benchmark. The load comes from the same cores. Writes
build/bench/collector.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import itertools
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.rows import Row, report, write
from bench.shown import console_for_people, ending, table
from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.storage.schema import migrate
from tests.real_parts.collector import collector
from tests.real_parts.postgres import postgres
from tests.real_parts.processes import free_port, running

ROOT: Final = Path(__file__).resolve().parent.parent
OUTPUT: Final = ROOT / "build" / "bench" / "collector.json"
BATCH: Final = 100
CONNECTIONS: Final = 16
OVERLOAD_CONNECTIONS: Final = 512
"""More than fit into what may be under way, so that some are refused."""
LIMIT_S: Final = 30.0
RSS_MIB: Final = 256.0


@dataclass(frozen=True, slots=True)
class Promise:
    """Durable records a second, and the 99th percentile of what a sender waits at that rate."""

    records_per_s: float
    p99_ms: float


PROMISES: Final = {"sqlite": Promise(10_000, 250.0), "postgresql": Promise(15_000, 100.0)}


def record(record_id: str, time: str) -> dict[str, object]:
    """Return a violation record of about 450 bytes."""
    return {
        "type": "violation", "id": record_id, "time": time, "kind": "instance_reuse", "grade": "reachable",
        "detector": "instance_reuse", "arm": "on", "synthetic": True, "summary": "agent: one instance was given to two requests",
        "fingerprint": "9f2c000000000000", "count": 1, "resource": {"type": "instance", "name": "agent"},
        "victim": {"principal": "a1b2c3d4e5f60718", "route": "/ws"}, "offender": {"principal": "18070f6e5d4c3b2a", "route": "/ws"},
        "detail": {},
    }  # fmt: skip


class Batches:
    """Requests that were written out before, but for the ids of their records, which are UUIDv7 of now, a millisecond each.

    Of now as in life: old ones would be kept where no day is, and fall into hours that are over.
    """

    def __init__(self, token: str) -> None:
        mark = "@" * 36
        now = datetime.now(UTC)
        one = record(mark, rfc3339(now))
        head = {"schema": "records/1", "service": "chat", "instance": "host:1:1", "sent_at": rfc3339(now)}
        body = json.dumps(head | {"records": [one] * BATCH}, separators=(",", ":")).encode()
        self.record_bytes = len(json.dumps(one, separators=(",", ":")))
        lines = [
            "POST /v1/records HTTP/1.1", "Host: collector", f"Authorization: Bearer {token}",
            "Content-Type: application/json", f"Content-Length: {len(body)}", "", "",
        ]  # fmt: skip
        self._parts = ("\r\n".join(lines).encode() + body).split(mark.encode())
        self._run = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._first_ms = int(now.timestamp() * 1_000)

    def next(self) -> bytes:
        first = self._first_ms + next(self._numbers) * BATCH
        ids = [b"%08x-%04x-7000-8000-" % (ms >> 16, ms & 0xFFFF) + self._run.encode() for ms in range(first, first + BATCH)]
        return b"".join(itertools.chain.from_iterable(zip(self._parts, [*ids, b""], strict=True)))


@dataclass(slots=True)
class Told:
    """What the senders heard: answers by status, and seconds from when each batch was due."""

    statuses: Counter[int] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def records_per_s(self) -> float:
        return self.statuses[200] * BATCH / self.took_s

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.waits_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connection:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> int:
        """Return the status of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            lower = head.lower()
            length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, EOFError):
            # Answered before all of it was read, and closed.
            self.close()
            return 0
        if b"connection: close" in lower:
            self.close()
        return int(head[9:12])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(port: int, request: Callable[[], bytes], seconds: float) -> Told:
    """Send on 16 connections, each as fast as it is answered."""
    told, began = Told(), time.perf_counter()

    async def feed() -> None:
        connection = Connection(port)
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            told.statuses[await connection.send(request())] += 1
            told.waits_s.append(time.perf_counter() - start)
        connection.close()

    await asyncio.gather(*(feed() for _ in range(CONNECTIONS)))
    told.took_s = time.perf_counter() - began
    return told


async def open_loop(port: int, request: Callable[[], bytes], records_per_s: float, seconds: float, connections: int) -> Told:
    """Send batches when they are due, `connections` at once; the time of each counts from when it was due."""
    told, began = Told(), time.perf_counter()
    due = iter([number * BATCH / records_per_s for number in range(int(seconds * records_per_s / BATCH))])

    async def feed() -> None:
        connection = Connection(port)
        for at in due:
            if (early := began + at - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            elif early < -seconds:
                # So late that the rate cannot be offered from here.
                break
            told.statuses[await connection.send(request())] += 1
            told.waits_s.append(time.perf_counter() - began - at)
        connection.close()

    await asyncio.gather(*(feed() for _ in range(connections)))
    told.took_s = time.perf_counter() - began
    return told


def processor_s(process: subprocess.Popen[bytes]) -> float:
    """Return the processor time that a process has used: what neighbours take of the machine does not add to it."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_rss_mib(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


@contextlib.contextmanager
def store(kind: str, folder: Path) -> Iterator[str]:
    """Give the address of an empty, migrated database that syncs what it commits."""
    if kind == "sqlite":
        url = f"sqlite+aiosqlite:///{folder / 'collector.sqlite3'}"
        asyncio.run(migrate(url))
        yield url
        return
    with postgres(fsync=True) as cluster:
        url = cluster.create("bench")
        asyncio.run(migrate(url))
        yield url


def ingest(kind: str, seconds: float) -> list[Row]:
    """Return the rows of one store."""
    promise = PROMISES[kind]
    with (
        tempfile.TemporaryDirectory() as folder,
        store(kind, Path(folder)) as url,
        collector(Path(folder), database_url=url, migrated=False) as one,
    ):
        port, batches = int(one.url.rpartition(":")[2]), Batches(one.send_token)
        asyncio.run(closed_loop(port, batches.next, min(2.0, seconds)))
        before_s = processor_s(one.process)
        most = asyncio.run(closed_loop(port, batches.next, seconds))
        used_us = 1e6 * (processor_s(one.process) - before_s) / (most.statuses[200] * BATCH)
        at_rate = asyncio.run(open_loop(port, batches.next, promise.records_per_s, seconds, 64))
        calm = peak_rss_mib(one.process)
        over = asyncio.run(open_loop(port, batches.next, 10 * promise.records_per_s, seconds, OVERLOAD_CONNECTIONS))
        after = asyncio.run(closed_loop(port, batches.next, min(2.0, seconds)))
        rss = peak_rss_mib(one.process)
        _all_stored(url, sum(told.statuses[200] for told in (most, at_rate, over, after)) * BATCH)
    size = f"batches of {BATCH}, {batches.record_bytes} B a record"
    offered = sum(over.statuses.values()) * BATCH / over.took_s
    return [
        Row(
            f"{kind} ingest",
            most.records_per_s,
            "records/s",
            promise.records_per_s,
            "higher",
            note=f"{size}; p99 {most.percentile_ms(0.99):.0f} ms",
        ),
        Row(
            f"{kind} ingest, p99 at {promise.records_per_s:,.0f}/s", at_rate.percentile_ms(0.99), "ms", promise.p99_ms, note=_heard(at_rate)
        ),
        Row(f"{kind} ingest, median at {promise.records_per_s:,.0f}/s", at_rate.percentile_ms(0.5), "ms"),
        Row(f"{kind} ingest, processor time of the collector", used_us, "us/record"),
        Row(f"{kind} rss at overload", rss, "MiB", RSS_MIB, note=f"{offered:,.0f}/s offered; {_heard(over)}; before {calm:.0f} MiB"),
        Row(f"{kind} ingest at overload", over.records_per_s, "records/s"),
    ]


def _heard(told: Told) -> str:
    return ", ".join(f"{number} x {status or 'cut off'}" for status, number in sorted(told.statuses.items()))


def _all_stored(url: str, acknowledged: int) -> None:
    """Raise AssertionError when the store holds fewer records than were acknowledged."""
    from sqlalchemy import func, select

    from isolation_monitor.collector.storage.database import Database
    from isolation_monitor.collector.storage.models import ViolationRow

    async def count() -> int:
        database = Database(url, 60.0)
        try:
            async with database.reading() as connection:
                return int((await connection.execute(select(func.count()).select_from(ViolationRow))).scalar_one())
        finally:
            await database.close()

    found = asyncio.run(count())
    if found < acknowledged:
        raise AssertionError(f"{acknowledged} records were acknowledged, {found} are stored")


_NO_OP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})
"""


def ceiling(seconds: float) -> list[Row]:
    """Return what a server takes that reads the same bodies and does nothing with them."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "no_op.py").write_text(_NO_OP)
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "no_op:app", "--app-dir", folder, "--host", "127.0.0.1", "--port", str(port)]
        with running(
            [*command, "--log-level", "warning", "--no-access-log", "--lifespan", "off"], Path(folder) / "log", f"http://127.0.0.1:{port}/"
        ):
            told = asyncio.run(closed_loop(port, Batches("none").next, seconds))
    return [
        Row("no-op ceiling", told.records_per_s, "records/s", better="higher", note="a server that reads the bodies and stores nothing")
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.collector", description="How many durable records a second a collector takes.")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement (default: 10)")
    parser.add_argument("--stores", nargs="+", choices=tuple(PROMISES), default=list(PROMISES), help="default: both")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the JSON goes (default: build/bench/collector.json)")
    parser.add_argument("--queries", action=argparse.BooleanOptionalAction, default=True, help="measure queries on many records, too")
    chosen = parser.parse_args(arguments)
    console = console_for_people()
    found = ceiling(min(3.0, chosen.seconds))
    for kind in chosen.stores:
        found += ingest(kind, chosen.seconds)
    if chosen.queries and importlib.util.find_spec("bench.collector_queries"):
        found += importlib.import_module("bench.collector_queries").rows()
    content = report("collector", found)
    write(chosen.output, content)
    console.print(table("collector", found))
    console.print(ending(found, chosen.output))
    return 0 if content["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
