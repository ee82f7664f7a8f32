"""The collector's own metrics, on a registry of its own. All label sets are closed, or capped with `other`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from isolation_monitor.collector.ci_metrics import CiMetrics
from isolation_monitor.collector.container_metrics import ContainerMetrics
from isolation_monitor.collector.gate_metrics import GateMetrics
from isolation_monitor.collector.probe_metrics import ProbeMetrics
from isolation_monitor.telemetry.names import OTHER

RECORD_RESULTS: Final = ("accepted", "duplicate", "rejected")
REFUSALS: Final = (
    "disk_full",
    "malformed",
    "too_large",
    "media",
    "invalid",
    "timeout",
    "token",
    "too_fast",
    "overloaded",
    "store_unavailable",
    "defect",
)
PAGE_RESULTS: Final = ("told", "failed", "dropped")
REQUEST_REFUSALS: Final = (
    *("no_token", "unknown_token", "expired_token", "scope", "service"),
    *("requests", "records", "bytes"),
)
"""Why a request was refused before its work began: its token, or how fast it came."""
EXPIRING: Final = (
    *("violations", "amendments", "runs", "unknown_records", "violation_counts", "alert_notifications", "gate_decisions"),
    "violation_pages_due",
    *("container_events", "container_actions", "containers"),
    *("ci_runs", "ci_failures", "ci_tests", "ci_failure_kinds", "ci_days", "ci_suites"),
)
_ALERTNAME_CAP: Final = 100
_SERVICES_OF_KEY: Final = 50
_SERVICES: Final = 500
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
        self._intake = Gauge(
            "isolation_collector_ingest_bytes",
            "Bytes of batches that are being read, decoded or waiting for their commit.",
            registry=self.registry,
        )
        self._alerts = Counter(
            "isolation_collector_alerts_received_total",
            "Alerts that Alertmanager delivered, each delivery counted, by name and status.",
            ["alertname", "status"],
            registry=self.registry,
        )
        self._violations_paged = Counter(
            "isolation_collector_violation_pages_total",
            "Posts of violations to Alertmanager, beside the rules. told: one took it; failed: none did, it is tried again; dropped: too "
            "many waited, or they were a day old.",
            ["result"],
            registry=self.registry,
        )
        self._requests_refused = Counter(
            "isolation_collector_requests_refused_total",
            "Requests refused before their work began: by their token (no_token, unknown_token, expired_token, scope, service), or because "
            "its key was too fast (requests, records, bytes).",
            ["reason"],
            registry=self.registry,
        )
        self._service_records = Counter(
            "isolation_collector_service_records_total",
            "Records received, by the service they are of; beyond 50 services of one key, or 500 of all, the service is other.",
            ["service"],
            registry=self.registry,
        )
        self._services_over = Counter(
            "isolation_collector_services_over_limit_total",
            "Batches whose service was counted as other, because their key had named too many.",
            registry=self.registry,
        )
        self._key_reloads = Counter(
            "isolation_collector_key_reloads_total",
            "Times that changed files of tokens and keys were read again: ok, or failed, after which the keys from before hold.",
            ["result"],
            registry=self.registry,
        )
        self._keys_stale = Gauge(
            "isolation_collector_keys_stale",
            "1 while a file of tokens or keys has changed and cannot be read: the keys from before hold, revoked ones too.",
            registry=self.registry,
        )
        self._evaluation = Histogram(
            "isolation_gate_evaluation_duration_seconds",
            "Time one evaluation of a gate took, queries included.",
            registry=self.registry,
        )
        self._expired = Counter(
            "isolation_collector_expired_rows_total",
            "Rows that were older than they are kept, by table; on PostgreSQL whole days go as partitions and are counted there.",
            ["table"],
            registry=self.registry,
        )
        self._partitions_dropped = Counter(
            "isolation_collector_partitions_dropped_total", "Days of evidence that PostgreSQL dropped whole.", registry=self.registry
        )
        self._house_kept = Gauge(
            "isolation_collector_retention_last_success_timestamp_seconds",
            "Unix time of the last whole round of expiry by this replica; 0 before the first, or where another one leads.",
            registry=self.registry,
        )
        self._house_interval = Gauge(
            "isolation_collector_retention_interval_seconds",
            "How often one replica looks for what has expired (COLLECTOR_RETENTION_INTERVAL_S).",
            registry=self.registry,
        )
        self._rollups = Counter(
            "isolation_collector_rollup_rounds_total",
            "Rounds in which this replica summed up days that are over, one a minute where it leads. ok: all was done; failed: some or all "
            "could not be, and is tried again; questions over long times read the records meanwhile.",
            ["result"],
            registry=self.registry,
        )
        self._leading = Gauge(
            "isolation_collector_leading", "1 in the replica that expires evidence, 0 in the others.", registry=self.registry
        )
        self._store_bytes = Gauge(
            "isolation_collector_store_bytes", "Bytes of evidence, as the leading replica last found it.", registry=self.registry
        )
        self._disk_used = Gauge(
            "isolation_collector_disk_used_ratio",
            "Used share of the disk that holds the SQLite file, 0-1; 0 with PostgreSQL.",
            registry=self.registry,
        )
        self._alertnames: set[str] = set()
        self._services: dict[str, set[str]] = {}
        self._all_services: set[str] = set()
        self._gates = GateMetrics()
        self.registry.register(self._gates)
        self.containers = ContainerMetrics()
        """What the followers of Docker engines tell."""
        self.registry.register(self.containers)
        self.ci = CiMetrics()
        self.registry.register(self.ci)
        self.probes = ProbeMetrics()
        self.registry.register(self.probes)
        for result in RECORD_RESULTS:
            self._records.labels(result)
        for table in EXPIRING:
            self._expired.labels(table)
        for reason in REFUSALS:
            self._batches_refused.labels(reason)
        for reason in REQUEST_REFUSALS:
            self._requests_refused.labels(reason)
        for result in ("ok", "failed"):
            self._key_reloads.labels(result)
            self._rollups.labels(result)
        for result in PAGE_RESULTS:
            self._violations_paged.labels(result)

    def request_refused(self, reason: str) -> None:
        """Count a request by one of `REQUEST_REFUSALS`."""
        self._requests_refused.labels(reason).inc()

    def service_sent(self, key_id: str, service: str, records: int) -> None:
        """Count the records of a batch by service. One key that invents names fills its own share and no other's."""
        of_key = self._services.setdefault(key_id, set())
        if service not in of_key:
            if len(of_key) >= _SERVICES_OF_KEY or len(self._all_services | {service}) > _SERVICES:
                service = OTHER
                self._services_over.inc()
            else:
                of_key.add(service)
                self._all_services.add(service)
        self._service_records.labels(service).inc(records)

    def violations_paged(self, result: str) -> None:
        """Count a post to Alertmanager by one of `PAGE_RESULTS`."""
        self._violations_paged.labels(result).inc()

    def keys_reloaded(self, worked: bool) -> None:
        self._key_reloads.labels("ok" if worked else "failed").inc()
        self._keys_stale.set(not worked)

    def batch_stored(self, accepted: int, duplicate: int, rejected: int, duration_s: float) -> None:
        for result, number in zip(RECORD_RESULTS, (accepted, duplicate, rejected), strict=True):
            self._records.labels(result).inc(number)
        self._ingest.observe(duration_s)

    def watch_intake(self, held_bytes: Callable[[], float]) -> None:
        """Show what is under way whenever somebody looks."""
        self._intake.set_function(held_bytes)

    def batch_refused(self, reason: str) -> None:
        self._batches_refused.labels(reason).inc()

    def alert_received(self, alertname: str, status: str) -> None:
        if alertname not in self._alertnames:
            if len(self._alertnames) >= _ALERTNAME_CAP:
                alertname = OTHER
            self._alertnames.add(alertname)
        self._alerts.labels(alertname, status).inc()

    def keeps_house_every(self, interval_s: float) -> None:
        """Show how often expiry is meant to run: what late is follows from it."""
        self._house_interval.set(interval_s)

    def leading(self, is_leading: bool) -> None:
        self._leading.set(is_leading)

    def house_kept(self, expired: Mapping[str, int], partitions: int, at_unix_s: float, store_bytes: int) -> None:
        """Count one whole round of expiry."""
        for table in EXPIRING:
            self._expired.labels(table).inc(expired.get(table, 0))
        self._partitions_dropped.inc(partitions)
        self._house_kept.set(at_unix_s)
        self._store_bytes.set(store_bytes)

    def rolled_up(self, result: str) -> None:
        """Count one round of summing up: `ok` or `failed`."""
        self._rollups.labels(result).inc()

    def disk(self, used_ratio: float) -> None:
        self._disk_used.set(used_ratio)

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
