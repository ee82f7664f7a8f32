"""`python -m bench.soak`: users, rude users and faults at random for as long as wanted; nothing may grow, nothing be missed.

Two hundred users chat by real sockets while others leave in the middle of everything. Faults are switched on one at a
time, healed, and given time to settle; in between the service is sound. Every fault that did harm must be reported as
a violation of its kind, nothing may be reported in the sound stretches, and the process must not grow.
Writes build/bench/soak.json; exit code 1 when a row misses its budget.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from bench.evidence import collecting, described
from bench.rows import Row, report, write
from bench.shown import console_for_people, table
from bench.soak_service import Rude, Service, Size, fill_tables, service
from isolation_monitor.demo.expectations import EXPECTATIONS, Expectation
from isolation_monitor.demo.harm import drive
from isolation_monitor.demo.users import UNREACHABLE, Population
from isolation_monitor.telemetry.detectors.resource_trend import Trend, trend
from tests.real_parts.postgres import postgres

OUTPUT: Final = Path(__file__).resolve().parent.parent / "build" / "bench" / "soak.json"
WARM_UP: Final = 0.25
"""Share of the time before growth is looked at."""
FILLING_REQUESTS: Final = 12_000
"""A run each: as many as are remembered, and the index of the monitor, made small by `soak_service.REMEMBERED`, is full long before."""
JUDGED_FROM_S: Final = 240.0
"""Growth in a shorter time than this says nothing: it is shown, without a budget."""
GROWTH_LIMIT_SHARE: Final = 5.0
GROWTH_LIMIT_MB: Final = 5.0
POINTS_LIMIT: Final = 300
EVIDENCE_SHOWN: Final = 20
SETTLE_S: Final = 6.0
"""After a fault was healed: what it has begun is still being found (the longest grace time is 5 s)."""
LOOK_EVERY_S: Final = 0.2
ANSWERED_LOOKS: Final = 300
"""Where neighbours take the processor, a service is still at work on questions of before the healing: waited for, a minute at most."""


@dataclass
class Episode:
    """One fault, from its switch-on until it has settled; or, without a fault, one sound stretch."""

    fault: Expectation | None
    began_s: float
    ended_s: float = 0.0
    did_harm: bool = False
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    """New violations by kind and grade."""
    evidence: list[str] = field(default_factory=list)
    """What was wrongly found in a sound stretch, told in lines."""

    @property
    def is_seen(self) -> bool:
        return self.fault is not None and any(kind == self.fault.kind for kind, _ in self.found)

    def of_grade(self, *grades: str) -> int:
        return sum(n for (_, grade), n in self.found.items() if grade in grades)


@dataclass
class Soak:
    """Everything that was seen."""

    episodes: list[Episode] = field(default_factory=list)
    sizes: list[tuple[float, Size]] = field(default_factory=list)
    """With the time, in seconds; of the sound stretches after the warm-up."""
    requests: int = 0
    rudeness: Counter[str] = field(default_factory=Counter)
    seen_outside: int = 0
    """What users saw of others in the sound stretches: it would mean that the service itself is not sound."""
    errors: int = 0
    filled: int = 0


def main(arguments: list[str] | None = None) -> int:
    """Run the soak and judge it."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Run the chat for long, with faults at random.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10; 1440 is a day)")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--requests-per-s", type=float, default=100.0, help="what all users together aim at")
    parser.add_argument("--fault-s", type=float, default=6.0, help="how long a fault stays on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the JSON goes (default: build/bench/soak.json)")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    soak = asyncio.run(_soak(chosen.minutes * 60, chosen.users, chosen.requests_per_s, chosen.fault_s, random.Random(chosen.seed)))
    rows = rows_of(soak)
    console = console_for_people()
    console.print(table(f"soak ({time.monotonic() - began:.0f} s)", rows))
    for line in [line for episode in soak.episodes for line in episode.evidence][:EVIDENCE_SHOWN]:
        console.print(line, markup=False)
    content = report("soak", rows)
    write(chosen.output, content)
    return 0 if content["ok"] else 1


# --- the run --------------------------------------------------------------------------------------------------------------


async def _soak(seconds: float, users: int, requests_per_s: float, fault_s: float, dice: random.Random) -> Soak:
    soak = Soak()
    # SQLite has one writer: where so many users write, most of them would wait for it until the pool's patience ends.
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder, postgres() as database:
        async with collecting() as evidence, service(Path(folder), evidence.url, database.create("chat")) as chat:
            population = Population(chat.base_url, users=users, requests_per_s=requests_per_s, seed=dice.randrange(1_000))
            rude = Rude(chat.base_url, dice.randrange(1_000))
            async with population:
                being_rude = asyncio.create_task(rude.live())
                try:
                    began = time.monotonic()
                    soak.filled = await fill_tables(chat.base_url, seconds * WARM_UP, FILLING_REQUESTS)
                    await asyncio.sleep(max(0.0, seconds * WARM_UP - (time.monotonic() - began)))
                    await _episodes(soak, chat, population, began + seconds, fault_s, dice)
                    population.check()
                finally:
                    being_rude.cancel()
                    with suppress(asyncio.CancelledError):
                        await being_rude
            for episode in soak.episodes:
                if episode.fault is None and episode.found:
                    within = [r for r in evidence.violations if episode.began_s <= _unix_s(r["time"]) < episode.ended_s]
                    within.sort(key=lambda record: record["grade"] == "hygiene")
                    episode.evidence = [described(record) for record in within]
            soak.requests, soak.rudeness, soak.errors = population.requests, rude.done, await chat.monitor_errors()
    return soak


async def _episodes(soak: Soak, chat: Service, population: Population, until: float, fault_s: float, dice: random.Random) -> None:
    """Sound stretches and faults in turn, until the time is over; each fault once before any comes again."""
    waiting: list[Expectation] = []
    while True:
        await _sound(soak, chat, population, dice.uniform(1.0, 2.0) * fault_s)
        if time.monotonic() + fault_s + SETTLE_S > until:
            return
        if not waiting:
            waiting = dice.sample(EXPECTATIONS, len(EXPECTATIONS))
        await _fault(soak, chat, population, waiting.pop(), fault_s)


async def _sound(soak: Soak, chat: Service, population: Population, seconds: float) -> None:
    """A stretch without any fault: measure the process, and count what is reported all the same."""
    episode = Episode(None, time.time())
    before = await chat.violations()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await asyncio.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
        soak.sizes.append((time.monotonic(), await chat.size()))
    episode.found, episode.ended_s = await chat.violations() - before, time.time()
    soak.seen_outside += sum(episode.began_s <= seen.time < episode.ended_s for seen in population.foreign_seen)
    soak.episodes.append(episode)


async def _fault(soak: Soak, chat: Service, population: Population, fault: Expectation, seconds: float) -> None:
    """One fault, switched on, driven, healed and settled."""
    episode = Episode(fault, time.time())
    before, harms = await chat.violations(), chat.harms()
    await chat.switch_on(fault.fault)
    try:
        driven = asyncio.create_task(drive(fault.fault, population, chat.base_url, for_s=seconds))
        await asyncio.sleep(seconds)
        with suppress(*UNREACHABLE):
            await driven
    finally:
        await chat.heal()
    await _settle(population, time.time())
    episode.found, episode.ended_s = await chat.violations() - before, time.time()
    episode.did_harm = chat.harms() > harms
    soak.episodes.append(episode)


async def _settle(population: Population, healed_at: float) -> None:
    """Wait until what was asked before the healing is answered, and something that was asked after it; then as long as finding takes.

    A fault that lets requests wait in a queue of its own still works on them after its healing.
    """
    for _ in range(ANSWERED_LOOKS):
        is_waiting = any(since <= healed_at for since in population.waiting_since.values())
        if not is_waiting and any(asked > healed_at for asked, _ in reversed(population.first_events)):
            break
        await asyncio.sleep(LOOK_EVERY_S)
    await asyncio.sleep(SETTLE_S)


def _unix_s(time_of_record: str) -> float:
    return datetime.fromisoformat(time_of_record).timestamp()


# --- the rows -------------------------------------------------------------------------------------------------------------


def rows_of(soak: Soak) -> list[Row]:
    """Return the rows: growth, faults accounted for, false alarms."""
    sound = [episode for episode in soak.episodes if episode.fault is None]
    harmful = [episode for episode in soak.episodes if episode.fault is not None and episode.did_harm]
    harmless = sum(episode.fault is not None and not episode.did_harm for episode in soak.episodes)
    missed = [episode.fault.fault for episode in harmful if episode.fault is not None and not episode.is_seen]
    accounted = 100.0 * (len(harmful) - len(missed)) / len(harmful) if harmful else None
    faults = f"{len(harmful)} faults" + (f", {harmless} did no harm in their time" if harmless else "")
    false_alarms = sum((episode.found for episode in sound), Counter[tuple[str, str]]())
    found = ", ".join(f"{n} {kind} {grade}" for (kind, grade), n in sorted(false_alarms.items()))
    rudeness = ", ".join(f"{n} {what}" for what, n in sorted(soak.rudeness.items()))
    return [
        *_growth_rows(soak),
        Row(
            "injected faults accounted", accounted, "%", 100.0, "higher", note=faults + (f"; missed: {', '.join(missed)}" if missed else "")
        ),
        Row("false alarms", float(sum(e.of_grade("crossed", "reachable") for e in sound)), "violations", 0.0, note=found),
        Row("hygiene in sound stretches", float(sum(e.of_grade("hygiene") for e in sound)), "violations", note=found),
        Row("seen by users in sound stretches", float(soak.seen_outside), "sightings", 0.0),
        Row("errors of the monitor", float(soak.errors), "errors", 0.0),
        Row("requests", float(soak.requests), "requests", better="higher", note=f"and {soak.filled:,} before, to fill what has a limit"),
        Row("left in the middle", float(sum(soak.rudeness.values())), "times", note=rudeness),
    ]


def _growth_rows(soak: Soak) -> list[Row]:
    """How much the process grew from the warm-up to the end, by the steady slope; budgets where the time was long enough."""
    points = soak.sizes[:: -(-len(soak.sizes) // POINTS_LIMIT) or 1]
    if len(points) < 3:
        return [Row("growth: memory", None, "MB", note="too few looks at the process")]
    seconds = points[-1][0] - points[0][0]
    is_judged = seconds >= JUDGED_FROM_S
    note = f"at the end of {seconds:.0f} s" + ("" if is_judged else ", too short to judge")

    def of(value: Callable[[Size], float]) -> Trend:
        return trend([(at, value(size)) for at, size in points])

    memory, fds, tasks = of(lambda size: size.memory_mb), of(lambda size: size.fds), of(lambda size: size.tasks)
    share = GROWTH_LIMIT_SHARE if is_judged else None
    last = points[-1][1]
    return [
        Row("growth: memory", memory.growth, "MB", GROWTH_LIMIT_MB if is_judged else None, note=f"{last.memory_mb:.0f} MB {note}"),
        Row("growth: memory, share", 100 * memory.ratio, "%", share),
        Row("growth: open files", 100 * fds.ratio, "%", share, note=f"{last.fds} {note}"),
        Row("growth: tasks", 100 * tasks.ratio, "%", share, note=f"{last.tasks:.0f} {note}"),
    ]


if __name__ == "__main__":
    sys.exit(main())
