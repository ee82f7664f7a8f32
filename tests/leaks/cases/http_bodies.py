"""Answers that carry another's bytes: shared buffers, streams, event queues, files, headers, error pages."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from tests.leaks.case import Case, User, Users, Variant, store_is_private
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.012))


# --- one buffer for all reports -------------------------------------------------------------------------------------

BUFFER_USERS = Users("report-buffer")


def build_buffer(variant: Variant) -> FastAPI:
    app = FastAPI()
    shared = io.StringIO()

    @app.get("/report.csv")
    async def report(request: Request) -> Response:
        user = BUFFER_USERS.of(request)
        out = shared if variant == "buggy" else io.StringIO()
        out.seek(0)
        out.truncate()
        out.write("id,reference\n")
        for row in range(3):
            await latency()
            out.write(f"{row},{user.value(f'row{row}', 'base32')}\n")
        return Response(out.getvalue(), media_type="text/csv", headers={"Content-Disposition": "attachment; filename=report.csv"})

    return app


async def drive_buffer(service: Service) -> list[str]:
    for row in range(3):
        service.own_values(f"row{row}", "base32")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/report.csv"))

    return await service.everybody(ask, rounds=5)


# --- one generator that two streams read ----------------------------------------------------------------------------

STREAM_USERS = Users("shared-generator", ids="uuid")


def build_stream(variant: Variant) -> FastAPI:
    """The stream of results is made once per kind of export and given to all who ask while it runs."""
    app = FastAPI()
    running: dict[str, Any] = {}
    turn = asyncio.Lock()

    async def rows(user: User) -> AsyncIterator[bytes]:
        for number in range(8):
            await asyncio.sleep(0.004)
            yield json.dumps({"n": number, "payee": {"ref": user.value(f"payee{number}", "uuid")}}).encode() + b"\n"

    async def shared(user: User) -> AsyncIterator[bytes]:
        source = running.get("payees")
        if source is None:
            source = running["payees"] = rows(user)
        while True:
            try:
                async with turn:
                    row = await anext(source)
            except StopAsyncIteration:
                running.pop("payees", None)
                return
            yield row

    @app.get("/payees")
    async def payees(request: Request) -> StreamingResponse:
        user = STREAM_USERS.of(request)
        return StreamingResponse(shared(user) if variant == "buggy" else rows(user), media_type="application/x-ndjson")

    return app


async def drive_stream(service: Service) -> list[str]:
    for number in range(8):
        service.own_values(f"payee{number}", "uuid")

    async def ask(user: User, round: int) -> None:
        await asyncio.sleep(random.random() * 0.02)
        service.look(user, await service.get(user, "/payees"), "a stream")

    return await service.everybody(ask, rounds=3)


# --- events of all users from one queue -----------------------------------------------------------------------------

EVENT_USERS = Users("event-queue")


def build_events(variant: Variant) -> FastAPI:
    """Server-sent events: whoever listens takes the next event of the queue, whosever it is."""
    app = FastAPI()
    everybody: asyncio.Queue[str] = asyncio.Queue()
    own: dict[str, asyncio.Queue[str]] = {}

    def queue_of(user: User) -> asyncio.Queue[str]:
        return everybody if variant == "buggy" else own.setdefault(user.id, asyncio.Queue())

    @app.post("/transfers")
    async def transfer(request: Request) -> dict[str, str]:
        user = EVENT_USERS.of(request)
        body = await request.json()
        await queue_of(user).put(json.dumps({"type": "booked", "purpose": body["purpose"]}))
        return {"state": "accepted"}

    @app.get("/events")
    async def events(request: Request) -> StreamingResponse:
        queue = queue_of(EVENT_USERS.of(request))

        async def stream() -> AsyncIterator[str]:
            for _ in range(4):
                with contextlib.suppress(TimeoutError):
                    yield f"event: booking\ndata: {await asyncio.wait_for(queue.get(), 0.3)}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    return app


async def drive_events(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        async def listen() -> None:
            service.look(user, await service.get(user, "/events"), "an event stream")

        listening = asyncio.create_task(listen())
        for _ in range(4):
            await asyncio.sleep(random.random() * 0.03)
            await service.post(user, "/transfers", json={"purpose": f"rent {service.minted(user)}", "amount": 930})
        await listening

    return await service.everybody(act, rounds=2)


# --- an export file with a fixed name -------------------------------------------------------------------------------

FILE_USERS = Users("export-file", ids="int")


def build_file(variant: Variant) -> FastAPI:
    folder = tempfile.TemporaryDirectory(prefix="exports-")
    app = FastAPI()
    app.state.folder = folder
    numbers = itertools.count(1)

    @app.get("/export")
    async def export(request: Request) -> FileResponse:
        user = FILE_USERS.of(request)
        name = "export.json" if variant == "buggy" else f"export-{next(numbers)}.json"
        path = Path(folder.name) / name
        # Written aside and renamed, so that nobody reads half a file; whose file it is, the name does not say.
        draft = path.with_suffix(f".{next(numbers)}")
        draft.write_text(json.dumps({"medical": {"insurance_number": user.value("insurance", "account")}}))
        draft.rename(path)
        await latency()
        return FileResponse(path, filename="export.json")

    return app


async def drive_file(service: Service) -> list[str]:
    service.own_values("insurance", "account")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/export"), "a download")

    return await service.everybody(ask, rounds=4)


# --- the error page shows the last request's body -------------------------------------------------------------------

ERROR_USERS = Users("error-page")


def build_error_page(variant: Variant) -> FastAPI:
    app = FastAPI()
    last: dict[str, Any] = {}

    @app.exception_handler(ValueError)
    async def explain(request: Request, error: ValueError) -> JSONResponse:
        body = last.get("body") if variant == "buggy" else request.state.body
        return JSONResponse({"error": str(error), "you_sent": body}, status_code=422)

    @app.post("/claims")
    async def claim(request: Request) -> dict[str, Any]:
        ERROR_USERS.of(request)
        body = last["body"] = request.state.body = await request.json()
        await latency()
        if body["amount"] < 0:
            raise ValueError("a claim cannot be negative")
        return {"state": "filed"}

    return app


async def drive_error_page(service: Service) -> list[str]:
    async def file(user: User, round: int) -> None:
        claim = {"policy": service.minted(user, "token"), "amount": random.choice([-5, 40])}
        service.look(user, await service.post(user, "/claims", json=claim), "an error page")

    return await service.everybody(file, rounds=6)


# --- a trace id that carries private data into a header -------------------------------------------------------------

HEADER_USERS = Users("last-etag", ids="uuid")


def build_header(variant: Variant) -> Any:
    """A plain ASGI application without a framework: it keeps the headers of its answer in one list."""
    base: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json"), (b"cache-control", b"private")]

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        user = HEADER_USERS.of_scope(scope)
        headers = base if variant == "buggy" else list(base)
        if user is not None:
            headers.append((b"x-next-page", b"cursor=" + user.value("cursor", "base32").encode()))
        await latency()
        await send({"type": "http.response.start", "status": 200 if user else 401, "headers": headers[-12:]})
        await send({"type": "http.response.body", "body": b'{"page": 1, "items": []}'})

    return app


async def drive_header(service: Service) -> list[str]:
    service.own_values("cursor", "base32")

    async def ask(user: User, round: int) -> None:
        service.look(user, await service.get(user, "/items"), "headers")

    return await service.everybody(ask, rounds=4)


CASES = [
    Case(
        "report-buffer-reused",
        "http",
        "All reports are written into one StringIO: rows of several users in one file.",
        BUFFER_USERS,
        build_buffer,
        drive_buffer,
        annotate=store_is_private,
    ),
    Case(
        "shared-row-generator",
        "http",
        "A running stream of rows is handed to everybody who asks for the same kind.",
        STREAM_USERS,
        build_stream,
        drive_stream,
        annotate=store_is_private,
    ),
    Case(
        "one-event-queue",
        "http",
        "Server-sent events of all users go through one queue: any listener takes them.",
        EVENT_USERS,
        build_events,
        drive_events,
    ),
    Case(
        "export-file-fixed-name",
        "http",
        "Exports are written to one file name: a download reads the one written last.",
        FILE_USERS,
        build_file,
        drive_file,
        annotate=store_is_private,
    ),
    Case(
        "error-page-last-body",
        "http",
        "The error page shows the body that came last, not the one that failed.",
        ERROR_USERS,
        build_error_page,
        drive_error_page,
    ),
    Case(
        "header-list-grows",
        "http",
        "The list of base headers is appended to: answers carry the cursors of others.",
        HEADER_USERS,
        build_header,
        drive_header,
        annotate=store_is_private,
    ),
]
