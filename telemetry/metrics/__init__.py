"""Metrics: cells written on the request path, added up over workers, rendered for Prometheus."""

from isolation_monitor.telemetry.metrics.cells import Cell, HistogramCell
from isolation_monitor.telemetry.metrics.registry import MetricRegistry, MetricUsageError

__all__ = ["Cell", "HistogramCell", "MetricRegistry", "MetricUsageError"]
