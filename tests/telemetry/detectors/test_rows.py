"""Rows in memory: which are work that somebody waits for, told without running any code of the host's."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

from isolation_monitor.telemetry.detectors.object_walk import Root, Walk
from isolation_monitor.telemetry.detectors.rows import Rows
from isolation_monitor.telemetry.detectors.territory import Territory


def is_waiting(row: object) -> bool:
    """Ask of a row as a walk meets it."""
    return Rows.is_waiting(next(iter(Walk(Territory()).nodes([Root("shop:row", row)]))))


async def test_a_future_that_nobody_has_answered_is_waited_for() -> None:
    future = asyncio.get_running_loop().create_future()
    pending: concurrent.futures.Future[str] = concurrent.futures.Future()

    assert is_waiting(["text", future])
    assert is_waiting(["text", pending])

    future.set_result("done")
    pending.set_result("done")
    assert not is_waiting(["text", future])
    assert not is_waiting(["text", pending])


async def test_a_task_that_runs_beside_a_text_is_nothing_that_somebody_waits_for() -> None:
    """A session's reader runs for as long as the session is there."""
    reader = asyncio.create_task(asyncio.sleep(30))
    try:
        assert not is_waiting(["text", reader])
        assert is_waiting(["text", reader, asyncio.get_running_loop().create_future()])
    finally:
        reader.cancel()


def test_no_code_of_a_hosts_class_runs() -> None:
    ran: list[str] = []

    class Comparing(type):
        def __eq__(cls, other: object) -> bool:
            ran.append("compared")
            raise RuntimeError("of no use to anybody else")

        def __hash__(cls) -> int:
            return 7

    class Thing(metaclass=Comparing):
        pass

    thing: Any = Thing()

    assert not is_waiting(["text", thing])
    assert ran == []
