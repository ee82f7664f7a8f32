"""The registry's cold path: which series exist, and what happens at the limits."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry, MetricUsageError
from isolation_monitor.telemetry.names import Metric


def dropped(registry: MetricRegistry, reason: str) -> float:
    return registry.value(names.MONITOR_DROPPED, reason=reason)


def test_the_same_labels_give_the_same_cell(registry: MetricRegistry) -> None:
    first = registry.counter(names.EVENTS, event="agent_started", stage="sent")

    assert registry.counter(names.EVENTS, stage="sent", event="agent_started") is first
    assert registry.counter(names.EVENTS, event="agent_started", stage="emitted") is not first


def test_declared_closed_sets_are_all_present_at_zero(registry: MetricRegistry, read: Callable[..., float]) -> None:
    """A rate over a series that appears with its first violation would miss that violation."""
    for metric in names.CATALOGUE:
        registry.declare(metric)

    page = registry.render("isolation")

    for (kind, grade), arm, synthetic in itertools.product(names.GRADED_KINDS, names.ARMS, names.BOOLEANS):
        labels = f'arm="{arm}",grade="{grade}",kind="{kind}",service="chat",synthetic="{synthetic}"'
        assert f"isolation_violations_total{{{labels}}} 0.0\n".encode() in page
    assert read(page, "isolation_violations_total") == 0.0


def test_a_label_learns_up_to_its_cap_and_the_rest_is_other_and_counted(registry: MetricRegistry) -> None:
    cap = names.INSTANCE_SHARED.labels["component"]
    assert isinstance(cap, int)
    for number in range(cap + 5):
        registry.counter(names.INSTANCE_SHARED, component=f"c{number}").inc()
    registry.counter(names.INSTANCE_SHARED, component="c0").inc()

    found = {entry.labels["component"]: entry.values[0] for entry in registry.series() if entry.family.name == names.INSTANCE_SHARED.name}

    assert len(found) == cap + 1
    assert found["other"] == 5.0
    assert found["c0"] == 2.0
    assert dropped(registry, "label_cap") == 5.0


def test_a_value_outside_a_closed_set_counts_as_other_without_raising(registry: MetricRegistry) -> None:
    registry.counter(names.WEBSOCKET_MESSAGES, direction="sideways").inc()

    assert registry.value(names.WEBSOCKET_MESSAGES, direction="other") == 1.0
    assert dropped(registry, "label_cap") == 1.0


def test_a_missing_label_counts_as_other_without_raising(registry: MetricRegistry) -> None:
    registry.counter(names.WEBSOCKET_MESSAGES).inc()

    assert registry.value(names.WEBSOCKET_MESSAGES, direction="other") == 1.0


def test_a_strict_registry_raises_for_wrong_labels(tmp_path: Path) -> None:
    registry = MetricRegistry("chat", tmp_path, strict=True)

    with pytest.raises(MetricUsageError, match="sideways"):
        registry.counter(names.WEBSOCKET_MESSAGES, direction="sideways")
    with pytest.raises(MetricUsageError, match="has the labels"):
        registry.counter(names.WEBSOCKET_MESSAGES, way="sent")
    registry.close()


def test_asking_for_the_wrong_type_says_which_is_right(registry: MetricRegistry) -> None:
    with pytest.raises(MetricUsageError, match=r"is a histogram, not a counter: ask for it by `registry\.histogram`"):
        registry.counter(names.RUN_DURATION)


def test_series_beyond_the_cap_go_to_other_and_are_counted(tmp_path: Path) -> None:
    """Ten series are allowed: histograms of 17 lines exceed that at once, counters at the eleventh."""
    registry = MetricRegistry("chat", tmp_path, series_cap=10)
    for number in range(15):
        registry.counter(names.INSTANCE_SHARED, component=f"c{number}").inc()
    registry.histogram(names.HTTP_DURATION, http_route="/x", http_request_method="GET", http_response_status_code="200").observe(0.1)

    assert registry.value(names.INSTANCE_SHARED, component="other") == 5.0
    assert registry.value(names.HTTP_DURATION, http_route="other", http_request_method="GET", http_response_status_code="other") == 1.0
    assert dropped(registry, "series_cap") == 6.0
    registry.close()


def test_series_of_closed_sets_are_never_refused(tmp_path: Path) -> None:
    registry = MetricRegistry("chat", tmp_path, series_cap=0)
    for metric in names.CATALOGUE:
        registry.declare(metric)
    registry.counter(names.VIOLATIONS, kind="wrong_socket", grade="crossed", arm="none", synthetic="false").inc()

    assert registry.value(names.VIOLATIONS, kind="wrong_socket", grade="crossed", arm="none", synthetic="false") == 1.0
    registry.close()


def test_the_number_of_series_is_exposed(registry: MetricRegistry) -> None:
    for metric in names.CATALOGUE:
        registry.declare(metric)
    registry.histogram(names.INSTANCE_CREATE, component="agent")

    lines = [line for line in registry.render().splitlines() if not line.startswith(b"#")]

    assert registry.value(names.MONITOR_SERIES) == len(lines)


def test_a_label_value_that_is_no_text_is_made_writable(registry: MetricRegistry) -> None:
    """A path of undecodable bytes arrives with lone surrogates, which no scrape could carry."""
    registry.counter(names.INSTANCE_SHARED, component="\udcff" + "x" * 500).inc()

    (entry,) = [entry for entry in registry.series() if entry.family.name == names.INSTANCE_SHARED.name]

    assert entry.labels["component"] == "?" + "x" * 199
    registry.render().decode()


def test_many_threads_making_series_get_one_cell_each(registry: MetricRegistry) -> None:
    """Pages are rendered meanwhile, and the file of cells grows several times under them."""
    metric = Metric("spells_total", "counter", "Spells.", {"wizard": 10_000})
    start = threading.Event()

    def work() -> None:
        start.wait()
        for number in range(8000):
            registry.counter(metric, wizard=f"w{number}").inc()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    start.set()
    while any(thread.is_alive() for thread in threads):
        registry.render()

    found = [entry.values[0] for entry in registry.series() if entry.family.name == "spells_total"]
    assert found == [6.0] * 8000


def test_cells_work_after_close(registry: MetricRegistry) -> None:
    """Requests may still end while the application shuts down."""
    cell = registry.counter(names.WEBSOCKET_MESSAGES, direction="sent")
    registry.close()

    cell.values[cell.index] += 1.0
    cell.inc()
    registry.counter(names.WEBSOCKET_MESSAGES, direction="received").inc()

    assert cell.value() == 2.0
    assert b'direction="received",service="chat"} 1.0' in registry.render()
