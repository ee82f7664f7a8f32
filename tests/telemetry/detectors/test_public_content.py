"""Endpoints that show what users write for everybody: declared, they accuse nobody; undeclared, they look like one shared history."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket

from isolation_monitor.telemetry import IsolationMonitor, SettingsError
from tests.telemetry.conftest import user_of

USERS = ("ann", "bob", "cid", "dan")


class Board:
    """A board in memory that names no authors, with a search and the newest entry besides."""

    def __init__(self, monitor: IsolationMonitor, client: Callable[[Any], Any], *, declared: bool) -> None:
        self.monitor = monitor
        self.entries: list[str] = []
        self.newest: dict[str, str] = {}
        self.socket_of: dict[str, WebSocket] = {}
        app = FastAPI()
        public: Callable[[Any], Any] = monitor.public if declared else lambda endpoint: endpoint

        @app.post("/entries")
        @public
        async def write(request: Request) -> dict[str, bool]:
            text = (await request.json())["text"]
            self.entries.append(text)
            self.newest["text"] = text
            return {"ok": True}

        @app.get("/entries")
        @public
        async def read(request: Request) -> dict[str, Any]:
            return {"posts": self.entries[-5:], "newest": self.newest, "user_id": "ann", "and": self.private()}

        @app.get("/newest")
        async def newest() -> dict[str, Any]:
            return self.newest

        @app.websocket("/ws")
        @public
        async def lobby(socket: WebSocket) -> None:
            await socket.accept()
            self.socket_of[user_of(socket.scope) or ""] = socket
            async for message in socket.iter_json():
                # To one only, so that it is no broadcast.
                await self.socket_of["bob"].send_json({"text": message["text"], "user_id": "ann"})

        self.private: Callable[[], str] = lambda: ""
        self.app = monitor.instrument(app)
        self.client = client(self.app)

    async def used_by_all(self) -> None:
        for _ in range(4):
            for user in USERS:
                await self.client.post("/entries", user=user, json={"text": f"for all to read: {uuid.uuid4()}"})
                await self.client.get("/newest", user=user)
            await asyncio.gather(*(self.client.get("/entries", user=user) for user in USERS))

    def found(self) -> set[str]:
        self.monitor.detection.shared_state.look_now()
        return {violation.kind for violation in self.monitor.violations() if violation.grade != "hygiene"}


async def test_without_a_declaration_it_looks_like_one_history_for_all(monitor: IsolationMonitor, client: Callable[[Any], Any]) -> None:
    board = Board(monitor, client, declared=False)

    await board.used_by_all()

    assert "foreign_content" in board.found()


async def test_a_declared_board_accuses_nobody_there_or_elsewhere(monitor: IsolationMonitor, client: Callable[[Any], Any]) -> None:
    monitor.identity_fields("user_id")
    board = Board(monitor, client, declared=True)

    await board.used_by_all()

    assert board.found() == set()


async def test_a_declared_lobby_may_send_anybodys_words_to_anybody(
    monitor: IsolationMonitor, client: Callable[[Any], Any], socket: Callable[..., Any], settled: Callable[[], None]
) -> None:
    monitor.identity_fields("user_id")
    board = Board(monitor, client, declared=True)
    ann, bob = await socket(board.app, "ann"), await socket(board.app, "bob")

    ann.say({"text": "only an echo ZZ91-77Z2-0K4Q"})
    await bob.hear()
    settled()

    assert board.found() == set()


async def test_what_was_declared_private_stays_private_there(monitor: IsolationMonitor, client: Callable[[Any], Any]) -> None:
    board = Board(monitor, client, declared=True)
    # The first user's, for everybody.
    value = str(uuid.uuid4())
    board.private = monitor.private(by=lambda: "ann")(lambda: value)

    await board.used_by_all()

    assert "foreign_content" in board.found()


async def test_a_credential_stays_its_owners_there(monitor: IsolationMonitor, client: Callable[[Any], Any]) -> None:
    board = Board(monitor, client, declared=True)
    cookie = f"session={uuid.uuid4().hex}"
    await board.client.get("/entries", user="ann", headers={"cookie": cookie})
    board.private = lambda: cookie

    await board.used_by_all()

    assert "foreign_content" in board.found()


def test_what_cannot_be_called_is_refused(monitor: IsolationMonitor) -> None:
    with pytest.raises(SettingsError, match=r"public\(\) got '/entries'.*below the router"):
        monitor.public("/entries")  # type: ignore[type-var]
