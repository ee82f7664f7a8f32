"""Whose work a task does: that of whom it was handed, and nobody's when it was handed nobody or several."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.detectors.own_work import OwnWork


class Account:
    def __init__(self, id: str) -> None:
        self.user_id = id


@pytest.fixture
def work(monitor: IsolationMonitor) -> OwnWork:
    for name in ("u-ann", "u-bob"):
        monitor.principals.named(name)
    return OwnWork(monitor.principals.known)


def over(monitor: IsolationMonitor, user: str) -> RequestContext:
    request = RequestContext(monitor.principals.named(user), None, None, None)
    request.finished = True
    return request


async def answered(task: Coroutine[Any, Any, bool]) -> bool:
    return await asyncio.create_task(task)


async def test_a_task_that_was_handed_its_user_works_for_him_after_the_request_is_over(monitor: IsolationMonitor, work: OwnWork) -> None:
    ann, bob = over(monitor, "u-ann"), over(monitor, "u-bob")

    async def run(user: Account, text: str, whose: RequestContext) -> bool:
        return work.is_of(whose)

    async def run_by_id(user_id: str, whose: RequestContext) -> bool:
        return work.is_of(whose)

    def run_of(account: Account, whose: RequestContext) -> Coroutine[Any, Any, bool]:
        async def inner() -> bool:
            assert account
            return work.is_of(whose)

        return inner()

    assert await answered(run(Account("u-ann"), "hello", ann))
    assert await answered(run_by_id("u-ann", ann))
    assert await answered(run_of(Account("u-ann"), ann))
    assert not await answered(run(Account("u-ann"), "hello", bob))


async def test_a_task_that_was_handed_nobody_or_several_is_nobodys(monitor: IsolationMonitor, work: OwnWork) -> None:
    ann = over(monitor, "u-ann")

    asked = [ann]

    async def forward() -> bool:
        return work.is_of(asked[0])

    async def notify(sender: Account, receivers: list[str]) -> bool:
        return work.is_of(asked[0])

    assert not await answered(forward())
    assert not await answered(notify(Account("u-ann"), ["u-bob"]))
