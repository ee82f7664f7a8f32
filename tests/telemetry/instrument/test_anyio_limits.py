"""The limit of worker threads under real FastAPI requests: one user takes all of them, and another waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio._backends import _asyncio as backend
from fastapi import FastAPI

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.instrument import anyio_limits
from tests.telemetry.acting import Acting, hooked

LIMIT_S = 20.0
THRESHOLD_S = 0.2


class Threads:
    """A service whose only endpoint is not `async` and ends when the test says."""

    def __init__(self, monitor: IsolationMonitor, client: Callable[[Any], Any]) -> None:
        self.monitor = monitor
        self.may_end = threading.Event()
        app = FastAPI()

        @app.get("/slow")
        def slow() -> None:
            self.may_end.wait(LIMIT_S)

        @app.get("/fast")
        def fast() -> None:
            pass

        self._client = client(monitor.instrument(app))
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2

    def get(self, user: str, path: str) -> asyncio.Task[Any]:
        return asyncio.create_task(self._client.get(path, user=user))

    def found(self) -> list[Any]:
        return [violation for violation in self.monitor.violations() if violation.kind == names.STARVATION]


@pytest.fixture
async def threads(make_monitor: Callable[..., IsolationMonitor], client: Callable[[Any], Any]) -> Threads:
    return Threads(make_monitor(starvation_threshold_ms=THRESHOLD_S * 1000), client)


async def taken() -> None:
    deadline = time.monotonic() + LIMIT_S
    while anyio.to_thread.current_default_thread_limiter().borrowed_tokens < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_user_who_takes_all_worker_threads_starves_the_next(threads: Threads) -> None:
    held = [threads.get("ann", "/slow"), threads.get("ann", "/slow")]
    await taken()
    waiting = threads.get("bob", "/fast")
    deadline = time.monotonic() + LIMIT_S
    while not threads.found():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    threads.may_end.set()
    await asyncio.gather(*held, waiting)

    violation = threads.found()[0]
    assert (violation.grade, violation.resource.name) == ("hygiene", "anyio.CapacityLimiter")
    assert violation.offender.principal == threads.monitor.principals.named("ann").hash


async def test_threads_that_several_users_take_are_the_services_capacity(threads: Threads) -> None:
    held = [threads.get("ann", "/slow"), threads.get("bob", "/slow")]
    await taken()
    waiting = threads.get("cid", "/fast")
    await asyncio.sleep(THRESHOLD_S * 3)
    threads.may_end.set()
    await asyncio.gather(*held, waiting)

    assert threads.found() == []


async def test_a_place_given_to_one_who_has_not_run_yet_counts_as_held(make_monitor: Callable[..., IsolationMonitor]) -> None:
    """anyio lets others run between giving a place and returning from the acquisition."""
    monitor = make_monitor(starvation_threshold_ms=THRESHOLD_S * 1000)
    acting = Acting(monitor)
    with hooked(anyio_limits.install, monitor):
        limiter, may_end = anyio.CapacityLimiter(2), asyncio.Event()

        async def hold() -> None:
            async with limiter:
                await may_end.wait()

        held = [acting.task("ann", hold)]
        await asyncio.sleep(0.01)
        # Both at once: the second of them finds two places taken, and one holder who is known.
        held += [acting.task("bob", hold), acting.task("cid", hold)]
        await asyncio.sleep(THRESHOLD_S * 3)
        may_end.set()
        await asyncio.gather(*held)

    assert acting.found() == []
    assert acting.checks(names.STARVATION, "pass") == 1, "the wait was judged"


async def test_places_are_given_back_and_forgotten(threads: Threads) -> None:
    threads.may_end.set()
    await asyncio.gather(*(threads.get(f"user{n}", "/slow") for n in range(20)))

    assert anyio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    assert threads.found() == []
    assert threads.monitor.registry.value(names.MONITOR_ERRORS, hook="asyncio") == 0


def test_uninstrument_restores_the_limiter(make_monitor: Callable[..., IsolationMonitor]) -> None:
    before = dict(vars(backend.CapacityLimiter))
    monitor = make_monitor()
    monitor.instrument(FastAPI())
    assert dict(vars(backend.CapacityLimiter)) != before

    monitor.uninstrument()

    assert dict(vars(backend.CapacityLimiter)) == before
