"""Objects of the first user that stay for everybody, and agents' events that go to a name which everybody has.

Found in the field: settings that a class reads once, sessions of one HTTP client for all users, a thread called `default`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import random
import secrets
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from http.cookies import SimpleCookie
from typing import Any

import httpx
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect

from tests.leaks.case import Case, User, Users, Variant
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.002, 0.015))


# --- settings that a class reads once ---------------------------------------------------------------------------------

MAIL_USERS = Users("first-mailer")


def build_mailer(variant: Variant) -> FastAPI:
    app = FastAPI()
    app.state.rows = rows = {user.id: {"host": "mail.example.org", "password": user.value("smtp", "token")} for user in MAIL_USERS}

    class Mailer:
        settings: dict[str, str] | None = None

        async def configured(self, user: User) -> dict[str, str]:
            await latency()
            if variant == "fixed":
                return rows[user.id]
            Mailer.settings = Mailer.settings or rows[user.id]
            return Mailer.settings

    mailer = Mailer()

    @app.get("/mail")
    async def mail(request: Request) -> dict[str, str]:
        return await mailer.configured(MAIL_USERS.of(request))

    return app


async def drive_mailer(service: Service) -> list[str]:
    service.own_values("smtp", "token")

    async def act(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/mail"))

    return await service.everybody(act)


# --- one client, and the cookie of whoever logged in last -------------------------------------------------------------

BANK_USERS = Users("first-cookie-jar")


@contextlib.contextmanager
def bank() -> Iterator[Mapping[str, str]]:
    """An upstream that gives a session for the user's own token, and his account for the session."""
    users: dict[str, User] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            user = BANK_USERS.by_token[json.loads(self.rfile.read(int(self.headers["Content-Length"])))["token"]]
            session = secrets.token_hex(8)
            users[session] = user
            self._answer({"welcome": True}, f"sid={session}; Path=/")

        def do_GET(self) -> None:
            user = users[SimpleCookie(self.headers["Cookie"])["sid"].value]
            self._answer({"iban": user.value("iban", "account")})

        def _answer(self, body: Any, cookie: str = "") -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            if cookie:
                self.send_header("Set-Cookie", cookie)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {"LEAK_BANK_URL": f"http://127.0.0.1:{server.server_address[1]}"}
        finally:
            server.shutdown()


def build_bank(variant: Variant) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with make() as app.state.client:
            yield

    def make() -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=os.environ["LEAK_BANK_URL"], trust_env=False)

    app = FastAPI(lifespan=lifespan)

    @app.get("/account")
    async def account(request: Request) -> Any:
        user = BANK_USERS.of(request)
        async with contextlib.AsyncExitStack() as stack:
            client = app.state.client if variant == "buggy" else await stack.enter_async_context(make())
            await client.post("/login", json={"token": user.token})
            await latency()
            return (await client.get("/account")).json()

    return app


async def drive_bank(service: Service) -> list[str]:
    service.own_values("iban", "account")

    async def act(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/account"))

    return await service.everybody(act)


# --- runs in tasks, and the thread that everybody has -----------------------------------------------------------------

THREAD_USERS = Users("first-thread")


def build_threads(variant: Variant) -> FastAPI:
    app = FastAPI()
    socket_of: dict[str, WebSocket] = {}
    running: set[asyncio.Task[None]] = set()

    async def run(user: User, thread: str) -> None:
        for event in ("agent_started", "agent_completed"):
            await latency()
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await socket_of[thread].send_text(json.dumps({"type": event, "summary": user.value("summary", "uuid")}))

    @app.websocket("/ws")
    async def listen(socket: WebSocket) -> None:
        user = THREAD_USERS.of(socket)
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                thread = json.loads(await socket.receive_text()).get("thread") or ("default" if variant == "buggy" else user.id)
                socket_of[thread] = socket
                task = asyncio.create_task(run(user, thread))
                running.add(task)
                task.add_done_callback(running.discard)

    return app


async def drive_threads(service: Service) -> list[str]:
    service.own_values("summary", "uuid")

    async def act(user: User, round: int) -> None:
        async with service.socket(user, "/ws") as socket:
            for _ in range(2):
                await latency()
                await socket.send(json.dumps({"text": "triage"}))
                with contextlib.suppress(asyncio.TimeoutError):
                    for _ in range(2):
                        service.look(user, await asyncio.wait_for(socket.recv(), 0.2), "a frame")

    return await service.everybody(act, rounds=4)


CASES = [
    Case(
        "settings-of-the-first",
        "state",
        "A class keeps the settings that it read for its first user: everybody mails with his password.",
        MAIL_USERS,
        build_mailer,
        drive_mailer,
    ),
    Case(
        "cookie-jar-of-the-last",
        "state",
        "One HTTP client keeps the session of whoever logged in last: another's call is answered with his account.",
        BANK_USERS,
        build_bank,
        drive_bank,
        parts=bank,
    ),
    Case(
        "run-in-the-default-thread",
        "socket",
        "Runs without a thread go by the name `default`, to whose socket said so last.",
        THREAD_USERS,
        build_threads,
        drive_threads,
    ),
]
