"""Settling: tests must know what was found before they end, and nothing may be judged before its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from isolation_monitor.telemetry.housekeeper import Housekeeper


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def housekeeper(errors: list[BaseException]) -> Iterator[Housekeeper]:
    one = Housekeeper(errors.append)
    yield one
    one.close()


def test_settling_waits_for_what_falls_due_and_leaves_the_rest(housekeeper: Housekeeper) -> None:
    done: list[float] = []
    started = time.monotonic()
    housekeeper.after(0.05, lambda: done.append(time.monotonic() - started))
    housekeeper.after(60, lambda: done.append(-1.0))

    housekeeper.settle(0.2)

    assert len(done) == 1
    assert done[0] >= 0.05


def test_settling_waits_for_a_job_that_is_running(housekeeper: Housekeeper) -> None:
    began, may_end, done = threading.Event(), threading.Event(), []

    def job() -> None:
        began.set()
        may_end.wait(10)
        done.append(True)

    housekeeper.after(0, job)
    assert began.wait(10)
    threading.Timer(0.1, may_end.set).start()

    housekeeper.settle(0)

    assert done == [True]


def test_a_job_that_comes_again_and_again_does_not_keep_settling_busy(housekeeper: Housekeeper) -> None:
    def again() -> None:
        housekeeper.after(0.02, again)

    again()

    housekeeper.settle(0.1)


def test_a_job_that_raises_while_settling_is_counted(housekeeper: Housekeeper, errors: list[BaseException]) -> None:
    housekeeper.close()
    housekeeper.after(0, lambda: 1 / 0)

    housekeeper.settle(0.1)

    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_settling_after_the_end_still_runs_what_was_due(housekeeper: Housekeeper) -> None:
    """An application whose lifespan closes its monitor inside the test."""
    done: list[bool] = []
    housekeeper.close()
    housekeeper.after(0, lambda: done.append(True))

    housekeeper.settle(0.1)

    assert done == [True]
