"""Answers and calls that are found by the wrong name: jobs, stored answers, retries, upstream clients, drafts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from tests.leaks.bank import upstream_bank
from tests.leaks.case import Built, Case, User, Users, Variant, mint, store_is_private
from tests.leaks.service import Service

if TYPE_CHECKING:
    from isolation_monitor.telemetry import IsolationMonitor


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.012))


# --- job numbers that can be guessed --------------------------------------------------------------------------------

JOB_USERS = Users("job-numbers", ids="uuid")


def build_jobs(variant: Variant) -> FastAPI:
    app = FastAPI()
    app.state.seal = app.state.unseal = lambda value: value
    results: dict[str, tuple[str, Any]] = {}
    numbers = itertools.count(1)

    @app.post("/jobs")
    async def submit(request: Request) -> dict[str, str]:
        user = JOB_USERS.of(request)
        text = (await request.json())["text"]
        job = f"job-{next(numbers)}"
        await latency()
        results[job] = (user.id, app.state.seal({"state": "done", "translation": text.upper()[:10] + " " + text}))
        return {"job": job}

    @app.get("/jobs/{job}")
    async def result(request: Request, job: str) -> JSONResponse:
        user = JOB_USERS.of(request)
        if job not in results:
            return JSONResponse({"state": "unknown"}, 404)
        owner, found = results[job]
        if variant == "fixed" and owner != user.id:
            return JSONResponse({"state": "unknown"}, 404)
        return JSONResponse(app.state.unseal(found))

    return app


def seal_results(monitor: IsolationMonitor, built: Built) -> None:
    """`monitor.seal` where a result is kept, `monitor.unseal` where it is read."""
    built.app.state.seal, built.app.state.unseal = monitor.seal, monitor.unseal


async def drive_jobs(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        text = f"my passport is {service.minted(user, 'base32')}"
        job = (await service.post(user, "/jobs", json={"text": text})).json()["job"]
        service.look(user, await service.get(user, f"/jobs/{job}"))
        # A curious user, or a page that was kept open over a restart.
        number = int(job.removeprefix("job-"))
        service.look(user, await service.get(user, f"/jobs/job-{max(1, number - 1)}"), "a guessed job")

    return await service.everybody(act, rounds=4)


# --- idempotency keys that are global -------------------------------------------------------------------------------

REPLAY_USERS = Users("idempotency")


def build_replay(variant: Variant) -> FastAPI:
    app = FastAPI()
    stored: dict[Any, dict[str, Any]] = {}

    @app.post("/payments")
    async def pay(request: Request) -> dict[str, Any]:
        user = REPLAY_USERS.of(request)
        header = request.headers["idempotency-key"]
        key = header if variant == "buggy" else (user.id, header)
        if key not in stored:
            body = await request.json()
            await latency()
            stored[key] = {"receipt": {"to": body["to"], "lines": [{"code": user.value(f"receipt-{header}", "hex")}]}}
        return stored[key]

    return app


async def drive_replay(service: Service) -> list[str]:
    for round in range(5):
        service.own_values(f"receipt-order-{round}", "hex")

    async def pay(user: User, round: int) -> None:
        # Clients number their orders from 0, each for itself; they do not pay in the same millisecond.
        await asyncio.sleep(random.random() * 0.06)
        headers = {"Idempotency-Key": f"order-{round}"}
        body = {"to": service.minted(user, "account"), "amount": 12}
        service.look(user, await service.post(user, "/payments", json=body, headers=headers), "a receipt")

    return await service.everybody(pay, rounds=5)


# --- a retry that sends the last call again -------------------------------------------------------------------------

RETRY_USERS = Users("retry-last")


def build_retry(variant: Variant) -> FastAPI:
    app = FastAPI()
    attempts = itertools.count()

    def retrying(call: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
        last: dict[str, Any] = {}

        @functools.wraps(call)
        async def again(*args: Any) -> str:
            last["args"] = args
            while True:
                try:
                    return await call(*(last["args"] if variant == "buggy" else args))
                except ConnectionError:
                    await latency()

        return again

    @retrying
    async def upstream(note: str) -> str:
        await asyncio.sleep(0.002)
        if next(attempts) % 2 == 0:
            raise ConnectionError("the upstream hung up")
        return f"Translated: {note} (fin)."

    @app.post("/translate", response_class=PlainTextResponse)
    async def translate(request: Request) -> str:
        RETRY_USERS.of(request)
        return await upstream((await request.body()).decode())

    return app


async def drive_retry(service: Service) -> list[str]:
    async def post(user: User, round: int) -> None:
        service.look(user, await service.post(user, "/translate", content=f"send the key {service.minted(user, 'token')} to my bank"))

    return await service.everybody(post, rounds=5)


# --- one upstream client whose headers and cookies are everybody's --------------------------------------------------

UPSTREAM_USERS = Users("upstream-client", ids="int")
UPSTREAM_KEYS = {user.value("api-key", "token"): user.value("number", "account") for user in UPSTREAM_USERS}


def build_upstream(variant: Variant) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with upstream_bank(UPSTREAM_KEYS) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/accounts")
    async def accounts(request: Request) -> Any:
        user = UPSTREAM_USERS.of(request)
        key = {"X-Api-Key": user.value("api-key", "token")}
        client: httpx.AsyncClient = request.app.state.client
        if variant == "buggy":
            client.headers.update(key)
            await latency()  # the audit log
            answer = await client.get("/v1/accounts")
        else:
            await latency()
            answer = await client.get("/v1/accounts", headers=key)
        return answer.json()

    return app


async def drive_upstream(service: Service) -> list[str]:
    service.own_values("number", "account")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/accounts"))

    return await service.everybody(ask, rounds=5)


# --- an undo that belongs to the last who saved ---------------------------------------------------------------------

AUTOSAVE_USERS = Users("autosave")


def build_autosave(variant: Variant) -> FastAPI:
    """`/draft` answers the draft of whoever saved last, because the editor's session is one object of the module."""
    app = FastAPI()
    editor: dict[str, str] = {}

    @app.put("/draft")
    async def save(request: Request) -> dict[str, str]:
        user = AUTOSAVE_USERS.of(request)
        editor["draft" if variant == "buggy" else user.id] = (await request.body()).decode()
        return {"saved": "yes"}

    @app.get("/draft")
    async def load(request: Request) -> Response:
        user = AUTOSAVE_USERS.of(request)
        return PlainTextResponse(editor.get("draft" if variant == "buggy" else user.id, ""))

    return app


async def drive_autosave(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        text = f"Dear diary, the test result {mint('uuid')} came today and I have told nobody at all about it yet."
        service.owns(user, text.split()[5])
        await service.client(user).put("/draft", content=text)
        await asyncio.sleep(0.01 * random.random())
        service.look(user, await service.get(user, "/draft"))

    return await service.everybody(act, rounds=4)


CASES = [
    Case(
        "job-number-guessed",
        "http",
        "Job results are found by a counted number without asking whose they are.",
        JOB_USERS,
        build_jobs,
        drive_jobs,
        annotate=seal_results,
    ),
    Case(
        "idempotency-key-global",
        "http",
        "Stored answers are replayed by the client's key alone, and clients count alike.",
        REPLAY_USERS,
        build_replay,
        drive_replay,
        annotate=store_is_private,
    ),
    Case(
        "retry-sends-last-call",
        "http",
        "The retry helper repeats the call that came last instead of its own.",
        RETRY_USERS,
        build_retry,
        drive_retry,
    ),
    Case(
        "upstream-client-headers",
        "http",
        "One upstream client gets each user's key as its default header before an await.",
        UPSTREAM_USERS,
        build_upstream,
        drive_upstream,
        annotate=store_is_private,
    ),
    Case(
        "draft-of-the-last",
        "http",
        "The editor keeps one draft for all: loading gives the text of whoever saved last.",
        AUTOSAVE_USERS,
        build_autosave,
        drive_autosave,
    ),
]
