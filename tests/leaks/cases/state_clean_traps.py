"""Clean services that look like leaks from afar: values that travel by right, objects that are reused after a reset."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse

from tests.leaks.case import Case, User, Users, Variant, mint
from tests.leaks.service import Service


async def latency() -> None:
    await asyncio.sleep(random.uniform(0.001, 0.012))


def expect(service: Service, holds: bool, sentence: str) -> None:
    if not holds:
        service.harm(f"the service does not work: {sentence}")


# --- invitations ----------------------------------------------------------------------------------------------------

INVITE_USERS = Users("clean-invitations")


def build_invitations(variant: Variant) -> FastAPI:
    """A user gets a code and passes it on outside of the service; who brings it joins, and sees the group's link."""
    app = FastAPI()
    groups: dict[str, dict[str, Any]] = {}

    @app.post("/groups")
    async def create(request: Request) -> dict[str, Any]:
        user = INVITE_USERS.of(request)
        code, link = mint("base32"), f"https://meet.example/{mint('token')}"
        groups[code] = {"owner": user.id, "link": link, "members": [user.id]}
        await latency()
        return {"invitation": code, "link": link}

    @app.post("/groups/join")
    async def join(request: Request) -> Response:
        user = INVITE_USERS.of(request)
        code = (await request.json())["invitation"]
        if code not in groups:
            return JSONResponse({"detail": "no such invitation"}, 404)
        groups[code]["members"].append(user.id)
        await latency()
        return JSONResponse({"invitation": code, "group": groups[code]})

    return app


async def drive_invitations(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        code = (await service.post(user, "/groups", json={})).json()["invitation"]
        friend = service.users[(user.number + 1 + round) % len(service.users)]
        joined = await service.post(friend, "/groups/join", json={"invitation": code})
        expect(service, joined.json()["invitation"] == code, "an invitation does not work")

    return await service.everybody(act, rounds=4)


# --- a team's secrets -----------------------------------------------------------------------------------------------

TEAM_USERS = Users("clean-teams", ids="uuid")


def build_teams(variant: Variant) -> FastAPI:
    """Four people share a team: its key, its budget and its cached dashboard are theirs together."""
    app = FastAPI()
    keys = {team: mint("token") for team in ("red", "blue")}
    dashboards: dict[str, dict[str, Any]] = {}

    def team_of(user: User) -> str:
        return "red" if user.number < 4 else "blue"

    @app.get("/team")
    async def team(request: Request) -> dict[str, Any]:
        name = team_of(TEAM_USERS.of(request))
        await latency()
        return {"team": name, "api_key": keys[name], "people": 4}

    @app.get("/team/dashboard")
    async def dashboard(request: Request) -> dict[str, Any]:
        name = team_of(TEAM_USERS.of(request))
        if name not in dashboards:
            await latency()
            dashboards[name] = {"tiles": [{"kind": "budget", "account": mint("account")}], "key": keys[name]}
        return dashboards[name]

    return app


async def drive_teams(service: Service) -> list[str]:
    keys: dict[str, str] = {}

    async def act(user: User, round: int) -> None:
        answer = (await service.get(user, "/team")).json()
        board = (await service.get(user, "/team/dashboard")).json()
        known = keys.setdefault(answer["team"], answer["api_key"])
        expect(service, known == answer["api_key"] == board["key"], "a team's key is another's")

    return await service.everybody(act, rounds=4)


# --- buffers and agents from a pool ---------------------------------------------------------------------------------

POOL_USERS = Users("clean-object-pool", ids="int")


def build_object_pool(variant: Variant) -> FastAPI:
    """Expensive objects are lent to one request at a time, and cleaned before they go back."""
    app = FastAPI()

    class Renderer:
        def __init__(self) -> None:
            self.buffer = io.StringIO()
            self.owner: str | None = None
            self.values: dict[str, str] = {}

        def reset(self) -> None:
            self.buffer.seek(0)
            self.buffer.truncate()
            self.owner = None
            self.values.clear()

    idle: asyncio.Queue[Renderer] = asyncio.Queue()
    for _ in range(3):
        idle.put_nowait(Renderer())

    @contextlib.asynccontextmanager
    async def lent(user: User) -> AsyncIterator[Renderer]:
        renderer = await idle.get()
        renderer.owner = user.id
        try:
            yield renderer
        finally:
            renderer.reset()
            idle.put_nowait(renderer)

    @app.get("/certificate", response_class=HTMLResponse)
    async def certificate(request: Request) -> str:
        user = POOL_USERS.of(request)
        async with lent(user) as renderer:
            renderer.values["number"] = user.value("certificate", "uuid")
            renderer.buffer.write("<h1>Certificate</h1>")
            await latency()
            renderer.buffer.write(f"<p>{renderer.values['number']}</p>")
            return renderer.buffer.getvalue()

    return app


async def drive_object_pool(service: Service) -> list[str]:
    service.own_values("certificate", "uuid")

    async def act(user: User, round: int) -> None:
        answer = await service.get(user, "/certificate")
        expect(service, user.value("certificate", "uuid") in answer.text, "a certificate is missing")
        service.look(user, answer)

    return await service.everybody(act, rounds=5)


# --- values that everybody has --------------------------------------------------------------------------------------

COMMON_USERS = Users("clean-common-values")
BUILD = mint("hex")


def build_common_values(variant: Variant) -> FastAPI:
    """What several users sent alike is shown to all as trending; constants, counters and the time are in every answer."""
    app = FastAPI()
    numbers = itertools.count(10_000_001)
    words: dict[str, set[str]] = defaultdict(set)
    visits = {"total": 0, "latest": 0.0}

    @app.middleware("http")
    async def stamp(request: Request, call_next: Any) -> Any:
        visits["total"] += 1
        visits["latest"] = time.time()
        response = await call_next(request)
        response.headers["x-build"] = BUILD
        response.headers["x-request-id"] = str(next(numbers))
        return response

    @app.post("/search")
    async def search(request: Request) -> dict[str, Any]:
        user = COMMON_USERS.of(request)
        query = (await request.json())["q"]
        words[query].add(user.id)
        await latency()
        return {
            "q": query,
            "trending": [word for word, who in words.items() if len(who) >= 4],
            "visits": visits["total"],
            "at": visits["latest"],
        }

    return app


async def drive_common_values(service: Service) -> list[str]:
    queries = [f"order status of article {mint('uuid')} as printed in the spring catalogue on page nine" for _ in range(5)]

    async def act(user: User, round: int) -> None:
        query = queries[(user.number + round) % len(queries)]
        answer = await service.post(user, "/search", json={"q": query})
        expect(service, answer.json()["q"] == query, "an answer does not fit its question")
        expect(service, round < 4 or query in answer.json()["trending"], "a word does not trend")

    return await service.everybody(act, rounds=5)


# --- two tabs of one user -------------------------------------------------------------------------------------------

TAB_USERS = Users("clean-two-tabs", ids="uuid")


def build_two_tabs(variant: Variant) -> FastAPI:
    """A user's session, its agent and its sockets are shared by all tabs of that user, and by nobody else."""
    app = FastAPI()

    class Session:
        def __init__(self) -> None:
            self.lines: list[str] = []
            self.sockets: set[WebSocket] = set()
            self.lock = asyncio.Lock()

    sessions: dict[str, Session] = {}

    @app.post("/note", response_class=PlainTextResponse)
    async def note(request: Request) -> str:
        session = sessions.setdefault(TAB_USERS.of(request).id, Session())
        text = (await request.body()).decode()
        async with session.lock:
            session.lines.append(text)
            await latency()
            for socket in list(session.sockets):
                with contextlib.suppress(Exception):
                    await socket.send_text(text)
        return "\n".join(session.lines[-5:])

    @app.websocket("/ws")
    async def tab(socket: WebSocket) -> None:
        session = sessions.setdefault(TAB_USERS.of(socket).id, Session())
        await socket.accept()
        session.sockets.add(socket)
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            session.sockets.discard(socket)

    return app


async def drive_two_tabs(service: Service) -> list[str]:
    heard = 0
    async with contextlib.AsyncExitStack() as stack:
        tabs = [(user, await stack.enter_async_context(service.socket(user, "/ws"))) for user in service.users for _ in range(2)]

        async def listen(user: User, socket: Any) -> None:
            nonlocal heard
            async for message in socket:
                heard += 1
                service.look(user, message)

        listening = [asyncio.create_task(listen(user, socket)) for user, socket in tabs]

        async def act(user: User, round: int) -> None:
            notes = [f"note {number}: the locker code is {service.minted(user)}" for number in range(2)]
            for answer in await asyncio.gather(*(service.post(user, "/note", content=note) for note in notes)):
                service.look(user, answer)

        await service.everybody(act, rounds=3)
        await asyncio.sleep(0.1)
        for task in listening:
            task.cancel()
    expect(service, heard > 48, "the tabs are silent")
    return service.proofs


# --- public profiles and a ticker -----------------------------------------------------------------------------------

PROFILE_USERS = Users("clean-profiles", ids="int")


def build_profiles(variant: Variant) -> FastAPI:
    """Everybody edits the own public profile; all read all of them through a cache, and hear of changes over a ticker."""
    app = FastAPI()
    profiles: dict[str, dict[str, str]] = {}
    cache: dict[str, bytes] = {}
    listeners: set[asyncio.Queue[str]] = set()

    @app.put("/profile")
    async def edit(request: Request) -> dict[str, str]:
        user = PROFILE_USERS.of(request)
        profiles[user.id] = {"id": user.id, **(await request.json())}
        cache.pop(user.id, None)
        for queue in listeners:
            queue.put_nowait(json.dumps({"changed": profiles[user.id]}))
        await latency()
        return profiles[user.id]

    @app.get("/profiles/{id}")
    async def read(request: Request, id: str) -> Response:
        if id not in profiles:
            return JSONResponse({"detail": "no profile yet"}, 404)
        if id not in cache:
            await latency()
            cache[id] = json.dumps(profiles[id]).encode()
        return Response(cache[id], media_type="application/json")

    @app.get("/ticker")
    async def ticker(request: Request) -> StreamingResponse:
        queue: asyncio.Queue[str] = asyncio.Queue()
        listeners.add(queue)

        async def stream() -> AsyncIterator[str]:
            try:
                for _ in range(4):
                    with contextlib.suppress(TimeoutError):
                        yield f"data: {await asyncio.wait_for(queue.get(), 0.2)}\n\n"
            finally:
                listeners.discard(queue)

        return StreamingResponse(stream(), media_type="text/event-stream")

    return app


async def drive_profiles(service: Service) -> list[str]:
    async def act(user: User, round: int) -> None:
        listening = asyncio.create_task(service.get(user, "/ticker"))
        await asyncio.sleep(0.03)
        profile = {"motto": f"Never without {mint('token')} in the garden", "page": f"https://people.example/{mint('hex')}"}
        await service.client(user).put("/profile", json=profile)
        for other in random.sample(list(service.users), 4):
            await service.get(user, f"/profiles/{other.id}")
        expect(service, "changed" in (await listening).text, "the ticker is silent")

    return await service.everybody(act, rounds=3)


CASES = [
    Case(
        "clean-invitations",
        "clean",
        "Codes that users pass on: who brings one joins the group.",
        INVITE_USERS,
        build_invitations,
        drive_invitations,
    ),
    Case(
        "clean-teams",
        "clean",
        "A team's members share its key and its cached dashboard.",
        TEAM_USERS,
        build_teams,
        drive_teams,
    ),
    Case(
        "clean-object-pool",
        "clean",
        "Renderers are lent to one request at a time and reset.",
        POOL_USERS,
        build_object_pool,
        drive_object_pool,
    ),
    Case(
        "clean-common-values",
        "clean",
        "Texts that many send alike, constants, counters, request ids.",
        COMMON_USERS,
        build_common_values,
        drive_common_values,
    ),
    Case(
        "clean-two-tabs",
        "clean",
        "Two tabs of one user share a session, its lines and its sockets.",
        TAB_USERS,
        build_two_tabs,
        drive_two_tabs,
    ),
    Case(
        "clean-profiles", "clean", "Public profiles, cached by id, and a ticker of changes.", PROFILE_USERS, build_profiles, drive_profiles
    ),
]
