"""Bugs around WebSockets: frames of one user on the socket of another."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection

from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.service import Service

USERS = Users("wire-sockets")


# --- driving -------------------------------------------------------------------------------------------------------------


async def _listen(service: Service, user: User, connection: ClientConnection) -> None:
    """Look at every frame that reaches the user's client, until the socket ends."""
    with contextlib.suppress(Exception):
        async for frame in connection:
            service.look(user, frame, "a frame")


@contextlib.asynccontextmanager
async def _connected(service: Service, users: list[User], path: str) -> AsyncIterator[dict[str, ClientConnection]]:
    """Connect the users one after another, each with a listener; all listeners have seen everything when the block has ended."""
    async with contextlib.AsyncExitStack() as stack:
        connections = {user.id: await stack.enter_async_context(service.socket(user, path)) for user in users}
        listeners = [asyncio.create_task(_listen(service, user, connections[user.id])) for user in users]
        yield connections
        await asyncio.sleep(0.15)
    await asyncio.gather(*listeners)


# --- self.websocket of a singleton -----------------------------------------------------------------------------------------


class _Assistant:
    """Answers questions; made for one connection, used for all."""

    def __init__(self) -> None:
        self.websocket: WebSocket | None = None

    async def attach(self, websocket: WebSocket) -> None:
        self.websocket = websocket

    async def answer(self, user: User, question: str) -> None:
        await asyncio.sleep(0.005)
        assert self.websocket is not None
        await self.websocket.send_json({"type": "answer", "to": question, "text": f"Your recovery code is {user.value('recovery')}."})


def _build_overwritten(variant: Variant) -> Built:
    app, singleton = FastAPI(), _Assistant()

    @app.websocket("/assistant")
    async def assistant(websocket: WebSocket) -> None:
        await websocket.accept()
        user = USERS.of(websocket)
        own = singleton if variant == "buggy" else _Assistant()
        await own.attach(websocket)
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await own.answer(user, await websocket.receive_text())

    return Built(app)


async def _drive_overwritten(service: Service) -> list[str]:
    service.own_values("recovery")
    async with _connected(service, list(USERS), "/assistant") as connections:
        for round in range(3):
            await asyncio.gather(*(connection.send(f"question {round}") for connection in connections.values()))
            await asyncio.sleep(0.05)
    return service.proofs


# --- a connection manager whose ids come twice -----------------------------------------------------------------------------


def _build_reused_id(variant: Variant) -> Built:
    """Connections are numbered by how many there are; after somebody left, a number is given twice."""
    app = FastAPI()
    sockets: dict[int, WebSocket] = {}
    number_of: dict[str, int] = {}
    given = 0

    @app.websocket("/statements")
    async def statements(websocket: WebSocket) -> None:
        nonlocal given
        await websocket.accept()
        user = USERS.of(websocket)
        given += 1
        number = len(sockets) if variant == "buggy" else given
        sockets[number], number_of[user.id] = websocket, number
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            sockets.pop(number, None)

    @app.post("/statements")
    async def ready(request: Request) -> Any:
        user = USERS.of(request)
        body = await request.json()
        socket = sockets.get(number_of.get(user.id, -1))
        if socket is not None:
            await socket.send_json({"type": "statement_ready", "download": {"key": body["key"]}})
        return {"sent": socket is not None}

    return Built(app)


async def _drive_reused_id(service: Service) -> list[str]:
    async with _connected(service, [USERS[n] for n in range(4)], "/statements") as first:
        await first[USERS[0].id].close()
        await asyncio.sleep(0.05)
        async with _connected(service, [USERS[n] for n in range(4, 7)], "/statements"):
            for _ in range(2):
                for n in range(1, 7):
                    key = service.minted(USERS[n], "token")
                    await service.post(USERS[n], "/statements", json={"key": key})
    return service.proofs


# --- a kiosk whose last user's task sends on -------------------------------------------------------------------------------


def _build_kiosk(variant: Variant) -> Built:
    """A stream of positions sends to the kiosk's current socket, also when its own user has left."""
    app = FastAPI()
    at_kiosk: dict[str, WebSocket] = {}
    streams: set[asyncio.Task[None]] = set()

    async def stream(kiosk: str, user: User, own: WebSocket) -> None:
        for n in range(30):
            socket = at_kiosk.get(kiosk) if variant == "buggy" else own
            if socket is not None:
                with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                    await socket.send_json({"n": n, "positions": [{"isin": "DE0005", "depot": user.value("depot", "account")}]})
            await asyncio.sleep(0.03)

    @app.websocket("/kiosks/{kiosk}")
    async def serve(websocket: WebSocket, kiosk: str) -> None:
        await websocket.accept()
        at_kiosk[kiosk] = websocket
        task = asyncio.create_task(stream(kiosk, USERS.of(websocket), websocket))
        streams.add(task)
        task.add_done_callback(streams.discard)
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            if at_kiosk.get(kiosk) is websocket:
                del at_kiosk[kiosk]
            if variant == "fixed":
                task.cancel()

    return Built(app)


async def _drive_kiosk(service: Service) -> list[str]:
    service.own_values("depot", "account")

    async def visit(first: User, second: User, kiosk: str) -> None:
        for user in (first, second):
            async with service.socket(user, f"/kiosks/{kiosk}") as connection:
                for _ in range(3):
                    service.look(user, await connection.recv(), "a frame")

    await asyncio.gather(*(visit(USERS[n], USERS[n + 1], f"k{n}") for n in (0, 2, 4, 6)))
    return service.proofs


# --- a private event for everybody -------------------------------------------------------------------------------------------


def _build_broadcast(variant: Variant) -> Built:
    """The manager can send to one or to all; the payment event takes the wrong one of the two."""
    app = FastAPI()
    connections: list[tuple[User, WebSocket]] = []

    async def broadcast(event: dict[str, Any]) -> None:
        for _, socket in list(connections):
            await socket.send_text(json.dumps(event))

    async def to_user(user: User, event: dict[str, Any]) -> None:
        for owner, socket in list(connections):
            if owner is user:
                await socket.send_text(json.dumps(event))

    @app.websocket("/events")
    async def events(websocket: WebSocket) -> None:
        await websocket.accept()
        connections.append((USERS.of(websocket), websocket))
        await broadcast({"type": "online", "count": len(connections)})
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            connections[:] = [entry for entry in connections if entry[1] is not websocket]

    @app.post("/payments")
    async def pay(request: Request) -> Any:
        user, body = USERS.of(request), await request.json()
        event = {"type": "payment_booked", "payment": {"iban": body["iban"], "cents": body["cents"]}}
        await (broadcast(event) if variant == "buggy" else to_user(user, event))
        return {"booked": True}

    return Built(app)


async def _drive_broadcast(service: Service) -> list[str]:
    async with _connected(service, list(USERS), "/events"):

        async def pay(user: User, round: int) -> None:
            iban = service.minted(user, "account")
            await service.post(user, "/payments", json={"iban": iban, "cents": 100 + round})

        await service.everybody(pay, rounds=2)
    return service.proofs


# --- one queue of events for all sockets ---------------------------------------------------------------------------------------


def _build_shared_queue(variant: Variant) -> Built:
    """Every socket takes from the queue of events; whoever is first gets it."""
    app = FastAPI()
    everybody: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    queues: dict[str, asyncio.Queue[dict[str, Any]]] = {user.id: asyncio.Queue() for user in USERS}

    def queue_of(user: User) -> asyncio.Queue[dict[str, Any]]:
        return everybody if variant == "buggy" else queues[user.id]

    @app.websocket("/results")
    async def results(websocket: WebSocket) -> None:
        await websocket.accept()
        user = USERS.of(websocket)

        async def deliver() -> None:
            while True:
                await websocket.send_json(await queue_of(user).get())

        delivering = asyncio.create_task(deliver())
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            delivering.cancel()

    @app.post("/scans")
    async def scan(request: Request) -> Any:
        user = USERS.of(request)
        queue_of(user).put_nowait({"type": "scan_done", "report": {"id": user.value("report", "uuid"), "findings": 3}})
        return {"queued": True}

    return Built(app)


async def _drive_shared_queue(service: Service) -> list[str]:
    service.own_values("report", "uuid")
    async with _connected(service, list(USERS), "/results"):

        async def scan(user: User, round: int) -> None:
            await service.post(user, "/scans")

        await service.everybody(scan, rounds=3)
    return service.proofs


# --- the user of the last handshake ---------------------------------------------------------------------------------------------


def _build_last_handshake(variant: Variant) -> Built:
    """The handshake writes down who is connected, for the process instead of for the connection."""
    app = FastAPI()
    app.state.user = None

    @app.websocket("/bank")
    async def bank(websocket: WebSocket) -> None:
        user = USERS.of(websocket)
        if variant == "buggy":
            app.state.user = user
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                request = await websocket.receive_json()
                asking = app.state.user if variant == "buggy" else user
                await asyncio.sleep(0.002)
                await websocket.send_json({"re": request["id"], "pin_reset_code": asking.value("pin reset", "base32")})

    return Built(app)


async def _drive_last_handshake(service: Service) -> list[str]:
    service.own_values("pin reset", "base32")
    async with _connected(service, list(USERS), "/bank") as connections:
        for round in range(2):
            await asyncio.gather(*(connection.send(json.dumps({"id": round})) for connection in connections.values()))
    return service.proofs


def _case(name: str, summary: str, build: Any, drive: Any) -> Case:
    return Case(f"wire-sockets-{name}", "sockets", summary, USERS, build, drive, needs=("websockets",))


CASES = [
    _case("overwritten", "the assistant's self.websocket is that of the latest connection", _build_overwritten, _drive_overwritten),
    _case("reused-id", "a connection id is given twice, and notices go to the newer one", _build_reused_id, _drive_reused_id),
    _case("kiosk", "the task of a user who left sends on the socket of the next one", _build_kiosk, _drive_kiosk),
    _case("broadcast", "a private event is sent to everybody", _build_broadcast, _drive_broadcast),
    _case("shared-queue", "one queue feeds the sockets of all users", _build_shared_queue, _drive_shared_queue),
    _case("last-handshake", "messages are answered for the user of the last handshake", _build_last_handshake, _drive_last_handshake),
]
