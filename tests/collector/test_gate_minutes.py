"""A stage minute by minute, read from a real Prometheus with a past: resets, births, gaps, NaN, and what is asked how often."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.domain import GatePlan, Inputs, MetricReading, RecordCounts, judge
from isolation_monitor.collector.gates.minutes import MinuteReading
from isolation_monitor.collector.gates.prometheus import PrometheusSource, Sample
from isolation_monitor.collector.gates.ranges import MinuteBook
from tests.real_parts.past import hours_ago, prometheus_with
from tests.real_parts.prometheus import Prometheus

START = hours_ago()
MINUTES = 30
EDGES = (0.1, 0.11, 0.121, 0.1331, 0.14641)
PLAN = ComparisonPlan(10.0)


class Past:
    """Samples each 15 s from two minutes before START on."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.durations: list[str] = []
        self.violations: list[str] = []

    def counter(self, rollout: str, arm: str, outcome: str, per_minute: int, *, instance: str = "a", **ways: tuple[int, int]) -> None:
        """Add a counter that grows steadily. `reset` (minute, _): begins again at 0; `gap` (from, until): no samples;
        `born` (minute, value): is not there before and begins with this value; `nan` (from, until)."""
        value, born = 0.0, ways.get("born")
        for tick in range(-8, MINUTES * 4 + 1):
            minute = tick / 4
            if tick > -8:
                value += per_minute / 4
            if "reset" in ways and minute == ways["reset"][0]:
                value = 0.0
            if born is not None and minute < born[0]:
                continue
            if born is not None and minute == born[0]:
                value = float(born[1])
            if "gap" in ways and ways["gap"][0] <= minute < ways["gap"][1]:
                continue
            shown = "NaN" if "nan" in ways and ways["nan"][0] <= minute < ways["nan"][1] else f"{value:g}"
            labels = f'service="shop",rollout="{rollout}",arm="{arm}",outcome="{outcome}",instance="{instance}"'
            self.requests.append(f"isolation_gate_requests_total{{{labels}}} {shown} {START + tick * 15}")

    def histogram(self, rollout: str, arm: str, per_minute: Mapping[float, int]) -> None:
        """Add a histogram whose buckets (by upper edge) grow steadily."""
        for tick in range(-8, MINUTES * 4 + 1):
            total = 0.0
            for edge in (*EDGES, math.inf):
                total += per_minute.get(edge, 0) * (tick + 8) / 4
                le = "+Inf" if math.isinf(edge) else f"{edge:g}"
                labels = f'service="shop",rollout="{rollout}",arm="{arm}",le="{le}",instance="a"'
                self.durations.append(f"isolation_gate_request_duration_seconds_bucket{{{labels}}} {total:g} {START + tick * 15}")
            labels = f'service="shop",rollout="{rollout}",arm="{arm}",instance="a"'
            self.durations.append(f"isolation_gate_request_duration_seconds_count{{{labels}}} {total:g} {START + tick * 15}")
            self.durations.append(f"isolation_gate_request_duration_seconds_sum{{{labels}}} {total / 10:g} {START + tick * 15}")

    def born_violation(self, rollout: str, minute: int) -> None:
        for tick in range(minute * 4 + 1, MINUTES * 4 + 1):
            labels = f'service="shop",rollout="{rollout}",arm="on",grade="crossed"'
            self.violations.append(f"isolation_gate_violations_total{{{labels}}} 1 {START + tick * 15}")

    def text(self) -> str:
        return "\n".join(
            [
                "# TYPE isolation_gate_requests counter",
                *self.requests,
                "# TYPE isolation_gate_request_duration_seconds histogram",
                *self.durations,
                "# TYPE isolation_gate_violations counter",
                *self.violations,
                "# EOF",
                "",
            ]
        )


def write_past() -> Past:
    past = Past()
    for rollout in ("steady", "reset", "gap", "born", "nan", "two-workers", "timed"):
        past.counter(rollout, "off", "ok", 1080)
        past.counter(rollout, "off", "error", 12)
    past.counter("steady", "on", "ok", 120)
    past.counter("steady", "on", "error", 4)
    past.counter("reset", "on", "ok", 120, reset=(10, 0))
    past.counter("gap", "on", "ok", 120, gap=(8, 14))
    past.counter("nan", "on", "ok", 120, nan=(8, 12))
    past.counter("born", "on", "ok", 120)
    past.counter("born", "on", "error", 0, born=(12, 1))
    past.counter("two-workers", "on", "ok", 120, instance="a")
    past.counter("two-workers", "on", "ok", 60, instance="b", reset=(20, 0))
    past.counter("timed", "on", "ok", 120)
    past.histogram("timed", "off", {0.1: 1000, 0.11: 40, 0.121: 26, 0.1331: 10, 0.14641: 4})
    past.histogram("timed", "on", {0.1: 80, 0.11: 8, 0.121: 8, 0.1331: 12, 0.14641: 12})
    for minute in ("on", "off"):
        past.counter("idle", minute, "ok", 0)
    past.born_violation("born", 20)
    return past


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus_with(tmp_path_factory.mktemp("past"), write_past().text()) as server:
        yield server


class Counting(PrometheusSource):
    """Counts the ranges that were asked for."""

    asked = 0

    async def read_range(self, queries: Mapping[str, str], start_s: int, end_s: int, step_s: int) -> dict[str, list[Sample]]:
        self.asked += 1
        return await super().read_range(queries, start_s, end_s, step_s)


async def read(server: Prometheus, rollout: str, *, minutes: int = MINUTES, shifted: int | None = None) -> MinuteReading:
    begun = datetime.fromtimestamp(START, UTC)
    source = PrometheusSource(server.url, timeout_s=60)
    try:
        shift = None if shifted is None else begun + timedelta(minutes=shifted, seconds=30)
        book = MinuteBook("shop", rollout, begun - timedelta(seconds=15), shift)
        return await book.read(source, PLAN, begun + timedelta(minutes=minutes, seconds=15))
    finally:
        await source.close()


def requests(reading: MinuteReading) -> dict[int, float]:
    return {minute.start - START // 60: minute.on.requests for minute in reading.minutes}


async def test_steady_counters_are_counted_exactly(running: Prometheus) -> None:
    reading = await read(running, "steady")

    assert requests(reading) == dict.fromkeys(range(MINUTES), 124)
    assert {(minute.on.errors, minute.off.requests, minute.off.errors) for minute in reading.minutes} == {(4, 1092, 12)}
    assert (reading.unseen, reading.broken, reading.violations) == (0, 0, 0)


async def test_a_reset_marks_its_minute_and_costs_no_other(running: Prometheus) -> None:
    reading = await read(running, "reset")
    [restarted] = [minute for minute in reading.minutes if minute.restarted]
    counted = requests(reading)

    assert restarted.start - START // 60 == 9, "the sample at minute 10 ends minute 9"
    assert 0 < counted[9] <= 130
    assert {count for minute, count in counted.items() if minute != 9} == {120}


async def test_one_worker_of_two_that_restarts_does_not_hide_the_other(running: Prometheus) -> None:
    counted = requests(await read(running, "two-workers"))

    assert counted[10] == counted[25] == 180
    assert 120 < counted[19] <= 190


async def test_minutes_without_samples_of_an_arm_are_made_good_in_the_next(running: Prometheus) -> None:
    """The control was seen all the time; the canary's series came back, and what it did meanwhile counts then."""
    counted = requests(await read(running, "gap"))

    assert sum(counted.values()) == MINUTES * 120
    assert counted[10] == 0


async def test_a_series_that_is_born_at_one_counts_one(running: Prometheus) -> None:
    reading = await read(running, "born")

    assert sum(minute.on.errors for minute in reading.minutes) == 1
    assert reading.violations == 1
    assert judge(_gate(), Inputs(60, RecordCounts(), _clean(), reading)).verdict == "fail"


async def test_nan_breaks_its_minutes_and_no_others(running: Prometheus) -> None:
    reading = await read(running, "nan")

    assert 3 <= reading.broken <= 6
    assert len(reading.minutes) == MINUTES - reading.broken
    assert reading.unseen == 0


async def test_an_unknown_rollout_was_never_seen_and_an_idle_one_had_no_traffic(running: Prometheus) -> None:
    unknown, idle = await read(running, "unheard-of"), await read(running, "idle")

    assert (len(unknown.minutes), unknown.unseen) == (0, MINUTES)
    assert "scrape_gap" in [reason.code for reason in judge(_gate(), Inputs(60, RecordCounts(), _clean(), unknown)).reasons]
    assert "no_traffic" in [reason.code for reason in judge(_gate(), Inputs(60, RecordCounts(), _clean(), idle)).reasons]


async def test_slow_requests_are_counted_above_the_controls_percentile(running: Prometheus) -> None:
    """Of 1,080 control requests 1,026 are 95 %: below 0.1 are 1,000, so the percentile is 0.1 + 0.01 * 26/40 = 0.1065."""
    reading = await read(running, "timed")

    assert reading.slow_above_s == pytest.approx(0.1065 * 1.1)
    # Of the canary's 8 between 0.11 and 0.121 are (0.121 - 0.11715) / 0.011 = 35 % beyond, and all 24 above.
    assert {round(minute.on.slow, 2) for minute in reading.minutes} == {26.8}
    judgement = judge(_gate(), Inputs(60, RecordCounts(), _clean(), reading))
    assert ("latency", "slower") in [(reason.trigger, reason.code) for reason in judgement.reasons]


async def test_a_minute_with_a_change_of_weight_is_marked(running: Prometheus) -> None:
    reading = await read(running, "steady", shifted=7)

    assert [minute.start - START // 60 for minute in reading.minutes if minute.shifted] == [7]


async def test_each_minute_is_asked_for_once_however_often_one_looks(running: Prometheus) -> None:
    begun = datetime.fromtimestamp(START, UTC)
    source = Counting(running.url, timeout_s=60)
    book = MinuteBook("shop", "steady", begun)
    try:
        looks = [await book.read(source, PLAN, begun + timedelta(minutes=5, seconds=20 + n)) for n in range(10)]
        after_ten = source.asked
        later = await book.read(source, PLAN, begun + timedelta(minutes=6, seconds=20))
    finally:
        await source.close()

    assert after_ten == 1
    assert all(look is looks[0] for look in looks)
    assert (source.asked, len(later.minutes) - len(looks[0].minutes)) == (2, 1)


async def test_a_prometheus_that_is_away_is_a_problem_and_costs_no_minute(running: Prometheus) -> None:
    begun = datetime.fromtimestamp(START, UTC)
    away, there = PrometheusSource("http://127.0.0.1:9", timeout_s=5), PrometheusSource(running.url, timeout_s=60)
    book = MinuteBook("shop", "steady", begun - timedelta(seconds=15))
    try:
        failed = await book.read(away, PLAN, begun + timedelta(minutes=5, seconds=15))
        found = await book.read(there, PLAN, begun + timedelta(minutes=5, seconds=15))
    finally:
        await away.close()
        await there.close()

    assert failed.problem is not None
    assert "cannot be reached" in failed.problem
    assert len(found.minutes) == 5


def _gate() -> GatePlan:
    return GatePlan("r", "shop", "on", 300, 0, 30.0, comparison=PLAN)


def _clean() -> MetricReading:
    return MetricReading(targets_up=1, data_age_s=1.0, checks=9000, requests=9000, exposed_isolated=9000, violations=0)
