"""A clean service of calls and replies over queues: workers that the first request starts, a pool, news from others."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from fastapi import FastAPI, Request

from tests.leaks.case import Case, User, Users, Variant, mint
from tests.leaks.service import Service

USERS = Users("clean-call-and-reply", ids="uuid")


def build(variant: Variant) -> FastAPI:
    """Two workers answer each call by the caller's own queue, and tell each user of his neighbour's moves; sessions are lent."""
    app = FastAPI()
    calls: asyncio.Queue[tuple[User, asyncio.Queue[dict[str, str]]]] = asyncio.Queue()
    moves: asyncio.Queue[tuple[User, str]] = asyncio.Queue()
    boards: dict[str, asyncio.Queue[str]] = {user.id: asyncio.Queue() for user in USERS}
    idle: asyncio.Queue[str] = asyncio.Queue()
    used: asyncio.Queue[str] = asyncio.Queue()
    tasks: list[asyncio.Task[None]] = []
    for _ in range(4):
        idle.put_nowait(f"session {mint('hex')}")

    async def answer() -> None:
        while True:
            user, reply_to = await calls.get()
            await asyncio.sleep(random.uniform(0.001, 0.012))
            await reply_to.put({"licence": user.value("licence", "base32"), "seats": "3"})

    async def carry() -> None:
        while True:
            user, move = await moves.get()
            await boards[USERS[user.number ^ 1].id].put(move)

    async def clean() -> None:
        while True:
            await idle.put(await used.get())

    def start() -> None:
        if not tasks:
            tasks.extend(asyncio.create_task(work()) for work in (answer, answer, carry, clean))

    @app.get("/licence")
    async def licence(request: Request) -> dict[str, str]:
        start()
        reply_to: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        await calls.put((USERS.of(request), reply_to))
        return await reply_to.get()

    @app.post("/games/{game}/moves")
    async def move(request: Request, game: int) -> dict[str, Any]:
        """A game by correspondence of two: each waits for the other's move."""
        start()
        user = USERS.of(request)
        await moves.put((user, (await request.json())["move"]))
        return {"theirs": await boards[user.id].get()}

    @app.get("/search")
    async def search(request: Request) -> dict[str, str]:
        start()
        for _ in range(2):
            session = await idle.get()
            await asyncio.sleep(0.002)
            await used.put(session)
        return {"found": USERS.of(request).value("found")}

    return app


async def drive(service: Service) -> list[str]:
    service.own_values("licence", "base32")
    service.own_values("found")

    async def act(user: User, round: int) -> None:
        answer = await service.get(user, "/licence")
        service.look(user, answer)
        moved = await service.post(user, f"/games/{user.number // 2}/moves", json={"move": f"{mint('hex')} takes the bishop"})
        found = await service.get(user, "/search")
        service.look(user, found)
        if user.value("licence", "base32") not in answer.text or "bishop" not in moved.text or user.value("found") not in found.text:
            service.harm("the service does not work: an answer does not fit its question")

    return await service.everybody(act, rounds=5)


CASES = [
    Case("clean-call-and-reply", "clean", "Calls to workers over queues, replies by the caller's own, lent sessions.", USERS, build, drive)
]
