"""Bugs around connections and cursors of the standard library: unread replies, sockets and cursors that several callers read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import socketserver
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import redis.asyncio as aredis
from fastapi import FastAPI, HTTPException, Request, Response

from tests.leaks.backends import redis_server, redis_url
from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.service import Service

USERS = Users("wire-shared-io")


async def _look_everywhere(service: Service, path: str, rounds: int = 6) -> list[str]:
    async def look(user: User, round: int) -> None:
        service.look(user, await service.get(user, path))

    return await service.everybody(look, rounds=rounds)


@contextlib.contextmanager
def _line_server(label: str, shape: Any) -> Iterator[int]:
    """A backend in threads of its own: a line `<user id> <limit>` is answered by a head and one line per entry."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                id, limit = line.decode().split()
                user = USERS.by_id[id]
                entries = [{"entry": n, "ref": user.value(f"{label} {n}", shape)} for n in range(int(limit))]
                time.sleep(0.001 * (user.number % 3))
                self.wfile.write(b"".join(json.dumps(each).encode() + b"\n" for each in ({"entries": len(entries)}, *entries)))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


# --- a connection given back with a reply half read -----------------------------------------------------------------------------


def _build_half_read(variant: Variant) -> Built:
    """An error between the head and the entries gives the connection back too early: the next caller reads the rest."""
    idle: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue()
    state: dict[str, int] = {}

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", state["port"])

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with _line_server("journal", "hex") as state["port"]:
            for _ in range(3):
                idle.put_nowait(await connect())
            yield
            while not idle.empty():
                idle.get_nowait()[1].close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/journal")
    async def journal(request: Request, limit: int = 2) -> Any:
        user = USERS.of(request)
        connection = await idle.get()
        reader, writer = connection
        try:
            writer.write(f"{user.id} {limit}\n".encode())
            head = json.loads(await reader.readline())
            if head.get("entries", 0) > 4:
                if variant == "fixed":
                    writer.close()
                    connection = await connect()
                raise HTTPException(413, "too many entries")
            return {"journal": [head, *[json.loads(await reader.readline()) for _ in range(head.get("entries", 0))]]}
        finally:
            idle.put_nowait(connection)

    return Built(app)


async def _drive_half_read(service: Service) -> list[str]:
    for n in range(6):
        service.own_values(f"journal {n}")
    for greedy in (USERS[0], USERS[1]):
        await service.get(greedy, "/journal?limit=6")
        await _look_everywhere(service, "/journal", rounds=2)
    return service.proofs


# --- one socket for all threads ----------------------------------------------------------------------------------------------------


def _build_threads(variant: Variant) -> Built:
    """Plain functions in a thread pool use one socket. Writing is locked, and reading is locked; the pair of them is not."""
    state: dict[str, Any] = {}
    writing, reading = threading.Lock(), threading.Lock()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with _line_server("meter", "uuid") as port, socket.create_connection(("127.0.0.1", port)) as connection:
            state["socket"], state["file"] = connection, connection.makefile("rb")
            yield
            state["file"].close()

    def entry() -> Any:
        head = json.loads(state["file"].readline())
        return [json.loads(state["file"].readline()) for _ in range(head["entries"])]

    app = FastAPI(lifespan=lifespan)

    @app.get("/meter")
    def meter(request: Request) -> Any:
        question = f"{USERS.of(request).id} 1\n".encode()
        if variant == "fixed":
            with writing:
                state["socket"].sendall(question)
                return {"meter": entry()}
        with writing:
            state["socket"].sendall(question)
        time.sleep(0.002)
        with reading:
            return {"meter": entry()}

    return Built(app)


async def _drive_threads(service: Service) -> list[str]:
    service.own_values("meter 0", "uuid")
    return await _look_everywhere(service, "/meter", rounds=12)


# --- one cursor for all requests ----------------------------------------------------------------------------------------------------


def _build_cursor(variant: Variant) -> Built:
    """The module's cursor: one request executes, another executes, and the first fetches."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.execute("CREATE TABLE passports (owner TEXT, number TEXT)")
    connection.executemany("INSERT INTO passports VALUES (?, ?)", [(user.id, user.value("passport", "base32")) for user in USERS])
    shared = connection.cursor()
    app = FastAPI()

    @app.get("/passport")
    async def passport(request: Request) -> Any:
        cursor = shared if variant == "buggy" else connection.cursor()
        cursor.execute("SELECT number FROM passports WHERE owner = ?", (USERS.of(request).id,))
        await asyncio.sleep(0.003)
        return [{"passport": {"number": number}} for (number,) in cursor.fetchall()]

    return Built(app)


async def _drive_cursor(service: Service) -> list[str]:
    service.own_values("passport", "base32")
    return await _look_everywhere(service, "/passport")


# --- session ids that collide ---------------------------------------------------------------------------------------------------------


def _build_sessions(variant: Variant) -> Built:
    """Logging in makes a session in Redis and its cookie. The id is the time in seconds, or a random one."""
    client = aredis.Redis.from_url(redis_url(), decode_responses=True)
    count = 0

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await client.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/login")
    async def login(request: Request, response: Response) -> Any:
        nonlocal count
        user = USERS.of(request)
        count += 1
        id = f"{int(time.time()):x}" if variant == "buggy" else f"{count:x}-{user.value('session id', 'token')}"
        await client.hset(f"session:{id}", mapping={"address": (await request.json())["address"], "language": "de"})
        response.set_cookie("session_id", id)
        return {"welcome": True}

    @app.get("/checkout")
    async def checkout(request: Request) -> Any:
        session = await client.hgetall(f"session:{request.cookies['session_id']}")
        return {"ship_to": {"lines": [session["address"], "Germany"]}}

    return Built(app)


async def _drive_sessions(service: Service) -> list[str]:
    for _ in range(3):

        async def log_in(user: User, round: int) -> None:
            address = f"Holzweg {user.number + 1}, access code {service.minted(user, 'hex')}"
            await service.post(user, "/login", json={"address": address})

        await service.everybody(log_in, rounds=1)
        await _look_everywhere(service, "/checkout", rounds=1)
    return service.proofs


CASES = [
    Case(
        "wire-shared-io-half-read", "shared io", "a connection goes back to its pool with half of a reply unread",
        USERS, _build_half_read, _drive_half_read,
    ),
    Case(
        "wire-shared-io-threads", "shared io", "threads take each other's replies off one socket",
        USERS, _build_threads, _drive_threads,
    ),
    Case(
        "wire-shared-io-cursor", "shared io", "one SQLite cursor serves all requests",
        USERS, _build_cursor, _drive_cursor,
    ),
    Case(
        "wire-shared-io-session-ids", "shared io", "users who log in within one second get one session id",
        USERS, _build_sessions, _drive_sessions, needs=("redis",), parts=redis_server,
    ),
]  # fmt: skip
