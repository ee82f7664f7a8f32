"""Workers and pool threads that go on as somebody else, and the many that only look so."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from isolation_monitor.telemetry.lab import Lab

USERS = ("alice", "bobby", "carol", "david")

user_var: contextvars.ContextVar[str] = contextvars.ContextVar("user_var")
local = threading.local()


def whoami() -> str:
    return user_var.get("nobody")


class Service:
    """A service whose worker starts with the first request."""

    def __init__(self, work: Callable[..., Any], *, per_user: bool = False, context: bool = False) -> None:
        self.work = work
        self.per_user = per_user
        self.context = contextvars.Context() if context else None
        self.queues: dict[str, asyncio.Queue[Any]] = {}
        self.tasks: list[asyncio.Task[Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        user_var.set(user)
        key = user if self.per_user else ""
        if key not in self.queues:
            self.queues[key] = asyncio.Queue()
            self.tasks.append(asyncio.get_running_loop().create_task(self.work(self.queues[key]), context=self.context))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self.queues[key].put((user, answer, contextvars.copy_context()))
        body = (await answer).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def carries_identity(queue: asyncio.Queue[Any]) -> None:
    while True:
        _, answer, _ = await queue.get()
        await asyncio.sleep(0)
        answer.set_result(whoami())


async def carries_identity_without_waiting(queue: asyncio.Queue[Any]) -> None:
    while True:
        _, answer, _ = await queue.get()
        answer.set_result(user_var.get())


async def never_reads_it(queue: asyncio.Queue[Any]) -> None:
    """A flusher: it took a context along, and nothing of it matters."""
    while True:
        _, answer, _ = await queue.get()
        await asyncio.sleep(0)
        answer.set_result("flushed")


async def sets_its_own(queue: asyncio.Queue[Any]) -> None:
    while True:
        user, answer, _ = await queue.get()
        token = user_var.set(user)
        await asyncio.sleep(0)
        answer.set_result(whoami())
        user_var.reset(token)


async def runs_in_the_jobs_context(queue: asyncio.Queue[Any]) -> None:
    while True:
        _, answer, context = await queue.get()
        answer.set_result(context.run(whoami))


async def starts_tasks_in_the_jobs_context(queue: asyncio.Queue[Any]) -> None:
    async def serve() -> str:
        await asyncio.sleep(0)
        return whoami()

    while True:
        _, answer, context = await queue.get()
        answer.set_result(await asyncio.get_running_loop().create_task(serve(), context=context))


@pytest.fixture
def drive(monitor: Any, client: Any) -> Callable[..., Any]:
    async def run(service: Service) -> Counter[str]:
        calls = client(monitor.instrument(service))
        monitor.detection.foreign_context.places.scan()
        for _ in range(3):
            await asyncio.gather(*(calls.get("/", user=user) for user in USERS))
        await asyncio.sleep(0)
        for task in service.tasks:
            task.cancel()
        await asyncio.gather(*service.tasks, return_exceptions=True)
        return Counter(violation.kind for violation in monitor.ledger.recent)

    return run


@pytest.mark.parametrize("work", [carries_identity, carries_identity_without_waiting])
async def test_a_worker_that_carries_the_first_users_identity_is_reported(drive, monitor, work) -> None:
    found = await drive(Service(work))

    assert found["foreign_task"] >= 1
    violation = next(v for v in monitor.ledger.recent if v.kind == "foreign_task")
    assert (violation.grade, violation.resource.detail["variable"]) == ("reachable", "user_var")
    assert violation.victim.principal == monitor.principals.named("alice").hash
    assert violation.offender.principal != violation.victim.principal


@pytest.mark.parametrize("work", [never_reads_it, sets_its_own, runs_in_the_jobs_context, starts_tasks_in_the_jobs_context])
async def test_workers_that_do_not_act_as_the_first_user_stay_silent(drive, work) -> None:
    assert (await drive(Service(work)))["foreign_task"] == 0


async def test_a_worker_of_each_user_stays_silent(drive) -> None:
    assert (await drive(Service(carries_identity, per_user=True)))["foreign_task"] == 0


async def test_a_worker_started_in_a_context_of_its_own_stays_silent(drive) -> None:
    assert (await drive(Service(carries_identity, context=True)))["foreign_task"] == 0


async def sets_it_once(queue: asyncio.Queue[Any]) -> None:
    while True:
        user, answer, _ = await queue.get()
        if user_var.get(None) is None:
            user_var.set(user)
        await asyncio.sleep(0)
        answer.set_result(whoami())


async def sets_it_each_time(queue: asyncio.Queue[Any]) -> None:
    while True:
        user, answer, _ = await queue.get()
        user_var.set(user)
        await asyncio.sleep(0)
        answer.set_result(whoami())


async def has_an_account_of_its_own(queue: asyncio.Queue[Any]) -> None:
    """Its account is a principal too, who sends requests as any other."""
    user_var.set("alice")
    while True:
        _, answer, _ = await queue.get()
        await asyncio.sleep(0)
        answer.set_result(whoami())


async def test_a_worker_that_keeps_the_first_jobs_user_is_reported(drive, monitor) -> None:
    found = await drive(Service(sets_it_once, context=True))

    assert found["foreign_task"] >= 1
    assert next(v for v in monitor.ledger.recent if v.kind == "foreign_task").resource.detail["variable"] == "user_var"


@pytest.mark.parametrize("work", [sets_it_each_time, sets_its_own, has_an_account_of_its_own])
async def test_workers_of_nobody_that_act_rightly_stay_silent(drive, work) -> None:
    assert (await drive(Service(work, context=True)))["foreign_task"] == 0


class EventService:
    """Its worker is woken by an event and works off a list."""

    def __init__(self) -> None:
        self.pending: list[asyncio.Future[str]] = []
        self.event = asyncio.Event()
        self.tasks: list[asyncio.Task[Any]] = []

    async def work(self) -> None:
        while True:
            await self.event.wait()
            self.event.clear()
            batch, self.pending = self.pending, []
            await asyncio.sleep(0)
            for answer in batch:
                answer.set_result(whoami())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        user_var.set(dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer "))
        if not self.tasks:
            self.tasks.append(asyncio.create_task(self.work()))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.pending.append(answer)
        self.event.set()
        await answer
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def test_a_batching_worker_woken_by_an_event_is_reported(drive) -> None:
    assert (await drive(EventService()))["foreign_task"] >= 1  # type: ignore[arg-type]


# --- threads of pools -------------------------------------------------------------------------------------------------


def lazily_loaded(user: str) -> str:
    if not hasattr(local, "user"):
        local.user = user
    return str(local.user)


def loaded_each_time(user: str) -> str:
    local.user = user
    return str(local.user)


def other_attribute(user: str) -> str:
    local.handle = "database handle"
    return user


def not_mentioned(user: str) -> str:
    return user


def closure_job() -> Callable[[str], str]:
    kept = threading.local()

    def of_user(user: str) -> dict[str, str]:
        if not hasattr(kept, "profile"):
            kept.profile = {"id": user}
        profile: dict[str, str] = kept.profile
        return profile

    def job(user: str) -> str:
        return of_user(user)["id"]

    return job


def variable_once(user: str) -> str:
    if user_var.get(None) is None:
        user_var.set(user)
    return user_var.get()


@pytest.fixture
def pools(monitor: Any, client: Any) -> Callable[..., Any]:
    """Serve jobs of a pool of two threads: `first` by everybody at once, then `second`."""

    async def run(first: Callable[[str], str], second: Callable[[str], str], *, to_thread: bool = False) -> int:
        local.__dict__.clear()
        barrier = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
                if scope["path"] == "/first":
                    # Both threads get one job each.
                    pool_wait = asyncio.get_running_loop().run_in_executor(pool, first_job, user)
                    await pool_wait
                else:
                    await asyncio.get_running_loop().run_in_executor(pool, second, user)
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b""})

            def first_job(user: str) -> str:
                result = first(user)
                barrier.wait(30)
                return result

            calls = client(monitor.instrument(app))
            monitor.detection.foreign_context.places.scan()
            await asyncio.gather(*(calls.get("/first", user=user) for user in USERS[:2]))
            for _ in range(3):
                for user in USERS:
                    await calls.get("/second", user=user)
        return sum(violation.kind == "foreign_task" for violation in monitor.ledger.recent)

    return run


@pytest.mark.parametrize("job", [lazily_loaded, variable_once, closure_job()])
async def test_a_pool_thread_that_still_names_an_earlier_jobs_user_is_reported(pools, monitor, job) -> None:
    assert await pools(job, job) >= 1
    violation = next(v for v in monitor.ledger.recent if v.kind == "foreign_task")
    assert (violation.resource.type, violation.grade) == ("thread", "reachable")


@pytest.mark.parametrize("job", [loaded_each_time, other_attribute, not_mentioned])
async def test_leftovers_that_a_job_overwrites_or_never_mentions_stay_silent(pools, job) -> None:
    assert await pools(loaded_each_time, job) == 0


async def test_endpoints_that_run_in_the_frameworks_threads_are_looked_at_too(monitor, client) -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def endpoint(request: Request) -> JSONResponse:
        return JSONResponse({"user": lazily_loaded(request.headers["authorization"].removeprefix("Bearer "))})

    barrier = threading.Barrier(2)

    def first(request: Request) -> JSONResponse:
        answer = endpoint(request)
        barrier.wait(30)
        return answer

    calls = client(monitor.instrument(Starlette(routes=[Route("/first", first), Route("/", endpoint)])))
    monitor.detection.foreign_context.places.scan()
    await asyncio.gather(*(calls.get("/first", user=user) for user in USERS[:2]))
    # Often enough for the interpreter to count what of the job's code is run.
    for _ in range(3):
        for user in USERS:
            await calls.get("/", user=user)

    assert any(violation.kind == "foreign_task" for violation in monitor.ledger.recent)


async def test_jobs_run_for_the_request_that_submitted_them_and_leave_the_thread_as_it_was(monitor, client) -> None:
    from isolation_monitor.telemetry import current_request

    seen: list[str | None] = []

    def look() -> None:
        request = current_request()
        seen.append(request.principal.id if request is not None and request.principal is not None else None)

    with ThreadPoolExecutor(1) as pool:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.get_running_loop().run_in_executor(pool, look)
            await asyncio.to_thread(look)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        calls = client(monitor.instrument(app))
        await calls.get("/", user="alice")
        await asyncio.get_running_loop().run_in_executor(pool, look)

    assert seen == ["alice", "alice", None]


async def test_a_planted_fault_is_reported_as_synthetic(monitor) -> None:
    monitor.detection.foreign_task.plant(Lab(monitor.principals))

    (violation,) = monitor.violations(synthetic=True)
    assert (violation.kind, violation.synthetic) == ("foreign_task", True)
    assert len(monitor.detection.foreign_task._slots) == 0
