"""`python -m bench.gates`: how often the gate errs, and how fast it finds harm, over thousands of invented rollouts.

Every look of every rollout is judged by the very function that the collector's gate calls, with all triggers together.
Seeded: the same numbers each time. Writes build/bench/gates.json; exit code 1 when a row misses its budget.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bench.gate_worlds import Array, Outcome, Stage, World, counts, verdict_of_rollout
from bench.rows import Better, Row, report, write
from bench.shown import console_for_people, ending, table
from isolation_monitor.collector.gates.statistics import share_lower_bound, share_upper_bound

OUTPUT: Final = Path(__file__).resolve().parent.parent / "build" / "bench" / "gates.json"
ROLLOUT: Final = (Stage(10, 60), Stage(50, 20))
"""Eighty looks: an hour at 10 %, then twenty minutes at 50 %."""
BASES: Final = (0.001, 0.005, 0.02, 0.05)
RATES: Final = (1, 5, 20, 100, 1000)
ICCS: Final = (0.0, 0.01, 0.05)
HARMED: Final = tuple((base, icc) for icc in (0.0, 0.01) for base in (0.001, 0.005, 0.02))
"""Shares that fail without any harm, and how bursty, in which harm must be found. The worst are missed: `docs/gate-statistics.md`."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row: in how many of the trials does a rollout in this world fail?"""

    name: str
    group: str
    world: World
    stages: tuple[Stage, ...]
    trials: int
    budget: float | None
    better: Better


def questions(scale: float = 1.0) -> list[Question]:
    """Return all rows; `scale` shrinks the number of trials."""

    def number(trials: int) -> int:
        return max(4, round(trials * scale))

    found = [
        Question(
            f"A/A {base:.1%}, {rate} rps, icc {icc:g}",
            "false rollbacks",
            World(rate, base, icc),
            ROLLOUT,
            number(200 if base > 0.01 else 60),
            5.0,
            "lower",
        )
        for base in BASES
        for rate in RATES
        for icc in ICCS
    ]
    for rate, sigma in ((5, 0.5), (20, 1.0)):
        world = World(rate, 0.02, 0.01, sigma=sigma)
        found.append(
            Question(
                f"A/A 2.0%, {rate} rps, icc 0.01, latency sigma {sigma:g}", "false rollbacks", world, ROLLOUT, number(60), 5.0, "lower"
            )
        )
    for base, icc in HARMED:
        world = World(5, base, icc, harm_pp=5)
        found.append(
            Question(
                f"+5 points on {base:.1%}, 5 rps, icc {icc:g}, 15 min",
                "harm found",
                world,
                (Stage(10, 15),),
                number(600),
                95.0,
                "higher",
            )
        )
    for base, icc in HARMED:
        world = World(20, base, icc, harm_pp=2)
        found.append(
            Question(
                f"+2 points on {base:.1%}, 20 rps, icc {icc:g}, 30 min",
                "harm found",
                world,
                (Stage(10, 30),),
                number(600),
                99.0,
                "higher",
            )
        )
    for base, icc in ((0.005, 0.0), (0.02, 0.05)):
        world = World(20, base, icc, harm_pp=20)
        found.append(
            Question(
                f"+20 points on {base:.1%}, 20 rps, icc {icc:g}, 10 min", "harm found", world, (Stage(10, 10),), number(300), 95.0, "higher"
            )
        )
    late = World(20, 0.005, 0.0, harm_pp=5, begins=60)
    found.append(Question("+5 points from minute 60 on, 20 rps, 30 min", "harm found", late, (Stage(10, 90),), number(100), 95.0, "higher"))
    found.append(
        Question(
            "+2 points on 0.5%, 1 rps, 60 min", "harm found", World(1, 0.005, 0.0, harm_pp=2), (Stage(10, 60),), number(200), None, "higher"
        )
    )
    for sigma, rate, slowdown, budget in (
        (0.5, 20, 1.2, 95.0),
        (1.0, 100, 1.2, 95.0),
        (0.5, 5, 1.2, None),
        (0.5, 5, 1.5, 95.0),
        (1.0, 20, 1.5, 95.0),
        (1.0, 20, 1.2, None),
    ):
        world = World(rate, 0.005, 0.0, sigma=sigma, slowdown=slowdown)
        name = f"p95 +{slowdown - 1:.0%}, sigma {sigma:g}, {rate * 6} canary requests/min, 60 min"
        found.append(Question(name, "slowness found", world, (Stage(10, 60),), number(60), budget, "higher"))
    return found


def answer(question: Question, trial: int) -> Outcome:
    seed = [5, zlib.crc32(question.name.encode()), trial]
    return verdict_of_rollout(question.world, question.stages, np.random.default_rng(seed))


def row_of(question: Question, outcomes: list[Outcome]) -> Row:
    """Return the share of rollouts that failed in percent, with its exact 90 % interval, and what made them fail."""
    failed = [outcome for outcome in outcomes if outcome.judged is not None]
    low, high = interval(len(failed), len(outcomes))
    note = f"{len(failed)} of {len(outcomes)} rollouts"
    if failed:
        codes = Counter(code for outcome in failed for code in outcome.codes)
        note += f", median look {statistics.median(outcome.looks for outcome in failed):g}: " + ", ".join(
            f"{code} {n}" for code, n in codes.most_common()
        )
    value = 100 * len(failed) / len(outcomes)
    return Row(question.name, value, "%", question.budget, question.better, (100 * low, 100 * high), note=note)


def interval(hits: int, trials: int) -> tuple[float, float]:
    return share_lower_bound(hits, trials, 0.05), share_upper_bound(hits, trials, 0.05)


def usual_practice(scale: float) -> list[Row]:
    """Return what one threshold on the last five minutes does to healthy rollouts: the rule that most gates have today."""
    rows = []
    for base, rate in ((0.005, 1), (0.02, 1), (0.02, 5), (0.02, 20)):
        trials, wrong = max(20, round(1000 * scale)), 0
        for trial in range(trials):
            rng = np.random.default_rng([6, int(base * 1e4), rate, trial])
            world = World(rate, base)
            on, on_errors = counts(world, 0.1, 60, True, rng)
            off, off_errors = counts(world, 0.9, 60, False, rng)
            difference = _last5(on_errors) / np.maximum(_last5(on), 1) - _last5(off_errors) / np.maximum(_last5(off), 1)
            wrong += bool((difference > 0.01).any())
        rows.append(
            Row(f"peer: 5-min threshold, A/A {base:.1%}, {rate} rps", 100 * wrong / trials, "%", note=f"{trials} rollouts of 60 looks")
        )
    return rows


def _last5(values: Array) -> Array:
    """Return the sums of each five minutes in a row."""
    return np.convolve(values, np.ones(5), "valid")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gates", description="Simulate rollouts and judge each look by the gate.")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the trials; below 1 the numbers are rough")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the JSON goes (default: build/bench/gates.json)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    asked = [question for question in questions(chosen.scale) if chosen.only in question.name]
    began = time.monotonic()
    rows: list[Row] = []
    with ProcessPoolExecutor(chosen.workers) as pool:
        for number, question in enumerate(asked, 1):
            trials = range(question.trials)
            outcomes = list(pool.map(answer, [question] * len(trials), trials, chunksize=max(1, len(trials) // 16)))
            rows.append(row_of(question, outcomes))
            print(
                f"{number}/{len(asked)} {time.monotonic() - began:.0f} s  {rows[-1].name}: {rows[-1].value:.2f} %",
                file=sys.stderr,
                flush=True,
            )
    healthy = [row for row, question in zip(rows, asked, strict=True) if question.group == "false rollbacks"]
    if healthy:
        worst = max(row.value or 0.0 for row in healthy)
        rows.insert(
            0,
            Row(
                "A/A: worst of all", worst, "%", 5.0, note=f"{len(healthy)} kinds of traffic, {sum(s.minutes for s in ROLLOUT)} looks each"
            ),
        )
    if not chosen.only:
        rows += usual_practice(chosen.scale)
    content = report("gates", rows)
    write(chosen.output, content)
    console = console_for_people()
    console.print(table(f"gates ({time.monotonic() - began:.0f} s)", rows))
    console.print(ending(rows, chosen.output))
    return 0 if content["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
