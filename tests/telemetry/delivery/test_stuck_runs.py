"""Runs that stand still: found with what they were doing, taken back when they go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names, two_sided
from isolation_monitor.telemetry.delivery.run import Run
from isolation_monitor.telemetry.lab import Lab

LONG_AGO_S = 3600.0


@pytest.fixture
def monitor(make_monitor: Callable[..., IsolationMonitor]) -> IsolationMonitor:
    return make_monitor(stuck_after_s=20)


def stuck(monitor: IsolationMonitor) -> list[Any]:
    return [one for one in monitor.violations() if one.kind == names.STUCK_RUN]


def look(monitor: IsolationMonitor) -> None:
    """What the housekeeper does each second, from a thread of its own."""
    thread = threading.Thread(target=monitor.runs.stuck.look, args=(list(monitor.runs.open.values()),))
    thread.start()
    thread.join()


def age(run: Run) -> None:
    """Let the run look as if it had last moved an hour ago; nothing here waits for time to pass."""
    run.moved -= LONG_AGO_S


async def call_the_model(forever: asyncio.Event) -> None:
    await forever.wait()


async def agent(monitor: IsolationMonitor, forever: asyncio.Event, runs: list[Run]) -> None:
    with monitor.run("run-1", owner="ann") as run:
        runs.append(run)
        run.emit("agent_started")
        run.emit("tool_executing", "call-1")
        await call_the_model(forever)
        run.emit("tool_completed", "call-1")
        run.emit("agent_completed")


async def test_a_run_that_stands_still_is_reported_with_what_it_awaits(monitor: IsolationMonitor) -> None:
    """An engineer must read from the evidence alone at which line which user's run hangs, and on what."""
    forever, runs = asyncio.Event(), list[Run]()
    task = asyncio.create_task(agent(monitor, forever, runs))
    await asyncio.sleep(0)
    look(monitor)
    assert not stuck(monitor), "it has only just moved"

    age(runs[0])
    look(monitor)
    look(monitor)

    [violation] = stuck(monitor)
    assert violation.grade == "hygiene"
    assert violation.victim.principal == monitor.principals.named("ann").hash
    assert violation.victim.run_id == "run-1"
    assert [line.split(" ", 1)[1] for line in violation.victim.stack] == ["agent", "call_the_model"]
    assert [what for _, what in violation.victim.events] == ["emitted agent_started", "emitted tool_executing"]
    detail = violation.resource.detail
    assert detail["waits_for"].startswith("Event.wait (asyncio/locks.py:")
    assert (detail["last_event"], detail["tools_open"]) == ("tool_executing", 1)
    assert detail["quiet_s"] >= LONG_AGO_S
    assert monitor.registry.value(names.RUN_STUCK) == 1
    text = two_sided.as_text(violation.as_record())
    assert "call_the_model" in text
    assert "waits_for: Event.wait" in text
    assert "RunStuck" in text

    forever.set()
    await task
    assert violation.retracted is not None
    look(monitor)
    assert monitor.registry.value(names.RUN_STUCK) == 0


async def test_a_run_that_moves_again_is_taken_back_and_can_be_found_again(monitor: IsolationMonitor) -> None:
    with monitor.run("run-1", owner="ann") as run:
        run.emit("agent_started")
        age(run)
        look(monitor)
        run.emit("agent_thinking")
        look(monitor)
        [first] = stuck(monitor)
        assert first.retracted == "it went on"

        age(run)
        look(monitor)
        assert len(stuck(monitor)) == 2
        run.emit("agent_completed")


async def test_hundreds_of_runs_that_hang_at_one_line_are_one_defect(monitor: IsolationMonitor) -> None:
    """Or one outage of a model would bury everything else in the evidence."""
    forever = asyncio.Event()

    async def hang(number: int) -> None:
        with monitor.run(f"run-{number}", owner=f"user-{number}") as run:
            run.emit("agent_started")
            await call_the_model(forever)
            run.emit("agent_completed")

    tasks = [asyncio.create_task(hang(number)) for number in range(50)]
    await asyncio.sleep(0)
    for run in monitor.runs.open.values():
        age(run)
    look(monitor)

    assert len({one.fingerprint for one in stuck(monitor)}) == 1
    assert monitor.registry.value(names.RUN_STUCK) == 50
    forever.set()
    await asyncio.gather(*tasks)
    assert all(one.retracted for one in stuck(monitor))


async def test_a_run_that_says_that_it_goes_on_is_left_alone(monitor: IsolationMonitor) -> None:
    """A step that waits for a person's approval is no hang."""
    with monitor.run("run-1", owner="ann") as run:
        run.emit("agent_started")
        run.progress(patience_s=2 * LONG_AGO_S)
        age(run)
        look(monitor)
        assert not stuck(monitor)

        run.emit("agent_thinking")
        age(run)
        look(monitor)
        assert stuck(monitor), "the patience was for that one step"
        run.emit("agent_completed")


async def test_a_run_whose_last_event_is_out_is_over_for_its_user(monitor: IsolationMonitor) -> None:
    """Storing the exchange after the answer may take its time."""
    with monitor.run("run-1", owner="ann") as run:
        run.emit("agent_started")
        run.emit("agent_completed")
        age(run)
        look(monitor)

    assert not stuck(monitor)
    assert monitor.registry.value(names.CHECKS, detector=names.STUCK_RUN, result="pass") == 1


async def test_the_task_that_emitted_last_is_the_one_that_is_looked_at(monitor: IsolationMonitor) -> None:
    """A handler that starts the run's work in another task is not where the run hangs."""
    forever = asyncio.Event()
    run = monitor.run("run-1", owner="ann")

    async def work() -> None:
        run.emit("agent_started")
        await call_the_model(forever)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    age(run)
    look(monitor)

    [violation] = stuck(monitor)
    assert violation.victim.stack[-1].endswith("call_the_model")
    forever.set()
    await task


def test_a_run_in_a_thread_is_told_by_the_threads_own_stack(monitor: IsolationMonitor) -> None:
    forever, ready = threading.Event(), threading.Event()

    def work() -> None:
        with monitor.run("run-1", owner="ann") as run:
            run.emit("agent_started")
            ready.set()
            forever.wait(60)
            run.emit("agent_completed")

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(20)
    age(monitor.runs.open["run-1"])
    look(monitor)
    forever.set()
    thread.join()

    [violation] = stuck(monitor)
    assert any(line.endswith("work") for line in violation.victim.stack)
    assert violation.resource.detail["waits_for"] == "its thread has not come back"


@pytest.mark.parametrize("settings", [{"stuck_after_s": 0}, {"detectors": ("stuck_run=off",)}])
async def test_it_can_be_switched_off(make_monitor: Callable[..., IsolationMonitor], settings: dict[str, Any]) -> None:
    monitor = make_monitor(**settings)
    with monitor.run("run-1", owner="ann") as run:
        run.emit("agent_started")
        age(run)
        look(monitor)
        run.emit("agent_completed")

    assert not stuck(monitor)
    assert monitor.registry.value(names.RUN_STUCK) == 0


async def test_the_housekeeper_looks_by_itself(make_monitor: Callable[..., IsolationMonitor]) -> None:
    """Nobody calls the detector in a service: the thread that is there anyway must."""
    monitor = make_monitor(stuck_after_s=0.5)
    monitor.housekeeper.start()
    with monitor.run("run-1", owner="ann") as run:
        run.emit("agent_started")
        deadline = time.monotonic() + 30
        while not stuck(monitor):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        run.emit("agent_completed")


def test_a_planted_fault_is_seen_and_is_in_nobodys_numbers(monitor: IsolationMonitor) -> None:
    monitor.runs.stuck.plant(Lab(monitor.principals))

    [violation] = monitor.violations(synthetic=True)
    assert (violation.kind, violation.synthetic) == (names.STUCK_RUN, True)
    assert not stuck(monitor)
    assert monitor.registry.value(names.RUN_STUCK) == 0
