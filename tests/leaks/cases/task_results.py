"""Work beside the request whose results go to the wrong one: batches, queues, background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import PlainTextResponse

from tests.leaks.case import Case, User, Users, Variant
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.015))


# --- late binding in a loop that dispatches -------------------------------------------------------------------------

CLOSURE_USERS = Users("late-binding")
RECORDS = {user.id: user.value("record", "hex") for user in CLOSURE_USERS}


def build_late_binding(variant: Variant) -> FastAPI:
    """A dispatcher collects the jobs of a moment and starts one task each: in a loop, by a closure over its variable."""
    waiting: list[tuple[str, asyncio.Future[str]]] = []

    async def look_up(user_id: str) -> str:
        await latency()
        return RECORDS[user_id]

    async def dispatch() -> None:
        while True:
            await asyncio.sleep(0.01)
            batch, waiting[:] = waiting[:], []
            jobs: list[Callable[[], Any]] = []
            for user_id, done in batch:
                if variant == "buggy":
                    jobs.append(lambda done=done: finish(user_id, done))  # noqa: B023 - this is the bug
                else:
                    jobs.append(lambda user_id=user_id, done=done: finish(user_id, done))
            await asyncio.gather(*(job() for job in jobs))

    async def finish(user_id: str, done: asyncio.Future[str]) -> None:
        found = await look_up(user_id)
        if not done.done():
            done.set_result(found)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(dispatch())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/record")
    async def record(request: Request) -> dict[str, Any]:
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting.append((CLOSURE_USERS.of(request).id, done))
        return {"record": {"number": await done, "pages": 3}}

    return app


async def drive_late_binding(service: Service) -> list[str]:
    service.own_values("record", "hex")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/record"))

    return await service.everybody(ask, rounds=5)


# --- waiters served in the order of completion ----------------------------------------------------------------------

ORDER_USERS = Users("completion-order", ids="uuid")


def build_completion_order(variant: Variant) -> FastAPI:
    app = FastAPI()
    waiters: list[asyncio.Future[str]] = []

    async def model(prompt: str, mine: asyncio.Future[str]) -> None:
        await latency()
        waiter = waiters.pop(0) if variant == "buggy" else mine
        if variant == "fixed":
            waiters.remove(mine)
        if not waiter.done():
            waiter.set_result(f"You asked: {prompt} - the answer is yes.")

    @app.post("/ask", response_class=PlainTextResponse)
    async def ask(request: Request) -> str:
        ORDER_USERS.of(request)
        prompt = (await request.body()).decode()
        waiter: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        work = asyncio.create_task(model(prompt, waiter))
        answer = await waiter
        await work
        return answer

    return app


async def drive_completion_order(service: Service) -> list[str]:
    async def ask(user: User, round: int) -> None:
        prompt = f"is the sum on my statement {service.minted(user, 'account')} right"
        service.look(user, await service.post(user, "/ask", content=prompt))

    return await service.everybody(ask, rounds=5)


# --- one queue of replies for all ------------------------------------------------------------------------------------

REPLY_USERS = Users("reply-queue", ids="int")


def build_reply_queue(variant: Variant) -> FastAPI:
    """A call over two queues without a correlation id: whoever waits first gets the reply that comes first."""
    calls: asyncio.Queue[tuple[User, asyncio.Queue[dict[str, str]]]] = asyncio.Queue()
    replies: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def backend() -> None:
        while True:
            user, reply_to = await calls.get()
            await latency()
            await reply_to.put({"licence": user.value("licence", "base32"), "seats": "3"})

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        workers = [asyncio.create_task(backend()) for _ in range(4)]
        yield
        for task in workers:
            task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/licence")
    async def licence(request: Request) -> dict[str, str]:
        reply_to = replies if variant == "buggy" else asyncio.Queue[dict[str, str]]()
        await calls.put((REPLY_USERS.of(request), reply_to))
        return await reply_to.get()

    return app


async def drive_reply_queue(service: Service) -> list[str]:
    service.own_values("licence", "base32")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/licence"))

    return await service.everybody(ask, rounds=5)


# --- a batch whose answers are sorted -------------------------------------------------------------------------------

BATCH_USERS = Users("micro-batch")


def build_batch(variant: Variant) -> FastAPI:
    """Embeddings are asked in batches; the upstream sorts, and the answers are matched by position."""
    pending: list[tuple[str, asyncio.Future[str]]] = []

    async def upstream(texts: list[str]) -> list[tuple[str, str]]:
        await latency()
        return sorted((text, f"vector of <{text}>") for text in texts)

    async def flush() -> None:
        while True:
            await asyncio.sleep(0.008)
            batch, pending[:] = pending[:], []
            answers = await upstream([text for text, _ in batch])
            if variant == "buggy":
                for (_, done), (_, vector) in zip(batch, answers, strict=True):
                    done.set_result(vector)
            else:
                by_text = dict(answers)
                for text, done in batch:
                    done.set_result(by_text[text])

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(flush())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/embed")
    async def embed(request: Request) -> dict[str, Any]:
        BATCH_USERS.of(request)
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        pending.append(((await request.json())["text"], done))
        return {"data": [{"index": 0, "embedding": await done}]}

    return app


async def drive_batch(service: Service) -> list[str]:
    async def post(user: User, round: int) -> None:
        service.look(user, await service.post(user, "/embed", json={"text": f"{service.minted(user, 'hex')} is my case file"}))

    return await service.everybody(post, rounds=6)


# --- a background task that writes into whoever is current ----------------------------------------------------------

BACKGROUND_USERS = Users("background-write", ids="uuid")


def build_background(variant: Variant) -> FastAPI:
    """The answer to an upload is written later, into the session that is current then."""
    app = FastAPI()
    inboxes: dict[str, list[str]] = {user.id: [] for user in BACKGROUND_USERS}
    desk: dict[str, str] = {}

    async def recognise(text: str, inbox_id: str) -> None:
        await latency()
        target = desk["open"] if variant == "buggy" else inbox_id
        inboxes[target].append(f"recognised: {text}")

    @app.post("/scan")
    async def scan(request: Request, background: BackgroundTasks) -> dict[str, str]:
        user = BACKGROUND_USERS.of(request)
        if variant == "buggy":
            desk["open"] = user.id
        background.add_task(recognise, (await request.json())["text"], user.id)
        return {"state": "queued"}

    @app.get("/inbox")
    async def inbox(request: Request) -> dict[str, Any]:
        user = BACKGROUND_USERS.of(request)
        return {"inbox": [{"text": text} for text in inboxes[user.id][-4:]]}

    return app


async def drive_background(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        await service.post(user, "/scan", json={"text": f"prescription {service.minted(user, 'token')} for ten days"})
        await asyncio.sleep(0.03)
        service.look(user, await service.get(user, "/inbox"), "the inbox")

    return await service.everybody(act, rounds=4)


CASES = [
    Case(
        "late-binding-closure",
        "task",
        "A dispatcher's closures capture the loop variable: all jobs of a batch look up the last user's record.",
        CLOSURE_USERS,
        build_late_binding,
        drive_late_binding,
    ),
    Case(
        "completion-order-waiters",
        "task",
        "Results are given to the waiter that waited longest, but they come in another order.",
        ORDER_USERS,
        build_completion_order,
        drive_completion_order,
    ),
    Case(
        "one-reply-queue",
        "task",
        "Replies come over one queue without a correlation id: whoever waits first takes the first.",
        REPLY_USERS,
        build_reply_queue,
        drive_reply_queue,
    ),
    Case(
        "batch-by-position",
        "task",
        "Answers of a batch are matched by position, but the upstream sorts them.",
        BATCH_USERS,
        build_batch,
        drive_batch,
    ),
    Case(
        "background-into-current",
        "task",
        "A background task writes its result into whichever session is open when it ends.",
        BACKGROUND_USERS,
        build_background,
        drive_background,
    ),
]
