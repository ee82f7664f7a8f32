"""The order of a run's events, worked by hand and by random streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.telemetry import EventNames
from isolation_monitor.telemetry.delivery.automaton import RunOrder

S, T, X, Y, C, E = "agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed", "agent_error"


def judge(*events: str | tuple[str, str]) -> tuple[str, dict[str, int], list[str]]:
    order = RunOrder(EventNames())
    for event in events:
        order.feed(*(event if isinstance(event, tuple) else (event,)))
    missing = order.close()
    return order.outcome, {k: v for k, v in order.anomalies.items() if v}, missing


@pytest.mark.parametrize(
    ("events", "outcome", "anomalies"),
    [
        ((S, T, X, Y, C), "complete", {}),
        ((S, C), "complete", {}),
        ((S, (X, "1"), (X, "2"), (Y, "2"), (Y, "1"), C), "complete", {}),
        ((S, T, E), "failed", {}),
        ((S, X, E), "failed", {}),
        ((S, T, X, Y), "incomplete", {"missing": 1}),
        ((), "incomplete", {"missing": 2}),
        ((S, X, C), "incomplete", {"missing": 1}),
        ((T, C), "complete", {"out_of_order": 1}),
        ((S, Y, C), "complete", {"out_of_order": 1}),
        ((S, S, C), "complete", {"duplicate": 1}),
        ((S, C, C), "complete", {"duplicate": 1}),
        ((S, C, T), "complete", {"after_end": 1}),
        ((S, (X, "1"), (Y, "2"), C), "incomplete", {"out_of_order": 1, "missing": 1}),
    ],
)
def test_runs_are_judged_as_by_hand(events, outcome, anomalies) -> None:
    assert judge(*events)[:2] == (outcome, anomalies)


@given(st.lists(st.sampled_from([S, T, X, Y, C, E, "unknown"]), max_size=30))
def test_any_stream_of_events_gets_a_verdict_and_nothing_owed_is_forgotten(events: list[str]) -> None:
    outcome, anomalies, missing = judge(*events)

    assert outcome in {"complete", "incomplete", "failed"}
    assert (outcome == "incomplete") == bool(missing)
    assert anomalies.get("missing", 0) == len(missing)
    if C not in events and E not in events:
        assert C in missing


@given(st.integers(0, 5), st.randoms())
def test_interleaved_parallel_tools_are_in_order_when_each_pair_is(tools: int, random) -> None:
    waiting = [[(X, str(n)), (Y, str(n))] for n in range(tools)]
    stream: list[str | tuple[str, str]] = [S]
    while any(waiting):
        stream.append(random.choice([w for w in waiting if w]).pop(0))

    assert judge(*stream, C)[:2] == ("complete", {})
