"""Alerts on the monitor itself: a monitor that sees nothing must not look like a service without faults."""

from __future__ import annotations

from isolation_monitor.alerts.expressions import grew, selector, summed
from isolation_monitor.alerts.model import NUMBER, SERVICE, Alert, Group
from isolation_monitor.alerts.prometheus_config import COLLECTOR_JOB, ISOLATION_JOB
from isolation_monitor.alerts.recording import ACTIVITY, CHECKS_SILENT, KNOWN, SEEN
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.telemetry import names

BATCHES_REFUSED = "isolation_collector_batches_refused_total"
COLLECTOR_SERIES = {BATCHES_REFUSED: frozenset({"reason"})}
"""Series of the collector that rules read, with their labels; no service exposes them."""


def groups(t: Thresholds) -> list[Group]:
    """Return the groups of blindness alerts and of the dead man's switch."""
    return [
        Group("isolation-blindness", "5s", [_target_down(t), _checks_silent(t), _dropping(t), _errors(t), _collector_down(t)]),
        Group("isolation-detectors", "15s", [_detector_silent(t), _detector_grey(t), _coverage_low(t), _evidence_refused(t)]),
        Group("isolation-dead-man", "15s", [_dead_man()]),
    ]


def _target_down(t: Thresholds) -> Alert:
    up = f'up{{job="{ISOLATION_JOB}"}}'
    return Alert(
        "IsolationTargetDown",
        # A known target that fails; one that never answered, whose service nobody knows (but a drill's, which its target
        # names); a service without any target.
        f"max by (service, instance) ({SEEN} and on (instance) {up} == 0)\n"
        f'or\nmax by (service, instance) (label_replace({up} == 0 unless on (instance) {SEEN}, "service", "unknown", "service", ""))\n'
        f"or\n(count by (service) ({KNOWN}) unless on (service) ({SEEN} and on (instance) {up}))",
        "error",
        "page",
        summary="{{ $labels.service }}: its isolation metrics cannot be read",
        description=(
            "Prometheus has not read /metrics/isolation of "
            "{{ if $labels.instance }}{{ $labels.instance }}{{ else }}any instance{{ end }} of service "
            f"{SERVICE} for {t.blindness.target_down_for}. Violations there are invisible to scrapes; the score is blind, not good."
        ),
        for_=t.blindness.target_down_for,
        dashboard="monitor-health",
    )


def _checks_silent(t: Thresholds) -> Alert:
    return Alert(
        "IsolationChecksSilent",
        f"{CHECKS_SILENT} > 0",
        "error",
        "page",
        summary="{{ $labels.service }}: requests are served and none is checked",
        description=(
            f"About {NUMBER} requests of {SERVICE} in the last {t.blindness.checks_window} went by without one "
            "isolation check. Nothing would be seen; the score is blind, not good."
        ),
        for_=t.blindness.checks_silent_for,
        dashboard="monitor-health",
    )


def _detector_silent(t: Thresholds) -> Alert:
    b = t.blindness

    def checked(window: str) -> str:
        return summed(f"increase({selector(names.CHECKS, result='!=error')}[{window}])", "detector")

    failing = summed(grew(selector(names.CHECKS, result="error"), b.errors_window, t.violation.memory), "detector")
    return Alert(
        "IsolationDetectorSilent",
        f"({ACTIVITY} >= {b.detector_min_activity}\nand\n{checked(b.remembered)} > 0\nunless\n{checked(b.detector_window)} > 0)\n"
        f"or\n{failing}",
        "error",
        "page",
        summary="{{ $labels.service }}: detector {{ $labels.detector }} sees nothing",
        description=(
            "Detector {{ $labels.detector }} of {{ $labels.service }} has stopped checking while there is work for it, or its checks fail: "
            f"about {NUMBER} chances to look went by unseen in up to {b.detector_window}. Faults of that kind would stay hidden."
        ),
        keep_firing_for=b.keep_ticket_for,
        dashboard="monitor-health",
    )


def _detector_grey(t: Thresholds) -> Alert:
    b = t.blindness
    grey = summed(selector(names.DETECTOR_STATE, state="grey"), "detector")
    missed = summed(f"increase({selector(names.PLANTED_FAULTS, result='missed')}[{b.missed_window}])", "detector")
    return Alert(
        "IsolationDetectorGrey",
        # The half: increase() reaches for the ends of its window, so that two look like a little more than two.
        f"{grey} > 0\nor\n{missed} > {b.max_missed + 0.5:g}",
        "error",
        "page",
        summary="{{ $labels.service }}: detector {{ $labels.detector }} does not see planted faults",
        description=(
            f"Detector {{{{ $labels.detector }}}} of {SERVICE} has missed its planted faults for {b.grey_for}, or more than {b.max_missed} "
            f"of them within {b.missed_window}. A real fault of that kind would stay hidden: its part of the score is grey, not good."
        ),
        for_=b.grey_for,
        keep_firing_for=b.keep_ticket_for,
        dashboard="monitor-health",
    )


def _coverage_low(t: Thresholds) -> Alert:
    b = t.blindness
    every = summed(f"increase({selector(names.REQUESTS)}[{b.coverage_window}])")
    unverified = summed(f"increase({selector(names.REQUESTS, verdict='unverified')}[{b.coverage_window}])")
    return Alert(
        "IsolationCoverageLow",
        f"{unverified} / {every} > {b.max_unverified_ratio:g}\nand\n{every} >= {b.coverage_min_requests}",
        "warning",
        "ticket",
        summary="{{ $labels.service }}: most requests cannot be verified",
        description=(
            "{{ $value | humanizePercentage }} of the requests of {{ $labels.service }} have no known principal or miss a required check. "
            "They are never counted as isolated; the score speaks only for the rest."
        ),
        for_=b.coverage_for,
    )


def _dropping(t: Thresholds) -> Alert:
    b = t.blindness
    dropped = selector(names.MONITOR_DROPPED, reason=f"!~{b.harmless_drop_reasons}")
    return Alert(
        "IsolationTelemetryDropping",
        summed(grew(dropped, b.dropping_window, t.violation.memory), "reason"),
        "warning",
        "ticket",
        summary="{{ $labels.service }}: the monitor drops data ({{ $labels.reason }})",
        description=(
            f"About {NUMBER} records, series or labels of {SERVICE} were dropped in the last {b.dropping_window}: "
            "{{ $labels.reason }}. Counts and pages stay right; evidence of violations may be missing."
        ),
        keep_firing_for=b.keep_ticket_for,
        dashboard="monitor-health",
    )


def _errors(t: Thresholds) -> Alert:
    b = t.blindness
    return Alert(
        "IsolationMonitorErrors",
        summed(grew(selector(names.MONITOR_ERRORS), b.errors_window, t.violation.memory), "hook"),
        "error",
        "ticket",
        summary="{{ $labels.service }}: the monitor fails inside ({{ $labels.hook }})",
        description=(
            f"About {NUMBER} errors in the monitor's {{{{ $labels.hook }}}} hook in {SERVICE} in the last "
            f"{b.errors_window}. Users notice nothing; requests during them were not checked there."
        ),
        keep_firing_for=b.keep_ticket_for,
        dashboard="monitor-health",
    )


def _collector_down(t: Thresholds) -> Alert:
    return Alert(
        "IsolationCollectorDown",
        # A drill's target carries the labels `synthetic` and `drill`; collectors carry none, so that all of them together are one.
        f'(max by (synthetic, drill) (up{{job="{COLLECTOR_JOB}"}}) or vector(0)) == 0',
        "error",
        "page",
        summary="The isolation collector is down: evidence is not being stored",
        description=(
            f"No collector has answered Prometheus for {t.blindness.collector_down_for}. Services keep records on their own disks "
            "until the spools are full; gates and runbooks do not answer."
        ),
        for_=t.blindness.collector_down_for,
        labels={"service": "isolation-collector"},
        dashboard="monitor-health",
    )


def _evidence_refused(t: Thresholds) -> Alert:
    b = t.blindness
    refused = f'{BATCHES_REFUSED}{{job="{COLLECTOR_JOB}",reason=~"disk_full|overloaded|store_unavailable"}}'
    return Alert(
        "IsolationEvidenceRefused",
        # As for a collector that is down, a drill's labels tell it apart.
        f"sum by (reason, synthetic, drill) (increase({refused}[{b.evidence_refused_window}])) > 0",
        "error",
        "page",
        summary="The isolation collector stores no evidence ({{ $labels.reason }})",
        description=(
            f"For {b.evidence_refused_for} the collector has refused batches of records: {{{{ $labels.reason }}}}. Services keep them "
            "on their own disks until the spools are full, the least grave go first. Pages by metrics still work; gates do not hear of "
            "violations by records."
        ),
        for_=b.evidence_refused_for,
        labels={"service": "isolation-collector"},
        dashboard="monitor-health",
    )


def _dead_man() -> Alert:
    return Alert(
        "DeadMansSwitch",
        "vector(1)",
        "warning",
        "ticket",
        summary="Alerting works from Prometheus to the receiver",
        description=(
            "This alert always fires. When its notifications stop, nobody is being paged any more: "
            "rules, Prometheus or Alertmanager stand still."
        ),
        labels={"service": "isolation-monitor"},
        dashboard="monitor-health",
    )
