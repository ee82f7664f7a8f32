"""The collector's own metrics, on a registry of its own. All label sets are closed, or capped with `other`."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from isolation_monitor.telemetry.names import OTHER

RECORD_RESULTS: Final = ("accepted", "duplicate", "rejected")
REFUSALS: Final = ("malformed", "too_large", "media", "invalid", "timeout", "store_unavailable", "defect")
GATE_VERDICTS: Final = ("pass", "fail", "inconclusive", "error")
_ALERTNAME_CAP: Final = 100
_ROLLOUT_CAP: Final = 200
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
        self._verdict = Gauge(
            "isolation_gate_verdict",
            "1 for the verdict that the last evaluation of a rollout gave, 0 for the others.",
            ["rollout", "verdict"],
            registry=self.registry,
        )
        self._evaluated = Gauge(
            "isolation_gate_last_evaluation_timestamp_seconds",
            "Unix time of the last evaluation of a rollout's gate.",
            ["rollout"],
            registry=self.registry,
        )
        self._evaluation = Histogram(
            "isolation_gate_evaluation_duration_seconds",
            "Time one evaluation of a gate took, queries included.",
            registry=self.registry,
        )
        self._alertnames: set[str] = set()
        self._rollouts: dict[str, None] = {}
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
        """Show the verdict of `rollout`. The longest unseen rollout leaves when there are too many."""
        self._rollouts.pop(rollout, None)
        self._rollouts[rollout] = None
        if len(self._rollouts) > _ROLLOUT_CAP:
            oldest = next(iter(self._rollouts))
            del self._rollouts[oldest]
            self._evaluated.remove(oldest)
            for name in GATE_VERDICTS:
                self._verdict.remove(oldest, name)
        for name in GATE_VERDICTS:
            self._verdict.labels(rollout, name).set(1 if name == verdict else 0)
        self._evaluated.labels(rollout).set(at_unix_s)
        self._evaluation.observe(duration_s)

    def render(self) -> bytes:
        """Return the Prometheus text format."""
        return generate_latest(self.registry)
