"""How fast the collector answers and forgets with 30 days of evidence: rows for `make bench-collector`.

    python -m bench.collector_queries --records 5000000 [--store sqlite] [--output build/bench/collector_queries.json]

The records are made inside the database, spread over 30 days, with the sides, details and indexes of real ones; the collector's own
services answer. Times are those of a warm cache: each question is asked often, of other users and times each time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text

from bench.rows import Row, report, write
from bench.shown import console_for_people, ending, table
from isolation_monitor.collector.evidence.domain import ViolationQuery
from isolation_monitor.collector.evidence.intake import Intake
from isolation_monitor.collector.evidence.rollup_service import RollupService
from isolation_monitor.collector.evidence.schemas import parse_batch
from isolation_monitor.collector.evidence.service import EvidenceService
from isolation_monitor.collector.evidence.writer import RecordWriter
from isolation_monitor.collector.incidents.service import IncidentService
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.retention.domain import Policy
from isolation_monitor.collector.retention.repository import RetentionRepository
from isolation_monitor.collector.retention.service import RetentionService
from isolation_monitor.collector.storage.database import Database
from isolation_monitor.collector.storage.leader import Leader
from isolation_monitor.collector.storage.schema import migrate

OUTPUT: Final = Path(__file__).resolve().parent.parent / "build" / "bench" / "collector_queries.json"
RECORDS: Final = 5_000_000
DAYS: Final = 30
KINDS: Final = ("wrong_socket", "instance_reuse", "foreign_identity", "session_leak", "shared_state", "loop_stall", "canary", "task_leak")
_ASKED: Final = 200
_PAGE_BUDGET_MS: Final = 50.0
_LONG_BUDGET_MS: Final = 1000.0
_BLOCK_BUDGET_MS: Final = 150.0
_TIMEOUT_S: Final = 1800.0
_INTAKE_BYTES: Final = 64 * 1024 * 1024


async def rows(records: int = RECORDS, stores: tuple[str, ...] = ("sqlite", "postgresql")) -> list[Row]:
    """Fill each store with `records` violations and measure; a store that is not installed is a row that says so."""
    found: list[Row] = []
    for store in stores:
        with ExitStack() as stack:
            try:
                url = await asyncio.to_thread(_address, store, stack)
            except BaseException as error:  # pytest's outcome, where a part is missing, is no Exception
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                found.append(Row(f"{store} query 30 days", None, "ms", _LONG_BUDGET_MS, note=f"cannot run here: {error}"))
                continue
            found += await _measure(store, url, records)
    return found


def _address(store: str, stack: ExitStack) -> str:
    if store == "postgresql":
        from tests.real_parts.postgres import postgres

        return stack.enter_context(postgres()).create("bench")
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="isomon-bench-"))
    return f"sqlite+aiosqlite:///{folder}/bench.sqlite3"


async def _measure(store: str, url: str, records: int) -> list[Row]:
    await migrate(url)
    database = Database(url, _TIMEOUT_S)
    try:
        began = time.monotonic()
        now = datetime.now(UTC).replace(hour=23, minute=0, second=0, microsecond=0)
        await _fill(database, records, now)
        note = f"{records} records, made in {time.monotonic() - began:.0f} s"
        print(f"{store}: {note}", file=sys.stderr, flush=True)
        note += await _roll_up(database, now)
        print(f"{store}: {note}", file=sys.stderr, flush=True)
        return [row async for row in _rows(store, database, now, records, note)]
    finally:
        await database.close()


async def _roll_up(database: Database, now: datetime) -> str:
    """Sum up what is over, as the replica that leads does all the time; of 30 days it is what follows a migration."""

    async def leads() -> bool:
        return True

    began = time.monotonic()
    spans = await RollupService(database, leads, lambda: now, DAYS).roll_up()
    async with _writing(database) as connection:
        await connection.exec_driver_sql("ANALYZE")
    return f", {spans} days and hours summed up in {time.monotonic() - began:.0f} s"


async def _rows(store: str, database: Database, now: datetime, records: int, note: str) -> AsyncIterator[Row]:
    service, draw = EvidenceService(database, lambda: now), random.Random(5)
    since = now - timedelta(days=DAYS)

    async def by_id() -> None:
        await service.violation(_id(draw.randrange(records), records, now))

    async def page() -> None:
        moment = since + timedelta(seconds=draw.uniform(86_400, DAYS * 86_400))
        found = await service.find(ViolationQuery(kind=draw.choice(KINDS), until=moment, limit=100))
        assert len(found) == min(100, len(found)) > 0

    async def rare() -> None:
        moment = since + timedelta(seconds=draw.uniform(86_400, DAYS * 86_400))
        await service.find(ViolationQuery(kind="none_has_it", until=moment, limit=100))

    async def by_user() -> None:
        assert await service.find(ViolationQuery(principal=f"{draw.randrange(2000):016x}", limit=100))

    async def by_request() -> None:
        assert await service.find(ViolationQuery(request_id=f"4242-{draw.randrange(records // DAYS * DAYS)}", limit=100))

    async def groups() -> None:
        assert await service.groups(ViolationQuery(since=since, synthetic=False, limit=50))

    async def history() -> None:
        assert (await service.history(since, now, "kind"))[0]

    async def by_day() -> None:
        assert await service.days(since, None)

    async def by_service() -> None:
        assert await service.sums(now - timedelta(days=1))

    async def month_by_service() -> None:
        assert await service.sums(now - timedelta(days=DAYS, minutes=30))

    async def incidents() -> None:
        assert await IncidentService(database, lambda: now, DAYS).find(limit=50)

    yield await _timed(f"{store} violation by id", by_id, _PAGE_BUDGET_MS, _ASKED, note)
    yield await _timed(f"{store} page of 100, by kind and time", page, _PAGE_BUDGET_MS, _ASKED, note)
    yield await _timed(f"{store} page of a kind that nobody has", rare, _PAGE_BUDGET_MS, 20, note)
    yield await _timed(f"{store} page of 100, of one user", by_user, _PAGE_BUDGET_MS, _ASKED, f"on either side; {note}")
    yield await _timed(f"{store} violations of one request", by_request, _PAGE_BUDGET_MS, _ASKED, f"on either side; {note}")
    yield await _timed(f"{store} query 30 days", history, _LONG_BUDGET_MS, 20, f"by day and kind; {note}")
    yield await _timed(f"{store} query 30 days, pages' sums", by_day, _LONG_BUDGET_MS, 20, f"by day and grade; {note}")
    yield await _timed(f"{store} query 24 hours, pages' sums", by_service, _LONG_BUDGET_MS, 5, f"by service and grade; {note}")
    yield await _timed(f"{store} query 30 days, by service", month_by_service, _LONG_BUDGET_MS, 10, f"and grade; {note}")
    yield await _timed(f"{store} query 30 days, defects", groups, _LONG_BUDGET_MS, 10, f"first 50, with users; {note}")
    yield await _timed(f"{store} query 30 days, incidents", incidents, _LONG_BUDGET_MS, 5, note)
    for row in await _expiry(store, database, now, note):
        yield row


async def _timed(name: str, ask: Callable[[], Awaitable[None]], budget_ms: float, times: int, note: str) -> Row:
    """Ask often and give the 99th percentile, the worst where it is asked less often."""
    await ask()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await ask()
        took.append(1000 * (time.perf_counter() - began))
    took.sort()
    return Row(name, took[round(0.99 * (len(took) - 1))], "ms p99", budget_ms, spread=(took[0], took[-1]), note=note)


async def _expiry(store: str, database: Database, now: datetime, note: str) -> list[Row]:
    """Let three days expire while records are stored, one batch after the other, and see how long the slowest of these waited."""
    keeper = RetentionService(database, Leader(database), CollectorMetrics(), lambda: now, Policy(DAYS - 3), 600)
    waits, stop = [], asyncio.Event()
    intake = Intake(_INTAKE_BYTES)
    writer = RecordWriter(database, intake, lambda service: None)
    writer.start()

    async def send() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            body = json.dumps(_batch(number, now)).encode()
            began = time.perf_counter()
            with intake.hold() as held:
                await writer.take([parse_batch(body, now, max_records=1000, max_record_bytes=65536)], held, now)
            waits.append(1000 * (time.perf_counter() - began))
            await asyncio.sleep(0.002)

    sender = asyncio.create_task(send())
    began = time.monotonic()
    done = await keeper.keep_house()
    stop.set()
    await sender
    await writer.close()
    went = f"{sum(done.expired.values())} rows, {done.partitions_dropped} partitions in {time.monotonic() - began:.1f} s"
    waits.sort()
    block = Row(f"{store} expiry, longest block of writers", 1000 * done.longest_s, "ms", _BLOCK_BUDGET_MS, note=f"{went}; {note}")
    if not waits:
        return [block]
    # Its own commit, and what else the machine did, are in it: no budget, but nothing hides behind the row above.
    median = waits[len(waits) // 2]
    told = f"batches of 10, {len(waits)} of them, median {median:.1f} ms"
    return [block, Row(f"{store} expiry, slowest batch meanwhile", waits[-1], "ms", spread=(waits[0], waits[-1]), note=told)]


@asynccontextmanager
async def _writing(database: Database) -> AsyncIterator[Any]:
    async with database.writing() as connection:
        if database.dialect == "postgresql":
            await connection.execute(text(f"SET LOCAL statement_timeout = {int(_TIMEOUT_S * 1000)}"))
        yield connection


async def _fill(database: Database, records: int, now: datetime) -> None:
    """Make the records a day at a time, inside the database; its triggers count them as they count any."""
    if database.dialect == "postgresql":
        for n in range(DAYS + 1):
            day = (now - timedelta(days=n)).date()
            for name in ("violations", "amendments", "runs", "unknown_records"):
                async with database.reading() as connection:
                    there = (await RetentionRepository(connection).partitions())[name]
                if day not in there:
                    async with database.writing() as connection:
                        await RetentionRepository(connection).add_partition(name, day)
    a_day = records // DAYS
    for n in range(DAYS):
        start = now - timedelta(days=DAYS - n)
        async with _writing(database) as connection:
            await connection.exec_driver_sql(_INSERT[database.dialect].format(**_values(n, a_day, start)))
    async with _writing(database) as connection:
        await connection.exec_driver_sql("ANALYZE")


def _values(day: int, a_day: int, start: datetime) -> dict[str, object]:
    return {
        "first": day * a_day,
        "end": (day + 1) * a_day,
        "start_ms": int(start.timestamp() * 1000),
        "a_day": a_day,
        "new": 10 * day,
        "kinds": len(KINDS),
        "case": " ".join(f"WHEN {n} THEN '{kind}'" for n, kind in enumerate(KINDS)),
    }


def _id(number: int, records: int, now: datetime) -> str:
    a_day = records // DAYS
    day, within = divmod(min(number, a_day * DAYS - 1), a_day)
    start_ms = int((now - timedelta(days=DAYS - day)).timestamp() * 1000)
    ms = start_ms + within * 86_400_000 // a_day
    return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7000-8000-{min(number, a_day * DAYS - 1):012x}"


# A side as telemetry sends it; 2,000 users, 300 runs; 40 defects at a time, ten new ones each day, 330 in all, in four services.
_SIDE: Final = (
    '{{"principal": "%s", "request_id": "4242-%s", "run_id": "run_%s", "connection_id": null, "transport": "websocket", "route": "/ws", '
    '"stack": ["examples/chat/agents.py:40 create_agent", "examples/chat/websocket.py:20 chat"], "events": []}}'
)
_COLUMNS: Final = (
    "id, day, service, instance, time, received_at, kind, grade, grade_sent, detector, arm, synthetic, summary, fingerprint, count, "
    "resource, victim, offender, detail, extra, retracted_at"
)
_INSERT: Final = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {end}), "
    "m AS (SELECT i, {start_ms} + (i - {first}) * 86400000 / {a_day} AS ms FROM n), "
    "t AS (SELECT i, ms, strftime('%Y-%m-%d %H:%M:%S', ms / 1000, 'unixepoch') || printf('.%03d000', ms % 1000) AS at FROM m) "
    f"INSERT INTO violations ({_COLUMNS}) SELECT printf('%08x-%04x-7000-8000-%012x', ms >> 16, ms & 65535, i), substr(at, 1, 10), "
    "'service-' || (i % 4), 'host-1:4242:1700000000', at, at, CASE i % {kinds} {case} END, "
    "CASE WHEN i % 3 = 0 THEN 'crossed' WHEN i % 3 = 1 THEN 'reachable' ELSE 'hygiene' END, 'reachable', "
    "CASE i % {kinds} {case} END, 'none', "
    "i % 50 = 0, 'agent: one instance was given to two requests', printf('%016x', {new} + i % 40), 1 + i % 5, "
    '\'{{"type": "instance", "name": "agent", "detail": {{"serial": 12}}}}\', '
    f"printf('{_SIDE}', printf('%016x', i * 7919 % 2000), i, i % 300), printf('{_SIDE}', printf('%016x', i * 104729 % 2000), i, i % 300), "
    "'{{}}', '{{\"revision\": \"4f2a9c1\"}}', CASE WHEN i % 100 = 0 THEN at END FROM t",
    "postgresql": "WITH m AS (SELECT i, {start_ms}::bigint + (i - {first}) * 86400000 / {a_day} AS ms "
    "FROM generate_series({first}::bigint, {end}::bigint - 1) AS i), "
    "t AS (SELECT i, ms, timestamptz 'epoch' + ms * interval '1 millisecond' AS at FROM m) "
    f"INSERT INTO violations ({_COLUMNS}) SELECT lpad(to_hex(ms >> 16), 8, '0') || '-' || lpad(to_hex(ms & 65535), 4, '0') || "
    "'-7000-8000-' || lpad(to_hex(i), 12, '0'), (at AT TIME ZONE 'UTC')::date, "
    "'service-' || (i % 4), 'host-1:4242:1700000000', at, at, CASE i % {kinds} {case} END, "
    "CASE WHEN i % 3 = 0 THEN 'crossed' WHEN i % 3 = 1 THEN 'reachable' ELSE 'hygiene' END, 'reachable', "
    "CASE i % {kinds} {case} END, 'none', "
    "i % 50 = 0, 'agent: one instance was given to two requests', lpad(to_hex({new} + i % 40), 16, '0'), 1 + i % 5, "
    '\'{{"type": "instance", "name": "agent", "detail": {{"serial": 12}}}}\'::json, '
    f"format('{_SIDE}', lpad(to_hex(i * 7919 % 2000), 16, '0'), i, i % 300)::json, "
    f"format('{_SIDE}', lpad(to_hex(i * 104729 % 2000), 16, '0'), i, i % 300)::json, "
    "'{{}}'::json, '{{\"revision\": \"4f2a9c1\"}}'::json, CASE WHEN i % 100 = 0 THEN at END FROM t",
}


def _batch(number: int, now: datetime) -> dict[str, Any]:  # Any: JSON
    at = now - timedelta(hours=1) + timedelta(milliseconds=number)
    ms = int(at.timestamp() * 1000)
    records = [
        {
            "type": "violation", "id": f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7000-9000-{number * 10 + n:012x}",
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "kind": "wrong_socket", "grade": "crossed",
            "detector": "wrong_socket", "synthetic": False, "summary": "x" * 60, "fingerprint": f"{n:016x}",
            "victim": {"principal": "a" * 16, "stack": []}, "offender": {"principal": "b" * 16, "stack": []},
        }
        for n in range(10)
    ]  # fmt: skip
    return {"schema": "records/1", "service": "service-0", "instance": "i", "sent_at": records[0]["time"], "records": records}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.collector_queries", description="Measure questions and expiry of the collector.")
    parser.add_argument("--records", type=int, default=RECORDS, help=f"violations over {DAYS} days (default {RECORDS}); at least 30,000")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), help="only this store")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the JSON goes")
    chosen = parser.parse_args(arguments)
    if chosen.records < 30_000:
        parser.error("--records: fewer than 30,000 are no 30 days of evidence")
    measured = asyncio.run(rows(chosen.records, (chosen.store,) if chosen.store else ("sqlite", "postgresql")))
    content = report("collector-queries", measured)
    write(chosen.output, content)
    console = console_for_people()
    console.print(table("collector queries", measured))
    console.print(ending(measured, chosen.output))
    return 0 if content["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
