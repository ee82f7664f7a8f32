"""Scenarios of the alerts on runs of test suites: one suite just within each limit, one just beyond it, one that mends."""

from __future__ import annotations

from tests.real_parts.promtool import Firing, Scenario, series

_TICKET = {"service": "isolation-ci", "action": "ticket"}
_NOW = " The newest run that speaks for it is on the collector's page /ci, with what failed, why, and since when."


def _shown(metric: str, suites: dict[str, str]) -> dict[str, str]:
    """Return what two replicas show of these suites: both the same."""
    return {
        series(metric, {"job": "collector", "instance": instance, "test_suite_name": suite}): values
        for suite, values in suites.items()
        for instance in ("collector:1", "collector:2")
    }


def _scenario(
    alert: str, metric: str, within: str, beyond: str, summary: str, description: str, shown: str, severity: str = "warning"
) -> Scenario:
    """`shown` is how the value that is beyond the limit reads in the text."""
    inputs = _shown(metric, {"within": f"{within}x200", "beyond": f"{beyond}x200", "mended": f"{beyond}x99 {within}x100"})

    def firing(suite: str) -> Firing:
        return Firing(
            {"test_suite_name": suite, "severity": severity, **_TICKET},
            f"Suite {suite}: {summary}",
            description.format(suite=suite, shown=shown) + _NOW,
        )

    return Scenario(alert, inputs, alert, {75: [firing("beyond"), firing("mended")], 120: [firing("beyond")]}, every_s=15)


def _missing() -> Scenario:
    # The newest of two replicas counts; the clock of the test begins at 0, and the moment is 105 s.
    inputs = _shown("isolation_ci_last_run_timestamp_seconds", {"within": "-86295x200", "beyond": "-86296x200"})
    inputs[series("isolation_ci_last_run_timestamp_seconds", {"job": "collector", "instance": "c:1", "test_suite_name": "late"})] = (
        "-90000x200"
    )
    inputs[series("isolation_ci_last_run_timestamp_seconds", {"job": "collector", "instance": "c:2", "test_suite_name": "late"})] = "0x200"
    firing = Firing(
        {"test_suite_name": "beyond", "severity": "warning", **_TICKET},
        "Suite beyond: no run has been reported for a day",
        "The newest run of suite beyond that speaks for it began 1d 0h 0m 1s ago: its schedule, its runner or its report has stopped. "
        "A suite that is not run says nothing, which looks like no failure." + _NOW,
    )
    return Scenario("CiRunsMissing", inputs, "CiRunsMissing", {90: [], 105: [firing]}, every_s=15)


CI_SCENARIOS = [
    _scenario(
        *("CiPassRateLow", "isolation_ci_pass_ratio", "0.95", "0.949", "too many tests fail"),
        "{shown} of the tests of suite {suite} passed in its newest run; 95% is expected.",
        "94.9%",
        "error",
    ),
    _scenario(
        *("CiFlakyTests", "isolation_ci_flaky_ratio", "0.05", "0.051", "too many tests are flaky"),
        "{shown} of the tests of suite {suite} failed and passed without a change that explains it within two weeks; 5% is allowed.",
        "5.1%",
    ),
    _scenario(
        *("CiRunSlow", "isolation_ci_run_duration_seconds", "600", "600.5", "a run takes too long"),
        "The newest run of suite {suite} took {shown}; 10 minutes are allowed.",
        "10m 0s",
    ),
    _scenario(
        *("CiRunSlower", "isolation_ci_run_duration_trend_ratio", "1.25", "1.26", "runs take longer than before"),
        "The newest three runs of suite {suite} took {shown} of the time of the twenty before them; 125% is allowed.",
        "126%",
    ),
    _scenario(
        *("CiMemoryHigh", "isolation_ci_memory_peak_bytes", "2000000000", "2000000001", "its tests need too much memory"),
        "The newest run of suite {suite} held {shown}B at its peak; 2 GB are allowed.",
        "2G",
    ),
    _missing(),
]
