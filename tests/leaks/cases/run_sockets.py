"""Agent runs whose events reach another user: rooms that several users enter, seats that are given again while a run goes on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection

from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.service import Service

if TYPE_CHECKING:
    from isolation_monitor.telemetry import IsolationMonitor

Tell = Callable[[dict[str, Any]], Awaitable[None]]


class Runs:
    """What an owner who declares his runs adds to the agent: one `with` block, and a call for each event."""

    def __init__(self) -> None:
        self.monitor: IsolationMonitor | None = None
        self.ids = itertools.count(1)

    @contextlib.contextmanager
    def run(self, user: User) -> Iterator[tuple[str, Callable[[str], None]]]:
        run_id = f"run_{next(self.ids):08d}"
        if self.monitor is None:
            yield run_id, lambda event: None
        else:
            with self.monitor.run(run_id, owner=user.id) as run:
                yield run_id, run.emit


def declare_runs(monitor: IsolationMonitor, built: Built) -> None:
    built.parts["runs"].monitor = monitor


async def answer(runs: Runs, user: User, tell: Tell, pause_s: float = 0.01) -> None:
    """An agent's run: a few events, the last with what only its user may see."""
    with runs.run(user) as (run_id, emit):
        for event in ("agent_started", "agent_thinking", "agent_completed"):
            await asyncio.sleep(pause_s)
            frame: dict[str, Any] = {"type": event, "run_id": run_id}
            if event == "agent_completed":
                frame["text"] = f"Your pass phrase is {user.value('phrase', 'token')}."
            emit(event)
            await tell(frame)


async def listen(service: Service, user: User, connection: ClientConnection) -> None:
    with contextlib.suppress(Exception):
        async for frame in connection:
            service.look(user, frame, "a frame")


# --- rooms that are named by their users ------------------------------------------------------------------------------

ROOM_USERS = Users("run-rooms")


def build_rooms(variant: Variant) -> Built:
    """A run's events are broadcast to the room of its thread, so that all tabs of the user see them. Everybody has a thread `main`."""
    app, runs = FastAPI(), Runs()
    rooms: dict[Any, set[WebSocket]] = defaultdict(set)

    @app.websocket("/threads/{thread}")
    async def thread(socket: WebSocket, thread: str) -> None:
        user = ROOM_USERS.of(socket)
        await socket.accept()
        room: Any = thread if variant == "buggy" else (user.id, thread)
        rooms[room].add(socket)

        async def broadcast(frame: dict[str, Any]) -> None:
            for member in list(rooms[room]):
                with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                    await member.send_text(json.dumps(frame))

        try:
            while True:
                await socket.receive_text()
                await answer(runs, user, broadcast)
        except WebSocketDisconnect:
            rooms[room].discard(socket)

    return Built(app, parts={"runs": runs})


async def drive_rooms(service: Service) -> list[str]:
    """Each user has two tabs open, which is what rooms are for."""
    service.own_values("phrase", "token")
    async with contextlib.AsyncExitStack() as stack:
        users = list(service.users)[:4]
        tabs = [(user, await stack.enter_async_context(service.socket(user, "/threads/main"))) for user in users for _ in range(2)]
        listeners = [asyncio.create_task(listen(service, user, tab)) for user, tab in tabs]
        for _ in range(2):
            for _, tab in tabs[::2]:
                await tab.send("what is my pass phrase?")
            await asyncio.sleep(0.15)
    await asyncio.gather(*listeners)
    return service.proofs


# --- seats that are given again ---------------------------------------------------------------------------------------

SEAT_USERS = Users("run-seats", ids="int")


def build_seats(variant: Variant) -> Built:
    """The free seat with the lowest number is given first. A run goes on when its user leaves, and tells his seat."""
    app, runs = FastAPI(), Runs()
    seats: dict[int, WebSocket] = {}
    working: set[asyncio.Task[None]] = set()

    @app.websocket("/desk")
    async def desk(socket: WebSocket) -> None:
        user = SEAT_USERS.of(socket)
        await socket.accept()
        seat = next(number for number in itertools.count() if number not in seats)
        seats[seat] = socket

        async def tell(frame: dict[str, Any]) -> None:
            sitting = seats.get(seat)
            if sitting is not None and (variant == "buggy" or sitting is socket):
                with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                    await sitting.send_text(json.dumps(frame))

        try:
            while True:
                await socket.receive_text()
                task = asyncio.create_task(answer(runs, user, tell, 0.08))
                working.add(task)
                task.add_done_callback(working.discard)
        except WebSocketDisconnect:
            if seats.get(seat) is socket:
                del seats[seat]

    return Built(app, parts={"runs": runs})


async def drive_seats(service: Service) -> list[str]:
    """Users ask and leave before the answer; the next ones sit down at once."""
    service.own_values("phrase", "token")
    users = list(service.users)
    for first, second in itertools.pairwise(users):
        async with service.socket(first, "/desk") as connection:
            await connection.send("what is my pass phrase?")
            await connection.recv()
        async with service.socket(second, "/desk") as connection:
            listener = asyncio.create_task(listen(service, second, connection))
            await asyncio.sleep(0.3)
        await listener
    return service.proofs


CASES = [
    Case(
        "run-room-without-owner",
        "wire",
        "A run's events are broadcast to the room of its thread, and the threads of all users have one name.",
        ROOM_USERS,
        build_rooms,
        drive_rooms,
        annotate=declare_runs,
    ),
    Case(
        "run-goes-on-at-a-given-seat",
        "wire",
        "A run goes on after its user has left, and tells whoever has his seat now.",
        SEAT_USERS,
        build_seats,
        drive_seats,
        annotate=declare_runs,
    ),
]
