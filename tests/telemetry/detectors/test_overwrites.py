"""Overwrites: who answers with what another wrote over its own value was raced, whatever the values mean."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.violations import Violation
from tests.telemetry.conftest import Client, user_of
from tests.telemetry.detectors import shared_slot

USERS = ("ana", "ben", "cleo", "dora")
ROUNDS = 60
PATIENCE_S = 30


def found(monitor: IsolationMonitor) -> list[Violation]:
    return [v for v in monitor.violations() if v.kind == names.SHARED_STATE and v.grade == "crossed"]


def service(*, is_locked: bool) -> FastAPI:
    """Answers with what stands in a shared field after an await; the lock keeps others out meanwhile."""
    app, lock = FastAPI(), asyncio.Lock()

    @app.get("/ask")
    async def ask(request: Request) -> dict[str, str]:
        value = shared_slot.value_of(user_of(request.scope) or "")
        if is_locked:
            async with lock:
                return await through_the_slot(value)
        return await through_the_slot(value)

    async def through_the_slot(value: str) -> dict[str, str]:
        shared_slot.SLOT["value"] = value
        await asyncio.sleep(0.005)
        return {"value": shared_slot.SLOT["value"]}

    return app


async def rounds(monitor: IsolationMonitor, app: FastAPI, *, path: str = "/ask", wants: bool = True) -> None:
    """Send requests until something is found, as long as that is wanted; else for as many rounds as would show it."""
    shared_slot.SLOT["value"] = ""
    client = Client(monitor.instrument(app))
    monitor.started()
    # Fields are known once the first walk through memory has met them, on a thread of its own: on a busy machine, that takes a while.
    until = time.monotonic() + (PATIENCE_S if wants else 0)
    number = 0
    while number < ROUNDS or time.monotonic() < until:
        answers = await asyncio.gather(*(client.get(path, user=user) for user in USERS))
        assert [answer.status for answer in answers] == [200] * len(USERS)
        if number >= 5 and found(monitor):
            break
        number += 1
        await asyncio.sleep(0.01)


async def test_a_value_of_anothers_request_over_ones_own_is_a_crossing_with_both_sides(monitor: IsolationMonitor) -> None:
    await rounds(monitor, service(is_locked=False))

    violation = found(monitor)[0]
    assert "SLOT['value']" in violation.resource.name
    assert violation.victim is not None
    assert violation.offender is not None
    assert violation.victim.principal != violation.offender.principal
    assert violation.victim.request_id != violation.offender.request_id


async def test_the_same_field_under_a_lock_is_silent(monitor: IsolationMonitor) -> None:
    await rounds(monitor, service(is_locked=True), wants=False)

    assert found(monitor) == []


@pytest.mark.parametrize("is_locked", [False, True])
async def test_endpoints_below_a_middleware_that_starts_a_task(monitor: IsolationMonitor, *, is_locked: bool) -> None:
    app = service(is_locked=is_locked)

    @app.middleware("http")
    async def stamp(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    await rounds(monitor, app, wants=not is_locked)

    assert bool(found(monitor)) is not is_locked


class TaskOfItsOwn:
    """A middleware that runs what is below it in a task made of its coroutine."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.create_task(self.app(scope, receive, send))


@pytest.mark.parametrize("has_mount", [False, True])
async def test_tasks_and_mounted_applications_on_the_way_change_no_answer(monitor: IsolationMonitor, *, has_mount: bool) -> None:
    inner = service(is_locked=False)
    app = FastAPI() if has_mount else inner
    if has_mount:
        app.mount("/sub", inner)
    inner.add_middleware(TaskOfItsOwn)

    @app.middleware("http")
    async def stamp(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    await rounds(monitor, app, path="/sub/ask" if has_mount else "/ask")

    assert found(monitor)
    assert monitor.detection.stepped == {}


@pytest.mark.parametrize("is_own", [False, True])
async def test_a_call_with_what_another_wrote_over_ones_own_is_a_crossing(monitor: IsolationMonitor, *, is_own: bool) -> None:
    """The key of an SDK, set for the whole process before each call; or set once more right before it, which no one can disturb."""
    app = FastAPI()

    @app.get("/ask")
    async def ask(request: Request) -> dict[str, bool]:
        shared_slot.SLOT["value"] = key = shared_slot.value_of(user_of(request.scope) or "")
        await asyncio.sleep(0.005)
        if is_own:
            shared_slot.SLOT["value"] = key
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(204))) as http:
            await http.get("http://bank.example/accounts", headers={"X-Customer": shared_slot.SLOT["value"]})
        return {"ok": True}

    await rounds(monitor, app, wants=not is_own)

    if is_own:
        assert found(monitor) == []
    else:
        violation = found(monitor)[0]
        assert "a call to bank.example carried the other's" in violation.summary
        assert violation.victim is not None
        assert violation.offender is not None
        assert violation.victim.principal != violation.offender.principal


async def test_what_fields_are_watched_is_bounded(monitor: IsolationMonitor) -> None:
    await rounds(monitor, service(is_locked=False))

    assert 0 < len(monitor.detection.shared_state.overwrites.slots) <= 12
