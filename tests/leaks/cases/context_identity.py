"""The current user, kept where it does not belong: a global, a thread-local, a shared context value, a worker's context."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.leaks.case import Built, Case, User, Users, Variant, store_is_private
from tests.leaks.service import Service

if TYPE_CHECKING:
    from isolation_monitor.telemetry import IsolationMonitor


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.015))


# --- a module global ------------------------------------------------------------------------------------------------

GLOBAL_USERS = Users("global-user")
SALARIES = {user.id: user.value("salary", "account") for user in GLOBAL_USERS}
current = SimpleNamespace(user_id="")


def salary_of(user_id: str) -> str:
    return SALARIES[user_id]


def salaries_are_private(monitor: IsolationMonitor, built: Built) -> None:
    """`@monitor.private` on the function that reads them."""
    global salary_of
    salary_of = monitor.private(salary_of)


def build_global(variant: Variant) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def authenticate(request: Request, call_next: Any) -> Any:
        user = GLOBAL_USERS.of_scope(request.scope)
        if user is None:
            return JSONResponse({"detail": "who are you?"}, 401)
        current.user_id = request.state.user_id = user.id
        return await call_next(request)

    @app.get("/payslip")
    async def payslip(request: Request) -> dict[str, Any]:
        await latency()
        user_id = current.user_id if variant == "buggy" else request.state.user_id
        return {"payslip": {"month": "2026-10", "account": salary_of(user_id)}}

    return app


async def drive_global(service: Service) -> list[str]:
    service.own_values("salary", "account")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/payslip"))

    return await service.everybody(ask, rounds=6)


# --- a thread-local on an event loop --------------------------------------------------------------------------------

LOCAL_USERS = Users("thread-local", ids="int")


def build_thread_local(variant: Variant) -> FastAPI:
    app = FastAPI()
    local = threading.local()
    own: ContextVar[User] = ContextVar("user")

    async def mailbox() -> list[list[str]]:
        await latency()
        user: User = local.user if variant == "buggy" else own.get()
        return [["inbox", user.value("mail", "hex")], ["spam", "0"]]

    @app.get("/mailbox")
    async def read(request: Request) -> dict[str, Any]:
        user = LOCAL_USERS.of(request)
        if variant == "buggy":
            local.user = user
        own.set(user)
        return {"folders": await mailbox()}

    return app


async def drive_thread_local(service: Service) -> list[str]:
    service.own_values("mail", "hex")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/mailbox"))

    return await service.everybody(ask, rounds=6)


# --- a thread-local that a pooled thread keeps ----------------------------------------------------------------------

POOL_USERS = Users("thread-kept", ids="uuid")


def build_pool_thread(variant: Variant) -> FastAPI:
    """Sync endpoints run in a pool of threads; the client built for the first user of a thread serves the next ones too."""
    app = FastAPI()
    local = threading.local()

    class Drive:
        def __init__(self, user: User) -> None:
            self.folder = user.value("folder", "uuid")

        def listing(self) -> str:
            return f"contents of {self.folder}: cv.pdf, taxes.ods\n"

    def drive_of(user: User) -> Drive:
        if variant == "fixed":
            return Drive(user)
        if not hasattr(local, "drive"):
            local.drive = Drive(user)
        found: Drive = local.drive
        return found

    @app.get("/drive")
    def listing(request: Request) -> Response:
        return PlainTextResponse(drive_of(POOL_USERS.of(request)).listing())

    return app


async def drive_pool_thread(service: Service) -> list[str]:
    service.own_values("folder", "uuid")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/drive"))

    return await service.everybody(ask, rounds=6)


# --- a context variable whose default is one dict for all -----------------------------------------------------------

DEFAULT_USERS = Users("context-default")
shared_default: ContextVar[dict[str, Any]] = ContextVar("request_state", default={})  # noqa: B039 - this is the bug


def build_context_default(variant: Variant) -> Starlette:
    async def order(request: Request) -> Response:
        user = DEFAULT_USERS.of(request)
        if variant == "fixed":
            shared_default.set({})
        state = shared_default.get()
        state["delivery"] = {"gate_code": user.value("gate", "base32"), "parcels": [1, 2]}
        await latency()
        return JSONResponse({"order": {"lines": [["tea", 2]], "delivery": shared_default.get()["delivery"]}})

    return Starlette(routes=[Route("/order", order, methods=["POST"])])


async def drive_context_default(service: Service) -> list[str]:
    service.own_values("gate", "base32")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.post(user, "/order"))

    return await service.everybody(ask, rounds=6)


# --- a worker that sets the user once -------------------------------------------------------------------------------

WORKER_USERS = Users("worker-context")


def build_worker(variant: Variant) -> FastAPI:
    """Jobs of all users go to two workers; a worker sets the context's user when it has none yet, and so keeps the first."""
    user_of_job: ContextVar[User | None] = ContextVar("user_of_job", default=None)
    jobs: asyncio.Queue[tuple[User, asyncio.Future[dict[str, str]]]] = asyncio.Queue()

    async def export() -> dict[str, str]:
        await asyncio.sleep(0.002)
        user = user_of_job.get()
        assert user is not None
        return {"export": f"s3://exports/{user.value('export', 'token')}", "format": "zip"}

    async def worker() -> None:
        while True:
            user, done = await jobs.get()
            if variant == "fixed" or user_of_job.get() is None:
                user_of_job.set(user)
            done.set_result(await export())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        workers = [asyncio.create_task(worker()) for _ in range(2)]
        yield
        for task in workers:
            task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/exports")
    async def start(request: Request) -> dict[str, str]:
        done: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        await jobs.put((WORKER_USERS.of(request), done))
        return await done

    return app


async def drive_worker(service: Service) -> list[str]:
    service.own_values("export", "token")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.post(user, "/exports"))

    return await service.everybody(ask, rounds=5)


# --- context that a kept-alive connection hands on ------------------------------------------------------------------

KEEPALIVE_USERS = Users("keepalive-context")
signed_in: ContextVar[User | None] = ContextVar("signed_in", default=None)


def build_keepalive(variant: Variant) -> Starlette:
    """`current or load` is right as long as each request starts with an empty context; the server does not promise that."""

    async def upload(request: Request) -> Response:
        body = await request.body()
        user = signed_in.get() if variant == "buggy" else None
        if user is None:
            user = KEEPALIVE_USERS.of(request)
            signed_in.set(user)
        return JSONResponse({"stored": len(body), "bucket": user.value("bucket", "hex")})

    return Starlette(routes=[Route("/upload", upload, methods=["POST"])])


async def drive_keepalive(service: Service) -> list[str]:
    """As behind a reverse proxy: a few upstream connections carry the requests of all users in turn."""
    service.own_values("bucket", "hex")
    limits = httpx.Limits(max_connections=2, max_keepalive_connections=2)
    async with httpx.AsyncClient(base_url=service.url, limits=limits, timeout=30, trust_env=False) as proxy:

        async def upload(user: User, round: int) -> None:
            headers = {"Authorization": f"Bearer {user.token}"}
            service.look(user, await proxy.post("/upload", content=b"x" * 300_000, headers=headers))

        return await service.everybody(upload, rounds=4)


CASES = [
    Case(
        "current-user-global",
        "context",
        "A middleware writes the current user into a module global; after an await it is another request's.",
        GLOBAL_USERS,
        build_global,
        drive_global,
        annotate=salaries_are_private,
    ),
    Case(
        "thread-local-on-the-loop",
        "context",
        "The user is kept in a threading.local, but all requests run on the one thread of the event loop.",
        LOCAL_USERS,
        build_thread_local,
        drive_thread_local,
        annotate=store_is_private,
    ),
    Case(
        "thread-local-kept-by-pool",
        "context",
        "A client object is cached per worker thread: the thread's next user works with the first user's folder.",
        POOL_USERS,
        build_pool_thread,
        drive_pool_thread,
        annotate=store_is_private,
    ),
    Case(
        "context-default-dict",
        "context",
        "A context variable's default is a dict: all requests write into the same one.",
        DEFAULT_USERS,
        build_context_default,
        drive_context_default,
        annotate=store_is_private,
    ),
    Case(
        "worker-keeps-first-user",
        "context",
        "A queue worker sets its context's user only when it has none: it exports the first user's data for all.",
        WORKER_USERS,
        build_worker,
        drive_worker,
        annotate=store_is_private,
    ),
    Case(
        "keepalive-inherits-context",
        "context",
        "The server starts a request in the context of the one before on the same connection: `current or load` is another's.",
        KEEPALIVE_USERS,
        build_keepalive,
        drive_keepalive,
        server={"loop": "asyncio", "http": "h11"},
        annotate=store_is_private,
    ),
]
