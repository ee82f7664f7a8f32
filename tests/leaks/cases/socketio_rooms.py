"""Bugs around Socket.IO: events that go to more sockets than they are meant for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import socketio
from websockets.asyncio.client import ClientConnection

from tests.leaks.case import Built, Case, User, Users, Variant, mint
from tests.leaks.cases.run_sockets import Runs, answer, declare_runs
from tests.leaks.service import Service

PATH = "/socket.io/?EIO=4&transport=websocket"


# --- driving -------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _joined(service: Service, user: User) -> AsyncIterator[ClientConnection]:
    """Connect as a client of Socket.IO does, without its long polling."""
    async with service.socket(user, PATH) as connection:
        await connection.recv()
        await connection.send("40")
        await connection.recv()
        yield connection


async def _say(connection: ClientConnection, event: str, data: Any) -> None:
    await connection.send("42" + json.dumps([event, data]))


async def _listen(service: Service, user: User, connection: ClientConnection, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for packet in connection:
                if packet == "2":
                    await connection.send("3")
                service.look(user, packet, "an event")


# --- nobody is everybody -------------------------------------------------------------------------------------------------

NOBODY_USERS = Users("socketio-nobody")


def _build_nobody(variant: Variant) -> Built:
    """What a background job has made goes to its user's socket; when that is gone, `to=None` sends it to everybody."""
    server = socketio.AsyncServer(async_mode="asgi")
    sockets: dict[str, str] = {}
    jobs: set[asyncio.Task[None]] = set()

    @server.event  # type: ignore[untyped-decorator]
    async def connect(sid: str, environ: dict[str, Any], _auth: Any = None) -> None:
        user = NOBODY_USERS.of_scope(environ["asgi.scope"])
        assert user is not None
        await server.save_session(sid, {"user": user.id})
        sockets[user.id] = sid

    @server.event  # type: ignore[untyped-decorator]
    async def disconnect(sid: str, *_reason: Any) -> None:
        sockets.pop((await server.get_session(sid))["user"], None)

    @server.event  # type: ignore[untyped-decorator]
    async def start(sid: str, data: dict[str, str]) -> None:
        user = NOBODY_USERS.by_id[(await server.get_session(sid))["user"]]

        async def work() -> None:
            await asyncio.sleep(random.uniform(0.02, 0.08))
            receiver = sockets.get(user.id)
            if variant == "buggy" or receiver is not None:
                await server.emit("exported", {"job": data["job"], "download": user.value("download", "token")}, to=receiver)

        jobs.add(job := asyncio.create_task(work()))
        job.add_done_callback(jobs.discard)

    return Built(socketio.ASGIApp(server))


async def _drive_nobody(service: Service) -> list[str]:
    service.own_values("download", "token")

    async def act(user: User, _round: int) -> None:
        async with _joined(service, user) as connection:
            await _say(connection, "start", {"job": mint()})
            if random.random() < 0.4:
                # He closes the tab before his export is done.
                return
            await _listen(service, user, connection, 0.4)

    return await service.everybody(act, 8)


# --- a room by first name ------------------------------------------------------------------------------------------------

NAMED_USERS = Users("socketio-named")
FIRST_NAMES = ("Robin", "Sascha", "Kim")


def _build_named(variant: Variant) -> Built:
    """Each user's tabs share a room, so that all of them see his agent's run. It is called by his first name."""
    server, runs = socketio.AsyncServer(async_mode="asgi"), Runs()

    @server.event  # type: ignore[untyped-decorator]
    async def connect(sid: str, environ: dict[str, Any], _auth: Any = None) -> None:
        user = NAMED_USERS.of_scope(environ["asgi.scope"])
        assert user is not None
        room = FIRST_NAMES[user.number % len(FIRST_NAMES)] if variant == "buggy" else f"user {user.id}"
        await server.save_session(sid, {"user": user.id, "room": room})
        await server.enter_room(sid, room)

    @server.event  # type: ignore[untyped-decorator]
    async def ask(sid: str, _question: str) -> None:
        session = await server.get_session(sid)

        async def tell(frame: dict[str, Any]) -> None:
            await server.emit(frame.pop("type"), frame, to=session["room"])

        await answer(runs, NAMED_USERS.by_id[session["user"]], tell)

    return Built(socketio.ASGIApp(server), parts={"runs": runs})


async def _drive_named(service: Service) -> list[str]:
    service.own_values("phrase", "token")

    async def act(user: User, round: int) -> None:
        async with _joined(service, user) as connection:
            await _say(connection, "ask", f"question {round}")
            await _listen(service, user, connection, 0.3)

    return await service.everybody(act)


CASES = [
    Case(
        "socketio-nobody-is-everybody", "socket",
        "what a job made for a user who has left is emitted to everybody, since no receiver means all",
        NOBODY_USERS, _build_nobody, _drive_nobody, needs=("socketio",),
    ),
    Case(
        "socketio-room-by-first-name", "socket",
        "the events of a user's runs go to a room that is called by his first name, which others have too",
        NAMED_USERS, _build_named, _drive_named, annotate=declare_runs, needs=("socketio",),
    ),
]  # fmt: skip
