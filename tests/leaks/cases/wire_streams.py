"""Bugs around streams and channels: server-sent events of the wrong queue, subscriptions too broad, a `send` of another request."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import redis.asyncio as aredis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.leaks.backends import redis_server, redis_url
from tests.leaks.case import Built, Case, User, Users, Variant
from tests.leaks.service import Service

USERS = Users("wire-streams", ids="int")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@contextlib.asynccontextmanager
async def _reading(service: Service, users: list[User], path: str) -> AsyncIterator[None]:
    """Hold a stream open for each user and look at all its lines; the block starts when all streams have sent their first."""
    opened = {user.id: asyncio.Event() for user in users}

    async def read(user: User) -> None:
        async with service.client(user).stream("GET", path) as answer:
            async for line in answer.aiter_lines():
                opened[user.id].set()
                service.look(user, line, "a line of a stream")

    readers = [asyncio.create_task(read(user)) for user in users]
    for event in opened.values():
        await asyncio.wait_for(event.wait(), 20)
    yield
    await asyncio.sleep(0.15)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


# --- server-sent events: queues by client address ---------------------------------------------------------------------------


def _build_events_by_address(variant: Variant) -> Built:
    """Each stream has a queue, found by the client's address: behind a proxy, everybody's is the same."""
    queues: dict[str, asyncio.Queue[str]] = {}

    def key(request: Request) -> str:
        user = USERS.of(request)
        assert request.client is not None
        return request.client.host if variant == "buggy" else user.id

    async def events(request: Request) -> Response:
        queue = queues.setdefault(key(request), asyncio.Queue())

        async def lines() -> AsyncIterator[str]:
            yield ": connected\n\n"
            while True:
                yield f"event: progress\ndata: {await queue.get()}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def upload(request: Request) -> Response:
        user = USERS.of(request)
        queue = queues.setdefault(key(request), asyncio.Queue())
        for percent in (50, 100):
            queue.put_nowait(json.dumps({"percent": percent, "file": {"link": f"/files/{user.value('file', 'token')}"}}))
        return JSONResponse({"uploaded": True})

    return Built(Starlette(routes=[Route("/events", events), Route("/uploads", upload, methods=["POST"])]))


async def _drive_events(service: Service) -> list[str]:
    service.own_values("file", "token")
    async with _reading(service, list(USERS), "/events"):

        async def upload(user: User, round: int) -> None:
            await service.client(user).post("/uploads")

        await service.everybody(upload, rounds=2)
    return service.proofs


# --- Redis pub/sub: a pattern that matches more than the user's channel -----------------------------------------------------


def _build_pattern(variant: Variant) -> Built:
    """A socket follows its user's channels, `user:<id>:*`; the bug is the missing id, "filtered by the client anyway"."""
    client = aredis.Redis.from_url(redis_url(), decode_responses=True)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    async def follow(websocket: WebSocket) -> None:
        user = USERS.of(websocket)
        async with client.pubsub() as pubsub:
            await pubsub.psubscribe("user:*" if variant == "buggy" else f"user:{user.id}:*")
            await pubsub.get_message(timeout=1)
            await websocket.accept()

            async def forward() -> None:
                async for message in pubsub.listen():
                    if message["type"] == "pmessage":
                        await websocket.send_text(message["data"])

            forwarding = asyncio.create_task(forward())
            with contextlib.suppress(WebSocketDisconnect):
                while True:
                    await websocket.receive_text()
            forwarding.cancel()
            await asyncio.gather(forwarding, return_exceptions=True)

    async def mail(request: Request) -> Response:
        user, body = USERS.of(request), await request.json()
        await client.publish(
            f"user:{user.id}:mail", json.dumps({"mail": {"subject": "Your code", "text": f"It is {body['code']}, keep it."}})
        )
        return JSONResponse({"sent": True})

    routes = [WebSocketRoute("/follow", follow), Route("/mail", mail, methods=["POST"])]
    return Built(Starlette(routes=routes, lifespan=lifespan))


async def _drive_pattern(service: Service) -> list[str]:
    async def listen(user: User, connection: Any) -> None:
        with contextlib.suppress(Exception):
            async for frame in connection:
                service.look(user, frame, "a frame")

    async with contextlib.AsyncExitStack() as stack:
        connections = [(user, await stack.enter_async_context(service.socket(user, "/follow"))) for user in USERS]
        listeners = [asyncio.create_task(listen(user, connection)) for user, connection in connections]

        async def send(user: User, round: int) -> None:
            await service.post(user, "/mail", json={"code": service.minted(user, "base32")})

        await service.everybody(send, rounds=2)
        await asyncio.sleep(0.15)
    await asyncio.gather(*listeners)
    return service.proofs


# --- plain ASGI: the application object keeps the request it serves ---------------------------------------------------------


class _Endpoint:
    """A plain ASGI application that keeps what it serves on itself, as class-based handlers of one request may."""

    def __init__(self) -> None:
        self.scope: Message = {}
        self.send: Send | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scope, self.send = scope, send
        await receive()
        await asyncio.sleep(0.005)
        user = USERS.of_scope(self.scope)
        if user is None:
            return await self.answer(send, 401, "who are you?")
        return await self.answer(
            send, 200, f"<html><body><p>Your insurance number is <b>{user.value('insurance', 'account')}</b></p></body></html>"
        )

    @staticmethod
    async def answer(send: Send, status: int, page: str) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/html; charset=utf-8")]})
        await send({"type": "http.response.body", "body": page.encode()})


def _build_endpoint(variant: Variant) -> Built:
    singleton = _Endpoint()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} here")
        await (singleton if variant == "buggy" else _Endpoint())(scope, receive, send)

    return Built(app)


async def _drive_endpoint(service: Service) -> list[str]:
    service.own_values("insurance", "account")

    async def look(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/insurance"))

    return await service.everybody(look, rounds=6)


# --- a reader of a line protocol whose answers are matched by order ----------------------------------------------------------


class _Multiplexed:
    """One connection to a backend, many waiting calls: answers come in the order they are ready, and carry the call's number."""

    def __init__(self, matches_numbers: bool) -> None:
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._matches_numbers = matches_numbers
        self._count = 0
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, port: int) -> asyncio.Task[None]:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        return asyncio.create_task(self._read(reader))

    async def call(self, account: str) -> str:
        assert self._writer is not None
        self._count += 1
        number = self._count
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(f"{number} {account}\n".encode())
        return await self._waiting[number]

    async def close(self) -> None:
        assert self._writer is not None
        self._writer.close()
        await self._writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            number, _, answer = line.decode().rstrip("\n").partition(" ")
            # Older backends answered in order, so the first call that waits was the right one.
            key = int(number) if self._matches_numbers else next(iter(self._waiting))
            self._waiting.pop(key).set_result(answer)


def _build_multiplexed(variant: Variant) -> Built:
    """A ledger behind one TCP connection; it answers short accounts before long ones."""
    ledger = _Multiplexed(matches_numbers=variant == "fixed")

    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def answer(number: str, account: str) -> None:
            user = USERS.by_id[account]
            await asyncio.sleep(0.004 * (8 - user.number))
            writer.write(f"{number} {user.value('ledger', 'uuid')}\n".encode())

        async with asyncio.TaskGroup() as group:
            async for line in reader:
                number, account = line.decode().split()
                group.create_task(answer(number, account))
        writer.close()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        server = await asyncio.start_server(backend, "127.0.0.1", 0)
        reading = await ledger.open(server.sockets[0].getsockname()[1])
        yield
        await ledger.close()
        await reading
        server.close()

    async def balance(request: Request) -> Response:
        found = await ledger.call(USERS.of(request).id)
        return JSONResponse({"ledger": {"entries": [{"entry": found}]}})

    return Built(Starlette(routes=[Route("/balance", balance)], lifespan=lifespan))


async def _drive_multiplexed(service: Service) -> list[str]:
    service.own_values("ledger", "uuid")

    async def look(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/balance"))

    return await service.everybody(look, rounds=5)


CASES = [
    Case(
        "wire-streams-events-by-address", "streams", "queues of server-sent events are found by the client's address",
        USERS, _build_events_by_address, _drive_events,
    ),
    Case(
        "wire-streams-broad-pattern", "streams", "a socket subscribes to the channels of all users",
        USERS, _build_pattern, _drive_pattern, needs=("redis", "websockets"), parts=redis_server,
    ),
    Case(
        "wire-streams-self-scope", "streams", "a plain ASGI application keeps scope and send on itself",
        USERS, _build_endpoint, _drive_endpoint,
    ),
    Case(
        "wire-streams-answers-by-order", "streams", "answers on one backend connection are matched by order instead of number",
        USERS, _build_multiplexed, _drive_multiplexed,
    ),
]  # fmt: skip
