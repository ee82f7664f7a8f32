"""Services on the wire without a bug, full of legitimate sharing: rooms, shared pools and clients, one tenant after another."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import redis.asyncio as aredis
from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from tests.leaks.backends import postgres_database, postgres_url, redis_server, redis_url
from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.service import Service
from tests.leaks.tenants import prepare_accounts
from tests.leaks.upstream import upstream, upstream_key

USERS = Users("wire-clean")


# --- rooms over WebSockets with Redis pub/sub -------------------------------------------------------------------------------


def _build_rooms(variant: Variant) -> Built:
    """Everybody in a room reads what its members write, by one subscription per room and one reader for the process."""
    client = aredis.Redis.from_url(redis_url(), decode_responses=True)
    rooms: dict[str, set[WebSocket]] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client.pubsub() as pubsub:
            await pubsub.psubscribe("room:*")

            async def fan_out() -> None:
                async for message in pubsub.listen():
                    if message["type"] == "pmessage":
                        for socket in list(rooms.get(message["channel"].removeprefix("room:"), ())):
                            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                                await socket.send_text(message["data"])

            reading = asyncio.create_task(fan_out())
            yield
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await client.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.websocket("/rooms/{room}")
    async def enter(websocket: WebSocket, room: str) -> None:
        user = USERS.of(websocket)
        await websocket.accept()
        for line in reversed(await client.lrange(f"history:{room}", 0, 19)):
            await websocket.send_text(line)
        rooms.setdefault(room, set()).add(websocket)
        try:
            while True:
                line = json.dumps({"from": user.id, "text": await websocket.receive_text()})
                await client.lpush(f"history:{room}", line)
                await client.publish(f"room:{room}", line)
        except WebSocketDisconnect:
            rooms[room].discard(websocket)

    return Built(app)


async def _drive_rooms(service: Service) -> list[str]:
    """Two rooms; a member who misses a line, or hears the other room, is a harm."""
    heard: dict[str, list[str]] = {user.id: [] for user in USERS}
    said: dict[str, list[str]] = {"even": [], "odd": []}

    def room_of(user: User) -> str:
        return "odd" if user.number % 2 else "even"

    async def listen(user: User, connection: Any) -> None:
        with contextlib.suppress(Exception):
            async for frame in connection:
                heard[user.id].append(json.loads(frame)["text"])

    async with contextlib.AsyncExitStack() as stack:
        connections = [(user, await stack.enter_async_context(service.socket(user, f"/rooms/{room_of(user)}"))) for user in USERS]
        listeners = [asyncio.create_task(listen(user, connection)) for user, connection in connections]
        for _ in range(3):
            for user, connection in connections:
                line = f"My parcel {service.minted(user, 'token')} has not come yet, has yours?"
                said[room_of(user)].append(line)
                await connection.send(line)
            await asyncio.sleep(0.1)
        for _ in range(100):
            if all(len(heard[user.id]) >= len(said[room_of(user)]) for user in USERS):
                break
            await asyncio.sleep(0.1)
    await asyncio.gather(*listeners)
    for user in USERS:
        if set(heard[user.id]) - set(said[room_of(user)]):
            service.harm(f"u{user.number} heard a line of the other room")
        if set(said[room_of(user)]) - set(heard[user.id]):
            service.harm(f"u{user.number} missed a line of the own room")
    return service.proofs


# --- tenants in PostgreSQL, rightly scoped -------------------------------------------------------------------------------------


def _build_tenants(variant: Variant) -> Built:
    """Every unit of work names its tenant with SET LOCAL, on an asyncpg pool and on an SQLAlchemy engine."""
    engine = create_async_engine(postgres_url("asyncpg"), pool_size=2, max_overflow=1)
    sessions = async_sessionmaker(engine)
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        prepare_accounts(USERS, "account", "account")
        async with asyncpg.create_pool(postgres_url(), min_size=1, max_size=3) as pool:
            state["pool"] = pool
            yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/accounts")
    async def accounts(request: Request) -> Any:
        async with state["pool"].acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('app.tenant', $1, true)", USERS.of(request).id)
            return [dict(row) for row in await connection.fetch("SELECT id, number FROM accounts")]

    @app.get("/accounts/orm")
    async def through_sqlalchemy(request: Request) -> Any:
        async with sessions.begin() as session:
            await session.execute(text("SELECT set_config('app.tenant', :tenant, true)"), {"tenant": USERS.of(request).id})
            return [row.number for row in await session.execute(text("SELECT number FROM accounts"))]

    @app.post("/accounts")
    async def add(request: Request) -> Any:
        user, content = USERS.of(request), await request.json()
        async with sessions.begin() as session:
            await session.execute(text("SELECT set_config('app.tenant', :tenant, true)"), {"tenant": user.id})
            await session.execute(
                text("INSERT INTO accounts (tenant, number) VALUES (:tenant, :number)"), {"tenant": user.id, "number": content["number"]}
            )
            if content["number"].endswith("x"):
                raise HTTPException(422, "no such number")
        return {"added": True}

    return Built(app, engine)


async def _drive_tenants(service: Service) -> list[str]:
    service.own_values("account", "account")

    async def work(user: User, round: int) -> None:
        number = service.minted(user, "hex") + ("x" if (user.number + round) % 4 == 0 else "")
        await service.post(user, "/accounts", json={"number": number})
        for path in ("/accounts", "/accounts/orm"):
            answer = await service.get(user, path)
            service.look(user, answer)
            if user.value("account", "account") not in answer.text:
                service.harm(f"u{user.number} did not get the own account")

    return await service.everybody(work, rounds=4)


# --- shared clients, rightly used --------------------------------------------------------------------------------------------------


def _build_shared_clients(variant: Variant) -> Built:
    """One HTTP client and one Redis pool for all: credentials per call, keys by user, a public value cached for everybody."""
    pool = aredis.BlockingConnectionPool.from_url(redis_url(), max_connections=4, decode_responses=True)
    client = aredis.Redis.from_pool(pool)
    state: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with upstream(USERS, "bank", "uuid") as url:
            async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
                state["http"] = http
                yield
        await client.aclose()

    app = FastAPI(lifespan=lifespan)

    async def cached(key: str, load: Any) -> Any:
        if (found := await client.get(key)) is not None:
            return json.loads(found)
        value = await load()
        await client.set(key, json.dumps(value), ex=30)
        return value

    @app.get("/overview")
    async def overview(request: Request) -> Any:
        user, http = USERS.of(request), state["http"]

        async def rates() -> Any:
            return (await http.get("/rates")).json()

        async def account() -> Any:
            return (await http.get("/account", headers={"Authorization": f"Bearer {upstream_key(user)}"})).json()

        async with client.pipeline(transaction=True) as pipeline:
            visits = await pipeline.incr(f"visits:{user.id}").incr("visits").execute()
        return {"rates": await cached("rates", rates), **await cached(f"account:{user.id}", account), "visits": visits[0]}

    @app.get("/inbox/next")
    async def next_message(request: Request) -> Any:
        # A timeout cancels the command in flight; redis-py then closes that connection itself.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                return {"message": await client.blpop([f"inbox:{USERS.of(request).id}"], timeout=1)}
        return {"message": None}

    return Built(app)


async def _drive_shared_clients(service: Service) -> list[str]:
    service.own_values("bank", "uuid")

    async def look(user: User, round: int) -> None:
        answer = await service.get(user, "/overview")
        service.look(user, answer)
        if user.value("bank", "uuid") not in answer.text:
            service.harm(f"u{user.number} did not get the own account")
        if user.number < 2:
            service.look(user, await service.get(user, "/inbox/next"))

    return await service.everybody(look, rounds=4)


CASES = [
    Case(
        "wire-clean-rooms", "clean", "chat rooms over WebSockets with Redis pub/sub and a history",
        USERS, _build_rooms, _drive_rooms, needs=("redis", "websockets"), parts=redis_server,
    ),
    Case(
        "wire-clean-tenants", "clean", "row-level security with SET LOCAL in every transaction",
        USERS, _build_tenants, _drive_tenants, needs=("asyncpg", "sqlalchemy"), parts=postgres_database,
    ),
    Case(
        "wire-clean-shared-clients", "clean", "one HTTP client and one Redis pool, credentials and keys per user",
        USERS, _build_shared_clients, _drive_shared_clients, needs=("redis", "httpx"), parts=redis_server,
    ),
]  # fmt: skip
