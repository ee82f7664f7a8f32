"""Bugs around SQLite connections that requests share: units of work that end by another's commit or rollback, and astray rows."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
from fastapi import FastAPI, Request

from tests.leaks.case import Case, User, Users, Variant
from tests.leaks.service import Service

USERS = Users("wire-sqlite")
_ORDERS = "CREATE TABLE orders (owner TEXT, reference TEXT)"
_INSERT = "INSERT INTO orders VALUES (?, ?)"
_OWN = "SELECT reference FROM orders WHERE owner = ?"


# --- plain functions on one connection: another's commit books what is refused ---------------------------------------------------


def _build_threads(variant: Variant) -> FastAPI:
    """Orders wait for a fraud check between INSERT and commit, on one connection for the thread pool."""
    folder = tempfile.TemporaryDirectory(prefix="leaks-db-")
    state: dict[str, sqlite3.Connection] = {}

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(Path(folder.name) / "app.sqlite3", check_same_thread=False)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with contextlib.closing(connect()) as state["shared"]:
            state["shared"].execute(_ORDERS)
            yield
        folder.cleanup()

    app = FastAPI(lifespan=lifespan)

    def place(connection: sqlite3.Connection, user: User, content: dict[str, Any]) -> bool:
        connection.execute(_INSERT, (user.id, content["reference"]))
        if variant == "fixed":
            # The verdict comes before the writer's lock is held for long.
            connection.rollback()
        time.sleep(content["check_s"])
        if content["amount"] > 100:
            connection.rollback()
            return False
        if variant == "fixed":
            connection.execute(_INSERT, (user.id, content["reference"]))
        connection.commit()
        return True

    @app.post("/orders")
    def order(request: Request, content: dict[str, Any]) -> Any:
        user = USERS.of(request)
        if variant == "buggy":
            return {"accepted": place(state["shared"], user, content)}
        with contextlib.closing(connect()) as own:
            return {"accepted": place(own, user, content)}

    @app.get("/orders")
    def orders(request: Request) -> Any:
        with contextlib.closing(connect()) as own:
            return [reference for (reference,) in own.execute(_OWN, (USERS.of(request).id,))]

    return app


async def _drive_booked(service: Service) -> list[str]:
    """A refused order's check is slow; the others order, and commit, in the meantime."""
    for round in range(3):
        refused, reference = USERS[round], service.minted(USERS[round], "uuid")
        slow = asyncio.create_task(service.post(refused, "/orders", json={"reference": reference, "amount": 5_000, "check_s": 0.5}))
        await asyncio.sleep(0.1)
        for user in list(USERS)[3:]:
            await service.post(user, "/orders", json={"reference": service.minted(user, "hex"), "amount": 5, "check_s": 0})
        await slow
        if reference in (await service.get(refused, "/orders")).json():
            service.harm(f"u{refused.number}'s refused order was booked by the commit of another user")
    return service.proofs


# --- nested transactions on one connection: another's rollback undoes what was promised -----------------------------------------


def _build_savepoints(variant: Variant) -> FastAPI:
    """A unit of work is a savepoint of the process's connection; an outer one that is refused takes the inner ones along."""
    folder = tempfile.TemporaryDirectory(prefix="leaks-db-")
    state: dict[str, aiosqlite.Connection] = {}
    turns, numbers = asyncio.Lock(), iter(range(1_000_000))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with aiosqlite.connect(Path(folder.name) / "app.sqlite3", isolation_level=None) as state["shared"]:
            await state["shared"].execute(_ORDERS)
            yield
        folder.cleanup()

    app = FastAPI(lifespan=lifespan)

    async def place(user: User, content: dict[str, Any]) -> bool:
        connection, name = state["shared"], f"unit_{next(numbers)}"
        await connection.execute(f"SAVEPOINT {name}")
        await connection.execute(_INSERT, (user.id, content["reference"]))
        await asyncio.sleep(content["check_s"])
        is_accepted = content["amount"] <= 100
        if not is_accepted:
            await connection.execute(f"ROLLBACK TO {name}")
        await connection.execute(f"RELEASE {name}")
        return is_accepted

    @app.post("/orders")
    async def order(request: Request) -> Any:
        user, content = USERS.of(request), await request.json()
        if variant == "buggy":
            return {"accepted": await place(user, content)}
        async with turns:
            return {"accepted": await place(user, content)}

    @app.get("/orders")
    async def orders(request: Request) -> Any:
        async with state["shared"].execute(_OWN, (USERS.of(request).id,)) as found:
            return [reference async for (reference,) in found]

    return app


async def _drive_lost(service: Service) -> list[str]:
    """A refused order's check is slow; orders that are accepted in the meantime must be there afterwards."""
    for round in range(3):
        refused, promised = USERS[round], []
        content = {"reference": service.minted(refused, "uuid"), "amount": 5_000, "check_s": 0.4}
        slow = asyncio.create_task(service.post(refused, "/orders", json=content))
        await asyncio.sleep(0.1)
        for user in list(USERS)[3:]:
            reference = service.minted(user, "hex")
            answer = await service.post(user, "/orders", json={"reference": reference, "amount": 5, "check_s": 0})
            if answer.status_code == 200 and answer.json()["accepted"]:
                promised.append((user, reference))
        await slow
        for user, reference in promised:
            if reference not in (await service.get(user, "/orders")).json():
                service.harm(f"u{user.number}'s accepted order is gone with the refused one of u{refused.number}")
    return service.proofs


# --- the cursor of the process --------------------------------------------------------------------------------------------------


def _build_cursor(variant: Variant) -> FastAPI:
    """The repository makes one cursor when it starts: one request executes, another executes, and the first fetches."""
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with contextlib.closing(sqlite3.connect(":memory:")) as state["connection"]:
            state["connection"].execute("CREATE TABLE visas (owner TEXT, number TEXT)")
            rows = [(user.id, user.value("visa", "token")) for user in USERS]
            state["connection"].executemany("INSERT INTO visas VALUES (?, ?)", rows)
            state["connection"].commit()
            state["cursor"] = state["connection"].cursor()
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/visa")
    async def visa(request: Request) -> Any:
        cursor = state["cursor"] if variant == "buggy" else state["connection"].cursor()
        cursor.execute("SELECT number FROM visas WHERE owner = ?", (USERS.of(request).id,))
        await asyncio.sleep(0.003)
        return {"visas": [number for (number,) in cursor]}

    return app


async def _drive_cursor(service: Service) -> list[str]:
    service.own_values("visa", "token")

    async def look(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/visa"))

    return await service.everybody(look, rounds=6)


# --- one connection, rightly shared --------------------------------------------------------------------------------------------


def _build_clean(_: Variant) -> FastAPI:
    """Notes, a wall and its moderator on one connection without a lock: each request commits what it wrote."""
    folder = tempfile.TemporaryDirectory(prefix="leaks-db-")
    state: dict[str, aiosqlite.Connection] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with aiosqlite.connect(Path(folder.name) / "app.sqlite3") as state["shared"]:
            await state["shared"].execute("CREATE TABLE notes (owner TEXT, text TEXT, is_public INTEGER)")
            await state["shared"].commit()
            yield
        folder.cleanup()

    app = FastAPI(lifespan=lifespan)

    @app.post("/notes")
    async def write(request: Request) -> Any:
        content = await request.json()
        values = (USERS.of(request).id, content["text"], content["is_public"])
        await state["shared"].execute("INSERT INTO notes VALUES (?, ?, ?)", values)
        await state["shared"].commit()
        return {"written": True}

    @app.get("/notes")
    async def own(request: Request) -> Any:
        rows = await state["shared"].execute_fetchall("SELECT text FROM notes WHERE owner = ?", (USERS.of(request).id,))
        return [text for (text,) in rows]

    @app.get("/wall")
    async def wall(request: Request) -> Any:
        USERS.of(request)
        rows = await state["shared"].execute_fetchall("SELECT owner, text FROM notes WHERE is_public ORDER BY rowid DESC LIMIT 20")
        return [{"by": owner, "text": text} for owner, text in rows]

    @app.delete("/wall")
    async def moderate(request: Request) -> Any:
        if USERS.of(request).number:
            return {"deleted": 0}
        async with state["shared"].execute("DELETE FROM notes WHERE is_public AND text LIKE '%spam%'") as done:
            await state["shared"].commit()
            return {"deleted": done.rowcount}

    return app


async def _drive_clean(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        mine = service.minted(user, "uuid")
        await service.post(user, "/notes", json={"text": mine, "is_public": False})
        await service.post(user, "/notes", json={"text": f"{'spam' if round % 2 else 'hello'} from {user.number}", "is_public": True})
        answer = await service.get(user, "/notes")
        service.look(user, answer)
        if mine not in answer.text:
            service.harm(f"u{user.number}'s note is lost")
        service.look(user, await service.get(user, "/wall"))
        await service.client(user).delete("/wall")

    return await service.everybody(act, rounds=5)


CASES = [
    Case(
        "wire-sqlite-booked", "sqlite", "a refused order is booked by another's commit on the shared connection",
        USERS, _build_threads, _drive_booked,
    ),
    Case(
        "wire-sqlite-savepoints", "sqlite", "an accepted order is undone by another's rollback to its savepoint",
        USERS, _build_savepoints, _drive_lost, needs=("aiosqlite",),
    ),
    Case(
        "wire-sqlite-cursor", "sqlite", "the repository's one cursor gives a request the rows of another",
        USERS, _build_cursor, _drive_cursor,
    ),
    Case(
        "wire-sqlite-clean", "clean", "one SQLite connection without a lock, on which each request commits what it wrote",
        USERS, _build_clean, _drive_clean, needs=("aiosqlite",),
    ),
]  # fmt: skip
