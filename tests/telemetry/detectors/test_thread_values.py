"""Values of thread-locals: what one request's parts write and find in the threads of a pool."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.telemetry.conftest import user_of

USERS = ["ann", "bob", "cem", "dan"]
local = threading.local()


def reads_it() -> Any:
    return local.session


def writes_its_own() -> Any:
    local.session = {"csrf": object()}
    return local.session


def makes_it_once() -> Any:
    if not hasattr(local, "session"):
        local.session = {"connection": object()}
    return local.session


def never_reads() -> None:
    return None


@pytest.fixture
def two_parts(monitor: Any, client: Any) -> Callable[..., Any]:
    """Serve requests of two parts: the first one's thread is one of a pool's, the second one's always the same."""

    async def run(
        second: Callable[[], Any], *, first: Callable[[], Any] | None = None, shared: bool = False, kept: bool = False
    ) -> list[Any]:
        local.__dict__.clear()
        one_for_all = {"csrf": "the same"}
        sessions: dict[str, Any] = {}
        with ThreadPoolExecutor(1) as here, ThreadPoolExecutor(1) as there:

            def begin(user: str) -> None:
                own = sessions.setdefault(user, {"csrf": object()}) if kept else {"csrf": object()}
                local.session = one_for_all if shared else own

            async def app(scope: Any, receive: Any, send: Any) -> None:
                loop = asyncio.get_running_loop()
                begins = first or functools.partial(begin, user_of(scope) or "")
                await loop.run_in_executor(here, begins)
                if scope["path"] == "/there":
                    await loop.run_in_executor(there, begins)
                await loop.run_in_executor(there, second)
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b""})

            calls = client(monitor.instrument(app))
            monitor.detection.foreign_context.places.scan()
            for round in range(12):
                for user in (one for one in USERS for _ in range(2 if kept else 1)):
                    await calls.get("/there" if user == "ann" and round % 2 == 0 else "/here", user=user)
        return [violation for violation in monitor.ledger.recent if violation.kind == "foreign_task"]

    return run


async def test_a_value_that_names_nobody_is_reported_where_the_request_had_written_another(two_parts) -> None:
    found = await two_parts(reads_it)

    assert found
    assert found[0].resource.name.endswith("local[session]")
    assert {violation.grade for violation in found} == {"reachable"}


async def test_who_comes_twice_finds_his_own_and_that_says_nothing_of_the_others(two_parts) -> None:
    """Each user has one session for good, and asks twice in a row: what is written is what was there."""
    assert await two_parts(reads_it, kept=True)


@pytest.mark.parametrize("second", [writes_its_own, never_reads])
async def test_parts_that_write_first_or_never_read_stay_silent(two_parts, second) -> None:
    assert not await two_parts(second)


async def test_what_each_thread_makes_for_itself_once_stays_silent(two_parts) -> None:
    """A connection of the thread's own is made by whoever needs it first, and then serves everybody."""
    assert not await two_parts(makes_it_once, first=makes_it_once)


async def test_one_value_that_all_requests_write_stays_silent(two_parts) -> None:
    """A tenant, a language: what two principals both have is nobody's alone."""
    assert not await two_parts(reads_it, shared=True)
