"""Caches with a key that forgets the user, and cached objects that requests change."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import json
import random
import sqlite3
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.applications import Starlette
from starlette.routing import Route

from tests.leaks.case import Built, Case, User, Users, Variant, store_is_private
from tests.leaks.service import Service

if TYPE_CHECKING:
    from isolation_monitor.telemetry import IsolationMonitor


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.012))


async def drive_get(service: Service, *paths: str, rounds: int = 5) -> list[str]:
    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, paths[(round + user.number) % len(paths)]))

    return await service.everybody(ask, rounds)


# --- a dict keyed by the question -----------------------------------------------------------------------------------

QUESTION_USERS = Users("cache-by-question")


def build_by_question(variant: Variant) -> FastAPI:
    app = FastAPI()
    cache: dict[Any, dict[str, Any]] = {}

    @app.get("/search")
    async def search(request: Request, q: str) -> dict[str, Any]:
        user = QUESTION_USERS.of(request)
        key = q if variant == "buggy" else (user.id, q)
        if key not in cache:
            await latency()
            cache[key] = {"hits": [{"title": q, "document": user.value(f"doc-{q}", "uuid")}], "total": 1}
        return cache[key]

    return app


async def drive_by_question(service: Service) -> list[str]:
    questions = ["invoices", "payslips", "letters", "contracts"]
    for question in questions:
        service.own_values(f"doc-{question}", "uuid")
    return await drive_get(service, *(f"/search?q={question}" for question in questions))


# --- a middleware that caches by path -------------------------------------------------------------------------------

PATH_USERS = Users("cache-by-path", ids="uuid")
SIGNING_KEY = b"a key of the service"


def feed_address(user: User) -> str:
    return hmac.new(SIGNING_KEY, user.id.encode(), hashlib.sha256).hexdigest()[:32]


def addresses_are_private(monitor: IsolationMonitor, built: Built) -> None:
    """`@monitor.private` on the function that makes them."""
    global feed_address
    feed_address = monitor.private(feed_address)


def build_by_path(variant: Variant) -> Any:
    async def me(request: Request) -> Response:
        await latency()
        user = PATH_USERS.of(request)
        return JSONResponse({"calendar": {"feed": f"https://cal.example/{feed_address(user)}.ics", "kind": "private"}})

    inner = Starlette(routes=[Route("/me/calendar", me)])
    cache: dict[Any, list[dict[str, Any]]] = {}

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        """An HTTP cache in front of the application, as a plain ASGI wrapper."""
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        key: Any = scope["path"]
        if variant == "fixed":
            key = (key, next((value for name, value in scope["headers"] if name == b"authorization"), b""))
        if key not in cache:
            kept: list[dict[str, Any]] = []

            async def keep(message: dict[str, Any]) -> None:
                kept.append(message)

            await inner(scope, receive, keep)
            cache[key] = kept
        for message in cache[key]:
            await send(message)

    return app


async def drive_by_path(service: Service) -> list[str]:
    for user in service.users:
        service.owns(user, feed_address(user))
    return await drive_get(service, "/me/calendar")


# --- lru_cache on a lookup that finds the user elsewhere ------------------------------------------------------------

LRU_USERS = Users("lru-lookup", ids="int")


def build_lru(variant: Variant) -> FastAPI:
    app = FastAPI()
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE TABLE accounts (owner TEXT, year INTEGER, statement TEXT)")
    for user in LRU_USERS:
        database.executemany("INSERT INTO accounts VALUES (?, ?, ?)", [(user.id, y, user.value(f"s{y}", "base32")) for y in (2024, 2025)])

    def read_statement(owner: str, year: int) -> str:
        row = database.execute("SELECT statement FROM accounts WHERE owner = ? AND year = ?", (owner, year)).fetchone()
        return str(row[0])

    app.state.read_statement = read_statement

    class Statements:
        """One per request; hashed alike for all of them, because `__eq__` compares the database only."""

        def __init__(self, owner: str) -> None:
            self.owner = owner

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Statements) and (variant == "buggy" or self.owner == other.owner)

        def __hash__(self) -> int:
            return hash("statements" if variant == "buggy" else self.owner)

        @functools.lru_cache(maxsize=64)  # noqa: B019 - as found in the field
        def of_year(self, year: int) -> str:
            statement: str = app.state.read_statement(self.owner, year)
            return statement

    @app.get("/statements/{year}")
    async def statements(request: Request, year: int) -> Response:
        user = LRU_USERS.of(request)
        await latency()
        return Response(
            f"date;reference\n{year}-12-31;{Statements(user.id).of_year(year)}\n",
            media_type="text/csv",
            headers={"Content-Disposition": f"attachment; filename=statement-{year}.csv"},
        )

    return app


def statements_are_private(monitor: IsolationMonitor, built: Built) -> None:
    """`@monitor.private` on the function that reads them, below the cache."""
    built.app.state.read_statement = monitor.private(built.app.state.read_statement)


async def drive_lru(service: Service) -> list[str]:
    for year in (2024, 2025):
        service.own_values(f"s{year}", "base32")
    return await drive_get(service, "/statements/2024", "/statements/2025")


# --- single flight keyed by the route -------------------------------------------------------------------------------

FLIGHT_USERS = Users("single-flight")


def build_single_flight(variant: Variant) -> FastAPI:
    app = FastAPI()
    flying: dict[str, asyncio.Task[dict[str, str]]] = {}

    async def load_quota(user: User) -> dict[str, str]:
        await latency()
        return {"contract": user.value("contract", "uuid"), "left": "12 GB"}

    async def coalesced(key: str, user: User) -> dict[str, str]:
        task = flying.get(key)
        if task is None:
            task = flying[key] = asyncio.create_task(load_quota(user))
            task.add_done_callback(lambda _: flying.pop(key, None))
        return await asyncio.shield(task)

    @app.get("/quota")
    async def quota(request: Request) -> dict[str, str]:
        user = FLIGHT_USERS.of(request)
        return await coalesced("quota" if variant == "buggy" else f"quota:{user.id}", user)

    return app


async def drive_single_flight(service: Service) -> list[str]:
    service.own_values("contract", "uuid")
    return await drive_get(service, "/quota", rounds=8)


# --- a cached response object that each request changes ------------------------------------------------------------

COOKIE_USERS = Users("cached-response")


def build_cached_response(variant: Variant) -> FastAPI:
    app = FastAPI()
    landing = JSONResponse({"title": "Welcome", "links": ["/help", "/about"]})

    @app.get("/landing")
    async def page(request: Request) -> Response:
        user = COOKIE_USERS.of(request)
        response = landing if variant == "buggy" else JSONResponse(json.loads(bytes(landing.body)))
        response.set_cookie("csrf", user.value("csrf", "hex"))
        await latency()
        return response

    return app


async def drive_cached_response(service: Service) -> list[str]:
    service.own_values("csrf", "hex")
    return await drive_get(service, "/landing")


# --- a cache key that is cut short ----------------------------------------------------------------------------------

TENANT_USERS = Users("tenant-key", ids="uuid")


def build_tenant_key(variant: Variant) -> FastAPI:
    """Users belong to two tenants; the dashboard is personal, but its cache key names the tenant only."""
    app = FastAPI()
    cache: dict[str, bytes] = {}

    @app.get("/dashboard")
    async def dashboard(request: Request) -> Response:
        user = TENANT_USERS.of(request)
        key = f"dash:tenant-{user.number % 2}" + ("" if variant == "buggy" else f":{user.id}")
        if key not in cache:
            await latency()
            tiles = [{"kind": "salary", "value": user.value("salary", "account")}, {"kind": "news", "value": "The canteen is open"}]
            cache[key] = json.dumps({"tiles": tiles, "layout": [[0, 1]]}).encode()
        return Response(cache[key], media_type="application/json")

    return app


async def drive_tenant_key(service: Service) -> list[str]:
    service.own_values("salary", "account")
    return await drive_get(service, "/dashboard")


CASES = [
    Case(
        "cache-by-question",
        "state",
        "Search results are cached by the question alone: the second user gets the first one's documents.",
        QUESTION_USERS,
        build_by_question,
        drive_by_question,
        annotate=store_is_private,
    ),
    Case(
        "cache-by-path-middleware",
        "state",
        "A caching middleware keys personal answers by their path: everybody gets the first user's.",
        PATH_USERS,
        build_by_path,
        drive_by_path,
        annotate=addresses_are_private,
    ),
    Case(
        "lru-cache-equal-selves",
        "state",
        "lru_cache on a method of objects that all compare equal: the first owner's row is served to all.",
        LRU_USERS,
        build_lru,
        drive_lru,
        annotate=statements_are_private,
    ),
    Case(
        "single-flight-by-route",
        "state",
        "Requests at the same time are coalesced by route: all who wait get the answer of the one that flew.",
        FLIGHT_USERS,
        build_single_flight,
        drive_single_flight,
        annotate=store_is_private,
    ),
    Case(
        "cached-response-cookies",
        "state",
        "One response object is kept and each request adds its cookie: clients collect the cookies of others.",
        COOKIE_USERS,
        build_cached_response,
        drive_cached_response,
        annotate=store_is_private,
    ),
    Case(
        "cache-by-tenant",
        "state",
        "A personal dashboard is cached under its tenant's key: colleagues see each other's.",
        TENANT_USERS,
        build_tenant_key,
        drive_tenant_key,
        annotate=store_is_private,
    ),
]
