"""Clean services where some have other parts than others: administrators who act for a user, editors of shared documents.

Nothing may be reported. Their drivers check that the sharing works.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import time
import uuid
from collections import defaultdict
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed

from tests.leaks.case import Case, User, Users, Variant, mint
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.012))


# --- administrators of tenants, who act for a user --------------------------------------------------------------------

TENANT_USERS = Users("clean-impersonation")
ADMINISTRATORS = (0, 4)


def tenant_of(user: User) -> str:
    return "north" if user.number < 4 else "south"


def build_tenants(variant: Variant) -> FastAPI:
    app = FastAPI()
    acting: dict[str, tuple[str, str]] = {}
    settings: dict[str, dict[str, str]] = {"north": {"theme": "dark"}, "south": {"theme": "light"}}
    reports: dict[str, tuple[float, dict[str, str]]] = {}

    def current(request: Request) -> User:
        user = TENANT_USERS.of(request)
        ticket = acting.get(request.cookies.get("acting", ""))
        return TENANT_USERS.by_id[ticket[1]] if ticket is not None and ticket[0] == user.id else user

    def administrator(request: Request) -> User:
        user = TENANT_USERS.of(request)
        if user.number not in ADMINISTRATORS:
            raise HTTPException(403)
        return user

    @app.post("/admin/impersonate")
    async def impersonate(request: Request, response: Response) -> dict[str, bool]:
        user = administrator(request)
        other = TENANT_USERS.by_id[(await request.json())["user"]]
        if tenant_of(other) != tenant_of(user):
            raise HTTPException(404)
        ticket = secrets.token_urlsafe(18)
        acting[ticket] = (user.id, other.id)
        response.set_cookie("acting", ticket)
        return {"acting": True}

    @app.post("/admin/stop")
    async def stop(request: Request, response: Response) -> dict[str, bool]:
        administrator(request)
        acting.pop(request.cookies.get("acting", ""), None)
        response.delete_cookie("acting")
        return {"acting": False}

    @app.get("/me")
    async def me(request: Request) -> dict[str, str]:
        await latency()
        user = current(request)
        return {"id": user.id, "badge": user.value("badge", "base32")}

    @app.get("/salary")
    async def salary(request: Request) -> dict[str, str]:
        await latency()
        return {"account": current(request).value("salary", "account")}

    @app.get("/settings")
    async def read(request: Request) -> dict[str, str]:
        return settings[tenant_of(current(request))]

    @app.put("/settings")
    async def change(request: Request) -> dict[str, str]:
        own = settings[tenant_of(administrator(request))]
        own.update(await request.json())
        return own

    @app.get("/report")
    async def report(request: Request) -> dict[str, str]:
        tenant = tenant_of(current(request))
        at, made = reports.get(tenant, (0.0, {}))
        if time.monotonic() - at > 0.1:
            await latency()
            made = {"number": secrets.token_hex(12)}
            reports[tenant] = (time.monotonic(), made)
        return made

    return app


async def drive_tenants(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        await latency()
        for _ in range(3):
            for path in ("/me", "/salary", "/settings", "/report"):
                await service.get(user, path)
        if user.number not in ADMINISTRATORS:
            return
        other = service.users[user.number + random.randrange(1, 4)]
        await service.post(user, "/admin/impersonate", json={"user": other.id})
        for path in ("/me", "/salary", "/settings"):
            seen = await service.get(user, path)
            if path == "/me" and seen.json()["id"] != other.id:
                service.harm("the service does not work: who acts for a user does not see what is his")
        await service.post(user, "/admin/stop")
        await service.get(user, "/me")
        await service.client(user).put("/settings", json={"slogan": mint()})

    return await service.everybody(act)


# --- documents that several edit at once ------------------------------------------------------------------------------

EDITOR_USERS = Users("clean-editing")


class Document:
    def __init__(self, owner: str) -> None:
        self.id = uuid.uuid4().hex
        self.shared_with = {owner}
        self.text: list[str] = []
        self.history: list[dict[str, Any]] = []
        self.comments: list[str] = []
        self.editors: dict[str, WebSocket] = {}

    async def tell(self, frame: dict[str, Any]) -> None:
        for key, socket in list(self.editors.items()):
            try:
                await socket.send_json(frame)
            except (RuntimeError, WebSocketDisconnect):
                self.editors.pop(key, None)


def build_editor(variant: Variant) -> FastAPI:
    app = FastAPI()
    documents: dict[str, Document] = {}
    drafts: dict[str, str] = defaultdict(str)

    @app.post("/documents")
    async def create(request: Request) -> dict[str, str]:
        document = Document(EDITOR_USERS.of(request).id)
        body = await request.json()
        document.text.append(body["text"])
        document.shared_with.update(body["with"])
        documents[document.id] = document
        return {"id": document.id}

    @app.get("/documents/{id}")
    async def read(request: Request, id: str) -> dict[str, Any]:
        document = documents[id]
        if EDITOR_USERS.of(request).id not in document.shared_with:
            raise HTTPException(403)
        await latency()
        return {"id": id, "text": document.text, "comments": document.comments}

    @app.post("/documents/{id}/comments")
    async def comment(request: Request, id: str) -> dict[str, bool]:
        documents[id].comments.append((await request.json())["text"])
        return {"kept": True}

    @app.get("/recent")
    async def recent(request: Request) -> dict[str, Any]:
        user = EDITOR_USERS.of(request)
        await latency()
        lines = [line for one in documents.values() if user.id in one.shared_with for line in one.history[-3:]]
        return {"latest": lines[-1] if lines else None, "count": len(lines)}

    @app.put("/draft")
    async def draft(request: Request) -> dict[str, str]:
        user = EDITOR_USERS.of(request)
        drafts[user.id] = (await request.body()).decode()
        return {"draft": drafts[user.id], "key": user.value("draft", "base32")}

    @app.websocket("/documents/{id}/edit")
    async def edit(socket: WebSocket, id: str) -> None:
        document = documents[id]
        if EDITOR_USERS.of(socket).id not in document.shared_with:
            await socket.close(4403)
            return
        await socket.accept()
        cursor = uuid.uuid4().hex[:8]
        document.editors[cursor] = socket
        await socket.send_json({"type": "welcome", "text": document.text, "cursors": list(document.editors)})
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                text = (await socket.receive_json())["insert"]
                await latency()
                document.text.append(text)
                document.history.append({"version": len(document.text), "text": text, "document": id})
                await document.tell({"type": "insert", "version": len(document.text), "text": text})
        document.editors.pop(cursor, None)

    return app


async def drive_editor(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        await latency()
        others = random.sample([one for one in service.users if one is not user], 3)
        body = {"text": f"about {mint()}", "with": [one.id for one in others]}
        id = (await service.post(user, "/documents", json=body)).json()["id"]

        async def work(one: User) -> None:
            with contextlib.suppress(ConnectionClosed):
                async with service.socket(one, f"/documents/{id}/edit") as socket:
                    await socket.send(json.dumps({"insert": f"a line {mint()} with some words of mine"}))
                    for _ in range(4):
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(socket.recv(), 0.05)
            await service.post(one, f"/documents/{id}/comments", json={"text": f"why {mint()}"})
            await service.get(one, "/recent")
            await service.client(one).put("/draft", content=f"dear diary {mint()}")

        await asyncio.gather(*(work(one) for one in (user, *others)))
        if len((await service.get(user, f"/documents/{id}")).json()["comments"]) != 4:
            service.harm("the service does not work: not all see the comments")

    return await service.everybody(act, rounds=2)


CASES = [
    Case(
        "clean-impersonation", "clean", "Administrators of two tenants act for a user, and keep their tenant's settings.", TENANT_USERS,
        build_tenants, drive_tenants,
    ),
    Case(
        "clean-shared-editing", "clean", "Several edit a document at once, comment on it and see what happened last.", EDITOR_USERS,
        build_editor, drive_editor,
    ),
]  # fmt: skip
