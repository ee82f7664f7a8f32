"""Cells: no update is lost, whichever thread makes it."""

from __future__ import annotations

import math
import threading
from pathlib import Path

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
from isolation_monitor.telemetry.metrics.cells import SEGMENT_CELLS, CellStore


def test_eight_threads_and_the_event_loop_lose_no_increment(registry: MetricRegistry) -> None:
    """The loop's thread writes its lane without a lock while pool threads write theirs."""
    cell = registry.counter(names.WEBSOCKET_MESSAGES, direction="sent")
    histogram = registry.histogram(names.RUN_DURATION)
    registry.own_thread()
    start = threading.Event()

    def hammer() -> None:
        start.wait()
        for _ in range(20_000):
            cell.inc()
            histogram.observe(0.2)

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    start.set()
    for _ in range(50_000):
        cell.values[cell.index] += 1.0
        cell.inc()
    for thread in threads:
        thread.join()

    assert cell.value() == 8 * 20_000 + 2 * 50_000
    assert registry.value(names.WEBSOCKET_MESSAGES, direction="sent") == cell.value()
    assert histogram.count() == registry.value(names.RUN_DURATION) == 8 * 20_000
    assert math.isclose(histogram.sum(), 8 * 20_000 * 0.2)


def test_a_gauge_reads_what_was_set_last_from_any_thread(registry: MetricRegistry) -> None:
    gauge = registry.gauge(names.RUN_ACTIVE)
    registry.own_thread()
    gauge.inc(5)
    for act in (gauge.inc, gauge.inc, gauge.dec, lambda: gauge.set(7.0), lambda: gauge.inc(2)):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    assert gauge.value() == 9.0

    gauge.set(1.5)

    assert registry.value(names.RUN_ACTIVE) == 1.5


def test_a_timestamp_set_by_one_thread_is_exact(registry: MetricRegistry) -> None:
    gauge = registry.gauge(names.MONITOR_LAST_CHECK)

    gauge.set(1_790_000_000.123457)

    assert registry.value(names.MONITOR_LAST_CHECK) == 1_790_000_000.123457


def test_a_value_on_a_bound_belongs_to_that_bucket(registry: MetricRegistry) -> None:
    """`le` means at most. Bounds of run durations start at 0.1, 0.25, 0.5."""
    histogram = registry.histogram(names.RUN_DURATION)
    for value in (0.1, 0.11, 0.25, 1e9):
        histogram.observe(value)

    (entry,) = [entry for entry in registry.series() if entry.family.name == names.RUN_DURATION.name]

    assert entry.values[:3] == (1.0, 3.0, 3.0)
    assert entry.values[-3:-1] == (4.0, 4.0)


def test_not_a_number_never_enters_a_histogram(registry: MetricRegistry) -> None:
    """One NaN would make the sum NaN until the next restart."""
    histogram = registry.histogram(names.RUN_DURATION)
    histogram.observe(math.nan)
    histogram.observe(1.0)

    assert (histogram.count(), histogram.sum()) == (1.0, 1.0)


def test_growing_keeps_earlier_views_valid(tmp_path: Path) -> None:
    """The hot path holds a memoryview for the life of the process."""
    store = CellStore(tmp_path / "own.cells")
    first = store.allocate(2)
    rooms = [store.allocate(1000) for _ in range(30)]
    first.values[first.offset] += 3.0

    pieces = list(store.snapshot())

    assert len(pieces) > 5
    assert pieces[0][first.offset] == 3.0
    assert len({room.position for room in rooms}) == 30
    assert all(room.offset + 1000 <= SEGMENT_CELLS for room in rooms)
    store.close()


def test_counts_go_on_in_memory_without_a_file(tmp_path: Path) -> None:
    """A read-only disk costs the view of the other workers, never the application."""
    blocked = tmp_path / "file-not-folder"
    blocked.write_text("")

    registry = MetricRegistry("chat", blocked)
    registry.counter(names.WEBSOCKET_MESSAGES, direction="sent").inc(4)

    assert registry.directory is None
    assert b'isolation_websocket_messages_total{direction="sent",service="chat"} 4.0' in registry.render()
    registry.close()
