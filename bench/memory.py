"""Memory: what the monitor keeps for a request in flight, and for the ids that it has indexed.

Traced by tracemalloc, which counts what Python allocates and nothing else: the same on every machine, whatever the
allocator keeps for later. The application without a monitor is measured in the same way and subtracted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
import uuid
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.all_detectors import TOKENS_PER_REQUEST, user_of
from bench.applications import USERS, Message, monitor
from bench.rows import Row

BUDGET_REQUEST_KB = 8.0
BUDGET_IDS_MB = 40.0
IN_FLIGHT = 2_000
INDEXED = 100_000


async def memory(quick: bool) -> list[Row]:
    """Kilobytes for each request in flight, and megabytes for 100,000 indexed ids."""
    in_flight, indexed = (200, 5_000) if quick else (IN_FLIGHT, INDEXED)
    held = await _per_request(in_flight, True) - await _per_request(in_flight, False)
    ids = await _per_indexed_id(indexed)
    return [
        Row("memory per request in flight", held / 1_000, "kB", BUDGET_REQUEST_KB, note=f"{in_flight:,} requests held open"),
        Row("memory per 100k indexed ids", ids * 100_000 / 1e6, "MB", BUDGET_IDS_MB, note=f"{indexed:,} ids of requests that are over"),
    ]


async def _per_request(requests: int, is_watched: bool) -> float:
    """Return the bytes that one of so many requests takes while its handler waits, its body having been read."""
    door, everybody_is_here = asyncio.Event(), asyncio.Event()
    arrived = 0

    async def wait(request: Request) -> Response:
        nonlocal arrived
        await request.body()
        arrived += 1
        if arrived == requests:
            everybody_is_here.set()
        await door.wait()
        return JSONResponse({})

    app: Any = Starlette(routes=[Route("/wait", wait, methods=["POST"])])
    watching = monitor() if is_watched else None
    if watching is not None:
        watching.principal(user_of)
        app = watching.instrument(app)
    try:
        # Once through, so that what is built at the first request is there before anything is counted.
        door.set()
        await _post(app, "/wait", 0)
        door.clear()
        arrived = 0
        bodies = [_body(3) for _ in range(requests)]
        before = _traced_from_here()
        tasks = [asyncio.create_task(_post(app, "/wait", number, bodies[number])) for number in range(requests)]
        await asyncio.wait_for(everybody_is_here.wait(), 60)
        used = _traced() - before
        door.set()
        await asyncio.gather(*tasks)
        return used / requests
    finally:
        tracemalloc.stop()
        if watching is not None:
            await watching.aclose()


async def _per_indexed_id(ids: int) -> float:
    """Return the bytes that are kept for one id that a request brought, once the request is over."""

    async def take(request: Request) -> Response:
        await request.body()
        return JSONResponse({})

    watching = monitor()
    watching.principal(user_of)
    app = watching.instrument(Starlette(routes=[Route("/things", take, methods=["POST"])]))
    try:
        await _post(app, "/things", 0)
        entries = watching.detection.foreign_content.ownership.entries
        known = len(entries)
        before = _traced_from_here()
        for number in range(ids // TOKENS_PER_REQUEST):
            await _post(app, "/things", number, _body(TOKENS_PER_REQUEST))
        used = _traced() - before
        if len(entries) - known < ids * 0.95:
            raise RuntimeError(f"{len(entries) - known:,} of {ids:,} ids were indexed: the benchmark measures something else")
        return used / ids
    finally:
        tracemalloc.stop()
        await watching.aclose()


def _traced_from_here() -> int:
    gc.collect()
    tracemalloc.start()
    return _traced()


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _body(ids: int) -> bytes:
    return json.dumps({"ids": [uuid.uuid4().hex for _ in range(ids)]}).encode()


async def _post(app: Any, path: str, number: int, body: bytes = b"{}") -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"{path} answered {message['status']}")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"authorization", b"Bearer token-of-user-%d" % (number % USERS)),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8_000),
        "state": {},
    }
    await asyncio.get_running_loop().create_task(app(scope, receive, send))
