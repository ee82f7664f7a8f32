"""Our families on the host's own prometheus_client page."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, generate_latest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.metrics import MetricRegistry
from isolation_monitor.telemetry.metrics.prometheus_adapter import IsolationCollector


def test_a_host_shows_ours_beside_its_own(registry: MetricRegistry) -> None:
    host = CollectorRegistry()
    Counter("orders_total", "Orders.", registry=host).inc()
    registry.declare(names.VIOLATIONS)
    registry.histogram(names.RUN_DURATION).observe(0.3)
    host.register(IsolationCollector(registry))

    page = generate_latest(host)

    assert b"orders_total 1.0\n" in page
    assert registry.render() in page


def test_only_the_asked_page_is_yielded(registry: MetricRegistry) -> None:
    for metric in names.CATALOGUE:
        registry.declare(metric)
    collector = IsolationCollector(registry, "isolation")

    found = {family.name for family in collector.collect()}

    assert found == {metric.name.removesuffix("_total") for metric in names.CATALOGUE if metric.endpoint == "isolation"}


def test_registering_reads_nothing(registry: MetricRegistry) -> None:
    assert list(IsolationCollector(registry).describe()) == []
