"""Pushes by the clock: one task of the service sends each socket what is its user's, again and again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection

from tests.leaks.case import Case, User, Users, Variant
from tests.leaks.service import Service

USERS = Users("ticker")
BALANCES = {user.id: user.value("balance", "account") for user in USERS}


def build(variant: Variant) -> FastAPI:
    """Sockets and users are kept in two lists of one order, until somebody leaves one of them only."""
    sockets: list[WebSocket] = []
    users: list[str] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.05)
            for user_id, socket in list(zip(users, sockets, strict=False)):
                with contextlib.suppress(Exception):
                    await socket.send_json({"balance": BALANCES[user_id]})

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ticking = asyncio.create_task(tick())
        yield
        ticking.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/balance")
    async def balance(request: Request) -> dict[str, str]:
        return {"balance": BALANCES[USERS.of(request).id]}

    @app.websocket("/live")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        user = USERS.of(websocket)
        sockets.append(websocket)
        users.append(user.id)
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            sockets.remove(websocket)
            if variant == "fixed":
                users.remove(user.id)

    return app


async def drive(service: Service) -> list[str]:
    service.own_values("balance", "account")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/balance"))

    async def listen(user: User, connection: ClientConnection) -> None:
        with contextlib.suppress(Exception):
            async for frame in connection:
                service.look(user, frame, "a frame")

    await service.everybody(ask, rounds=1)
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(service.socket(user, "/live")) for user in service.users]
        listeners = [asyncio.create_task(listen(user, one)) for user, one in zip(service.users, connections, strict=True)]
        await asyncio.sleep(0.2)
        await connections[2].close()
        await asyncio.sleep(1.0)
    await asyncio.gather(*listeners)
    return service.proofs


CASES = [Case("ticker-index-shift", "sockets", "after somebody left, each socket gets its neighbour's balance", USERS, build, drive)]
