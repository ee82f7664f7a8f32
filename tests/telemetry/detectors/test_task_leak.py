"""What outlives its request: leaks are told from background work that is meant to."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.lab import Lab

GRACE_S = 5.0
background: set[asyncio.Task[Any]] = set()


async def forever() -> None:
    await asyncio.Event().wait()


async def until(event: asyncio.Event) -> None:
    await event.wait()


@pytest.fixture
async def run(monitor: Any) -> AsyncIterator[Callable[..., Any]]:
    """Run `act` as the code of one request of `user`, then end that request."""
    monitor.integrations.look()
    monitor.integrations.serving()

    async def one(user: str, act: Callable[[], Any]) -> Any:
        lab = Lab(monitor.principals)
        request = lab.request()
        request.principal = monitor.principals.named(user)

        async def inside() -> Any:
            CURRENT.set(request)
            result = act()
            return await result if asyncio.iscoroutine(result) else result

        result = await asyncio.create_task(inside())
        request.finished = True
        return result

    yield one
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    background.clear()


def spawn(coroutine: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(coroutine)
    background.add(task)
    return task


def leaks(monitor: Any) -> list[Any]:
    return [violation for violation in monitor.ledger.recent if violation.kind == "task_leak"]


def sweep(monitor: Any, *moments: float) -> None:
    for moment in moments:
        monitor.detection.task_leak.sweep(moment)


async def test_a_task_left_behind_by_each_request_is_reported(monitor, run) -> None:
    for _ in range(3):
        await run("ann", lambda: spawn(forever()) and None)

    sweep(monitor, 100.0, 100.0 + GRACE_S)

    assert len(leaks(monitor)) == 3
    violation = leaks(monitor)[0]
    assert (violation.grade, violation.resource.type, violation.resource.name) == ("hygiene", "task", "forever")
    assert any("test_task_leak" in line for line in violation.offender.stack)


async def test_users_with_two_each_are_a_leak_where_there_are_many(monitor, run) -> None:
    for user in ("ann", "bob", "cid"):
        for _ in range(2):
            await run(user, lambda: spawn(forever()) and None)

    sweep(monitor, 100.0, 100.0 + GRACE_S)

    assert len(leaks(monitor)) == 6


async def test_a_leak_that_ends_later_is_retracted_and_its_kind_is_known_from_then_on(monitor, run, monkeypatch) -> None:
    retracted: list[str] = []
    monkeypatch.setattr(monitor.ledger, "retract", lambda violation, reason: retracted.append(violation.id))
    ends = asyncio.Event()
    for _ in range(3):
        await run("ann", lambda: spawn(until(ends)) and None)
    sweep(monitor, 100.0, 110.0)
    ends.set()
    await asyncio.gather(*background)
    sweep(monitor, 111.0)

    ends.clear()
    for _ in range(3):
        await run("ann", lambda: spawn(until(ends)) and None)
    sweep(monitor, 200.0, 210.0)

    assert len(retracted) == len(leaks(monitor)) == 3


async def test_a_worker_started_lazily_once_is_no_leak(monitor, run) -> None:
    await run("ann", lambda: spawn(forever()) and None)
    for _ in range(5):
        await run("ann", lambda: None)

    sweep(monitor, 100.0, 200.0)

    assert leaks(monitor) == []


async def test_several_workers_started_by_one_request_are_no_leak(monitor, run) -> None:
    await run("ann", lambda: [spawn(forever()) for _ in range(8)] and None)

    sweep(monitor, 100.0, 200.0)

    assert leaks(monitor) == []


async def test_a_worker_of_each_principal_is_no_leak(monitor, run) -> None:
    for n in range(10):
        await run(f"user-{n}", lambda: spawn(forever()) and None)

    sweep(monitor, 100.0, 200.0)

    assert leaks(monitor) == []


async def test_work_that_ends_within_the_grace_time_is_no_leak(monitor, run) -> None:
    ends = asyncio.Event()
    for _ in range(5):
        await run("ann", lambda: spawn(until(ends)) and None)
    sweep(monitor, 100.0, 101.0)
    ends.set()
    await asyncio.gather(*background)

    sweep(monitor, 110.0)

    assert leaks(monitor) == []


async def test_what_a_connection_started_may_live_as_long_as_the_connection(monitor, run) -> None:
    class Open:
        closed = False
        serial = 1
        principal = None

    def start() -> None:
        request = CURRENT.get()
        assert request is not None
        request.connection = Open()  # type: ignore[assignment]
        spawn(forever())

    for _ in range(5):
        await run("ann", start)

    sweep(monitor, 100.0, 200.0)

    assert leaks(monitor) == []


async def test_generators_left_suspended_are_reported(monitor, run) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    # The test's loop was started anew after the fixture, and each start begins with hooks of its own.
    monitor.integrations.serving()

    async def drop() -> Any:
        generator = numbers()
        await anext(generator)
        return generator

    kept = [await run("ann", drop) for _ in range(3)]
    sweep(monitor, 100.0, 200.0)

    assert {violation.resource.type for violation in leaks(monitor)} == {"generator"}
    for generator in kept:
        await generator.aclose()


async def test_threads_and_jobs_left_running_are_reported(monitor, run) -> None:
    release = threading.Event()

    def block() -> None:
        release.wait(60)

    with ThreadPoolExecutor(4) as pool:
        threads: list[threading.Thread] = []

        def start() -> Any:
            threads.append(threading.Thread(target=block))
            threads[-1].start()
            return pool.submit(block)

        jobs = [await run("ann", start) for _ in range(3)]
        sweep(monitor, 100.0, 200.0)
        release.set()
        for thread in threads:
            thread.join()

    assert sorted(violation.resource.type for violation in leaks(monitor)) == ["job"] * 3 + ["thread"] * 3
    assert all(job.done() for job in jobs)


async def test_finished_tasks_are_forgotten_and_counted_as_passed(monitor, run, samples) -> None:
    for _ in range(50):
        await run("ann", lambda: asyncio.create_task(asyncio.sleep(0)))
    await asyncio.sleep(0)
    gc.collect()

    sweep(monitor, 100.0)

    assert len(monitor.detection.task_leak._alive) == 0
    assert samples(monitor, "isolation_checks_total", detector="task_leak", result="pass") >= 50


async def test_the_table_is_bounded(monitor, run, monkeypatch, samples) -> None:
    monkeypatch.setattr("isolation_monitor.telemetry.detectors.task_leak.TABLE_LIMIT", 2)

    await run("ann", lambda: [spawn(forever()) for _ in range(5)] and None)

    assert len(monitor.detection.task_leak._alive) <= 2
    assert samples(monitor, "isolation_checks_total", detector="task_leak", result="skipped") >= 3


async def test_a_switched_off_detector_notes_nothing(make_monitor) -> None:
    monitor = make_monitor(detectors="task_leak=off")
    monitor.detection.task_leak.started(asyncio.current_task(), "task", None, Lab(monitor.principals).request())

    assert len(monitor.detection.task_leak._alive) == 0


async def test_a_planted_fault_is_reported_as_synthetic(monitor) -> None:
    monitor.detection.task_leak.plant(Lab(monitor.principals))

    assert {(v.kind, v.synthetic) for v in monitor.violations(synthetic=True)} == {(names.TASK_LEAK, True)}
    assert len(monitor.detection.task_leak._alive) == 0
