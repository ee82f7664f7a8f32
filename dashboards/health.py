"""The row of `isolation-overview` on the monitor itself: a dead monitor must not look like a healthy service."""

from __future__ import annotations

from typing import Final

from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import health_queries, queries
from isolation_monitor.dashboards.layout import Row
from isolation_monitor.dashboards.panels import GREEN, GREY, ORANGE, RED, Column, Panel, Query, Words, counts, graph, listing, states
from isolation_monitor.telemetry import names

_VERDICT_WORDS: Final = {"pass": GREEN, "inconclusive": GREY, "fail": RED, "error": ORANGE}


def row(t: Thresholds) -> Row:
    """Targets and checks, what was dropped, the collector, the way of a page."""
    looking = [
        targets(),
        last_check(),
        detectors_grey(),
        detector_power(),
        detector_checks(),
        detector_activity(t),
        failed_checks(),
        suppressed_violations(),
        dropped(),
    ]
    telling = [records(), monitor_errors(), collector_records(), collector_ingest(), pages_delivered(), gates()]
    return Row("The monitor's own health", [*looking, *telling, monitors()])


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
