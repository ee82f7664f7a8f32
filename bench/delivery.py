"""`python -m bench.delivery`: is every event accounted for? Two workers, a thousand sockets, cuts, slow readers, and a `kill -9`.

Clients run in processes of their own and count by themselves. Of each worker three counts must agree to the event: what
the application handed over, what the monitor says became of it, and what the clients got. Of the worker that was killed
only its own cells are left: what it had not settled is `unknown`, counted by a worker that lives.
Writes build/bench/delivery.json; exit code 1 when a row misses its budget.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.__main__ import run
from bench.rows import Row, report, write
from bench.shown import console_for_people, ending, table
from isolation_monitor.demo.ports import free_ports
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.delivery.ladder import CLIENT_ACKED
from isolation_monitor.telemetry.metrics.sources import WorkerFiles

ROOT: Final = Path(__file__).resolve().parent.parent
OUTPUT: Final = ROOT / "build" / "bench" / "delivery.json"
STOP: Final = "stop"
"""File that ends the sending."""
SLOW_SHARE: Final = 0.02
CUT_SHARE: Final = 0.05
CUT_EVERY_S: Final = 5.0
WAIT_S: Final = 120.0
"""How long an event waits in the services under test: longer than a client of a loaded machine takes to come back."""
START_LIMIT_S: Final = 60.0
SETTLE_LIMIT_S: Final = 240.0


@dataclass
class Worker:
    """One process of the service, and the three counts of what it sent."""

    process: asyncio.subprocess.Process
    was_killed: bool = False
    epoch: str = ""
    returned: int = 0
    emitted: int = 0
    settled: dict[str, int] = field(default_factory=dict)
    received: int = 0

    @property
    def acknowledged(self) -> int:
        return self.settled["acknowledged"] + self.settled["replayed"]

    @property
    def left(self) -> int:
        """Events that its own cells know no end of."""
        return self.emitted - sum(self.settled.values())

    def disagreement(self, sockets: int) -> int:
        """Events on which the counts of this worker do not agree."""
        if self.was_killed:
            # What was on its way in that moment: clients may have got what it did not hear of any more.
            in_flight = self.emitted - self.returned
            return max(0, -in_flight, in_flight - sockets) + max(0, self.acknowledged - self.received, self.received - self.emitted)
        return abs(self.emitted - self.returned) + abs(self.left) + abs(self.received - self.acknowledged)


class Service:
    """Workers on ports of their own that count together."""

    def __init__(self, folder: Path, every_s: float) -> None:
        self._folder = folder
        self._every_s = every_s
        self.ports = free_ports(2)
        self.workers: list[Worker] = []
        self.urls = [f"ws://127.0.0.1:{port}/ws" for port in self.ports]

    async def start(self, port: int) -> Worker:
        """Start a worker and wait until it listens.

        Raises:
            RuntimeError: it did not.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("ISOLATION_", "OTEL_"))} | {
            "BENCH_FOLDER": str(self._folder),
            "BENCH_STOP": str(self._folder / STOP),
            "BENCH_EVERY_S": str(self._every_s),
            "ISOLATION_METRICS_DIR": str(self._folder / "metrics"),
            "ISOLATION_HASH_KEY": "only-for-the-benchmark",
            "ISOLATION_DELIVERY_WAIT_S": str(WAIT_S),
        }
        path = self._folder / f"worker-{len(self.workers)}.log"
        log = path.open("wb")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "uvicorn", "bench.delivery_service:app", "--port", str(port), "--ws", "websockets-sansio",
            "--log-level", "warning", "--backlog", "4096", "--ws-ping-interval", "120",
            env=environment, stdout=log, stderr=log, cwd=ROOT,
        )  # fmt: skip
        log.close()
        worker = Worker(process)
        self.workers.append(worker)
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return worker
            if process.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a worker did not start: {_end_of(path)}")
            await asyncio.sleep(0.1)

    async def kill(self, worker: Worker) -> None:
        worker.process.send_signal(signal.SIGKILL)
        await worker.process.wait()
        worker.was_killed = True

    def count(self) -> None:
        """Read all counts of all workers."""
        for worker in self.workers:
            pid = worker.process.pid
            epoch, returned = self._folder / f"epoch-{pid}", self._folder / f"returned-{pid}"
            worker.epoch = epoch.read_text() if epoch.exists() else ""
            worker.returned = int.from_bytes(returned.read_bytes()[:8], sys.byteorder)
            [series] = (self._folder / "metrics" / "bench").glob(f"w-{pid}-*.series")
            worker.emitted, worker.settled = _counts_of(series)

    async def stop(self) -> None:
        for worker in self.workers:
            if worker.process.returncode is None:
                worker.process.terminate()
                try:
                    await asyncio.wait_for(worker.process.wait(), 20)
                except TimeoutError:
                    worker.process.kill()


def _end_of(log: Path) -> str:
    return log.read_text()[-2_000:]


def _counts_of(series: Path) -> tuple[int, dict[str, int]]:
    with contextlib.closing(WorkerFiles(series)) as files:
        for _ in files.refresh():
            pass
        doubles = [value for piece in files.doubles() for value in piece]

        def number(metric: names.Metric, *labels: str) -> int:
            at = files.positions.get((metric.name, labels))
            return 0 if at is None else int(sum(doubles[at : at + 2]))

        settled = {outcome: number(names.EVENTS_SETTLED, outcome, CLIENT_ACKED) for outcome in names.EVENT_OUTCOMES}
        return number(names.EVENT_RUNGS, "emitted", CLIENT_ACKED), settled


async def accounted(sockets: int, seconds: float, processes: int, every_s: float, say: Callable[[str], None]) -> list[Row]:
    """Run the service and its users, and compare what both sides counted."""
    with tempfile.TemporaryDirectory(prefix="bench-delivery-") as name:
        folder = Path(name)
        service = Service(folder, every_s)
        try:
            for port in service.ports:
                await service.start(port)
            users = [await _users(service.urls, sockets, n, processes) for n in range(processes)]
            say(f"{sockets} sockets for {seconds:g} s")
            await asyncio.sleep(seconds * 0.6)
            await service.kill(service.workers[1])
            say("killed a worker")
            await service.start(service.ports[1])
            await asyncio.sleep(seconds * 0.4)
            (folder / STOP).touch()
            await asyncio.sleep(2 * every_s + 3)
            heard = await asyncio.gather(*(_end(one) for one in users))
            say("waiting for the last events to be settled")
            deadline = time.monotonic() + SETTLE_LIMIT_S
            service.count()
            while not _is_settled(service.workers) and time.monotonic() < deadline:
                await asyncio.sleep(0.5)
                service.count()
            return _rows(service.workers, heard, sockets)
        finally:
            await service.stop()


def _is_settled(workers: list[Worker]) -> bool:
    dead = sum(worker.left for worker in workers if worker.was_killed)
    # A living worker counts the dead one's events as its own unknown ones, so that it seems to settle more than it emitted.
    return sum(worker.left for worker in workers if not worker.was_killed) == -dead


def _rows(workers: list[Worker], heard: list[dict[str, Any]], sockets: int) -> list[Row]:
    inherited = sum(worker.left for worker in workers if worker.was_killed)
    for worker in workers:
        worker.received = sum(one["by_epoch"].get(worker.epoch, 0) for one in heard)
    for worker in workers:
        if not worker.was_killed and inherited and worker.left < 0:
            taken = min(inherited, -worker.left)
            worker.settled["unknown"] -= taken
            inherited -= taken
    emitted = sum(worker.emitted for worker in workers)
    wrong = sum(worker.disagreement(sockets) for worker in workers) + inherited + sum(one["twice"] for one in heard)
    apart = ", ".join(
        f"{'killed' if worker.was_killed else 'alive'}: {worker.emitted} emitted, {worker.returned} handed over, {worker.left} left, "
        f"{worker.acknowledged} acknowledged, {worker.received} received"
        for worker in workers
        if worker.disagreement(sockets)
    )
    share = 100.0 * max(0, emitted - wrong) / emitted if emitted else 0.0
    killed = next(worker for worker in workers if worker.was_killed)
    outcomes = {outcome: sum(worker.settled[outcome] for worker in workers) for outcome in names.EVENT_OUTCOMES}
    outcomes["unknown"] += killed.left
    reports = {what: sum(one["report"][what] for one in heard) for what in heard[0]["report"]}
    return [
        Row("events accounted", share, "%", 100.0, "higher", note=f"{wrong} of {emitted:,} events on which the counts differ {apart}"),
        Row("events emitted", float(emitted), "events", note=f"{sockets} sockets, {sum(one['cut'] for one in heard)} hard cuts"),
        *(Row(f"events {outcome}", float(n), "events") for outcome, n in outcomes.items()),
        Row("events of the killed worker without an end", float(killed.left), "events", note="counted unknown by one that lives"),
        Row("connections of the clients", float(reports["connections"]), "connections"),
        Row("resumes that no worker knew", float(reports["unknown_resumes"]), "resumes", note="of the killed worker's clients"),
        Row("clients that had not come back at the end", float(sum(one["away"] for one in heard)), "clients", 0.0),
        Row("gaps and disorder seen by clients", float(reports["gaps"] + reports["disorder"]), "events", 0.0),
        Row("events shown twice", float(sum(one["twice"] for one in heard)), "events", 0.0),
    ]


async def _users(urls: list[str], sockets: int, n: int, processes: int) -> asyncio.subprocess.Process:
    mine = range(n, sockets, processes)
    slow = int(SLOW_SHARE * len(mine)) or 1
    plan = {
        "urls": urls,
        "names": [f"{'slow' if i < slow else 'user'}-{number}" for i, number in enumerate(mine)],
        "cuts": CUT_SHARE,
        "cut_every_s": CUT_EVERY_S,
        "seed": n,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.delivery_users",
        json.dumps(plan),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def _end(users: asyncio.subprocess.Process) -> dict[str, Any]:
    output, _ = await users.communicate(b"\n")
    found: dict[str, Any] = json.loads(output)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.delivery", description="Account for every event of a thousand sockets.")
    parser.add_argument("--sockets", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=2, help="processes of clients")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two events of a connection")
    parser.add_argument("--quick", action="store_true", help="few rounds of the timed rows")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    chosen = parser.parse_args(arguments)
    console = console_for_people()
    rows = asyncio.run(accounted(chosen.sockets, chosen.seconds, chosen.processes, chosen.every, console.print))
    for suite in ("delivery-message", "delivery-memory"):
        rows += run(suite, chosen.quick)
    content = report("delivery", rows)
    write(chosen.output, content)
    console.print(table("delivery", rows))
    console.print(ending(rows, chosen.output))
    return 0 if content["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
