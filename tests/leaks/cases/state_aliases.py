"""State under two names: one list for all keys, one timer for all drafts, one client whose settings are a user's.

Found in the field in many libraries' issues: `dict.fromkeys(ids, [])`, a debounced save that takes the latest text for the first
writer's, parameters set on a shared session.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from fastapi import FastAPI, Request

from tests.leaks.case import Case, User, Users, Variant
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.002, 0.015))


# --- one list under every user's key ----------------------------------------------------------------------------------

NOTE_USERS = Users("aliased-notes")


def build_notes(variant: Variant) -> FastAPI:
    app = FastAPI()
    ids = [user.id for user in NOTE_USERS]
    notes: dict[str, list[str]] = dict.fromkeys(ids, []) if variant == "buggy" else {id: [] for id in ids}  # noqa: RUF024 - the bug

    @app.post("/notes")
    async def write(request: Request) -> dict[str, bool]:
        notes[NOTE_USERS.of(request).id].append((await request.json())["note"])
        return {"kept": True}

    @app.get("/notes")
    async def read(request: Request) -> dict[str, list[str]]:
        return {"notes": notes[NOTE_USERS.of(request).id][-4:]}

    return app


async def drive_notes(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        await latency()
        await service.post(user, "/notes", json={"note": f"do not forget {service.minted(user)}"})
        service.look(user, await service.get(user, "/notes"))

    return await service.everybody(act)


# --- one timer for all drafts -----------------------------------------------------------------------------------------

DRAFT_USERS = Users("debounced-drafts")


class Autosave:
    """Saves what was written last, a moment after the first keystroke."""

    def __init__(self, saved: dict[str, str]) -> None:
        self.saved = saved
        self.owner = ""
        self.text = ""
        self.timer: asyncio.TimerHandle | None = None

    def edit(self, owner: str, text: str) -> None:
        if self.timer is None:
            self.owner = owner
            self.timer = asyncio.get_running_loop().call_later(0.02, self.save)
        self.text = text

    def save(self) -> None:
        self.saved[self.owner] = self.text
        self.timer = None


def build_drafts(variant: Variant) -> FastAPI:
    app = FastAPI()
    saved: dict[str, str] = {}
    savers: dict[str, Autosave] = {}

    @app.put("/draft")
    async def edit(request: Request) -> dict[str, str]:
        user = DRAFT_USERS.of(request)
        key = "autosave" if variant == "buggy" else user.id
        savers.setdefault(key, Autosave(saved)).edit(user.id, (await request.body()).decode())
        return {"saved": "soon"}

    @app.get("/draft")
    async def read(request: Request) -> dict[str, str | None]:
        return {"draft": saved.get(DRAFT_USERS.of(request).id)}

    return app


async def drive_drafts(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.03))
        await service.client(user).put("/draft", content=f"dear diary, {service.minted(user)}")
        await asyncio.sleep(0.06)
        service.look(user, await service.get(user, "/draft"))

    return await service.everybody(act, rounds=8)


# --- a user's parameters on the client of all -------------------------------------------------------------------------

BANK_USERS = Users("shared-parameters")
_BANK = "LEAK_BANK_URL"


@contextlib.contextmanager
def bank() -> Iterator[Mapping[str, str]]:
    """Run a bank that trusts its caller and answers with the statement of the account in the query."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            owner = BANK_USERS.by_id[parse_qs(urlsplit(self.path).query)["account"][0]]
            body = json.dumps({"balance": 12, "iban": owner.value("iban", "account")}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield {_BANK: f"http://127.0.0.1:{server.server_address[1]}"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def build_statements(variant: Variant) -> FastAPI:
    app = FastAPI()
    shared = requests.Session()

    @app.get("/statement")
    def statement(request: Request) -> Any:
        user = BANK_USERS.of(request)
        session = shared if variant == "buggy" else requests.Session()
        session.params = {"account": user.id}
        time.sleep(random.uniform(0, 0.01))
        return session.get(os.environ[_BANK] + "/statement").json()

    return app


async def drive_statements(service: Service) -> list[str]:
    service.own_values("iban", "account")

    async def act(user: User, round: int) -> None:
        await latency()
        service.look(user, await service.get(user, "/statement"))

    return await service.everybody(act, rounds=8)


CASES = [
    Case(
        "one-list-for-all-keys", "state", "The notes of all users are one list, under every user's key.", NOTE_USERS, build_notes,
        drive_notes,
    ),
    Case(
        "debounced-draft", "state", "A timer saves the latest draft as that of who began to write first.", DRAFT_USERS, build_drafts,
        drive_drafts,
    ),
    Case(
        "shared-parameters", "state", "A shared client's parameters are set per user: the bank answers for another's account.", BANK_USERS,
        build_statements, drive_statements, parts=bank,
    ),
]  # fmt: skip
