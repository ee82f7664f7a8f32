"""Bugs around Redis: replies read by the wrong caller, shared pipelines and subscriptions, keys and databases of somebody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import redis.asyncio as aredis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from isolation_monitor.telemetry import IsolationMonitor
from tests.leaks.backends import redis_server, redis_url
from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.redis_client import RedisClient
from tests.leaks.service import Service

USERS = Users("wire-redis")


# --- a pooled connection desynchronised by a cancelled command ---------------------------------------------------------


def _build_own_client(variant: Variant) -> Built:
    """Profiles in Redis, and a long poll for messages that gives up after a moment."""
    client = RedisClient(redis_url(), size=2, discards_cancelled=variant == "fixed")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        for user in USERS:
            await client.execute("SET", f"profile:{user.id}", json.dumps({"iban": user.value("iban", "account"), "plan": "pro"}))
        yield
        await client.close()

    async def next_message(request: Request) -> Response:
        try:
            reply = await asyncio.wait_for(client.execute("BLPOP", f"inbox:{USERS.of(request).id}", "0.2"), timeout=0.03)
        except TimeoutError:
            return Response(status_code=204)
        return JSONResponse({"message": reply})

    async def profile(request: Request) -> Response:
        reply = await client.execute("GET", f"profile:{USERS.of(request).id}")
        return PlainTextResponse(str(reply), media_type="application/json")

    return Built(Starlette(routes=[Route("/messages/next", next_message), Route("/profile", profile)], lifespan=lifespan))


async def _drive_own_client(service: Service) -> list[str]:
    service.own_values("iban", "account")

    async def read_profile(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/profile"))

    for impatient in (USERS[0], USERS[1]):
        for _ in range(2):
            await service.get(impatient, "/messages/next")
        await service.everybody(read_profile, rounds=3)
    return service.proofs


# --- one pipeline object for all requests --------------------------------------------------------------------------------


def _build_pipeline(variant: Variant) -> Built:
    """Each request queues its reads on a pipeline and executes it after a look at the quota."""
    client = aredis.Redis.from_url(redis_url(), decode_responses=True, socket_timeout=0.3)
    shared, executing = client.pipeline(transaction=False), asyncio.Lock()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        for user in USERS:
            await client.hset(f"wallet:{user.id}", mapping={"card": user.value("card", "base32"), "currency": "EUR"})
        yield
        await client.aclose()

    async def wallet(request: Request) -> Response:
        pipeline = shared if variant == "buggy" else client.pipeline(transaction=False)
        pipeline.incr("hits")
        pipeline.hgetall(f"wallet:{USERS.of(request).id}")
        await client.get("quota")
        async with executing:
            try:
                results = await pipeline.execute()
            except aredis.RedisError:
                results = []
        if not results:
            return JSONResponse({"detail": "try again"}, status_code=503)
        return JSONResponse({"wallet": results[-1]})

    return Built(Starlette(routes=[Route("/wallet", wallet)], lifespan=lifespan))


async def _drive_pipeline(service: Service) -> list[str]:
    service.own_values("card", "base32")

    async def look(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/wallet"))

    return await service.everybody(look, rounds=12)


# --- one PubSub object for all long polls --------------------------------------------------------------------------------


def _build_pubsub(variant: Variant) -> Built:
    """Long polls wait for the user's channel: on the one PubSub object of the process, or on one of their own."""
    client = aredis.Redis.from_url(redis_url(), decode_responses=True)
    shared, reading = client.pubsub(), asyncio.Lock()
    parts: dict[str, Any] = {"seal": str, "unseal": str}

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await shared.aclose()
        await client.aclose()

    async def first_message(pubsub: Any) -> list[str]:
        deadline = asyncio.get_running_loop().time() + 0.5
        while asyncio.get_running_loop().time() < deadline:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1)
            if message is not None:
                return [parts["unseal"](message["data"])]
        return []

    async def poll(request: Request) -> Response:
        channel = f"notices:{USERS.of(request).id}"
        if variant == "buggy":
            # The lock stops two coroutines from reading one socket at once, which is all that the error message asks for.
            async with reading:
                await shared.subscribe(channel)
                return JSONResponse({"notices": await first_message(shared)})
        async with client.pubsub() as pubsub:
            await pubsub.subscribe(channel)
            return JSONResponse({"notices": await first_message(pubsub)})

    async def publish(request: Request) -> Response:
        listeners = await client.publish(f"notices:{USERS.of(request).id}", parts["seal"]((await request.body()).decode()))
        return JSONResponse({"listeners": listeners})

    return Built(Starlette(routes=[Route("/notices", poll), Route("/notices", publish, methods=["POST"])], lifespan=lifespan), parts=parts)


def _seal_notices(monitor: IsolationMonitor, built: Built) -> None:
    """`monitor.seal` where a notice is published, `monitor.unseal` where it is heard."""
    built.parts["seal"], built.parts["unseal"] = monitor.seal, monitor.unseal


async def _drive_pubsub(service: Service) -> list[str]:
    async def notified(user: User) -> None:
        """Publish until somebody listens: before its poll has subscribed, nobody hears a user's notice."""
        value = service.minted(user, "uuid")
        for _ in range(50):
            if (await service.post(user, "/notices", content=value)).json()["listeners"]:
                return
            await asyncio.sleep(0.02)

    async def poll(user: User) -> None:
        service.look(user, await service.get(user, "/notices"))

    for first, second in ((0, 1), (2, 3), (4, 5)):
        await asyncio.gather(poll(USERS[first]), notified(USERS[first]))
        # In the buggy service the first user's subscription is still there, and this poll hears it too.
        await asyncio.gather(poll(USERS[second]), notified(USERS[first]))
    return service.proofs


# --- a cache key without the user ----------------------------------------------------------------------------------------


def _build_cache_key(variant: Variant) -> Built:
    """A cache in front of an expensive page."""
    client = aredis.Redis.from_url(redis_url())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    async def dashboard(request: Request) -> Response:
        user = USERS.of(request)
        key = f"page:{request.url.path}" if variant == "buggy" else f"page:{request.url.path}:{user.id}"
        if (page := await client.get(key)) is None:
            await asyncio.sleep(0.005)
            tiles = [{"title": "Revenue", "ref": user.value("revenue", "token")}, {"title": "Orders", "ref": user.value("orders")}]
            page = json.dumps({"dashboard": {"tiles": tiles}}).encode()
            await client.set(key, page, ex=30)
        return Response(page, media_type="application/json")

    return Built(Starlette(routes=[Route("/dashboard", dashboard)], lifespan=lifespan))


async def _drive_cache_key(service: Service) -> list[str]:
    service.own_values("revenue", "token")
    service.own_values("orders")

    async def look(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/dashboard"))

    return await service.everybody(look, rounds=4)


# --- SELECT left behind on a pooled connection ---------------------------------------------------------------------------


def _build_select(variant: Variant) -> Built:
    """Tenants with a database of their own select it; everybody else reads the defaults of database 0."""
    pool = aredis.ConnectionPool.from_url(redis_url(), max_connections=8, decode_responses=True)
    client = aredis.Redis(connection_pool=pool)
    own_database = {USERS[n].id: n + 1 for n in range(3)}

    async def command(connection: Any, *words: str) -> Any:
        await connection.send_command(*words)
        return await connection.read_response()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await client.set("settings", json.dumps({"theme": "light"}))
        for user_id, number in own_database.items():
            key = USERS.by_id[user_id].value("webhook", "hex")
            async with aredis.Redis.from_url(redis_url().replace("/0", f"/{number}")) as theirs:
                await theirs.set("settings", json.dumps({"theme": "dark", "webhook_key": key}))
        yield
        await pool.aclose()

    async def settings(request: Request) -> Response:
        number = own_database.get(USERS.of(request).id)
        if number is None:
            return Response(await client.get("settings"), media_type="application/json")
        connection = await pool.get_connection()
        try:
            await command(connection, "SELECT", str(number))
            found = await command(connection, "GET", "settings")
            if variant == "fixed":
                await command(connection, "SELECT", "0")
        finally:
            await pool.release(connection)
        return Response(found, media_type="application/json")

    return Built(Starlette(routes=[Route("/settings", settings)], lifespan=lifespan))


async def _drive_select(service: Service) -> list[str]:
    service.own_values("webhook")

    async def look(user: User) -> None:
        service.look(user, await service.get(user, "/settings"))

    for _ in range(3):
        await asyncio.gather(*(look(USERS[n]) for n in range(3)))
        await asyncio.gather(*(look(USERS[n]) for n in range(3, 8)))
    return service.proofs


def _case(name: str, summary: str, build: Any, drive: Any) -> Case:
    return Case(f"wire-redis-{name}", "redis", summary, USERS, build, drive, needs=("redis",), parts=redis_server)


CASES = [
    _case(
        "cancelled-command",
        "a timeout cancels a command, and its unread reply goes to the connection's next borrower",
        _build_own_client,
        _drive_own_client,
    ),
    _case("shared-pipeline", "one pipeline object collects the commands of all requests", _build_pipeline, _drive_pipeline),
    replace(
        _case("shared-pubsub", "long polls of all users read from one PubSub object", _build_pubsub, _drive_pubsub),
        annotate=_seal_notices,
    ),
    _case("cache-key", "the key of the cached page lacks the user", _build_cache_key, _drive_cache_key),
    _case("select-left", "SELECT of a tenant's database stays on the pooled connection", _build_select, _drive_select),
]
