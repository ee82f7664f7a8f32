"""The verdict itself: a pure function, so every rule and every boundary is tried here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.collector.gates.domain import GatePlan, Inputs, MetricReading, RecordCounts, judge

PLAN = GatePlan("canary-1", "chat", None, min_exposed_requests=300, min_owed_events=100, scrape_stale_after_s=30)
CLEAN = MetricReading(
    targets_up=2, data_age_s=0.5, checks=5000, requests=1000, exposed_isolated=300,
    violations=0, session_leaks=0, session_leaks_retracted=0, delivered=500, lost=0,
)  # fmt: skip


def verdict(
    plan: GatePlan = PLAN, records: RecordCounts | None = None, elapsed_s: float = 60, **metrics: Any
) -> tuple[str, list[tuple[str, str, str]]]:
    judged = judge(plan, Inputs(elapsed_s, records or RecordCounts(), replace(CLEAN, **metrics)))
    return judged.verdict, [(reason.trigger, reason.state, reason.code) for reason in judged.reasons]


def test_enough_clean_exposed_requests_pass() -> None:
    assert verdict() == ("pass", [])


@pytest.mark.parametrize("source", [{"records": RecordCounts(violations=1)}, {"violations": 1.0}, {"violations": 0.07}])
def test_one_violation_from_either_source_fails(source: dict[str, Any]) -> None:
    """`increase()` extrapolates: 0.07 is a violation seen at the edge of the window, not a fifteenth of one."""
    assert verdict(**source) == ("fail", [("isolation", "fail", "violations")])


@pytest.mark.parametrize(
    ("leaks", "retracted", "expected"),
    [(1, 0, "fail"), (3, 2, "fail"), (2, 2, "pass"), (0, 1, "pass")],
)
def test_session_leaks_count_net_of_those_that_came_back(leaks: float, retracted: float, expected: str) -> None:
    assert verdict(session_leaks=leaks, session_leaks_retracted=retracted)[0] == expected


def test_a_recorded_session_leak_fails() -> None:
    assert verdict(records=RecordCounts(session_leaks=1)) == ("fail", [("session_leak", "fail", "session_leaks")])


@pytest.mark.parametrize(
    ("delivered", "lost", "expected"),
    [
        (95, 5, "pass"),
        (94, 6, "fail"),
        (949, 51, "fail"),
        (950, 50, "pass"),
        (99, 0, "inconclusive"),
        (0, 99, "inconclusive"),
        (0, 100, "fail"),
    ],
)
def test_delivery_below_95_percent_of_at_least_100_events_fails(delivered: float, lost: float, expected: str) -> None:
    assert verdict(delivered=delivered, lost=lost)[0] == expected


def test_a_service_without_runs_passes_when_its_rollout_says_so() -> None:
    assert verdict(replace(PLAN, min_owed_events=0), delivered=None, lost=None) == ("pass", [])
    assert verdict(delivered=None, lost=None) == ("inconclusive", [("delivery", "inconclusive", "min_samples")])


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"targets_up": 0, "targets_down": 2}, ("error", "scrape_down")),
        ({"targets_down": 1}, ("inconclusive", "scrape_down")),
        ({"data_age_s": 31.0}, ("error", "scrape_down")),
        ({"data_age_s": None}, ("error", "series_absent")),
        ({"targets_up": 0, "data_age_s": None}, ("error", "series_absent")),
        ({"violations": None}, ("error", "series_absent")),
        ({"requests": 0.0, "exposed_isolated": 0.0}, ("inconclusive", "no_traffic")),
        ({"checks": 0.0}, ("inconclusive", "no_checks")),
        ({"checks": None}, ("inconclusive", "no_checks")),
        ({"exposed_isolated": 299.0}, ("inconclusive", "min_samples")),
        ({"exposed_isolated": 0.0}, ("inconclusive", "min_samples")),
    ],
)
def test_not_seeing_and_seeing_too_little_have_codes_of_their_own(metrics: dict[str, Any], expected: tuple[str, str]) -> None:
    got, reasons = verdict(**metrics)

    assert (got, reasons[0][2]) == expected


def test_targets_without_an_up_series_are_judged_by_the_age_of_their_data() -> None:
    """Numbers that came by remote write have no `up`."""
    assert verdict(targets_up=0, targets_down=0)[0] == "pass"


def test_without_a_source_there_is_no_verdict_but_a_recorded_violation_still_fails() -> None:
    blind = MetricReading(problem="Prometheus cannot be reached")

    assert judge(PLAN, Inputs(60, RecordCounts(), blind)).verdict == "error"
    assert judge(PLAN, Inputs(60, RecordCounts(), blind)).reasons[0].code == "source_unavailable"
    assert judge(PLAN, Inputs(60, RecordCounts(violations=1), blind)).verdict == "fail"


def test_too_few_samples_name_have_need_and_time() -> None:
    [reason] = judge(PLAN, Inputs(60, RecordCounts(), replace(CLEAN, exposed_isolated=100.0))).reasons

    # 100 in one minute: 200 more take two.
    assert (reason.have, reason.need, reason.about_minutes) == (100, 300, 2)
    assert "100 of 300" in reason.detail
    assert "about 2 min" in reason.detail


def test_the_upper_bound_is_the_rule_of_three() -> None:
    # 1 - 0.05^(1/299) = 0.99 %: 299 clean requests exclude 1 % at 95 % (canary-gates reference, 3.1).
    numbers = judge(PLAN, Inputs(60, RecordCounts(), replace(CLEAN, exposed_isolated=299.0))).metrics

    assert 0.0099 < numbers["isolation_upper95"] < 0.01


COUNTED = (
    "data_age_s", "checks", "requests", "exposed_isolated", "violations", "session_leaks", "session_leaks_retracted", "delivered", "lost",
)  # fmt: skip
readings = st.builds(
    MetricReading,
    problem=st.none() | st.text(max_size=20),
    targets_up=st.integers(0, 5),
    targets_down=st.integers(0, 5),
    **{
        name: st.none() | st.floats(-10, 1e12, allow_nan=False)
        for name in COUNTED
    },
)  # fmt: skip
counts = st.builds(
    RecordCounts, violations=st.integers(0, 10**9), session_leaks=st.integers(0, 10**9), examples=st.tuples(st.text(max_size=9))
)
inputs = st.builds(Inputs, elapsed_s=st.floats(0, 1e9), records=counts, metrics=readings)


@given(inputs)
def test_whatever_is_counted_the_answer_is_strict_json_without_null(given_inputs: Inputs) -> None:
    judged = judge(PLAN, given_inputs)
    text = json.dumps([judged.metrics, [reason.as_json() for reason in judged.reasons]], allow_nan=False)

    assert "null" not in text.replace('"null', "")
    assert (judged.verdict == "pass") == (not judged.reasons)


@given(inputs)
def test_any_violation_fails_whatever_else_is_known(given_inputs: Inputs) -> None:
    if given_inputs.records.violations or (given_inputs.metrics.violations or 0) > 0:
        assert judge(PLAN, given_inputs).verdict == "fail"


@given(inputs)
def test_a_pass_always_rests_on_evidence(given_inputs: Inputs) -> None:
    if judge(PLAN, given_inputs).verdict == "pass":
        metrics = given_inputs.metrics
        assert metrics.problem is None
        assert (metrics.exposed_isolated or 0) >= PLAN.min_exposed_requests
        assert (metrics.checks or 0) > 0
        assert metrics.targets_down == 0
        assert metrics.data_age_s is not None


@given(inputs)
def test_a_stored_decision_replays_to_the_same_judgement(given_inputs: Inputs) -> None:
    again = Inputs.from_json(json.loads(json.dumps(given_inputs.as_json())))

    assert judge(PLAN, again) == judge(PLAN, given_inputs)
