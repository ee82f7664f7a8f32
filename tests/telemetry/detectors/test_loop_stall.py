"""The loop's watch on a real loop: real stalls, blamed on the request that caused them, and what is none."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.detectors.loop_stall import LoopStall
from isolation_monitor.telemetry.lab import Lab

LIMIT_S = 20.0


def stall_the_loop(seconds: float) -> None:
    time.sleep(seconds)


class Served:
    """A served application whose `/` does what the test says."""

    def __init__(self, monitor: IsolationMonitor, client: Callable[[Any], Any]) -> None:
        self.monitor = monitor
        self.act: Callable[[], Any] = lambda: None
        self._client = client(monitor.instrument(self._app))

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/act":
            result = self.act()
            if asyncio.iscoroutine(result):
                await result
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def get(self, user: str = "ann", path: str = "/act") -> Any:
        return await self._client.get(path, user=user)

    def stalls(self) -> list[Any]:
        return [violation for violation in self.monitor.violations() if violation.kind == names.LOOP_STALL]

    async def eventually(self, condition: Callable[[], Any], what: str) -> None:
        assert await self.happens(condition, LIMIT_S), f"never happened: {what}"

    async def happens(self, condition: Callable[[], Any], within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if condition():
                return True
            await asyncio.sleep(0.01)
        return False


@pytest.fixture
async def served(make_monitor: Callable[..., IsolationMonitor], client: Callable[[Any], Any]) -> AsyncIterator[Served]:
    # Wide enough for a machine that is busy with other tests.
    served = Served(make_monitor(stall_threshold_ms=300), client)
    await served.get(path="/")
    yield served
    await asyncio.to_thread(served.monitor.close)


async def test_a_blocking_call_in_a_request_is_reported_with_its_principal_and_line(served: Served) -> None:
    # Long beside what is asserted: a watch that gets no processor for a while sees the rest of the stall only.
    served.act = lambda: stall_the_loop(3.0)

    # Where the watch itself gets no processor, the machine is to blame and nobody is reported: then once more.
    for _ in range(5):
        await served.get("ann")
        if await served.happens(served.stalls, within_s=3.0):
            break

    (stall,) = served.stalls()
    assert stall.grade == "hygiene"
    assert stall.offender.principal == served.monitor.principals.named("ann").hash
    assert any("stall_the_loop" in line for line in stall.offender.stack)
    assert stall.resource.detail["stalled_s"] > 0.7
    assert served.monitor.registry.value(names.LOOP_STALL_DURATION) == 1


async def test_a_stall_in_a_task_that_a_request_started_is_blamed_on_the_request(served: Served) -> None:
    async def in_a_task() -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            stall_the_loop(1.5)

        await asyncio.get_running_loop().create_task(work())

    served.act = in_a_task

    await served.get("bob")
    await served.eventually(served.stalls, "the report")

    assert served.stalls()[0].offender.principal == served.monitor.principals.named("bob").hash


async def test_code_in_c_that_holds_the_interpreter_is_a_stall_although_our_thread_stood_still_too(served: Served) -> None:
    def hold() -> None:
        until = time.monotonic() + 1.5
        pattern, text = re.compile("(a+)+$"), "a" * 18 + "!"
        while time.monotonic() < until:
            pattern.match(text)
            text = "a" + text

    served.act = hold

    await served.get("ann")
    await served.eventually(served.stalls, "the report")

    assert served.stalls()[0].resource.detail["stalled_s"] > 0.5


async def test_work_in_a_thread_and_awaited_work_are_no_stall(served: Served) -> None:
    served.act = lambda: asyncio.to_thread(time.sleep, 1.0)

    await served.get("ann")
    served.act = lambda: asyncio.sleep(0.5)
    await served.get("ann")

    assert served.stalls() == []


async def test_a_stall_while_nobody_is_served_is_nobodys(served: Served) -> None:
    stall_the_loop(1.0)
    await asyncio.sleep(0.4)

    assert served.stalls() == []
    assert served.monitor.registry.value(names.LOOP_STALL_DURATION) == 0


async def test_a_loop_that_answers_is_one_check_a_second(served: Served) -> None:
    served.act = lambda: served.eventually(
        lambda: served.monitor.registry.value(names.CHECKS, detector="loop_stall", result="pass"), "a check"
    )

    await served.get("ann")


async def test_switched_off_it_does_not_look(served: Served) -> None:
    served.monitor.mode = "off"
    stall_the_loop(0.8)
    await asyncio.sleep(0.1)

    assert served.monitor.registry.value(names.LOOP_STALL_DURATION) == 0


async def test_uninstrument_ends_the_thread_and_the_collectors_callback(served: Served) -> None:
    import gc

    def watchers() -> list[Any]:
        return [thread for thread in threading.enumerate() if thread.name == "isolation-monitor-loop-watch"]

    await served.eventually(watchers, "the watch")
    await asyncio.to_thread(served.monitor.uninstrument)

    await served.eventually(lambda: not watchers(), "the end of the watch")
    assert not [one for one in gc.callbacks if type(getattr(one, "__self__", None)).__module__.startswith("isolation_monitor")]


def test_unwatching_does_not_wait_for_the_next_look(make_monitor: Callable[..., IsolationMonitor]) -> None:
    detector: LoopStall = make_monitor(stall_threshold_ms=600_000).detection.loop_stall

    async def serve() -> None:
        detector.watch(asyncio.get_running_loop())
        watch = detector._watch
        assert watch is not None
        assert watch.is_running
        await asyncio.to_thread(detector.unwatch)
        watch._thread.join(LIMIT_S)
        assert not watch._thread.is_alive()

    asyncio.run(serve())


def test_a_closed_loop_ends_the_watch(monitor: IsolationMonitor) -> None:
    detector: LoopStall = monitor.detection.loop_stall

    async def serve() -> None:
        detector.watch(asyncio.get_running_loop())

    asyncio.run(serve())

    assert detector._watch is not None
    detector._watch._thread.join(LIMIT_S)
    assert not detector._watch.is_running


def test_a_planted_stall_is_reported_as_synthetic_and_measured_nowhere(monitor: IsolationMonitor) -> None:
    monitor.detection.loop_stall.plant(Lab(monitor.principals))

    (violation,) = monitor.violations(synthetic=True)
    assert (violation.kind, violation.synthetic) == ("loop_stall", True)
    assert monitor.registry.value(names.LOOP_STALL_DURATION) == 0
    assert monitor.detection.loop_stall.during(0.0, time.perf_counter() + 1) == []


async def test_a_reporter_that_raises_ends_neither_the_watch_nor_the_host(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(served.monitor.ledger, "report", broken)
    served.act = lambda: stall_the_loop(1.0)

    assert (await served.get("ann")).status == 200
    await served.eventually(lambda: served.monitor.registry.value(names.MONITOR_ERRORS, hook="asyncio"), "the error counted")
    assert served.monitor.detection.loop_stall._watch is not None
    assert served.monitor.detection.loop_stall._watch.is_running
