"""Clean services where people share on purpose: rooms, feeds, administration, messages, documents. Nothing may be reported.

Their drivers check that the sharing works, so that a service that answers nothing cannot pass for a clean one.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import random
import sqlite3
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, JSONResponse, Response

from tests.leaks.case import Case, User, Users, Variant, mint
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.012))


def expect(service: Service, holds: bool, sentence: str) -> None:
    if not holds:
        service.harm(f"the service does not work: {sentence}")


# --- rooms in memory ------------------------------------------------------------------------------------------------

ROOM_USERS = Users("clean-rooms")


def build_rooms(variant: Variant) -> FastAPI:
    app = FastAPI()
    rooms: dict[str, deque[dict[str, str]]] = defaultdict(lambda: deque(maxlen=50))

    @app.post("/rooms/{room}")
    async def say(request: Request, room: str) -> dict[str, Any]:
        user = ROOM_USERS.of(request)
        rooms[room].append({"author": user.id, "text": (await request.json())["text"]})
        await latency()
        return {"messages": list(rooms[room])[-10:]}

    @app.get("/rooms/{room}")
    async def read(request: Request, room: str) -> dict[str, Any]:
        ROOM_USERS.of(request)
        return {"messages": list(rooms[room])[-10:]}

    return app


async def drive_rooms(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        room = f"room-{user.number % 2}"
        text = f"my idea number {mint('hex')} for our picnic on Sunday is to bring the long table and two benches"
        said = await service.post(user, f"/rooms/{room}", json={"text": text})
        expect(service, text in said.text, "a message does not show in its room")
        await service.get(user, f"/rooms/{room}")

    return await service.everybody(act, rounds=5)


# --- a public feed in SQLite ----------------------------------------------------------------------------------------

FEED_USERS = Users("clean-feed", ids="int")


def build_feed(variant: Variant) -> FastAPI:
    app = FastAPI()
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE TABLE articles (id INTEGER PRIMARY KEY, author TEXT, title TEXT, body TEXT)")

    @app.post("/articles")
    async def publish(request: Request) -> dict[str, Any]:
        user = FEED_USERS.of(request)
        body = await request.json()
        row = database.execute("INSERT INTO articles (author, title, body) VALUES (?, ?, ?)", (user.id, body["title"], body["body"]))
        await latency()
        return {"id": row.lastrowid}

    @app.get("/", response_class=HTMLResponse)
    async def front(request: Request) -> str:
        rows = database.execute("SELECT author, title, body FROM articles ORDER BY id DESC LIMIT 10").fetchall()
        articles = (
            f"<article><h2>{html.escape(title)}</h2><i>{author}</i><p>{html.escape(body)}</p></article>" for author, title, body in rows
        )
        return "<html>" + "".join(articles) + "</html>"

    @app.get("/articles/{number}")
    async def one(number: int) -> dict[str, Any]:
        row = database.execute("SELECT author, title, body FROM articles WHERE id = ?", (number,)).fetchone()
        return {"author": row[0], "title": row[1], "body": row[2]}

    return app


async def drive_feed(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        article = {"title": f"Edition {mint('uuid')}", "body": f"Today the river stood at {mint('account')} and nobody had seen the like."}
        number = (await service.post(user, "/articles", json=article)).json()["id"]
        front = await service.get(user, "/")
        expect(service, "<article>" in front.text, "the front page is empty")
        other = random.randint(1, number)
        read = await service.get(user, f"/articles/{other}")
        expect(service, read.status_code == 200, "an article cannot be read")

    return await service.everybody(act, rounds=5)


# --- an admin who sees everything -----------------------------------------------------------------------------------

ADMIN_USERS = Users("clean-admin", ids="uuid")


def build_admin(variant: Variant) -> FastAPI:
    """User 0 is the administrator: listings show the private values of all; everybody else sees their own."""
    app = FastAPI()
    table = {
        user.id: {"id": user.id, "account": user.value("account", "account"), "address": user.value("address", "base32")}
        for user in ADMIN_USERS
    }

    @app.get("/me")
    async def me(request: Request) -> dict[str, Any]:
        await latency()
        return table[ADMIN_USERS.of(request).id]

    @app.get("/admin/users")
    async def users(request: Request) -> Response:
        if ADMIN_USERS.of(request).number != 0:
            return JSONResponse({"detail": "administrators only"}, 403)
        return JSONResponse({"users": list(table.values())})

    @app.get("/admin/users/{id}")
    async def user_by_id(request: Request, id: str) -> Response:
        if ADMIN_USERS.of(request).number != 0:
            return JSONResponse({"detail": "administrators only"}, 403)
        return JSONResponse(table[id])

    return app


async def drive_admin(service: Service) -> list[str]:
    admin = service.users[0]
    for user in service.users:
        if user is not admin:
            service.owns(user, user.value("account", "account"), user.value("address", "base32"))

    async def act(user: User, round: int) -> None:
        mine = await service.get(user, "/me")
        expect(service, user.value("account", "account") in mine.text, "a user does not see the own account")
        listing = await service.get(user, "/admin/users")
        if user is admin:
            expect(service, len(listing.json()["users"]) == len(service.users), "the listing is not complete")
            await service.get(user, f"/admin/users/{service.users[1 + round % 7].id}")
        else:
            service.look(user, listing)

    return await service.everybody(act, rounds=5)


# --- direct messages ------------------------------------------------------------------------------------------------

MESSAGE_USERS = Users("clean-messages", ids="int")


def build_messages(variant: Variant) -> FastAPI:
    """A user writes to another by id; a background task delivers it into the other's mailbox."""
    app = FastAPI()
    mailboxes: dict[str, list[dict[str, str]]] = {user.id: [] for user in MESSAGE_USERS}

    async def deliver(to: str, message: dict[str, str]) -> None:
        await latency()
        mailboxes[to].append(message)

    @app.post("/messages/{to}")
    async def send(request: Request, to: str, background: BackgroundTasks) -> dict[str, str]:
        user = MESSAGE_USERS.of(request)
        background.add_task(deliver, to, {"from": user.id, "text": (await request.json())["text"]})
        return {"state": "sent"}

    @app.get("/messages")
    async def read(request: Request) -> dict[str, Any]:
        return {"messages": mailboxes[MESSAGE_USERS.of(request).id][-5:]}

    return app


async def drive_messages(service: Service) -> list[str]:
    got = 0

    async def act(user: User, round: int) -> None:
        nonlocal got
        to = service.users[(user.number + 1 + round % 3) % len(service.users)]
        text = f"the key under the mat is {mint('hex')}, please water the plants while we are away"
        await service.post(user, f"/messages/{to.id}", json={"text": text})
        got += len((await service.get(user, "/messages")).json()["messages"])

    await service.everybody(act, rounds=5)
    expect(service, got > 0, "no message arrived")
    return service.proofs


# --- a lobby over WebSocket -----------------------------------------------------------------------------------------

LOBBY_USERS = Users("clean-lobby", ids="uuid")


def build_lobby(variant: Variant) -> FastAPI:
    """What one says in the lobby is sent to all, from the sender's own coroutine; whispers go to one, through a queue."""
    lobby: dict[str, WebSocket] = {}
    whispers: asyncio.Queue[tuple[str, dict[str, str]]] = asyncio.Queue()

    async def carry() -> None:
        while True:
            to, message = await whispers.get()
            if to in lobby:
                with contextlib.suppress(Exception):
                    await lobby[to].send_json(message)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(carry())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.websocket("/lobby")
    async def join(socket: WebSocket) -> None:
        user = LOBBY_USERS.of(socket)
        await socket.accept()
        lobby[user.id] = socket
        try:
            while True:
                said = await socket.receive_json()
                if "to" in said:
                    await whispers.put((said["to"], {"type": "whisper", "from": user.id, "text": said["text"]}))
                else:
                    for other in list(lobby.values()):
                        with contextlib.suppress(Exception):
                            await other.send_json({"type": "said", "from": user.id, "text": said["text"]})
        except WebSocketDisconnect:
            lobby.pop(user.id, None)

    return app


async def drive_lobby(service: Service) -> list[str]:
    heard = 0
    async with contextlib.AsyncExitStack() as stack:
        sockets = {user.id: await stack.enter_async_context(service.socket(user, "/lobby")) for user in service.users}

        async def listen(id: str) -> None:
            nonlocal heard
            async for _ in sockets[id]:
                heard += 1

        listening = [asyncio.create_task(listen(id)) for id in sockets]

        async def act(user: User, round: int) -> None:
            text = f"hello, who wants to play game {mint('uuid')} with me this evening after supper"
            friend = service.users[(user.number + 3) % len(service.users)]
            await sockets[user.id].send(json.dumps({"text": text} if round % 2 else {"text": text, "to": friend.id}))
            await asyncio.sleep(0.01)

        await service.everybody(act, rounds=4)
        await asyncio.sleep(0.15)
        for task in listening:
            task.cancel()
    expect(service, heard > 64, "the lobby is silent")
    return service.proofs


# --- documents shared by an access list -----------------------------------------------------------------------------

SHARE_USERS = Users("clean-shared-docs", ids="uuid")


def build_shared_documents(variant: Variant) -> FastAPI:
    app = FastAPI()
    documents: dict[str, dict[str, Any]] = {}

    @app.post("/documents")
    async def write(request: Request) -> dict[str, str]:
        user = SHARE_USERS.of(request)
        body = await request.json()
        id = mint("uuid")
        documents[id] = {"owner": user.id, "readers": {user.id, *body["share_with"]}, "text": body["text"]}
        return {"id": id}

    @app.get("/documents/{id}")
    async def read(request: Request, id: str) -> Response:
        user = SHARE_USERS.of(request)
        await latency()
        document = documents.get(id)
        if document is None or user.id not in document["readers"]:
            return JSONResponse({"detail": "no such document"}, 404)
        return JSONResponse({"owner": document["owner"], "text": document["text"], "readers": sorted(document["readers"])})

    return app


async def drive_shared_documents(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        friend = service.users[(user.number + 1) % len(service.users)]
        stranger = service.users[(user.number + 2) % len(service.users)]
        text = f"The plan for the house is {mint('token')}; the second floor gets the big windows that we saw in Porto."
        id = (await service.post(user, "/documents", json={"text": text, "share_with": [friend.id]})).json()["id"]
        read = await service.get(friend, f"/documents/{id}")
        expect(service, text in read.text, "a shared document cannot be read")
        refused = await service.get(stranger, f"/documents/{id}")
        expect(service, refused.status_code == 404, "a stranger reads a document")

    return await service.everybody(act, rounds=4)


CASES = [
    Case(
        "clean-rooms",
        "clean",
        "Chat rooms in memory: members read what the others wrote.",
        ROOM_USERS,
        build_rooms,
        drive_rooms,
    ),
    Case(
        "clean-feed",
        "clean",
        "A public feed of articles that users write, in SQLite.",
        FEED_USERS,
        build_feed,
        drive_feed,
    ),
    Case(
        "clean-admin",
        "clean",
        "An administrator lists the private values of all.",
        ADMIN_USERS,
        build_admin,
        drive_admin,
    ),
    Case(
        "clean-messages",
        "clean",
        "Users write to each other; background tasks deliver.",
        MESSAGE_USERS,
        build_messages,
        drive_messages,
    ),
    Case(
        "clean-lobby",
        "clean",
        "A lobby broadcast over WebSocket, and whispers to one.",
        LOBBY_USERS,
        build_lobby,
        drive_lobby,
    ),
    Case(
        "clean-shared-documents",
        "clean",
        "Documents shared by an access list.",
        SHARE_USERS,
        build_shared_documents,
        drive_shared_documents,
    ),
]
