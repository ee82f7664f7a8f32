"""Steps: a coroutine runs exactly as it would alone, and each stretch between two awaits is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.instrument.steps import Steps


class Noting:
    def __init__(self, *, breaks: bool = False) -> None:
        self.calls: list[str] = []
        self._breaks = breaks

    def before_step(self, request: RequestContext) -> None:
        self.calls.append("before")
        if self._breaks:
            raise RuntimeError("a failure of the watcher's")

    def after_step(self, request: RequestContext) -> None:
        self.calls.append("after")
        if self._breaks:
            raise RuntimeError("a failure of the watcher's")


REQUEST = RequestContext(None, {}, None, None)


async def stepped(coroutine: Any, watcher: Noting) -> None:
    await Steps(coroutine, REQUEST, watcher)


@pytest.mark.parametrize("breaks", [False, True])
async def test_each_await_is_a_step_and_a_failing_watcher_changes_nothing(breaks: bool) -> None:
    watcher, order = Noting(breaks=breaks), list[str]()

    async def work() -> None:
        order.append("one")
        await asyncio.sleep(0)
        order.append("two")
        await asyncio.sleep(0)

    await stepped(work(), watcher)

    assert order == ["one", "two"]
    assert watcher.calls == ["before", "after"] * 3


async def test_exceptions_of_the_work_pass_through() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await stepped(work(), Noting())


async def test_cancelling_reaches_the_work_and_its_cleaning_up_is_awaited() -> None:
    cleaned, waiting = list[str](), asyncio.Event()

    async def work() -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            cleaned.append("yes")
            raise

    task = asyncio.create_task(stepped(work(), Noting()))
    await waiting.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["yes"]


async def test_task_groups_and_time_outs_work_inside() -> None:
    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()

    await stepped(work(), Noting())
