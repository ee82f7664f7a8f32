"""What users say to others on purpose: to all, to a group, to one, beside work that somebody waits for. And that a leak of it is one."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from typing import Any

import pytest
from fastapi import FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.detectors.publicity import is_called_public, is_public_path
from tests.telemetry.detectors.signed import ANN, BOB, CID, MANY_USERS, USERS, Signed


def listed_at(app: FastAPI, path: str) -> None:
    """Let users write texts at a path, and read them all without their authors."""
    texts: list[dict[str, str]] = []

    @app.post(path)
    async def add(request: Request) -> dict[str, int]:
        texts.append({"text": (await request.json())["text"]})
        return {"count": len(texts)}

    @app.get(path)
    async def read() -> dict[str, Any]:
        return {"texts": texts[-5:]}


@pytest.mark.parametrize(("path", "is_public"), [("/products/socks/reviews", True), ("/reminders", False)])
async def test_texts_without_authors_are_for_all_where_the_path_says_so(app: FastAPI, signed: Signed, path: str, is_public: bool) -> None:
    listed_at(app, path)

    for user in USERS:
        await signed.post(user, path, text=f"as for me {uuid.uuid4().hex}")
    for user in USERS:
        await signed.get(user, path)

    assert bool(signed.found()) is not is_public


@pytest.mark.parametrize(
    ("name", "is_public"),
    [
        ("NEWS_FEED", True),
        ("newsFeed", True),
        ("reminders", False),
        ("publications", False),
        ("draft_reviews", False),
        ("userFeed", False),
        ("public_key", False),
    ],
)
def test_names_that_say_what_is_for_all(name: str, is_public: bool) -> None:
    assert is_called_public(name) is is_public


@pytest.mark.parametrize(
    ("path", "is_public"),
    [
        ("/api/v1/reviews", True),
        ("/posts/17/comments/latest", True),
        ("/public/board", True),
        # An area of the service, in which there is what is not public.
        ("/forum/messages", False),
        ("/posts/drafts", False),
        ("/me/feed", False),
        ("/tickets/17/comments", False),
        ("/drafts/posts", False),
        ("/", False),
    ],
)
def test_a_path_says_so_by_its_end(path: str, is_public: bool) -> None:
    assert is_public_path(path) is is_public


async def test_what_is_shown_as_public_by_mistake_is_private_elsewhere_still(app: FastAPI, signed: Signed) -> None:
    """A feed that shows what was not said there does not make it everybody's."""
    notes: list[str] = []

    @app.post("/notes")
    async def note(request: Request) -> dict[str, bool]:
        notes.append((await request.json())["text"])
        return {}

    @app.get("/feed")
    async def feed() -> dict[str, Any]:
        return {"texts": notes[-5:]}

    @app.get("/latest")
    async def latest() -> dict[str, Any]:
        return {"text": notes[-1]}

    for user in USERS:
        await signed.post(user, "/notes", text=f"as for me {uuid.uuid4().hex}")
    for user in USERS:
        await signed.get(user, "/feed")
    for user in USERS:
        await signed.get(user, "/latest")

    assert any("/latest" in summary for summary in signed.found())


@pytest.mark.parametrize(("number", "said"), [(5, {"channel": "web"}), (5, {"team": "default"}), (10, {"channel": "north"})])
async def test_what_all_clients_say_with_everything_is_no_room(app: FastAPI, signed: Signed, number: int, said: dict[str, str]) -> None:
    """By a word of that kind, or because all who name anything have named it."""
    history: list[str] = []

    @app.post("/ask")
    async def ask(request: Request) -> dict[str, bool]:
        history.append((await request.json())["text"])
        return {}

    @app.get("/history")
    async def read() -> dict[str, Any]:
        return {"history": history[-3:]}

    for _ in range(2):
        for user in MANY_USERS[:number]:
            await signed.post(user, "/ask", text=f"as for me {uuid.uuid4().hex}", **said)
        for user in MANY_USERS[:number]:
            await signed.get(user, "/history")

    assert any("/history" in summary for summary in signed.found())


async def test_a_drained_inbox_holds_what_was_said_in_the_groups_that_one_has_joined(app: FastAPI, signed: Signed) -> None:
    """Nothing is left in memory that would show for whom a message was, and the poll names no group."""
    members: dict[str, set[str]] = defaultdict(set)
    inbox: dict[str, list[str]] = defaultdict(list)
    is_leaking: list[bool] = []

    @app.post("/join")
    async def join(request: Request) -> dict[str, bool]:
        members[(await request.json())["group"]].add(signed.who(request))
        return {}

    @app.post("/say")
    async def say(request: Request) -> dict[str, bool]:
        body = await request.json()
        for member in members[body["group"]] - {signed.who(request)}:
            inbox[member].append(body["text"])
        return {}

    @app.get("/updates")
    async def updates(request: Request) -> dict[str, list[str]]:
        whose = signed.who(request) if not is_leaking else ANN
        return {"updates": inbox.pop(whose, [])}

    for user in (ANN, BOB):
        await signed.post(user, "/join", group="hikers")
    await signed.post(CID, "/say", group="bikers", text=f"who is there? {uuid.uuid4().hex}")
    for _ in range(3):
        for user in (ANN, BOB):
            await signed.post(user, "/say", group="hikers", text=f"meet at {uuid.uuid4().hex}")
        for user in USERS:
            await signed.get(user, "/updates")
    assert signed.found() == []

    is_leaking.append(True)
    await signed.post(BOB, "/say", group="hikers", text=f"meet at {uuid.uuid4().hex}")
    await signed.get(CID, "/updates")

    assert any("/updates" in summary for summary in signed.found())


async def test_a_message_to_a_nickname_is_for_whoever_is_called_so(app: FastAPI, signed: Signed) -> None:
    nicknames = {"lark": ANN, "wren": BOB, "crow": CID}
    inbox: dict[str, list[str]] = defaultdict(list)
    everybody_gets_it: list[bool] = []

    @app.post("/send")
    async def send(request: Request) -> dict[str, bool]:
        body = await request.json()
        for receiver in USERS if everybody_gets_it else [nicknames[body["to"]]]:
            inbox[receiver].append(body["text"])
        return {}

    @app.get("/inbox")
    async def read(request: Request) -> dict[str, list[str]]:
        return {"messages": inbox.pop(signed.who(request), [])}

    for _ in range(2):
        for user in (ANN, BOB, CID):
            for nickname in nicknames:
                await signed.post(user, "/send", to=nickname, text=f"the door code is {uuid.uuid4().hex}")
        for user in USERS:
            await signed.get(user, "/inbox")
    assert signed.found() == []

    everybody_gets_it.append(True)
    await signed.post(ANN, "/send", to="wren", text=f"the door code is {uuid.uuid4().hex}")
    for user in USERS:
        await signed.get(user, "/inbox")

    assert any("/inbox" in summary for summary in signed.found())


@pytest.mark.parametrize(("key", "is_mail"), [(USERS[4], True), ("default", False), ("home", False)])
async def test_mail_for_somebody_who_has_not_been_here_is_no_shared_state(app: FastAPI, signed: Signed, key: str, is_mail: bool) -> None:
    """His key stands beside those of people, and reads like theirs; where the user was left out, no such key stands there."""
    app.state.mail = mail = defaultdict(list)

    @app.post("/send")
    async def send(request: Request) -> dict[str, bool]:
        mail[signed.who(request)].append("sent")
        mail[key].append((await request.json())["text"])
        return {}

    for _ in range(2):
        for user in (ANN, BOB):
            await signed.post(user, "/send", text=f"the door code is {uuid.uuid4().hex}")
        await signed.walked()

    assert bool(signed.found()) is not is_mail


async def test_feedback_in_a_row_that_names_its_receiver_is_no_shared_state(
    monitor: IsolationMonitor, app: FastAPI, signed: Signed
) -> None:
    app.state.works = works = [{"pupil": user, "feedback": ""} for user in USERS[2:]]

    @app.post("/feedback")
    async def mark(request: Request) -> dict[str, bool]:
        body = await request.json()
        works[int(body["work"])]["feedback"] = body["feedback"]
        return {}

    for number in range(len(works)):
        for user in (ANN, BOB):
            await signed.post(user, "/feedback", work=str(number), feedback=f"well argued {uuid.uuid4().hex}")
        await signed.walked()

    assert signed.found() == []


@pytest.mark.parametrize("is_kept", [False, True])
async def test_work_that_somebody_waits_for_is_no_shared_state(app: FastAPI, signed: Signed, is_kept: bool) -> None:
    """A batch is worked on once it is full, by whoever fills it; kept when it is done, it is a history of all."""
    app.state.batch = batch = []

    @app.post("/embed")
    async def embed(request: Request) -> dict[str, bool]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        batch.append(((await request.json())["text"], future))
        if is_kept:
            future.set_result("done")
        return {"accepted": True}

    for user in USERS:
        await signed.post(user, "/embed", text=f"my diary {uuid.uuid4().hex}")
    for _ in range(3):
        await signed.walked()

    assert bool(signed.found()) is is_kept


async def test_a_shared_link_that_ends_with_a_dash_is_known_like_any_other(app: FastAPI, signed: Signed) -> None:
    """One in fifteen values of `secrets.token_urlsafe` begins or ends with a sign, which is no part of a token."""
    app.state.carts = carts = {}

    @app.post("/carts")
    async def make(request: Request) -> dict[str, str]:
        slug = f"{uuid.uuid4().hex[:14]}Q-"
        carts[slug] = []
        return {"slug": slug}

    @app.post("/carts/add")
    async def add(request: Request) -> dict[str, Any]:
        body = await request.json()
        carts[body["slug"]].append(body["item"])
        return {"items": len(carts[body["slug"]])}

    for _ in range(3):
        slug = (await signed.post(ANN, "/carts"))["slug"]
        for user in (ANN, BOB):
            await signed.post(user, "/carts/add", slug=slug, item=f"gift {uuid.uuid4().hex}")
        await signed.walked()

    assert signed.found() == []
