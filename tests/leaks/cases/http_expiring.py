"""Answers kept for a short while under a key that forgets the user, an exception that all raise, and a wall of posts for all."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import time
import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from isolation_monitor.telemetry import IsolationMonitor
from tests.leaks.case import Built, Case, User, Users, Variant, mint
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.01))


# --- a cache that expires -------------------------------------------------------------------------------------------

LINK_USERS = Users("expiring-link", ids="uuid")
SIGNING_KEY = b"the signing key of the service"
KEPT_S = 0.4


def signature(user: User) -> str:
    """The value derives from the user: no memory and no database holds it, and no request has brought it."""
    return hmac.new(SIGNING_KEY, user.id.encode(), hashlib.sha256).hexdigest()[:40]


def signatures_are_private(monitor: IsolationMonitor, built: Built) -> None:
    """`@monitor.private` on the function that signs."""
    global signature
    signature = monitor.private(signature)


def build_link(variant: Variant) -> FastAPI:
    """Nobody locks the cache: all who find it expired make their own answer, and the last one's stays."""
    app = FastAPI()
    kept: dict[Any, tuple[float, dict[str, str]]] = {}

    @app.get("/upload-link")
    async def link(request: Request) -> dict[str, str]:
        user = LINK_USERS.of(request)
        key = request.url.path if variant == "buggy" else (request.url.path, user.id)
        until, answer = kept.get(key, (0.0, {}))
        if time.monotonic() > until:
            await latency()
            answer = {"method": "PUT", "url": f"https://files.example/inbox?signature={signature(user)}"}
            kept[key] = (time.monotonic() + KEPT_S, answer)
        return answer

    return app


async def drive_link(service: Service) -> list[str]:
    for user in service.users:
        service.owns(user, signature(user))

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/upload-link"))
        await asyncio.sleep(KEPT_S * 0.4)

    return await service.everybody(ask, rounds=12)


# --- a cache by the section of a page -------------------------------------------------------------------------------

SECTION_USERS = Users("settings-section", ids="int")


def build_section(variant: Variant) -> FastAPI:
    app = FastAPI()
    key_of: dict[str, str] = {}
    cache: dict[tuple[str, str], dict[str, str]] = {}

    @app.post("/enroll")
    async def enroll(request: Request) -> dict[str, str]:
        return {"api_key": key_of.setdefault(SECTION_USERS.of(request).id, str(uuid.uuid4()))}

    @app.get("/settings/{section}")
    async def settings(request: Request, section: str) -> dict[str, str]:
        user = SECTION_USERS.of(request)
        key = (section, "" if variant == "buggy" else user.id)
        if key not in cache:
            await latency()
            cache[key] = {"section": section, "api_key": key_of[user.id]}
        return cache[key]

    return app


async def drive_section(service: Service) -> list[str]:
    async def enroll(user: User, round: int) -> None:
        service.owns(user, (await service.post(user, "/enroll")).json()["api_key"])

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/settings/" + ("builds", "pages")[round % 2]))

    await service.everybody(enroll, rounds=1)
    return await service.everybody(ask, rounds=5)


# --- one exception object for all -----------------------------------------------------------------------------------

REFUSED_USERS = Users("one-exception")


class RefusedError(Exception):
    def __init__(self) -> None:
        super().__init__("refused")
        self.fields: dict[str, str] = {}


def build_refused(variant: Variant) -> FastAPI:
    """Synchronous endpoints, which never answer well; the handler logs before it tells."""
    app = FastAPI()
    shared = RefusedError()

    @app.exception_handler(RefusedError)
    async def tell(request: Request, error: RefusedError) -> JSONResponse:
        await latency()
        return JSONResponse({"error": "refused", "fields": dict(error.fields)}, 422)

    @app.post("/transfers")
    def transfer(request: Request, body: dict[str, str]) -> None:
        REFUSED_USERS.of(request)
        error = shared if variant == "buggy" else RefusedError()
        error.fields.update(iban=body["iban"], reason="limit")
        raise error

    return app


async def drive_refused(service: Service) -> list[str]:
    async def send(user: User, round: int) -> None:
        service.look(user, await service.post(user, "/transfers", json={"iban": service.minted(user, "account")}))

    return await service.everybody(send)


# --- a wall of posts ------------------------------------------------------------------------------------------------

WALL_USERS = Users("clean-wall")
NICKNAMES = ("Sunflower", "Hedgehog", "Comet", "Waffle", "Puffin", "Tram", "Walnut", "Harbour")


def build_wall(variant: Variant) -> FastAPI:
    """Posts for all, signed by nicknames; news that are made anew now and then."""
    app = FastAPI()
    wall: list[dict[str, Any]] = []
    news: dict[str, Any] = {"until": 0.0}

    @app.post("/posts")
    async def say(request: Request, body: dict[str, str]) -> dict[str, Any]:
        user = WALL_USERS.of(request)
        await latency()
        wall.append({"id": len(wall), "text": body["text"], "author": {"name": NICKNAMES[user.number], "badges": []}, "likes": 0})
        return wall[-1]

    @app.get("/posts")
    def read() -> dict[str, Any]:
        return {"posts": wall[-10:], "total": len(wall)}

    @app.get("/news")
    async def latest() -> dict[str, Any]:
        if time.monotonic() > news["until"]:
            await latency()
            news.update(until=time.monotonic() + 0.1, edition=uuid.uuid4().hex)
        return {"edition": news["edition"]}

    return app


async def drive_wall(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        text = f"have a look at {mint('hex')}"
        await service.post(user, "/posts", json={"text": text})
        if "author" not in (await service.get(user, "/posts")).text:
            service.harm("the wall is empty")
        await service.get(user, "/news")

    return await service.everybody(act)


CASES = [
    Case(
        "cache-that-expires",
        "http",
        "A personal answer is kept by its path for a moment: all get the one of whoever made it last.",
        LINK_USERS,
        build_link,
        drive_link,
        annotate=signatures_are_private,
    ),
    Case(
        "cache-by-section",
        "http",
        "Settings are cached by the section of the page: everybody gets the first user's key, which the service made up.",
        SECTION_USERS,
        build_section,
        drive_section,
    ),
    Case(
        "one-exception-for-all",
        "http",
        "One exception object is raised for all: an error tells the fields of who failed last.",
        REFUSED_USERS,
        build_refused,
        drive_refused,
    ),
    Case("clean-wall", "clean", "A public wall of posts, signed by nicknames.", WALL_USERS, build_wall, drive_wall),
]
