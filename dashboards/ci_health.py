"""The dashboard `ci-health`: do the test suites pass, can their word be trusted, and what do they cost?

The collector reads these numbers from its store, so every replica says the same; they belong to suites, not to services.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.ci_alerts import DURATION, FLAKY_RATIO, LAST_RUN, MEMORY, PASS_RATIO, TREND
from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards.layout import CI_UID, Row, dashboard
from isolation_monitor.dashboards.panels import GREEN, ORANGE, RED, Column, Panel, Query, Step, bad_from, good_from, graph, listing, tile

TESTS: Final = "isolation_ci_tests_total"
_NONE: Final = "no run reported"
_DRILL: Final = 'synthetic!="true"'
"""Invented suites of alert drills are no suites."""


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Do the suites pass, can their word be trusted, what do they cost?"""
    return dashboard(
        uid=CI_UID,
        description="Do the test suites pass, can their word be trusted, and what do they cost?",
        links=links,
        rows=[
            Row("Now", [worst_pass_ratio(t), most_flaky(t), longest(t), oldest(t), suites(t)]),
            Row("Over time", [pass_ratio(t), flaky(t), failed(), duration(t), trend(t), memory(t)]),
        ],
    )


def _worst(aggregation: str, series: str) -> str:
    return f"{aggregation}({series}{{{_DRILL}}})"


def _by_suite(aggregation: str, series: str) -> str:
    return f"{aggregation} by (test_suite_name) ({series}{{{_DRILL}}})"


def _flaky_steps(t: Thresholds) -> tuple[Step, ...]:
    return bad_from((0.001, ORANGE), (t.ci.max_flaky_ratio, RED))


def _age() -> str:
    return f"time() - {_by_suite('max', LAST_RUN)}"


# --- now --------------------------------------------------------------------------------------------------------------


def worst_pass_ratio(t: Thresholds) -> Panel:
    return tile(
        "Passed, worst suite",
        Query(_worst("min", PASS_RATIO)),
        unit="percentunit",
        decimals=1,
        steps=good_from((t.ci.min_pass_ratio, ORANGE), (1, GREEN)),
        no_value=_NONE,
        width=6,
        alerts=["CiPassRateLow"],
        description=(
            f"Share of tests that passed in the newest run of the suite that does worst. 100 % is good, below "
            f"{t.ci.min_pass_ratio:.0%} is a ticket. The collector's page /ci says what failed, why, and whether it is new."
        ),
    )


def most_flaky(t: Thresholds) -> Panel:
    return tile(
        "Flaky, worst suite",
        Query(_worst("max", FLAKY_RATIO)),
        unit="percentunit",
        decimals=1,
        steps=_flaky_steps(t),
        no_value=_NONE,
        width=6,
        alerts=["CiFlakyTests"],
        description=(
            "Share of tests that failed and passed without a change that explains it, in the suite that has most. Zero is good. Above: "
            "the list with the evidence is on the suite's page; mend the first of it."
        ),
    )


def longest(t: Thresholds) -> Panel:
    return tile(
        "Longest run",
        Query(_worst("max", DURATION)),
        unit="s",
        decimals=0,
        steps=bad_from((t.ci.max_duration_s, RED)),
        no_value=_NONE,
        width=6,
        alerts=["CiRunSlow", "CiRunSlower"],
        description=(
            f"Duration of the newest run of the slowest suite; {t.ci.max_duration_s / 60:g} minutes should be enough. Above: the "
            "slowest tests are on the suite's page."
        ),
    )


def oldest(t: Thresholds) -> Panel:
    return tile(
        "Longest without a run",
        Query(f"time() - {_worst('min', LAST_RUN)}"),
        unit="s",
        decimals=0,
        steps=bad_from((t.ci.missing_after_s, RED)),
        no_value=_NONE,
        width=6,
        alerts=["CiRunsMissing"],
        description=(
            "Age of the newest run of the suite that has waited longest. Below a day is good. Above: its schedule, its runner or its "
            "report has stopped. A suite that was retired leaves after two weeks."
        ),
    )


def suites(t: Thresholds) -> Panel:
    return listing(
        "Suites",
        Column("Suite", "test_suite_name"),
        Column(
            "Passed",
            expr=_by_suite("min", PASS_RATIO),
            unit="percentunit",
            decimals=1,
            steps=good_from((t.ci.min_pass_ratio, ORANGE), (1, GREEN)),
        ),
        Column("Flaky", expr=_by_suite("max", FLAKY_RATIO), unit="percentunit", decimals=1, steps=_flaky_steps(t)),
        Column("Takes", expr=_by_suite("max", DURATION), unit="s", decimals=0, steps=bad_from((t.ci.max_duration_s, RED))),
        Column("Last run ago", expr=_age(), unit="s", decimals=0, steps=bad_from((t.ci.missing_after_s, RED))),
        width=24,
        height=8,
        no_value=_NONE,
        alerts=["CiPassRateLow", "CiFlakyTests", "CiRunSlow", "CiRunsMissing"],
        description=(
            "Every suite by its newest run on the default branch. All green is good. A suite that is missing here has not been reported "
            "for two weeks, or was never: `isomon ci report`."
        ),
    )


# --- over time --------------------------------------------------------------------------------------------------------


def pass_ratio(t: Thresholds) -> Panel:
    return graph(
        "Passed tests",
        Query(_by_suite("min", PASS_RATIO), "{{test_suite_name}}"),
        unit="percentunit",
        maximum=1,
        minimum=None,
        steps=((None, RED), (t.ci.min_pass_ratio, GREEN)),
        no_value=_NONE,
        alerts=["CiPassRateLow"],
        description=(
            "Steps at each run; 100 % is good. A step down that stays is a defect; one that comes and goes is a flaky test, or a machine."
        ),
    )


def flaky(t: Thresholds) -> Panel:
    return graph(
        "Flaky tests",
        Query(_by_suite("max", FLAKY_RATIO), "{{test_suite_name}}"),
        unit="percentunit",
        steps=bad_from((t.ci.max_flaky_ratio, RED)),
        no_value=_NONE,
        alerts=["CiFlakyTests"],
        description="Falling is good: a test without new evidence for two weeks is taken for mended. Rising: nobody mends them.",
    )


def failed() -> Panel:
    return graph(
        "Failures reported",
        # Every replica counts the same: one of them is enough.
        Query(
            "max by (test_suite_name) (sum by (test_suite_name, instance) "
            f'(increase({TESTS}{{isolation_result=~"fail|error",{_DRILL}}}[$__rate_interval])))',
            "{{test_suite_name}}",
        ),
        unit="none",
        decimals=0,
        no_value=_NONE,
        alerts=["CiPassRateLow"],
        description=(
            "Failed tests of all runs, of every branch. Work in progress fails, too, so some are normal; much more, at all "
            "suites alike, is a machine or a service that the tests need."
        ),
    )


def duration(t: Thresholds) -> Panel:
    return graph(
        "Duration",
        Query(_by_suite("max", DURATION), "{{test_suite_name}}"),
        unit="s",
        steps=bad_from((t.ci.max_duration_s, RED)),
        no_value=_NONE,
        alerts=["CiRunSlow"],
        description="Steps at each run; below the line is good. Near it: move the slowest tests to a suite of their own, or mend them.",
    )


def trend(t: Thresholds) -> Panel:
    return graph(
        "Duration, now by before",
        Query(_by_suite("max", TREND), "{{test_suite_name}}"),
        unit="percentunit",
        minimum=None,
        steps=bad_from((t.ci.max_trend_ratio, RED)),
        no_value="fewer than eight runs",
        alerts=["CiRunSlower"],
        description=(
            "The newest three runs by the twenty before them. Near 100 % is good. Above the line: compare the slowest tests of the run "
            "before the step with those after it."
        ),
    )


def memory(t: Thresholds) -> Panel:
    return graph(
        "Peak memory",
        Query(_by_suite("max", MEMORY), "{{test_suite_name}}"),
        unit="bytes",
        steps=bad_from((t.ci.max_memory_bytes, RED)),
        no_value="not measured",
        alerts=["CiMemoryHigh"],
        description=(
            "What the test process held at its peak, where the pytest plugin measures it; level is good. Rising from run to run: "
            "something that tests share grows; the run's page has leaked handles and threads, too."
        ),
    )
