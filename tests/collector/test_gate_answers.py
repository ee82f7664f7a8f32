"""Which look is stored, and which is answered by the one before it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from isolation_monitor.collector.gates.answers import KEPT, LastAnswers
from isolation_monitor.collector.gates.minutes import MinuteReading
from isolation_monitor.collector.gates.repository import Decision

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def missing(have: float, need: float = 300) -> dict[str, Any]:
    return {
        "trigger": "isolation",
        "state": "inconclusive",
        "code": "min_samples",
        "detail": f"{have} of {need}",
        "have": have,
        "need": need,
    }


def decision(*reasons: dict[str, Any], verdict: str = "inconclusive", after_s: float = 0, **changes: Any) -> Decision:
    answer = {"verdict": verdict, "reasons": list(reasons), "decision_id": f"{after_s}"}
    given = {"id": "d", "rollout": "r", "as_of": NOON + timedelta(seconds=after_s), "verdict": verdict, "answer": answer, "inputs": {},
             "config": {}, "config_sha256": "c", "inputs_sha256": "i"}  # fmt: skip
    return Decision(**(given | changes))


def is_new(first: Decision, second: Decision, *, minutes: tuple[Any, Any] = (None, None), stages: tuple[str, str] = ("", "")) -> bool:
    last = LastAnswers()
    assert last.instead_of(first, stages[0], minutes[0]) is None
    last.keep(first, stages[0], minutes[0])
    found = last.instead_of(second, stages[1], minutes[1])
    assert found is None or found is first.answer
    return found is None


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (decision(missing(119), after_s=5), False),
        (decision(missing(120), after_s=5), True),
        (decision(missing(110, need=400), after_s=5), True),
        (decision(missing(110), missing(3), after_s=5), True),
        (decision(missing(110) | {"code": "no_traffic"}, after_s=5), True),
        (decision(verdict="pass", after_s=5), True),
        (decision(missing(110), after_s=KEPT.total_seconds() - 1), False),
        (decision(missing(110), after_s=KEPT.total_seconds()), True),
        (decision(missing(110), after_s=-1), True),
        (decision(missing(110), after_s=5, config_sha256="other"), True),
        (decision(missing(110), after_s=5, rollout="other"), True),
    ],
)
def test_a_look_is_stored_when_it_says_something_else(second: Decision, expected: bool) -> None:
    """Of 300 requests each thirtieth is another tenth."""
    assert is_new(decision(missing(110)), second) is expected


def test_a_growing_age_of_what_is_stale_already_says_nothing_new() -> None:
    down = {"trigger": "source", "state": "error", "code": "scrape_down", "have": 61.0, "need": 30.0}

    assert not is_new(decision(down, verdict="error"), decision(down | {"have": 99.0}, verdict="error", after_s=30))


def test_one_more_of_what_should_not_be_at_all_is_new() -> None:
    cascade = {"trigger": "cascade", "state": "inconclusive", "code": "cascade_elsewhere", "have": 1, "need": 0}

    assert is_new(decision(cascade), decision(cascade | {"have": 2}, after_s=1))


def test_a_failure_is_never_answered_from_memory() -> None:
    fail = decision({"trigger": "isolation", "state": "fail", "code": "violations"}, verdict="fail")

    assert is_new(fail, fail)


def test_another_minute_of_a_comparison_is_new_and_what_cannot_be_read_is_not() -> None:
    first, second = decision(missing(110)), decision(missing(110), after_s=5)
    read = MinuteReading()

    assert not is_new(first, second, minutes=(read, read))
    assert is_new(first, second, minutes=(read, MinuteReading(unseen=1)))
    assert not is_new(first, second, minutes=(MinuteReading(problem="away"), MinuteReading(problem="away")))
    assert is_new(first, second, minutes=(MinuteReading(problem="away"), MinuteReading(problem="refuses")))


def test_each_stage_that_is_asked_for_has_its_answer() -> None:
    assert is_new(decision(missing(110)), decision(missing(110), after_s=5), stages=("", "canary10"))


def test_very_many_rollouts_are_not_remembered_for_ever() -> None:
    last = LastAnswers()
    for number in range(1_001):
        last.keep(decision(rollout=f"r{number}"), "", None)

    assert last.instead_of(decision(rollout="r0"), "", None) is None
    assert last.instead_of(decision(rollout="r1"), "", None) is not None
