"""Replies over queues: one that another took in place of its own is told from news, from jobs and from what goes back to a pool."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from tests.telemetry.conftest import Client

USERS = ("ana", "ben", "cleo", "dora")
Queue = asyncio.Queue[Any]


def licence_of(user: str) -> str:
    """Return a value that derives from the user: no memory holds it, and no request brings it."""
    return f"the licence is {user.encode().hex()}-f9a7c1e5"


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Service:
    """Answers each user what `serve` returns, with workers that are started as a lifespan does, or `lazily` by the first request."""

    def __init__(self, serve: Callable[[str], Awaitable[str]], work: Callable[[], Any], *, workers: int = 4, lazily: bool = False) -> None:
        self._serve = serve
        self._work = work
        self._workers = workers
        self._context = None if lazily else contextvars.Context()
        self.tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while len(self.tasks) < self._workers:
            self.tasks.append(asyncio.get_running_loop().create_task(self._work(), context=self._context))
        user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        body = (await self._serve(user)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})


async def drive(monitor: IsolationMonitor, service: Service, rounds: int = 4) -> list[str]:
    """Let all users ask at once, again and again; return what was found about contents."""
    client = Client(monitor.instrument(service))
    for _ in range(rounds):
        await asyncio.wait_for(asyncio.gather(*(client.get("/", user=user) for user in USERS)), 30)
    for task in service.tasks:
        task.cancel()
    await asyncio.gather(*service.tasks, return_exceptions=True)
    await asyncio.to_thread(monitor.detection.settle)
    return [violation.summary for violation in monitor.violations() if violation.kind == names.FOREIGN_CONTENT]


async def test_a_reply_that_another_took_in_place_of_its_own_is_a_crossing(monitor: IsolationMonitor) -> None:
    """One queue of replies for all, without a number on them: whoever waits first takes the first."""
    calls, replies = Queue(), Queue()

    async def work() -> None:
        while True:
            user = await calls.get()
            await turns(8 - 2 * USERS.index(user))
            await replies.put({"licence": licence_of(user)})

    async def serve(user: str) -> str:
        await calls.put(user)
        return str((await replies.get())["licence"])

    assert await drive(monitor, Service(serve, work))
    violation = next(one for one in monitor.violations() if one.kind == names.FOREIGN_CONTENT)
    assert violation.grade == "crossed"
    assert violation.victim is not None
    assert violation.offender is not None
    assert violation.victim.principal != violation.offender.principal


@pytest.mark.parametrize("lazily", [False, True])
async def test_a_reply_queue_of_ones_own_is_silent(monitor: IsolationMonitor, lazily: bool) -> None:
    calls = Queue()

    async def work() -> None:
        while True:
            user, reply_to = await calls.get()
            await turns(8 - 2 * USERS.index(user))
            await reply_to.put(licence_of(user))

    async def serve(user: str) -> str:
        await calls.put((user, reply_to := Queue()))
        return str(await reply_to.get())

    assert await drive(monitor, Service(serve, work, lazily=lazily)) == []


async def test_news_of_another_that_come_by_ones_own_queue_are_silent(monitor: IsolationMonitor) -> None:
    """A game by correspondence: each waits for the move of the other."""
    moves = Queue()
    boards = {user: Queue() for user in USERS}

    async def work() -> None:
        while True:
            user = await moves.get()
            await boards[USERS[USERS.index(user) ^ 1]].put(licence_of(user))

    async def serve(user: str) -> str:
        await moves.put(user)
        return str(await boards[user].get())

    assert await drive(monitor, Service(serve, work, workers=1)) == []


async def test_what_goes_back_to_a_pool_is_no_reply(monitor: IsolationMonitor) -> None:
    """A worker cleans what requests give back; who takes twice has given something back before."""
    used, idle = Queue(), Queue()
    for number in range(4):
        idle.put_nowait(f"connection 7f3a9c{number}e51d")

    async def work() -> None:
        while True:
            connection, _ = await used.get()
            await turns(3)
            await idle.put(connection)

    async def serve(user: str) -> str:
        for _ in range(2):
            connection = await idle.get()
            await turns(2)
            await used.put((connection, user))
        return f"served by {connection}"

    assert await drive(monitor, Service(serve, work, workers=1)) == []


async def test_what_a_request_gives_back_to_a_pool_is_not_of_its_making(monitor: IsolationMonitor) -> None:
    idle = Queue()
    for number in range(2):
        idle.put_nowait(f"connection 7f3a9c{number}e51d")

    async def serve(user: str) -> str:
        first, second = await idle.get(), None
        await turns(2)
        if user == USERS[-1]:
            second = await idle.get()
            await idle.put(second)
        await idle.put(first)
        # Only one of them tells.
        return f"served by {first}" if second is not None else "served"

    async def idles() -> None:
        await asyncio.Event().wait()

    assert await drive(monitor, Service(serve, idles, workers=1)) == []


async def test_jobs_for_who_has_called_nobody_are_silent(monitor: IsolationMonitor) -> None:
    """Users order, and two of them, who are machines, work the orders off."""
    orders, jobs = Queue(), Queue()

    async def work() -> None:
        while True:
            await jobs.put(licence_of(await orders.get()))

    async def serve(user: str) -> str:
        if user in USERS[:2]:
            await orders.put(user)
            return "ordered"
        return str(await jobs.get())

    assert await drive(monitor, Service(serve, work, workers=1)) == []


async def test_a_task_that_went_on_to_nobodys_item_works_for_nobody(monitor: IsolationMonitor) -> None:
    calls, replies = Queue(), Queue()

    async def work() -> None:
        while True:
            await calls.get()
            # What comes next is the service's own, and public.
            calls.put_nowait(None)
            while await calls.get() is not None:
                replies.put_nowait("the weather report 4f6a8be0d1 says rain")
            replies.put_nowait("the weather report 4f6a8be0d1 says rain")

    async def serve(user: str) -> str:
        await calls.put(user)
        return str(await replies.get())

    assert await drive(monitor, Service(serve, work, workers=1)) == []
