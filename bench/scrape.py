"""What a scrape costs: 10,000 series of one process and of four workers, and how long it keeps the interpreter at a stretch.

A series is what Prometheus calls one: an exposed sample. Half are counters with three labels, half lines of histograms.
CPU time of the rendering thread, ours and prometheus_client in turn within each round; every number changes between rounds.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from bench.rows import Row
from isolation_monitor.telemetry.metrics import MetricRegistry
from isolation_monitor.telemetry.names import Metric

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0)
LINES_PER_HISTOGRAM = len(BOUNDS) + 3
CAP = 1_000_000
COUNTER = Metric("bench_requests_total", "counter", "Requests.", {"route": CAP, "method": CAP, "status": CAP})
HISTOGRAM = Metric("bench_duration_seconds", "histogram", "Durations.", {"route": CAP, "method": CAP, "status": CAP}, "main", BOUNDS)
SERIES, MANY_SERIES, WORKERS = 10_000, 100_000, 4


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """Measure everything and return rows of the bench/1 form; peers have no budget."""
    return [row.as_json() for row in (*one_process(3 if quick else 21), *four_workers(2 if quick else 7))]


def one_process(rounds: int) -> list[Row]:
    """10,000 series of one process; the longest stretch also at 100,000, where it would show."""
    with _registry() as ours:
        change = fill_ours(ours, SERIES)
        theirs = CollectorRegistry()
        change_theirs = fill_theirs(theirs, SERIES)
        times = _in_turn(
            rounds,
            [change, change_theirs],
            {
                "ours": lambda: ours.render(),
                "openmetrics": lambda: ours.render(openmetrics=True),
                "prometheus_client": lambda: generate_latest(theirs),
            },
        )
        stretch = ours.longest_stretch_s
    with _registry() as large:
        change_large = fill_ours(large, MANY_SERIES)
        cold_s = _cpu_s(large.render)
        change_large()
        warm_s = _cpu_s(large.render)
        stretch = max(stretch, large.longest_stretch_s)
    return [
        _row("scrape 10k series", times["ours"], 30.0),
        _row("scrape 10k series, openmetrics", times["openmetrics"], 30.0),
        _row("scrape 10k series, prometheus_client", times["prometheus_client"]),
        Row("scrape 100k series", warm_s * 1e3, "ms"),
        Row("scrape 100k series, the first", cold_s * 1e3, "ms"),
        Row(
            "scrape longest stretch",
            stretch * 1e3,
            "ms",
            5.0,
            note="CPU time of our code without a pause, worst of all renders, the first included, 10k and 100k series",
        ),
        _row("scrape longest stretch, prometheus_client", times["prometheus_client"]),
    ]


def four_workers(rounds: int) -> list[Row]:
    """The same 10,000 series in each of four workers, merged: three processes of their own and this one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            _registry(folder / "ours") as ours,
            _workers("ours", folder / "ours", WORKERS - 1),
            _workers("theirs", folder / "theirs", WORKERS),
        ):
            change = fill_ours(ours, SERIES)
            theirs = CollectorRegistry()
            MultiProcessCollector(theirs, path=str(folder / "theirs"))  # type: ignore[no-untyped-call]  # not annotated there
            times = _in_turn(rounds, [change], {"ours": ours.render, "prometheus_client": lambda: generate_latest(theirs)})
            stretch = ours.longest_stretch_s
    return [
        _row("scrape 4 workers", times["ours"], 80.0),
        _row("scrape 4 workers, prometheus_client", times["prometheus_client"]),
        Row("scrape longest stretch, 4 workers", stretch * 1e3, "ms", 5.0, note="as above, of the merged 10k"),
    ]


def labels(number: int) -> dict[str, str]:
    """The labels of a series."""
    return {"route": f"/api/v1/things{number % 500}/{{thing_id}}", "method": f"M{number % 5}", "status": str(200 + number // 500)}


def fill_ours(registry: MetricRegistry, series: int) -> Callable[[], None]:
    """Make so many series in our registry; returns a function that changes every number."""
    counters = [registry.counter(COUNTER, **labels(number)) for number in range(series // 2)]
    histograms = [registry.histogram(HISTOGRAM, **labels(number)) for number in range(series // 2 // LINES_PER_HISTOGRAM)]

    def change() -> None:
        for number, cell in enumerate(counters):
            cell.inc(number % 7 + 1.0)
        for number, histogram in enumerate(histograms):
            histogram.observe(number % 97 / 9.1)

    change()
    return change


def fill_theirs(registry: CollectorRegistry | None, series: int) -> Callable[[], None]:
    """The same in prometheus_client."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # not annotated there
    names = list(COUNTER.labels)
    counter = prometheus_client.Counter(COUNTER.name, COUNTER.help, names, registry=registry)
    histogram = prometheus_client.Histogram(HISTOGRAM.name, HISTOGRAM.help, names, buckets=BOUNDS, registry=registry)
    counters = [counter.labels(**labels(number)) for number in range(series // 2)]
    histograms = [histogram.labels(**labels(number)) for number in range(series // 2 // LINES_PER_HISTOGRAM)]

    def change() -> None:
        for number, one in enumerate(counters):
            one.inc(number % 7 + 1.0)
        for number, each in enumerate(histograms):
            each.observe(number % 97 / 9.1)

    change()
    return change


@contextmanager
def _registry(folder: Path | None = None) -> Iterator[MetricRegistry]:
    registry = MetricRegistry("bench", folder, series_cap=CAP)
    try:
        yield registry
    finally:
        registry.close()


@contextmanager
def _workers(kind: str, folder: Path, count: int) -> Iterator[None]:
    """So many processes that fill their share and wait."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)} if kind == "theirs" else dict(os.environ)
    root = str(Path(__file__).resolve().parent.parent)
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "bench.scrape", kind, str(folder)],
                    cwd=root,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for _ in range(count)
        ]
        try:
            for process in started:
                if process.stdout is None or process.stdout.readline() != b"ready\n":
                    raise RuntimeError(f"a {kind} worker of the scrape benchmark did not start")
            yield
        finally:
            for process in started:
                process.kill()


def _in_turn(rounds: int, changes: list[Callable[[], None]], variants: dict[str, Callable[[], bytes]]) -> dict[str, list[float]]:
    """CPU seconds by variant, each once a round in alternating order, after one round that only warms up."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for change in changes:
            change()
        for name in sorted(variants, reverse=number % 2 == 1):
            seconds = _cpu_s(variants[name])
            if number:
                found[name].append(seconds)
    return found


def _cpu_s(act: Callable[[], bytes]) -> float:
    # A collection of the whole heap, peers' objects included, may fall into anybody's turn.
    gc.collect()
    gc.disable()
    try:
        before = time.thread_time()
        act()
        return time.thread_time() - before
    finally:
        gc.enable()


def _row(name: str, seconds: list[float], budget: float | None = None) -> Row:
    ordered = sorted(seconds)
    edge = len(ordered) // 20
    spread = (ordered[edge] * 1e3, ordered[-1 - edge] * 1e3)
    return Row(
        name,
        statistics.median(ordered) * 1e3,
        "ms",
        budget,
        spread=spread,
        quiet=ordered[0] * 1e3,
        note="CPU time; spread: 5 % to 95 % of rounds",
    )


def _work(kind: str, folder: Path) -> None:
    """One worker: fill, say so, wait for the end."""
    kept: object
    if kind == "ours":
        registry = MetricRegistry("bench", folder, series_cap=CAP)
        kept = (registry, fill_ours(registry, SERIES))
    else:
        kept = fill_theirs(CollectorRegistry(), SERIES)
    print("ready", flush=True)
    sys.stdin.read()
    del kept


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _work(sys.argv[1], Path(sys.argv[2]))
    else:
        for found in rows():
            print(found)
