"""What `/metrics` shows of CI: numbers of each suite, read from the store at each scrape, so that every replica says the same.

A suite is shown until it has had no run for two weeks: one that was retired must not be missed for ever. Beyond 50 suites the
rest is `other`: its counts are the sum, its gauges the worst of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from isolation_monitor.telemetry.names import OTHER

SUITE_CAP: Final = 50
SHOWN_FOR: Final = timedelta(days=14)
RESULTS: Final = ("pass", "fail", "skip", "error")

PASS_RATIO: Final = "isolation_ci_pass_ratio"
FLAKY_RATIO: Final = "isolation_ci_flaky_ratio"
DURATION: Final = "isolation_ci_run_duration_seconds"
TREND: Final = "isolation_ci_run_duration_trend_ratio"
MEMORY: Final = "isolation_ci_memory_peak_bytes"
LAST_RUN: Final = "isolation_ci_last_run_timestamp_seconds"

_OF: Final = " of the newest run that speaks for the suite: on the default branch, or on any where there is none."
_HELP: Final = {
    PASS_RATIO: f"Share of tests that passed among those that ran, 0-1,{_OF}",
    FLAKY_RATIO: f"Share of tests that were seen to be flaky in the last two weeks, 0-1,{_OF}",
    DURATION: f"Duration{_OF}",
    TREND: "How long runs take now (median of three) by how long they took before (median of the twenty before); 1.25 is a quarter longer.",
    MEMORY: f"Largest memory of the test process in bytes,{_OF} Only where the run measured it.",
    LAST_RUN: f"Unix time of the start{_OF}",
}
_WORST: Final[dict[str, Callable[[Sequence[float]], float]]] = {PASS_RATIO: min, LAST_RUN: min}


@dataclass(frozen=True, slots=True)
class SuiteNumbers:
    """One suite: how many tests ever had each result, and its gauges by name; what is not known is left out."""

    name: str
    results: dict[str, int]
    gauges: dict[str, float]


class CiMetrics(Collector):
    """Gauges and counts of the suites that were shown last."""

    def __init__(self) -> None:
        self._suites: Sequence[SuiteNumbers] = ()

    def show(self, suites: Sequence[SuiteNumbers]) -> None:
        """Take what the store said: the suite that was seen first ever comes first, and keeps its name beyond the cap."""
        self._suites = suites

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield every family, also those without a sample: the documentation lists what is here."""
        named, rest = self._suites[:SUITE_CAP], self._suites[SUITE_CAP:]
        tests = CounterMetricFamily(
            "isolation_ci_tests",
            "Tests that were reported, by result, over all runs of a suite; beyond 50 suites the suite is other.",
            labels=["test_suite_name", "isolation_result"],
        )
        for suite in (*named, *([_together(rest)] if rest else [])):
            for result in RESULTS:
                tests.add_metric([suite.name, result], suite.results.get(result, 0))
        yield tests
        for name, text in _HELP.items():
            family = GaugeMetricFamily(name, text, labels=["test_suite_name"])
            for suite in (*named, *([_together(rest)] if rest else [])):
                if name in suite.gauges:
                    family.add_metric([suite.name], suite.gauges[name])
            yield family


def _together(suites: Sequence[SuiteNumbers]) -> SuiteNumbers:
    gauges = {}
    for name in _HELP:
        values = [suite.gauges[name] for suite in suites if name in suite.gauges]
        if values:
            gauges[name] = _WORST.get(name, max)(values)
    return SuiteNumbers(OTHER, {result: sum(suite.results.get(result, 0) for suite in suites) for result in RESULTS}, gauges)
