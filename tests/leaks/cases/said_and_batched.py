"""Clean services where what one says is for others, and memory soon forgets for whom: groups with drained inboxes, a class. And bugs
in how the work of several users is put together: an answer for bad times, a sorted batch, one buffer for all streams."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import functools
import io
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse

from tests.leaks.case import Case, User, Users, Variant, mint
from tests.leaks.cases.state_clean_people import expect, latency
from tests.leaks.service import Service

# --- groups ---------------------------------------------------------------------------------------------------------

GROUP_USERS = Users("clean-groups")


def build_groups(variant: Variant) -> FastAPI:
    """Groups are joined over a socket; what is said there, and what is sent to a number, is polled from an inbox that it leaves."""
    app = FastAPI()
    members: dict[str, set[str]] = defaultdict(set)
    history: dict[str, list[dict[str, str]]] = defaultdict(list)
    inbox: dict[str, list[dict[str, str]]] = defaultdict(list)

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        user = GROUP_USERS.of(socket)
        await socket.accept()
        async for message in socket.iter_json():
            group = message["group"]
            if "text" not in message:
                members[group].add(user.id)
                await socket.send_json({"history": history[group][-4:]})
                continue
            history[group].append({"text": message["text"]})
            for member in members[group]:
                inbox[member].append({"text": message["text"]})

    @app.post("/direct")
    async def direct(request: Request) -> dict[str, bool]:
        body = await request.json()
        inbox[GROUP_USERS[body["to"]].id].append({"text": body["text"]})
        return {"sent": True}

    @app.get("/updates")
    async def updates(request: Request) -> dict[str, Any]:
        user = GROUP_USERS.of(request)
        await latency()
        return {"updates": inbox.pop(user.id, [])}

    return app


async def drive_groups(service: Service) -> list[str]:
    heard = 0

    async def act(user: User, round: int) -> None:
        nonlocal heard
        group = f"g{user.number % 2}"
        async with service.socket(user, "/ws") as socket:
            await socket.send(json.dumps({"group": group}))
            await socket.recv()
            for _ in range(3):
                await asyncio.sleep(random.uniform(0, 0.02))
                await socket.send(json.dumps({"group": group, "text": f"meet at {mint()}"}))
                await service.post(user, "/direct", json={"to": random.randrange(8), "text": f"for you {mint()}"})
                heard += len((await service.get(user, "/updates")).json()["updates"])

    proofs = await service.everybody(act, rounds=4)
    expect(service, heard > 64, "nobody hears anything")
    return proofs


# --- a class and a shop ---------------------------------------------------------------------------------------------

CLASS_USERS = Users("clean-class")


def build_class(variant: Variant) -> FastAPI:
    """Teachers mark pupils' works with a feedback; everybody reviews the books, without a name."""
    app = FastAPI()
    works: list[dict[str, Any]] = []
    reviews: list[dict[str, Any]] = []

    @app.post("/works")
    async def hand_in(request: Request) -> dict[str, int]:
        works.append({"pupil": CLASS_USERS.of(request).id, "text": (await request.json())["text"], "feedback": None})
        return {"handed_in": len(works)}

    @app.get("/marking")
    async def marking(request: Request) -> dict[str, Any]:
        if CLASS_USERS.of(request).number > 1:
            raise HTTPException(403)
        await latency()
        return {"todo": [{"work": n, "text": work["text"]} for n, work in enumerate(works) if work["feedback"] is None][-3:]}

    @app.post("/marks")
    async def mark(request: Request) -> dict[str, bool]:
        body = await request.json()
        works[body["work"]]["feedback"] = body["feedback"]
        return {"marked": True}

    @app.get("/marks")
    async def marks(request: Request) -> dict[str, Any]:
        user = CLASS_USERS.of(request)
        await latency()
        own = [work for work in works if work["pupil"] == user.id and work["feedback"]]
        return {"marks": [{"text": work["text"], "feedback": work["feedback"]} for work in own[-3:]]}

    @app.post("/books/{book}/reviews")
    async def review(request: Request, book: str) -> dict[str, int]:
        reviews.append({"stars": 5, "text": (await request.json())["text"]})
        return {"count": len(reviews)}

    @app.get("/books/{book}/reviews")
    async def read(request: Request, book: str) -> list[dict[str, Any]]:
        return reviews[-4:]

    return app


async def drive_class(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.02))
        if user.number > 1:
            await service.post(user, "/works", json={"text": f"essay {mint()}"})
            await service.get(user, "/marks")
        else:
            for one in (await service.get(user, "/marking")).json()["todo"][:2]:
                await service.post(user, "/marks", json={"work": one["work"], "feedback": f"well argued {mint()}"})
        await service.post(user, "/books/odyssey/reviews", json={"text": f"long, but {mint()}"})
        expect(service, len((await service.get(user, "/books/odyssey/reviews")).json()) > 0, "nobody reviews")

    return await service.everybody(act, rounds=8)


# --- an answer for bad times ----------------------------------------------------------------------------------------

FALLBACK_USERS = Users("last-good-answer")


def build_fallback(variant: Variant) -> FastAPI:
    """A decorator remembers the last good answer, and gives it when the call behind fails."""
    app = FastAPI()
    accounts = {user.id: {"iban": user.value("iban", "account")} for user in FALLBACK_USERS}

    def with_fallback(call: Callable[[User], Awaitable[dict[str, str]]]) -> Callable[[User], Awaitable[dict[str, str]]]:
        good: dict[str, dict[str, str]] = {}

        @functools.wraps(call)
        async def inner(user: User) -> dict[str, str]:
            key = "last" if variant == "buggy" else user.id
            try:
                good[key] = await call(user)
            except ConnectionError:
                if key not in good:
                    raise HTTPException(503) from None
            return good[key]

        return inner

    @with_fallback
    async def account_of(user: User) -> dict[str, str]:
        await latency()
        if random.random() < 0.3:
            raise ConnectionError("the bank is down")
        return accounts[user.id]

    @app.get("/account")
    async def account(request: Request) -> dict[str, str]:
        return await account_of(FALLBACK_USERS.of(request))

    return app


async def drive_fallback(service: Service) -> list[str]:
    service.own_values("iban", "account")

    async def act(user: User, round: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.01))
        service.look(user, await service.get(user, "/account"))

    return await service.everybody(act, rounds=8)


# --- a batch that the model wants sorted ----------------------------------------------------------------------------

BATCH_USERS = Users("batch-sorted-by-length")


def build_batch(variant: Variant) -> FastAPI:
    """Texts of several users go to the model in one batch, the short ones first; the answers are not sorted back."""
    waiting: list[tuple[str, asyncio.Future[str]]] = []

    async def work() -> None:
        while True:
            await asyncio.sleep(0.02)
            batch, waiting[:] = waiting[:], []
            order = sorted(range(len(batch)), key=lambda at: len(batch[at][0]))
            await latency()
            for place, at in enumerate(order):
                batch[place if variant == "buggy" else at][1].set_result(f"in short: {batch[at][0]}")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(work())
        yield
        worker.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/summaries")
    async def summarize(request: Request) -> dict[str, str]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting.append(((await request.json())["text"], future))
        return {"summary": await future}

    return app


async def drive_batch(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.01))
        text = f"{'x' * random.randrange(40)} diagnosis {service.minted(user, 'base32')}"
        service.look(user, await service.post(user, "/summaries", json={"text": text}))

    return await service.everybody(act, rounds=6)


# --- one buffer for all streams -------------------------------------------------------------------------------------

LINE_USERS = Users("csv-line-of-all")


def build_line(variant: Variant) -> FastAPI:
    """Exports are streamed row by row, each written into one buffer that all exports share."""
    app = FastAPI()
    rows = {user.id: [(f"2026-0{n + 1}", user.value(f"iban{n}", "account")) for n in range(3)] for user in LINE_USERS}
    shared = io.StringIO()

    @app.get("/transactions.csv")
    async def export(request: Request) -> StreamingResponse:
        user = LINE_USERS.of(request)
        line = shared if variant == "buggy" else io.StringIO()

        async def lines() -> AsyncIterator[str]:
            for row in rows[user.id]:
                csv.writer(line).writerow(row)
                await latency()
                yield line.getvalue()
                line.seek(0)
                line.truncate()

        return StreamingResponse(lines(), media_type="text/csv")

    return app


async def drive_line(service: Service) -> list[str]:
    for n in range(3):
        service.own_values(f"iban{n}", "account")

    async def act(user: User, round: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.01))
        service.look(user, await service.get(user, "/transactions.csv"))

    return await service.everybody(act, rounds=6)


CASES = [
    Case(
        "clean-groups",
        "clean",
        "Groups and direct messages, polled from an inbox that is emptied.",
        GROUP_USERS,
        build_groups,
        drive_groups,
    ),
    Case("clean-class", "clean", "Feedback on pupils' works, and reviews without names.", CLASS_USERS, build_class, drive_class),
    Case(
        "last-good-answer",
        "state",
        "When a call fails, everybody gets the last good answer, whoever's it was.",
        FALLBACK_USERS,
        build_fallback,
        drive_fallback,
    ),
    Case(
        "batch-sorted-by-length",
        "task",
        "A batch is sorted for the model and its answers are not sorted back.",
        BATCH_USERS,
        build_batch,
        drive_batch,
    ),
    Case("csv-line-of-all", "http", "Streamed exports write their rows into one buffer.", LINE_USERS, build_line, drive_line),
]
