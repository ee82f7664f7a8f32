"""The fast renderer writes what prometheus_client writes, byte for byte."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic
from prometheus_client.utils import floatToGoString

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
from isolation_monitor.telemetry.metrics.exposition import float_text
from isolation_monitor.telemetry.metrics.prometheus_adapter import IsolationCollector
from isolation_monitor.telemetry.names import Metric

COUNTER = Metric("spells_total", "counter", 'Spells\\cast,\nsome with "quotes".', {"wizard": 1000, "place": 1000})
GAUGE = Metric("spell_heat", "gauge", "Heat.", {"wizard": 1000})
HISTOGRAM = Metric("spell_duration_seconds", "histogram", "Durations.", {"wizard": 1000}, "main", (0.005, 1, 1e7))
LABEL = st.text(max_size=30)
NUMBER = st.floats(allow_nan=False, allow_infinity=False, width=64)


def peer(registry: MetricRegistry) -> CollectorRegistry:
    """The same numbers in prometheus_client's own registry."""
    held = CollectorRegistry(auto_describe=False)
    held.register(IsolationCollector(registry))
    return held


def assert_equal_to_the_peer(registry: MetricRegistry) -> None:
    assert registry.render() == generate_latest(peer(registry))
    assert registry.render(openmetrics=True) == generate_openmetrics(peer(registry))


def test_the_whole_catalogue_is_equal_in_both_formats(registry: MetricRegistry) -> None:
    for metric in names.CATALOGUE:
        registry.declare(metric)
    registry.counter(names.VIOLATIONS, kind="wrong_socket", grade="crossed", arm="on", synthetic="false").inc(3)
    registry.histogram(names.INSTANCE_CREATE, component="agent").observe(0.0123)
    registry.gauge(names.MONITOR_LAST_CHECK).set(1_790_000_000.25)

    assert_equal_to_the_peer(registry)


@given(
    counts=st.dictionaries(st.tuples(LABEL, LABEL), NUMBER, max_size=5),
    heats=st.dictionaries(LABEL, st.floats(), max_size=4),
    times=st.dictionaries(LABEL, st.lists(NUMBER, max_size=5), max_size=3),
)
def test_any_label_and_any_number_is_equal(
    tmp_path_factory: pytest.TempPathFactory,
    counts: dict[tuple[str, str], float],
    heats: dict[str, float],
    times: dict[str, Iterable[float]],
) -> None:
    registry = MetricRegistry('a \\ "b"\n', tmp_path_factory.mktemp("group"))
    registry.declare(HISTOGRAM)
    for (wizard, place), count in counts.items():
        registry.counter(COUNTER, wizard=wizard, place=place).inc(count)
    for wizard, heat in heats.items():
        registry.gauge(GAUGE, wizard=wizard).inc(heat)
    for wizard, values in times.items():
        for value in values:
            registry.histogram(HISTOGRAM, wizard=wizard).observe(value)

    assert_equal_to_the_peer(registry)
    registry.close()


@given(st.floats())
def test_numbers_are_written_as_go_writes_them(value: float) -> None:
    assert float_text(value) == floatToGoString(value)


@pytest.mark.parametrize(
    "value", [0.0, 1.0, 1e5, 123456.0, 999999.0, 1e6, 1234567.5, 1e15, 1e16, 1e17, 1e22, 1e-9, math.inf, -math.inf, math.nan]
)
def test_numbers_around_the_switch_to_exponents(value: float) -> None:
    assert float_text(value) == floatToGoString(value)


def test_both_parsers_read_every_family(registry: MetricRegistry) -> None:
    for metric in names.CATALOGUE:
        registry.declare(metric)

    classic = {family.name for family in parse_classic(registry.render().decode())}
    openmetrics = {family.name for family in parse_openmetrics(registry.render(openmetrics=True).decode())}

    assert classic == openmetrics == {metric.name.removesuffix("_total") for metric in names.CATALOGUE}


def test_each_page_carries_its_own_families(registry: MetricRegistry) -> None:
    for metric in names.CATALOGUE:
        registry.declare(metric)

    small, rest, both = registry.render("isolation"), registry.render("main"), registry.render()

    assert b"# TYPE isolation_violations_total counter" in small
    assert b"isolation_violations_total" not in rest
    assert b"# TYPE http_server_request_duration_seconds histogram" in rest
    assert sorted(both.splitlines()) == sorted(small.splitlines() + rest.splitlines())


def test_a_series_that_appears_between_two_scrapes_is_on_the_second(registry: MetricRegistry) -> None:
    """What is kept from scrape to scrape is the text before the values, and it must grow."""
    for number in range(3000):
        registry.counter(COUNTER, wizard=f"w{number % 900}", place=f"p{number}").inc(number)
        if number % 500 == 0:
            assert_equal_to_the_peer(registry)

    assert_equal_to_the_peer(registry)


def test_renders_equal_text_again_after_the_file_grew(tmp_path: Path) -> None:
    first = MetricRegistry("chat", tmp_path)
    second = MetricRegistry("chat", tmp_path)
    for number in range(900):
        second.histogram(HISTOGRAM, wizard=f"w{number}").observe(number)
        if number % 300 == 0:
            assert first.value(HISTOGRAM, wizard=f"w{number}") == 1.0

    assert first.render() == generate_latest(peer(first))
    assert sorted(first.render().splitlines()) == sorted(second.render().splitlines())
    first.close()
    second.close()
