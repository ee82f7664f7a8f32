"""The rows of `monitor-health` on the monitor itself: a dead monitor must not look like a healthy service."""

from __future__ import annotations

from typing import Final

from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import health_queries, queries
from isolation_monitor.dashboards.layout import Row
from isolation_monitor.dashboards.panels import GREEN, GREY, ORANGE, RED, Column, Panel, Query, Words, counts, graph, listing, states
from isolation_monitor.telemetry import names

_LOST: Final = "rejected|spool_full|queue_full|expired|corrupt"
"""Reasons by which records are lost to the collector."""
_VERDICT_WORDS: Final = {"pass": GREEN, "inconclusive": GREY, "fail": RED, "error": ORANGE}


def rows(t: Thresholds) -> list[Row]:
    """Return what the monitor sees, what it costs, whether evidence arrives, and whether rules and pages keep up."""
    seeing = [targets(), last_check(), detectors_grey(), detector_power(), planted_faults(), detector_checks()]
    arriving = [records(), dead_letters(), collector_records(), collector_ingest()]
    return [
        Row("Does it see?", [*seeing, detector_activity(t), failed_checks(), suppressed_violations()]),
        Row("What does it cost?", [series(), reading_pages(), dropped(), monitor_errors(), monitors()]),
        Row("Does evidence arrive?", [*arriving, under_way(), collector_services()]),
        Row("Do rules and pages keep up?", [rule_lag(), scrape_lag(), pages_delivered(), violations_paged(), gates(), gate_time()]),
    ]


def targets() -> Panel:
    return states(
        "Targets answer",
        Query(health_queries.targets_up(), "{{job}}"),
        words={0: Words("DOWN", RED), 1: Words("up", GREEN)},
        alerts=["IsolationTargetDown", "IsolationCollectorDown"],
        description=(
            "Whether Prometheus can read every target of each job. Up is good. Down: the service or the network to it; until it is "
            "back the score is blind. Collector down: evidence waits in the services' queues."
        ),
    )


def last_check() -> Panel:
    return graph(
        "Time since the last judged request",
        Query(health_queries.since_last_check(), "{{service}}"),
        unit="s",
        alerts=["IsolationChecksSilent"],
        description=(
            "Small while there is traffic is good. Rising with traffic: the middleware is gone or switched off; ask `isomon doctor`. "
            "Rising without traffic means nothing."
        ),
    )


def detectors_grey() -> Panel:
    return graph(
        "Detectors that miss planted faults",
        Query(health_queries.detectors_grey(), "{{service}}: detectors grey"),
        Query(health_queries.workers_grey(), "{{detector}}: workers grey"),
        Query(health_queries.planted_faults_missed(), "{{detector}}: missed"),
        unit="none",
        alerts=["IsolationDetectorGrey"],
        description=(
            "Zero is good. Above zero, a detector's part of the score is grey: faults of its kind would stay hidden, also while the score "
            "reads 100. The next panel says which."
        ),
    )


def detector_power() -> Panel:
    return graph(
        "Proven power of each detector",
        Query(health_queries.detector_power(), "{{detector}}"),
        unit="percentunit",
        alerts=["IsolationDetectorGrey"],
        description=(
            "At least this share of planted faults is seen, with 95 % confidence, by the last 20 of each detector: 83 % is good, all were. "
            "It rises during the first two hours. Falling: faults are missed; the runbook of IsolationDetectorGrey has the steps."
        ),
    )


def suppressed_violations() -> Panel:
    return graph(
        "Suppressed violations",
        Query(health_queries.suppressed_violations(), "{{kind}}"),
        unit="none",
        alerts=[],
        description=(
            "Violations that the suppressions file accepts for now: they page nobody, and their requests are unverified. Zero is good. "
            "Much more than expected: an entry hides more than it was written for; `isomon doctor` says which, and which have expired."
        ),
    )


def detector_checks() -> Panel:
    return graph(
        "Checks by detector",
        Query(queries.rate(names.CHECKS, "detector"), "{{detector}}"),
        unit="ops",
        alerts=["IsolationDetectorSilent"],
        description=(
            "Each detector should follow the traffic it looks at. A line that falls to zero while others go on is a detector that sees "
            "nothing; its kind of fault would stay hidden."
        ),
    )


def detector_activity(t: Thresholds) -> Panel:
    return graph(
        "What each detector had to look at",
        Query(health_queries.activity(), "{{detector}}"),
        unit="none",
        alerts=["IsolationDetectorSilent"],
        description=(
            f"Acts in {t.blindness.detector_window} that each detector should have checked. Compare with the checks: much here and none "
            "there means a blind detector. Zero here means nothing to check."
        ),
    )


def failed_checks() -> Panel:
    return graph(
        "Checks that failed or were skipped",
        Query(queries.rate(names.CHECKS, "detector", result="error"), "{{detector}} failed"),
        Query(queries.rate(names.CHECKS, "detector", result="skipped"), "{{detector}} skipped"),
        unit="ops",
        alerts=["IsolationDetectorSilent"],
        description=(
            "Zero is good. Failed: a defect of ours, or a library that changed; the service's log has the reason once a minute. "
            "Skipped: bodies or frames above the size limit, or data that no detector could read."
        ),
    )


def dropped() -> Panel:
    return counts(
        "Dropped by the monitor's own limits",
        Query(queries.grown(names.MONITOR_DROPPED, queries.STEP, "reason"), "{{reason}}"),
        width=12,
        alerts=["IsolationTelemetryDropping"],
        description=(
            "Records, series and labels that were dropped rather than slow the service down. Zero is good; rate_limited is harmless, "
            "for those arrive as one record with their number. queue_full: the collector is slow or away."
        ),
    )


def records() -> Panel:
    return graph(
        "Records on their way to the collector",
        Query(queries.rate(names.RECORDS, "state"), "{{state}} per second"),
        Query(f"sum({queries.scraped(names.RECORD_QUEUE_DEPTH)})", "waiting now"),
        Query(f"sum({queries.scraped(names.RECORD_SPOOL_BYTES)}) / 1e6", "MB on the services' disks"),
        unit="none",
        alerts=["IsolationTelemetryDropping", "IsolationCollectorDown"],
        description=(
            "Good: sent follows queued, failed and waiting stay near zero. Waiting rises: the collector does not answer or refuses; "
            "check its address, its token and its log."
        ),
    )


def monitor_errors() -> Panel:
    return counts(
        "Errors inside the monitor",
        Query(queries.grown(names.MONITOR_ERRORS, queries.STEP, "hook"), "{{hook}}"),
        width=12,
        alerts=["IsolationMonitorErrors"],
        description=(
            "Errors that were swallowed so that users never saw them. Zero is good. Above: requests during them were not checked at "
            "that hook; the log has the first of each minute."
        ),
    )


def collector_records() -> Panel:
    return graph(
        "Collector: records received",
        Query(health_queries.collector_rate("isolation_collector_records_total", "result"), "{{result}}"),
        Query(health_queries.collector_rate("isolation_collector_batches_refused_total", "reason"), "batch refused: {{reason}}"),
        unit="cps",
        alerts=["IsolationCollectorDown", "IsolationEvidenceRefused"],
        description=(
            "Accepted is good, duplicates are harmless repeats. Rejected or refused: a service sends what the collector cannot use; "
            "the reason names it."
        ),
    )


def collector_ingest() -> Panel:
    return graph(
        "Collector: time to store a batch, slowest 5 %",
        Query(health_queries.collector_ingest_p95(), "p95"),
        unit="s",
        no_value="no batches",
        alerts=["IsolationCollectorDown"],
        description=(
            "From the first byte to the commit. Well below a second is good. Rising: the database is slow or locked; records wait in "
            "the services until it recovers."
        ),
    )


def pages_delivered() -> Panel:
    return graph(
        "Notifications that arrived",
        Query(health_queries.notifications(), "{{alertname}}"),
        unit="none",
        decimals=0,
        no_value="none arrived",
        alerts=["DeadMansSwitch"],
        description=(
            f"What Alertmanager delivered to the collector in {health_queries.NOTIFICATIONS_WINDOW}. DeadMansSwitch arriving again and "
            "again is good: the way from rule to receiver works. If it stops, nobody is being paged."
        ),
    )


def violations_paged() -> Panel:
    return counts(
        "Collector: violations told to Alertmanager",
        Query(health_queries.collector_grown("isolation_collector_violation_pages_total", "result"), "{{result}}"),
        colors={"told": GREEN, "failed": ORANGE, "dropped": RED},
        alerts=["IsolationViolation"],
        description=(
            "Straight from the evidence, beside Prometheus, so that a page does not wait for a scrape. Told is good. Failed: no "
            "Alertmanager took it, it is tried again. Dropped: it was a day old, or too many waited; the rules still page."
        ),
    )


def gates() -> Panel:
    return states(
        "Gates of rollouts",
        Query(health_queries.gate_verdicts(), "{{rollout}}"),
        words={code: Words(verdict, _VERDICT_WORDS[verdict]) for verdict, code in health_queries.GATE_CODES.items()},
        no_value="no rollout asked",
        alerts=["IsolationViolation", "SessionLeak"],
        description=(
            "The last verdict of each rollout's gate. Pass is good. Fail: the rollout must go back. Inconclusive: not enough data yet. "
            "Error: the gate could not ask; it is never a pass."
        ),
    )


def monitors() -> Panel:
    return listing(
        "Monitors at work",
        Column("Service", "service"),
        Column("Instance", "instance"),
        Column("Version", "version"),
        Column("Mode", "mode"),
        rows=health_queries.monitors(),
        width=24,
        height=6,
        no_value="no monitor answers",
        alerts=["IsolationTargetDown"],
        description=(
            "Version and mode of each instrumented instance. Mode monitor or block is good; off sees nothing. An instance that is "
            "missing here is not instrumented or not scraped."
        ),
    )


def planted_faults() -> Panel:
    return counts(
        "Planted faults, seen and missed",
        Query(queries.grown(names.PLANTED_FAULTS, queries.STEP, "result"), "{{result}}"),
        colors={"seen": GREEN, "missed": RED},
        alerts=["IsolationDetectorGrey"],
        description=(
            "Faults that the monitor plants on synthetic users to prove that it sees. Seen alone is good. Missed: that detector is tried "
            "again within seconds and then counts as grey. None at all: nothing proves that it looks; ask `isomon doctor`."
        ),
    )


def series() -> Panel:
    return graph(
        "Series of the services",
        Query(f"sum by (service) ({queries.scraped(names.MONITOR_SERIES)})", "{{service}}"),
        unit="none",
        decimals=0,
        width=12,
        alerts=["IsolationTelemetryDropping"],
        description=(
            "Series that the monitor keeps in all workers. Level is good, for labels are closed or capped. Growing on: look at what was "
            "dropped for label_cap; a component or route is named by something that changes."
        ),
    )


def reading_pages() -> Panel:
    return graph(
        "Time to read the metrics pages",
        Query(health_queries.reading_time(), "{{job}}"),
        unit="s",
        width=12,
        alerts=["IsolationTargetDown"],
        description=(
            "The slowest target of each job. A few milliseconds are good for `isolation`, which is read each second and given one. Rising "
            "towards its interval: the service's process is busy or the page has grown; beyond it the target counts as down."
        ),
    )


def dead_letters() -> Panel:
    return counts(
        "Records that never arrive",
        Query(queries.grown(names.MONITOR_DROPPED, queries.STEP, "reason", reason=f"=~{_LOST}"), "{{reason}}"),
        alerts=["IsolationTelemetryDropping"],
        description=(
            "Zero is good. rejected: the collector refused them for good, they are in the service's file of dead letters; `isomon doctor` "
            "there names it. spool_full and queue_full: an outage outlasted the room. expired, corrupt: as they say."
        ),
    )


def under_way() -> Panel:
    return graph(
        "Collector: bytes under way, disk",
        Query(f"sum({health_queries.of_collector('isolation_collector_ingest_bytes')}) / 1e6", "MB of batches under way"),
        Query(f"100 * max({health_queries.of_collector('isolation_collector_disk_used_ratio')})", "% of SQLite's disk used"),
        unit="none",
        alerts=["IsolationEvidenceRefused"],
        description=(
            "Batches that are read, decoded or wait for their commit. Near zero is good. At the limit (COLLECTOR_INGEST_BYTES, for each "
            "replica) more is answered 503 and waits in the services. Above 90 % of the disk nothing is taken."
        ),
    )


def collector_services() -> Panel:
    return graph(
        "Collector: records by service",
        Query(health_queries.collector_rate("isolation_collector_service_records_total", "service"), "{{service}}"),
        unit="cps",
        no_value="no records",
        alerts=["IsolationEvidenceRefused"],
        description=(
            "Who sends. Steady is good. One that sends far more than the others fills the store: bound its key by "
            "COLLECTOR_RATE_RECORDS_PER_S. The service `other`: a key has named more services than are told apart."
        ),
    )


def rule_lag() -> Panel:
    return graph(
        "Age of the recorded score",
        Query(health_queries.rule_lag(), "{{service}}"),
        unit="s",
        alerts=["IsolationScoreBelow100", "DeadMansSwitch"],
        description=(
            "How long ago Prometheus last evaluated the rules of the score. A second or two is good. Rising: its rules do not keep up or "
            "stand still, and every page comes late by as much; look at its own rules page and its load."
        ),
    )


def scrape_lag() -> Panel:
    return graph(
        "Age of the last scrape",
        Query(health_queries.scrape_lag(), "{{job}}"),
        unit="s",
        alerts=["IsolationTargetDown", "IsolationCollectorDown"],
        description=(
            "The oldest target of each job. At most its interval is good: one second for `isolation`. More: Prometheus is overloaded, or "
            "the target is gone from its list; what happened since is invisible to rules."
        ),
    )


def gate_time() -> Panel:
    return graph(
        "Gates: time of an evaluation, slowest 5 %",
        Query(health_queries.gate_time_p95(), "p95"),
        unit="s",
        no_value="no rollout asked",
        alerts=["GateError"],
        description=(
            "Queries to Prometheus included. Well below COLLECTOR_PROMETHEUS_TIMEOUT_S is good. Near it verdicts become errors: Prometheus "
            "is slow or far away; an error never passes and never rolls back."
        ),
    )
