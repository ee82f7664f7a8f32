"""`python -m bench.clean`: a million requests of two clean services with legitimate sharing, and not one false alarm.

Workers, one process each, run the chat or the other clean service (`clean_service.py`) with a monitor as shipped, and
users who all act at once. The parent deals out the requests in small hands, so that a slow service delays nobody.
Writes build/bench/clean.json; exit code 1 when a row misses its budget.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.rows import Row, report, write
from bench.shown import console_for_people, table
from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.violations import Violation

ROOT: Final = Path(__file__).resolve().parent.parent
OUTPUT: Final = ROOT / "build" / "bench" / "clean.json"
SERVICES: Final = ("chat", "shop")
USERS: Final = 40
HANDS: Final = 200
"""The requests are dealt out in so many hands, of at most `HAND_LIMIT`."""
HAND_LIMIT: Final = 2_000
EXAMPLES_KEPT: Final = 20
PROGRESS_LINES: Final = 20

AT_WORK: Final = (
    names.INHERITED_CONTEXT,
    names.FOREIGN_CONTEXT,
    names.INSTANCE_REUSE,
    names.SHARED_STATE,
    names.WRONG_SOCKET,
    names.FOREIGN_IDENTITY,
    names.FOREIGN_CONTENT,
    names.SHARED_CONNECTION,
    names.UNSCOPED_ACCESS,
    names.FOREIGN_TASK,
    names.TASK_LEAK,
    names.SESSION_LEAK,
    names.SLOW_CREATION,
    names.INCOMPLETE_RUN,
    names.LOOP_STALL,
)
"""Detectors that these services give work to: one that checked nothing proves nothing, and misses its budget."""


@dataclass
class Tally:
    """What one worker, or all of them, sent and found."""

    requests: Counter[str] = field(default_factory=Counter)
    """By service."""
    judged: Counter[str] = field(default_factory=Counter)
    """By `verdict` and by `exposed`, in words."""
    checks: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    """By `kind grade`."""
    errors: Counter[str] = field(default_factory=Counter)
    """The monitor's own, by hook."""
    unexpected: list[str] = field(default_factory=list)
    """Answers that a sound service does not give."""
    evidence: list[str] = field(default_factory=list)

    def add(self, other: dict[str, Any]) -> None:
        for name, value in other.items():
            mine = getattr(self, name)
            mine.extend(value) if isinstance(mine, list) else mine.update(value)

    def of_grade(self, *grades: str) -> int:
        return sum(n for which, n in self.violations.items() if which.split()[1] in grades)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, or one worker of it."""
    parser = argparse.ArgumentParser(prog="python -m bench.clean", description="Send clean requests and count false alarms.")
    parser.add_argument("--requests", type=int, default=1_000_000, help="how many in all (default: a million)")
    parser.add_argument("--workers", type=int, default=max(2, os.cpu_count() or 2), help="processes; every second one runs the chat")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the JSON goes (default: build/bench/clean.json)")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.worker is not None:
        asyncio.run(_work(chosen.worker))
        return 0
    began = time.monotonic()
    console = console_for_people()
    tally = asyncio.run(_all_workers(chosen.requests, chosen.workers, _progress(console, chosen.requests)))
    rows = rows_of(tally, chosen.requests, time.monotonic() - began)
    console.print(table(f"clean ({time.monotonic() - began:.0f} s)", rows))
    for line in (*tally.evidence[:EXAMPLES_KEPT], *tally.unexpected[:EXAMPLES_KEPT]):
        console.print(line, markup=False)
    content = report("clean", rows)
    write(chosen.output, content)
    return 0 if content["ok"] else 1


def rows_of(tally: Tally, wanted: int, seconds: float) -> list[Row]:
    """Return the rows: what was sent, what was judged, and what was wrongly found."""
    requests, judged = sum(tally.requests.values()), sum(n for which, n in tally.judged.items() if which in names.VERDICTS)
    by_service = ", ".join(f"{n:,} of {service}" for service, n in sorted(tally.requests.items()))
    found = ", ".join(f"{n} {which}" for which, n in sorted(tally.violations.items()))
    isolated, exposed = tally.judged["isolated"], tally.judged["exposed"]
    return [
        Row("requests", float(requests), "requests", float(wanted), "higher"),
        Row("throughput", requests / seconds, "requests/s", better="higher", note=f"start included; {by_service}"),
        Row("judged isolated", 100 * isolated / max(1, judged), "% of judged", better="higher", note=f"{judged:,} judged"),
        Row("exposed", 100 * exposed / max(1, judged), "% of judged", better="higher"),
        Row("false alarms: crossed or reachable", float(tally.of_grade("crossed", "reachable")), "violations", 0.0, note=found),
        Row("hygiene", float(tally.of_grade("hygiene")), "violations", note=found),
        Row(
            "errors of the monitor", float(sum(tally.errors.values())), "errors", 0.0, note=str(dict(tally.errors)) if tally.errors else ""
        ),
        Row("unexpected answers", float(len(tally.unexpected)), "answers", 0.0),
        *(
            Row(
                f"checks: {detector}",
                float(tally.checks[detector]),
                "checks",
                1.0 if detector in AT_WORK else None,
                "higher",
                note=f"{tally.skipped[detector]:,} skipped" if tally.skipped[detector] else "",
            )
            for detector in names.DETECTORS
        ),
    ]


# --- the parent -----------------------------------------------------------------------------------------------------------


def _progress(console: Console, requests: int) -> Callable[[int], None]:
    """Return what is told how many requests are done, and says so at each twentieth of them with the time that is left."""
    began, told = time.monotonic(), 0

    def done(count: int) -> None:
        nonlocal told
        if count * PROGRESS_LINES // requests > told:
            told = count * PROGRESS_LINES // requests
            seconds = time.monotonic() - began
            console.print(f"{count:>10,} of {requests:,} requests, {seconds:.0f} s, {seconds / count * (requests - count):.0f} s left")

    return done


async def _all_workers(requests: int, workers: int, on_done: Callable[[int], None]) -> Tally:
    """Run the workers until all requests were sent; `on_done` is told after each hand how many are done.

    Raises:
        RuntimeError: a worker broke.
    """
    tally = Tally()
    left = requests
    done = 0
    hand = max(1, min(HAND_LIMIT, requests // HANDS))

    def deal(at_most: int) -> int:
        nonlocal left
        dealt = min(left, at_most)
        left -= dealt
        return dealt

    async def one(number: int) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.clean", "--worker", str(number),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, limit=1 << 24,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        nonlocal done
        # The first hand is dealt before anybody is asked: so each service has a share, however long it takes to start.
        dealt = first[number]
        while True:
            process.stdin.write(b"%d\n" % dealt)
            line = await process.stdout.readline()
            if not line:
                raise RuntimeError(f"worker {number} broke with exit code {await process.wait()}: see its lines above")
            done += dealt
            on_done(done)
            if not dealt:
                tally.add(json.loads(line))
                await process.wait()
                return
            dealt = deal(hand)

    first = [deal(max(hand, requests // (4 * workers))) for _ in range(workers)]
    async with asyncio.TaskGroup() as group:
        for number in range(workers):
            group.create_task(one(number))
    return tally


# --- one worker -----------------------------------------------------------------------------------------------------------


async def _work(number: int) -> None:
    """Serve one service and its users: a number on a line is how many requests to send next, 0 ends it with the tally."""
    from bench import clean_users

    clean_users.environment_of_chat()
    service = SERVICES[number % len(SERVICES)]
    with tempfile.TemporaryDirectory(prefix="bench-clean-") as folder:
        monitor = IsolationMonitor.from_env(service="bench", mode="monitor", hash_key="only-for-the-benchmark", metrics_dir=folder)
        tally = Tally()

        def keep(violation: Violation) -> None:
            if not violation.synthetic and len(tally.evidence) < EXAMPLES_KEPT:
                where = [side.stack[-1] if side and side.stack else "" for side in (violation.victim, violation.offender)]
                tally.evidence.append(f"{violation.kind} {violation.grade}: {violation.summary} {violation.resource.name} {where}")

        monitor.ledger.on_violation.append(keep)
        serve = clean_users.chat if service == "chat" else clean_users.shop
        try:
            async with serve(monitor, Path(folder), USERS, number) as population:
                while n := int(await asyncio.to_thread(sys.stdin.readline)):
                    tally.requests[service] += await population.requests(n)
                    print("done", flush=True)
                # What is due after a request's end (leaks, late tasks, runs that settle) shall have come.
                await asyncio.sleep(monitor.settings.task_grace_s + 1.0)
                _count(monitor, tally)
                tally.unexpected = population.unexpected[:EXAMPLES_KEPT]
        finally:
            await monitor.aclose()
        print(json.dumps(vars(tally)), flush=True)


def _count(monitor: IsolationMonitor, tally: Tally) -> None:
    """Read the monitor's counters."""
    value = monitor.registry.value
    for transport in names.TRANSPORTS:
        for verdict in names.VERDICTS:
            for exposed in names.BOOLEANS:
                n = int(value(names.REQUESTS, transport=transport, verdict=verdict, exposed=exposed, arm="none"))
                tally.judged[verdict] += n
                if exposed == "true":
                    tally.judged["exposed"] += n
    for detector in names.DETECTORS:
        tally.checks[detector] += int(value(names.CHECKS, detector=detector, result="pass"))
        tally.skipped[detector] += int(value(names.CHECKS, detector=detector, result="skipped"))
        if failed := int(value(names.CHECKS, detector=detector, result="error")):
            tally.errors[f"check {detector}"] += failed
    for hook in names.HOOKS:
        if failed := int(value(names.MONITOR_ERRORS, hook=hook)):
            tally.errors[hook] += failed
    for kind, grade in names.GRADED_KINDS:
        if n := int(value(names.VIOLATIONS, kind=kind, grade=grade, arm="none", synthetic="false")):
            tally.violations[f"{kind} {grade}"] += n


if __name__ == "__main__":
    sys.exit(main())
