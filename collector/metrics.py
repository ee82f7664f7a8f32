"""The collector's own metrics, on a registry of its own. All label sets are closed, or capped with `other`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from isolation_monitor.collector.gate_metrics import GateMetrics
from isolation_monitor.telemetry.names import OTHER

RECORD_RESULTS: Final = ("accepted", "duplicate", "rejected")
REFUSALS: Final = ("malformed", "too_large", "media", "invalid", "timeout", "store_unavailable", "defect")
_ALERTNAME_CAP: Final = 100
_INGEST_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class CollectorMetrics:
    """Counters of one process. Rows are the truth for gates; these are for looking after the collector."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._records = Counter(
            "isolation_collector_records_total",
            "Records received. accepted: stored now; duplicate: stored before; rejected: not usable, named in the answer.",
            ["result"],
            registry=self.registry,
        )
        self._batches_refused = Counter(
            "isolation_collector_batches_refused_total",
            "Batches of which nothing was stored, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._ingest = Histogram(
            "isolation_collector_ingest_duration_seconds",
            "Time from the first byte of a batch to its commit.",
            buckets=_INGEST_BUCKETS,
            registry=self.registry,
        )
        self._alerts = Counter(
            "isolation_collector_alerts_received_total",
            "Alerts that Alertmanager delivered, each delivery counted, by name and status.",
            ["alertname", "status"],
            registry=self.registry,
        )
        self._evaluation = Histogram(
            "isolation_gate_evaluation_duration_seconds",
            "Time one evaluation of a gate took, queries included.",
            registry=self.registry,
        )
        self._alertnames: set[str] = set()
        self._gates = GateMetrics()
        self.registry.register(self._gates)
        for result in RECORD_RESULTS:
            self._records.labels(result)
        for reason in REFUSALS:
            self._batches_refused.labels(reason)

    def batch_stored(self, accepted: int, duplicate: int, rejected: int, duration_s: float) -> None:
        for result, number in zip(RECORD_RESULTS, (accepted, duplicate, rejected), strict=True):
            self._records.labels(result).inc(number)
        self._ingest.observe(duration_s)

    def batch_refused(self, reason: str) -> None:
        self._batches_refused.labels(reason).inc()

    def alert_received(self, alertname: str, status: str) -> None:
        if alertname not in self._alertnames:
            if len(self._alertnames) >= _ALERTNAME_CAP:
                alertname = OTHER
            self._alertnames.add(alertname)
        self._alerts.labels(alertname, status).inc()

    def gate_evaluated(self, rollout: str, verdict: str, at_unix_s: float, duration_s: float) -> None:
        """Show the verdict of `rollout`."""
        self._gates.evaluated(rollout, verdict, at_unix_s)
        self._evaluation.observe(duration_s)

    def gate_answered(self, answer: Mapping[str, Any]) -> None:  # Any: gate/v1
        """Show the numbers of the answer that was just evaluated, beside what they are held to."""
        self._gates.answered(answer)

    def render(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self.registry)
