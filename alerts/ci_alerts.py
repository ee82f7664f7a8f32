"""Alerts on runs of test suites, by the numbers that the collector shows of each: tickets, because nobody's request is at stake."""

from __future__ import annotations

from typing import Final

from isolation_monitor.alerts.model import Alert, Group, Severity
from isolation_monitor.alerts.prometheus_config import COLLECTOR_JOB
from isolation_monitor.alerts.thresholds import Thresholds

PASS_RATIO: Final = "isolation_ci_pass_ratio"
FLAKY_RATIO: Final = "isolation_ci_flaky_ratio"
DURATION: Final = "isolation_ci_run_duration_seconds"
TREND: Final = "isolation_ci_run_duration_trend_ratio"
MEMORY: Final = "isolation_ci_memory_peak_bytes"
LAST_RUN: Final = "isolation_ci_last_run_timestamp_seconds"
COLLECTOR_SERIES: Final = {name: frozenset({"test_suite_name"}) for name in (PASS_RATIO, FLAKY_RATIO, DURATION, TREND, MEMORY, LAST_RUN)}
"""Series of the collector that rules read, with their labels; no service exposes them."""

_SUITE: Final = "{{ $labels.test_suite_name }}"
_PERCENT: Final = "{{ $value | humanizePercentage }}"
_NOW: Final = "The newest run that speaks for it is on the collector's page /ci, with what failed, why, and since when."


def groups(t: Thresholds) -> list[Group]:
    """Return the group of alerts on CI."""
    return [Group("ci", "5s", [_pass_rate(t), _flaky(t), _slow(t), _slower(t), _memory(t), _missing(t)])]


def _of(aggregation: str, series: str) -> str:
    # Replicas say the same; a drill's labels tell it apart.
    return f'{aggregation} by (test_suite_name, synthetic, drill) ({series}{{job="{COLLECTOR_JOB}"}})'


def _alert(name: str, expr: str, summary: str, description: str, severity: Severity = "warning") -> Alert:
    labels = {"service": "isolation-ci"}
    return Alert(name, expr, severity, "ticket", summary, f"{description} {_NOW}", dashboard="ci-health", labels=labels)


def _pass_rate(t: Thresholds) -> Alert:
    return _alert(
        "CiPassRateLow",
        f"{_of('min', PASS_RATIO)} < {t.ci.min_pass_ratio:g}",
        f"Suite {_SUITE}: too many tests fail",
        f"{_PERCENT} of the tests of suite {_SUITE} passed in its newest run; {t.ci.min_pass_ratio:.0%} is expected.",
        "error",
    )


def _flaky(t: Thresholds) -> Alert:
    return _alert(
        "CiFlakyTests",
        f"{_of('max', FLAKY_RATIO)} > {t.ci.max_flaky_ratio:g}",
        f"Suite {_SUITE}: too many tests are flaky",
        f"{_PERCENT} of the tests of suite {_SUITE} failed and passed without a change that explains it within two weeks; "
        f"{t.ci.max_flaky_ratio:.0%} is allowed.",
    )


def _slow(t: Thresholds) -> Alert:
    return _alert(
        "CiRunSlow",
        f"{_of('max', DURATION)} > {t.ci.max_duration_s}",
        f"Suite {_SUITE}: a run takes too long",
        f"The newest run of suite {_SUITE} took {{{{ $value | humanizeDuration }}}}; {t.ci.max_duration_s / 60:g} minutes are allowed.",
    )


def _slower(t: Thresholds) -> Alert:
    return _alert(
        "CiRunSlower",
        f"{_of('max', TREND)} > {t.ci.max_trend_ratio:g}",
        f"Suite {_SUITE}: runs take longer than before",
        f"The newest three runs of suite {_SUITE} took {_PERCENT} of the time of the twenty before them; "
        f"{t.ci.max_trend_ratio:.0%} is allowed.",
    )


def _memory(t: Thresholds) -> Alert:
    return _alert(
        "CiMemoryHigh",
        f"{_of('max', MEMORY)} > {t.ci.max_memory_bytes}",
        f"Suite {_SUITE}: its tests need too much memory",
        f"The newest run of suite {_SUITE} held {{{{ $value | humanize }}}}B at its peak; {t.ci.max_memory_bytes / 1e9:g} GB are allowed.",
    )


def _missing(t: Thresholds) -> Alert:
    return _alert(
        "CiRunsMissing",
        f"time() - {_of('max', LAST_RUN)} > {t.ci.missing_after_s}",
        f"Suite {_SUITE}: no run has been reported for a day",
        f"The newest run of suite {_SUITE} that speaks for it began {{{{ $value | humanizeDuration }}}} ago: its schedule, its runner "
        "or its report has stopped. A suite that is not run says nothing, which looks like no failure.",
    )
