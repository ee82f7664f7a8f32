"""WebSockets: messages that reach the wrong person's socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection

from tests.leaks.case import Case, User, Users, Variant, store_is_private
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.012))


async def converse(service: Service, path: str, ask: Any, rounds: int = 5, tail_s: float = 0.15) -> list[str]:
    """Open a socket per user; all ask `rounds` times; everything that a socket receives is looked at."""

    async def listen(user: User, socket: ClientConnection) -> None:
        with contextlib.suppress(Exception):
            async for message in socket:
                service.look(user, message, "a WebSocket message")

    async with contextlib.AsyncExitStack() as open_sockets:
        sockets = {
            user.id: await open_sockets.enter_async_context(service.socket(user, path.format(n=user.number))) for user in service.users
        }
        listening = [asyncio.create_task(listen(user, sockets[user.id])) for user in service.users]

        async def act(user: User, round: int) -> None:
            await sockets[user.id].send(ask(user, round))
            await asyncio.sleep(random.random() * 0.02)

        await service.everybody(act, rounds)
        await asyncio.sleep(tail_s)
        for task in listening:
            task.cancel()
    return service.proofs


# --- a manager that knows the last socket only ----------------------------------------------------------------------

LAST_USERS = Users("last-socket")


def build_last_socket(variant: Variant) -> FastAPI:
    """The chat's handler object keeps the socket of the message that came last, and streams its answer there."""
    app = FastAPI()

    class Handler:
        socket: WebSocket

        async def reply(self, text: str) -> None:
            for part in ("thinking", "done"):
                await latency()
                await self.socket.send_json({"type": part, "text": text})

    shared = Handler()

    @app.websocket("/ws")
    async def chat(socket: WebSocket) -> None:
        LAST_USERS.of(socket)
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                text = await socket.receive_text()
                handler = shared if variant == "buggy" else Handler()
                handler.socket = socket
                await handler.reply(f"about {text}: it depends")

    return app


async def drive_last_socket(service: Service) -> list[str]:
    return await converse(service, "/ws", lambda user, round: f"my pin {service.minted(user, 'hex')}")


# --- a registry whose key two clients share -------------------------------------------------------------------------

KEY_USERS = Users("socket-registry", ids="uuid")


def build_registry(variant: Variant) -> FastAPI:
    """Clients choose their own connection id (`tab-1`); a later one takes the place of an earlier one."""
    sockets: dict[Any, WebSocket] = {}
    results: asyncio.Queue[tuple[Any, dict[str, str]]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            key, message = await results.get()
            await asyncio.sleep(0.002)
            with contextlib.suppress(Exception):
                await sockets[key].send_text(json.dumps(message))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        task = asyncio.create_task(deliver())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.websocket("/ws/{tab}")
    async def connect(socket: WebSocket, tab: str) -> None:
        user = KEY_USERS.of(socket)
        await socket.accept()
        key: Any = tab if variant == "buggy" else (user.id, tab)
        sockets[key] = socket
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                question = json.loads(await socket.receive_text())
                await results.put((key, {"answer": f"{question['q']} -> {user.value('vault', 'token')}"}))

    return app


async def drive_registry(service: Service) -> list[str]:
    service.own_values("vault", "token")
    return await converse(service, "/ws/tab-1", lambda user, round: json.dumps({"q": f"open my vault, try {round}"}))


# --- a private message that is broadcast ----------------------------------------------------------------------------

BROADCAST_USERS = Users("broadcast-private", ids="int")


def build_broadcast(variant: Variant) -> FastAPI:
    app = FastAPI()
    connected: dict[WebSocket, str] = {}

    async def publish(user_id: str, message: dict[str, Any]) -> None:
        for socket, owner in list(connected.items()):
            if variant == "buggy" or owner == user_id:
                with contextlib.suppress(Exception):
                    await socket.send_json(message)

    @app.websocket("/notifications")
    async def connect(socket: WebSocket) -> None:
        user = BROADCAST_USERS.of(socket)
        await socket.accept()
        connected[socket] = user.id
        try:
            while True:
                amount = await socket.receive_json()
                await latency()
                await publish(user.id, {"type": "payment", "data": {"iban": user.value("iban", "account"), **amount}})
        except WebSocketDisconnect:
            connected.pop(socket, None)

    return app


async def drive_broadcast(service: Service) -> list[str]:
    service.own_values("iban", "account")
    return await converse(service, "/notifications", lambda user, round: json.dumps({"amount": 10 * round}))


CASES = [
    Case(
        "last-socket-wins",
        "http",
        "A shared handler streams its answer to the socket that asked last.",
        LAST_USERS,
        build_last_socket,
        drive_last_socket,
    ),
    Case(
        "socket-registry-by-tab",
        "http",
        "Sockets are registered by an id that clients choose: results go to whoever registered it last.",
        KEY_USERS,
        build_registry,
        drive_registry,
        annotate=store_is_private,
    ),
    Case(
        "private-broadcast",
        "http",
        "A private notification is sent to every connected socket.",
        BROADCAST_USERS,
        build_broadcast,
        drive_broadcast,
        annotate=store_is_private,
    ),
]
