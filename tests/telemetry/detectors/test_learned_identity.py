"""Learned identity: where all find their own id, another one is a crossing; where others are named on purpose, nothing is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, WebSocket

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.violations import Violation
from tests.telemetry.conftest import Client, user_of

USERS = ("1001", "1002", "1003")


def found(monitor: IsolationMonitor) -> list[Violation]:
    return [violation for violation in monitor.violations() if violation.kind == names.FOREIGN_IDENTITY]


def answering(name: Callable[[str], object], path: str = "/me") -> FastAPI:
    app = FastAPI()

    @app.get(path)
    async def me(request: Request) -> object:
        return name(user_of(request.scope) or "")

    return app


async def ask(monitor: IsolationMonitor, app: FastAPI, path: str = "/me", rounds: int = 3) -> None:
    client = Client(monitor.instrument(app))
    for _ in range(rounds):
        for user in USERS:
            await client.get(path, user=user)


async def test_anothers_id_where_everybody_finds_his_own_is_a_crossing(monitor: IsolationMonitor) -> None:
    mixed: dict[str, str] = {}
    app = answering(lambda user: {"account": {"user": int(mixed.get(user, user))}})
    await ask(monitor, app)
    assert found(monitor) == []

    mixed["1002"] = "1001"
    await ask(monitor, app, rounds=1)

    [violation] = found(monitor)
    assert violation.victim is not None
    assert violation.victim.principal == monitor.principals.named("1001").hash


async def test_lists_of_members_and_the_latest_author_are_no_identity_fields(monitor: IsolationMonitor) -> None:
    latest = {"n": 0}

    def author(user: str) -> object:
        latest["n"] += 1
        return {"author": USERS[latest["n"] // 5 % 3]}

    await ask(monitor, answering(lambda user: {"members": [{"user": one} for one in USERS]}))
    await ask(monitor, answering(author, "/latest"), "/latest", rounds=12)

    assert found(monitor) == []


async def test_a_lobby_that_names_each_speaker_to_everybody_learns_nothing(monitor: IsolationMonitor, socket: Callable[..., Any]) -> None:
    """Speakers hear themselves right after a message that addresses nobody; the others' last messages address somebody."""
    app = FastAPI()
    lobby: dict[str, WebSocket] = {}
    users = tuple(f"5d5b514d-c1e9-4034-9e83-9e71ced1a4b{n}" for n in range(3))

    @app.websocket("/ws")
    async def join(websocket: WebSocket) -> None:
        await websocket.accept()
        user = user_of(websocket.scope) or ""
        lobby[user] = websocket
        async for said in websocket.iter_json():
            for other in [lobby[said["to"]]] if "to" in said else lobby.values():
                await other.send_json({"from": user})

    served = monitor.instrument(app)
    there = {user: await socket(served, user) for user in users}

    async def say(user: str, **said: str) -> None:
        there[user].say(said)
        for hearer in [said["to"]] if "to" in said else users:
            assert await there[hearer].hear() == {"from": user}

    for speaker in (*users, *users):
        for user in users:
            await say(user, to=next(other for other in users if other != user))
        await say(speaker)
    await say(users[0])
    await say(users[1], to=users[0])

    assert found(monitor) == []


async def test_a_profile_that_was_asked_for_by_name_is_no_crossing(monitor: IsolationMonitor) -> None:
    app = FastAPI()

    @app.get("/users/{user}")
    async def profile(user: str) -> dict[str, str]:
        return {"user": user}

    client = Client(monitor.instrument(app))
    for user in USERS:
        for _ in range(3):
            await client.get(f"/users/{user}", user=user)
    await client.get("/users/1001", user="1002")

    assert found(monitor) == []
