"""What the gate says of two arms: each trigger alone, its boundary, and each way not to know."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.domain import GatePlan, Inputs, Judgement, MetricReading, RecordCounts, judge
from isolation_monitor.collector.gates.latency import quantile, slow_threshold, slower_than
from isolation_monitor.collector.gates.minutes import Counts, Histogram, Minute, MinuteReading, Rows, blocks_of, rolled_up
from isolation_monitor.collector.gates.stages import stage_of
from isolation_monitor.collector.gates.statistics import half_width, mean_bounds
from isolation_monitor.telemetry import names

PLAN = GatePlan("checkout", "shop", "on", 300, 0, 30.0, comparison=ComparisonPlan(10.0, stages=3))
CLEAN = MetricReading(targets_up=1, data_age_s=1.0, checks=9000, requests=9000, exposed_isolated=9000, violations=0)
LADDER = names.GATE_BUCKETS
WOBBLE = (0, 1, 2, 1, 0, 2, 1, 0, 2, 1)
"""Errors of successive minutes: they differ, and do not resemble their neighbours."""


def minutes(number: int = 20, *, on: int = 120, off: int = 1080, extra: int = 0, **changes: Any) -> tuple[Minute, ...]:
    """Return minutes of both arms with about 1 error in each; `extra` errors a minute befall the canary."""
    return tuple(
        Minute(
            n,
            Counts(on, WOBBLE[n % 10] + extra, on, WOBBLE[n % 10] * on / 120),
            Counts(off, 9 * WOBBLE[(n * 3) % 10], off, 9 * WOBBLE[n % 10]),
            **changes,
        )
        for n in range(number)
    )


def judged(reading: MinuteReading | tuple[Minute, ...], plan: GatePlan = PLAN, **comparison: Any) -> Judgement:
    if isinstance(reading, tuple):
        reading = MinuteReading(reading, slow_above_s=0.0)
    assert plan.comparison is not None
    plan = replace(plan, comparison=replace(plan.comparison, **comparison))
    return judge(plan, Inputs(1200.0, RecordCounts(), CLEAN, reading))


def codes(judgement: Judgement) -> list[tuple[str, str, str]]:
    return [(reason.trigger, reason.state, reason.code) for reason in judgement.reasons]


def test_equal_arms_with_enough_requests_pass() -> None:
    assert codes(judged(minutes())) == []


@pytest.mark.parametrize(("extra", "expected"), [(0, "pass"), (1, "inconclusive"), (2, "fail"), (6, "fail")])
def test_the_error_rate_fails_above_one_point_and_not_below(extra: int, expected: str) -> None:
    """Of 120 requests a minute, one error more is 0.83 points: certainly worse, yet within the margin. Two are 1.67."""
    assert judged(minutes(40, extra=extra)).verdict == expected


def test_exactly_at_the_margin_is_not_above_it() -> None:
    difference = judged(minutes(40, extra=2)).metrics["error_diff_pp"]

    assert judged(minutes(40, extra=2), error_margin_pp=difference - 1e-5).verdict == "fail"
    assert judged(minutes(40, extra=2), error_margin_pp=difference + 1e-5).verdict != "fail"


def test_a_disaster_is_found_before_ten_minutes_are_over() -> None:
    judgement = judged(minutes(3, extra=60))

    assert ("error_rate", "fail", "disaster") in codes(judgement)


def test_a_late_disaster_is_found_as_fast() -> None:
    late = tuple(replace(minute, on=replace(minute.on, errors=90.0)) if n >= 200 else minute for n, minute in enumerate(minutes(204)))

    assert judged(late[:200]).verdict == "pass"
    assert ("error_rate", "fail", "disaster") in codes(judged(late)) or ("error_rate", "fail", "above_margin") in codes(judged(late))


def test_nineteen_errors_are_no_disaster_yet() -> None:
    some = tuple(Minute(n, Counts(30, errors), Counts(270, 0)) for n, errors in enumerate((7, 6, 6)))

    assert "fail" not in [state for _, state, _ in codes(judged(some))]


def test_a_harm_that_begins_in_the_middle_is_found() -> None:
    late = tuple(
        replace(minute, on=replace(minute.on, errors=minute.on.errors + 12)) if n >= 60 else minute for n, minute in enumerate(minutes(100))
    )

    assert judged(late[:60]).verdict == "pass"
    assert judged(late).verdict == "fail"


def test_slow_requests_fail_when_more_than_the_control_has() -> None:
    slow = tuple(replace(minute, on=replace(minute.on, slow=12.0 + n % 3)) for n, minute in enumerate(minutes(20)))

    assert codes(judged(slow)) == [("latency", "fail", "slower")]


def test_an_hour_in_which_both_arms_are_slow_fails_nobody() -> None:
    slow = tuple(
        replace(minute, on=replace(minute.on, slow=12.0 + n % 3), off=replace(minute.off, slow=108.0 + 9 * (n % 3)))
        for n, minute in enumerate(minutes(30))
    )

    assert "fail" not in [state for _, state, _ in codes(judged(slow))]


def test_lost_events_of_the_canary_fail_below_95_percent_and_not_above() -> None:
    def losing(lost: int) -> tuple[Minute, ...]:
        return tuple(
            replace(minute, on=replace(minute.on, delivered=100.0 - lost - n % 2, lost=float(lost + n % 2)))
            for n, minute in enumerate(minutes(30))
        )

    assert codes(judged(losing(12))) == [("delivery", "fail", "below_floor")]
    assert codes(judged(losing(4))) == []
    assert judged(losing(12)).metrics["canary_delivery_share"] == 0.875


def test_total_loss_of_events_is_found_before_ten_minutes_are_over() -> None:
    lost = tuple(replace(minute, on=replace(minute.on, lost=200.0)) for minute in minutes(3))

    assert ("delivery", "fail", "below_floor") in codes(judged(lost))


def test_too_little_traffic_says_how_much_more_and_how_long() -> None:
    [reason] = [reason for reason in judged(minutes(10, on=12, off=108)).reasons if reason.trigger == "error_rate"]

    # 120 canary requests in ten minutes; the control fails in 0.83 %: 0.9 % is assumed, which needs 518.
    assert (reason.code, reason.have) == ("min_samples", 120)
    assert reason.need is not None
    assert reason.about_minutes == math.ceil((reason.need - 120) / 12)


def test_bursts_need_more_evidence_and_say_so() -> None:
    bursty = tuple(Minute(n, Counts(60, 20 if n == 7 else 0), Counts(540, 160 if n % 10 == 3 else 0)) for n in range(20))
    [reason] = [reason for reason in judged(bursty).reasons if reason.trigger == "error_rate"]

    assert reason.code == "bursts"
    assert judged(bursty).metrics["error_design_effect"] > 5
    assert "bursts" in reason.detail


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (MinuteReading(problem="Prometheus answered 500"), ("source", "error", "source_unavailable")),
        (MinuteReading(), ("comparison", "inconclusive", "min_blocks")),
        (MinuteReading(unseen=30), ("comparison", "inconclusive", "scrape_gap")),
        (MinuteReading(minutes(20), unseen=10, slow_above_s=0.0), ("comparison", "inconclusive", "scrape_gap")),
        (MinuteReading(minutes(20), broken=10, slow_above_s=0.0), ("comparison", "error", "nan")),
        (MinuteReading(minutes(20, restarted=True), slow_above_s=0.0), ("comparison", "inconclusive", "restarts")),
        (MinuteReading(minutes(20, on=0, off=0), slow_above_s=0.0), ("comparison", "inconclusive", "no_traffic")),
        (MinuteReading(minutes(20, on=0), slow_above_s=0.0), ("comparison", "inconclusive", "no_canary_traffic")),
        (MinuteReading(minutes(20, off=0), slow_above_s=0.0), ("comparison", "inconclusive", "no_control")),
        (MinuteReading(minutes(20, on=400), slow_above_s=0.0), ("comparison", "error", "sample_ratio_mismatch")),
        (MinuteReading(minutes(5), slow_above_s=0.0), ("error_rate", "inconclusive", "min_blocks")),
    ],
)
def test_each_way_not_to_know_has_a_code_of_its_own(reading: MinuteReading, expected: tuple[str, str, str]) -> None:
    judgement = judged(reading)

    assert codes(judgement)[0] == expected
    assert judgement.verdict == expected[1]


def test_minutes_that_resemble_their_neighbours_are_compared_in_longer_blocks_or_not_at_all() -> None:
    """A slow swing of hours: no block of minutes is independent of the next."""
    swinging = tuple(Minute(n, Counts(120, 30 + round(29 * math.sin(n / 40))), Counts(1080, 270)) for n in range(300))
    chance = random.Random(3)
    pairs = [chance.choice((1, 5)) for _ in range(100)]
    steps = tuple(Minute(n, Counts(120, pairs[n // 2]), Counts(1080, 9)) for n in range(200))

    assert ("error_rate", "error", "autocorrelated") in codes(judged(swinging))
    assert judged(steps).metrics["error_block_minutes"] == 2


def test_a_minute_in_which_the_weight_changed_is_left_out() -> None:
    changed = tuple(
        replace(minute, shifted=True, on=replace(minute.on, errors=120.0)) if n == 5 else minute for n, minute in enumerate(minutes(20))
    )

    assert judged(changed).metrics["canary_errors"] == judged(minutes(20)).metrics["canary_errors"] - WOBBLE[5]
    assert len(blocks_of(changed)) == 19


def test_small_blocks_are_merged_with_the_next() -> None:
    small = [Minute(n, Counts(2), Counts(20)) for n in range(9)]

    assert [(block.length, block.on.requests) for block in blocks_of(small)] == [(3, 6), (3, 6), (3, 6)]


def test_long_stages_are_kept_in_longer_rows_and_lose_nothing() -> None:
    rows = rolled_up(minutes(2880))

    assert len(rows) <= 400
    assert sum(row.on.requests for row in rows) == 2880 * 120
    assert sum(row.length for row in rows) == 2880


def test_a_decision_of_before_is_judged_by_the_bounds_of_before() -> None:
    """A replay is byte for byte, across versions: what a decision does not name was not there when it was made."""
    plan = ComparisonPlan(10, triggers=("error_rate",))
    of_before = {name: value for name, value in asdict(plan).items() if name != "sequence"}
    old = ComparisonPlan.from_json(of_before)

    assert (plan.sequence, old.sequence, ComparisonPlan.from_json(asdict(plan))) == ("delayed", "mixture", plan)
    assert (plan.min_blocks, old.min_blocks) == (12, 10)
    assert (plan.bounds("error_rate", [0.1] * 11), old.bounds("error_rate", [0.1] * 9)) == (None, None)
    assert old.bounds("error_rate", [0.0, 0.2] * 5) == mean_bounds([0.0, 0.2] * 5, old.alpha_of("error_rate"), half_width)


def test_minutes_that_come_one_by_one_make_the_rows_that_they_make_together() -> None:
    every = [replace(minute, shifted=minute.start % 700 == 3) for minute in minutes(2100)]
    rows = Rows()

    for number, minute in enumerate(every, 1):
        rows.add(minute)
        if number % 97 == 0 or number in (400, 401, 800, 801, 2000, 2001):
            assert rows.rows() == rolled_up(every[:number])


def test_an_internal_stage_compares_nothing_but_one_violation_still_fails() -> None:
    plan = GatePlan("checkout", "shop", "on", 20, 0, 30.0, stage_kind="internal")
    awful = replace(CLEAN, delivered=10.0, lost=900.0)

    assert judge(plan, Inputs(60, RecordCounts(), awful)).verdict == "pass"
    assert judge(plan, Inputs(60, RecordCounts(violations=1), CLEAN)).verdict == "fail"


@pytest.mark.parametrize(
    ("metrics", "records", "expected"),
    [
        ({"cascades": 1.0}, RecordCounts(), ("cascade", "fail", "cascades")),
        ({"cascades": 1.0, "escaped": 0.0, "escaped_elsewhere": 1.0}, RecordCounts(), ("cascade", "inconclusive", "cascade_elsewhere")),
        ({"cascades": 1.0, "escaped": 1.0, "escaped_elsewhere": 1.0}, RecordCounts(), ("cascade", "fail", "cascades")),
        ({"violations": 1.0, "singleton_reuses": 1.0}, RecordCounts(), ("singleton_reuse", "fail", "singleton_reused")),
        ({}, RecordCounts(violations=1, singleton_reuses=1), ("singleton_reuse", "fail", "singleton_reused")),
    ],
)
def test_zero_tolerance_needs_no_statistics(metrics: dict[str, Any], records: RecordCounts, expected: tuple[str, str, str]) -> None:
    reading = MinuteReading(minutes(20), slow_above_s=0.0)

    assert expected in codes(judge(PLAN, Inputs(60, records, replace(CLEAN, **metrics), reading)))


def test_a_violation_counted_by_rollout_fails_too() -> None:
    assert ("isolation", "fail", "violations") in codes(judged(MinuteReading(minutes(2), violations=1.0)))


def test_triggers_that_the_plan_does_not_name_say_nothing() -> None:
    plan = replace(PLAN, triggers=("isolation", "latency"), comparison=ComparisonPlan(10.0, triggers=("latency",)))
    failing = replace(CLEAN, cascades=3.0, session_leaks=2.0, singleton_reuses=1.0)

    assert judge(plan, Inputs(60, RecordCounts(), failing, MinuteReading(minutes(20, extra=60), slow_above_s=0.0))).verdict == "pass"


def test_everybody_has_it_and_nothing_is_promised() -> None:
    assert ("error_rate", "inconclusive", "no_control") in codes(judged(minutes(20, off=0), percent=100.0))
    assert ("latency", "inconclusive", "no_control") in codes(judged(minutes(20, off=0), percent=100.0))


@pytest.mark.parametrize(("extra", "expected"), [(0, "pass"), (6, "fail")])
def test_at_100_percent_the_absolute_promise_holds(extra: int, expected: str) -> None:
    plan = {"percent": 100.0, "slo_error_percent": 2.0, "triggers": ("error_rate",)}

    assert judged(minutes(40, off=0, extra=extra), **plan).verdict == expected


# --- latency by buckets -------------------------------------------------------------------------------------------------


def spread(edges: tuple[float, ...], median: float, sigma: float, number: float) -> tuple[float, ...]:
    """Return the counts per bucket that lognormal latencies have on average."""

    def below(edge: float) -> float:
        return 0.5 * math.erfc(-math.log(edge / median) / sigma / math.sqrt(2))

    cumulative = [0.0, *(below(edge) for edge in edges), 1.0]
    return tuple(number * (high - low) for low, high in pairwise(cumulative))


def test_the_95th_percentile_is_read_between_edges() -> None:
    counts = spread(LADDER, 0.1, 0.5, 10_000)

    assert quantile(LADDER, counts, 0.95) == pytest.approx(0.1 * math.exp(1.64485 * 0.5), rel=0.01)
    assert slower_than(LADDER, counts, 0.1) == pytest.approx(5000, rel=0.01)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [(LADDER, None), ((0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0), "bucket_resolution"), (LADDER[:35], "bucket_resolution")],
)
def test_a_ladder_that_cannot_tell_ten_percent_is_an_error_not_a_number(edges: tuple[float, ...], expected: str | None) -> None:
    histogram = Histogram(edges, spread(edges, 0.1, 0.5, 1000), spread(edges, 0.1, 0.5, 9000))
    reading = MinuteReading(minutes(20), histogram=histogram, slow_above_s=slow_threshold(ComparisonPlan(10.0), histogram))
    found = [reason.code for reason in judged(reading).reasons if reason.trigger == "latency"]

    assert found == ([] if expected is None else [expected])


@pytest.mark.parametrize(("slowdown", "share"), [(1.0, 0.034), (1.1, 0.05), (1.2, 0.0707)])
def test_ten_percent_more_is_five_percent_beyond(slowdown: float, share: float) -> None:
    """P(Z > 1.645 + ln(1.1 / slowdown) / 0.5): by the buckets of the control and of the canary."""
    histogram = Histogram(LADDER, spread(LADDER, 0.1 * slowdown, 0.5, 1e6), spread(LADDER, 0.1, 0.5, 9e6))
    threshold = slow_threshold(ComparisonPlan(10.0), histogram)

    assert threshold is not None
    assert slower_than(LADDER, histogram.on, threshold) / 1e6 == pytest.approx(share, abs=0.0015)


def test_slow_requests_that_were_counted_by_another_threshold_are_noticed() -> None:
    histogram = Histogram(LADDER, spread(LADDER, 0.1, 0.5, 1000), spread(LADDER, 0.1, 0.5, 9000))

    assert ("latency", "error", "inconsistent") in codes(judged(MinuteReading(minutes(20), histogram=histogram, slow_above_s=0.123)))


# --- replay, and the stage of a rollout ------------------------------------------------------------------------------------

arms = st.builds(Counts, *[st.floats(0, 500).map(lambda value: round(value, 3)) for _ in range(6)]).map(
    lambda arm: replace(arm, errors=min(arm.errors, arm.requests), slow=min(arm.slow, arm.timed))
)
readings = st.builds(
    MinuteReading,
    minutes=st.lists(st.tuples(arms, arms, st.booleans(), st.booleans()), max_size=14).map(
        lambda given: tuple(Minute(n, on, off, 1, restarted, shifted) for n, (on, off, restarted, shifted) in enumerate(given))
    ),
    unseen=st.integers(0, 5),
    broken=st.integers(0, 5),
    violations=st.floats(0, 3),
    slow_above_s=st.none() | st.just(0.0) | st.floats(0.01, 9),
    problem=st.none() | st.just("away"),
)


@settings(deadline=None)
@given(readings, st.sampled_from([1.0, 10.0, 50.0, 100.0]))
def test_whatever_was_read_the_judgement_is_strict_json_and_replays(reading: MinuteReading, percent: float) -> None:
    plan = replace(PLAN, comparison=ComparisonPlan(percent, slo_error_percent=1.0))
    inputs = Inputs(60.0, RecordCounts(), CLEAN, reading)
    first = judge(plan, inputs)
    text = json.dumps([first.metrics, [reason.as_json() for reason in first.reasons]], allow_nan=False)

    assert "null" not in text
    assert judge(plan, Inputs.from_json(json.loads(json.dumps(inputs.as_json(), allow_nan=False)))) == first


def row(**changes: Any) -> SimpleNamespace:
    values = {
        "spec": {}, "stage": "canary10", "stage_started_at": 1, "changed_at": 2, "revision": 3, "triggers": None, "status": "running",
        "comparison": {"percent": 10.0, "position": 0, "stages": 2},
    } | changes  # fmt: skip
    return SimpleNamespace(**values)


def test_the_stage_of_a_rollout_says_what_is_compared() -> None:
    ten, staff = stage_of(row()), stage_of(row(stage="staff", comparison=None))

    assert ten is not None
    assert ten.comparison == ComparisonPlan(10.0, position=0, stages=2)
    assert staff is not None
    assert staff.comparison is None


@pytest.mark.parametrize("nothing", [row(status="rolled_back"), row(spec=None), row(stage="off"), row(stage_started_at=None)])
def test_a_rollout_that_is_only_watched_has_no_stage(nothing: SimpleNamespace) -> None:
    assert stage_of(nothing) is None
