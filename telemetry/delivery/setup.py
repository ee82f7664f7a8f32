"""Puts the parts of measured delivery together, from a monitor's settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry.delivery.acknowledgements import Acknowledgements, FindProbe
from isolation_monitor.telemetry.delivery.deepest_queues import DeepestQueues
from isolation_monitor.telemetry.delivery.ladder import Ladder
from isolation_monitor.telemetry.delivery.negotiated import Delivery
from isolation_monitor.telemetry.delivery.queues import QueueGauges
from isolation_monitor.telemetry.delivery.retention import Limits, Retention

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.run import Runs
    from isolation_monitor.telemetry.metrics.registry import MetricRegistry
    from isolation_monitor.telemetry.settings import Settings


def make_delivery(
    registry: MetricRegistry,
    runs: Runs,
    settings: Settings,
    find_probe: FindProbe,
    on_error: Callable[[BaseException], None],
    tell: Callable[[dict[str, Any]], None],
) -> Delivery:
    """Return what makes the connections of one monitor's clients deliver measurably.

    `find_probe` knows the servers; `tell(record)` takes statements to the collector.
    """
    ladder = Ladder(registry)
    acknowledgements = Acknowledgements(ladder, settings.delivery_wait_s, on_error)
    acknowledgements.find_probe = find_probe
    retention = Retention(ladder, Limits(settings.delivery_events, settings.delivery_bytes, settings.delivery_wait_s), on_error)
    queues, sources = QueueGauges(registry), (retention.backlogs, acknowledgements.backlogs)
    retention.looked = acknowledgements.looked = lambda is_last: queues.show_all(sources, is_last)
    fields = settings.run_id_field, settings.event_field
    delivery = Delivery(retention, acknowledgements, runs, fields, settings.body_limit_bytes, settings.delivery_ack_ms, on_error)
    if settings.collector_url and settings.mode != "off":
        delivery.deepest = DeepestQueues(tell, on_error)
        queues.seen = delivery.deepest.look
    registry.on_fork(delivery.forked)
    return delivery
