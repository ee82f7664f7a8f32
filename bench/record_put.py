"""What it costs to put a record into the outbox: on the thread of the request, while the record's own way goes on behind it.

The collector is away, so every record goes to the disk. A slot is so many puts in a row, by the CPU time of the calling
thread; neighbours and the outbox's own threads do not add to it. The wall time of single puts stands beside it: that has
the waiting for the interpreter in it, which a writer at work imposes.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.rounds import RESAMPLES
from bench.rows import Row
from isolation_monitor.telemetry.records.outbox import Outbox
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder

BUDGET_US = 3.0
PUTS = 500
NOWHERE = "http://127.0.0.1:9"


async def put(quick: bool) -> list[Row]:
    """The cost of a put, and what a put costs that waits for the disk."""
    return await asyncio.to_thread(_measure, 10 if quick else 200, 5 if quick else 200)


def _measure(rounds: int, synced: int) -> list[Row]:
    counted: dict[str, int] = {}

    def count(what: str, n: int) -> None:
        counted[what] = counted.get(what, 0) + n

    slots: list[float] = []
    walls: list[float] = []
    waits: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        box = Outbox("bench", NOWHERE, "token", 10_000, count, folder=SpoolFolder(str(Path(folder) / "spool"), "bench"))
        for number in range(rounds):
            records = [_record(f"{number}-{n}") for n in range(PUTS)]
            began = time.thread_time_ns()
            for record in records:
                box.put(record)
            slots.append((time.thread_time_ns() - began) / PUTS / 1e3)
            for record in records:
                began = time.perf_counter_ns()
                box.put(record)
                walls.append((time.perf_counter_ns() - began) / 1e3)
            if not box.sync(60):
                raise RuntimeError("the records did not reach the disk within a minute")
        for n in range(synced):
            box.put(_record(f"synced-{n}"))
            began = time.perf_counter_ns()
            box.sync(60)
            waits.append((time.perf_counter_ns() - began) / 1e6)
        box.close(0.1)
    if counted["spooled"] != 2 * rounds * PUTS + synced:
        raise RuntimeError(f"not everything that was put was kept: {counted}")
    walls.sort()
    waits.sort()
    note = f"{rounds} slots of {PUTS} puts, all of them on disk in the end"
    return [
        Row("record put", statistics.median(slots), "us", BUDGET_US, spread=_spread(slots), quiet=min(slots), note=note),
        Row("record put: wall time, 99.9th percentile", walls[int(0.999 * len(walls))], "us"),
        Row("record put that waits for the disk, median", statistics.median(waits), "ms", spread=(waits[0], waits[-1])),
    ]


def _spread(values: list[float]) -> tuple[float, float]:
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.05 * RESAMPLES)], medians[int(0.95 * RESAMPLES)]


def _record(id: str) -> dict[str, Any]:
    """A violation with both sides, about a kilobyte of JSON."""
    side = {
        "principal": "a1b2c3d4e5f60718", "request_id": "1-2", "run_id": None, "connection_id": None, "transport": "http",
        "route": "GET /items/{item_id}", "time": "2026-01-01T00:00:00.000Z", "stack": ["app/agents.py:40 create_agent"] * 3,
    }  # fmt: skip
    return {
        "type": "violation", "id": id, "time": "2026-01-01T00:00:00.000Z", "kind": "instance_reuse", "grade": "reachable",
        "detector": "instance_reuse", "arm": "none", "synthetic": False, "summary": "agent: one instance was given to two requests",
        "fingerprint": "9f2c9f2c9f2c9f2c", "count": 1, "victim": side, "offender": side, "detail": {},
    }  # fmt: skip
