"""The table of recent things, with a clock and a housekeeper of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from isolation_monitor.telemetry.recent import Recent


class Later:
    """A housekeeper whose jobs run when the test says."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def after(self, delay_s: float, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


class Played:
    def __init__(self) -> None:
        self.now = 0.0
        self.later: Any = Later()
        self.table: Recent[int, str] = Recent(self.later, 3, 30.0, lambda: self.now)


@pytest.fixture
def played() -> Played:
    return Played()


def test_what_is_recent_is_found_and_what_is_older_is_not(played: Played) -> None:
    played.table.put(1, "a")
    played.now = 30.0
    assert (played.table.get(1), played.table.values()) == ("a", ["a"])
    played.now = 30.1
    assert (played.table.get(1), played.table.values(), played.table.pop(1)) == (None, [], None)


def test_the_oldest_goes_when_there_are_too_many(played: Played) -> None:
    for key in range(5):
        played.table.put(key, str(key))

    assert played.table.values() == ["2", "3", "4"]


def test_entries_are_let_go_although_nothing_more_happens(played: Played) -> None:
    played.table.put(1, "a")
    played.now = 20.0
    played.table.put(2, "b")
    assert len(played.later.jobs) == 1

    played.now = 31.0
    played.later.run()
    assert len(played.table) == 1
    played.now = 61.0
    played.later.run()

    assert len(played.table) == 0
    assert played.later.jobs == []
