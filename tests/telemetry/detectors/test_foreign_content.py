"""Foreign content: what belongs to one principal is recognised in another's answer, and every normal way of sharing is silent."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.lab import Lab
from isolation_monitor.telemetry.violations import Violation
from tests.telemetry.conftest import Client, user_of

USERS = ("ana", "ben", "cleo", "dora")
PRIVATE = {user: f"tok{number}f9a{number}c77e{number}" for number, user in enumerate(USERS)}


def found(monitor: IsolationMonitor) -> list[Violation]:
    monitor.detection.settle()
    return [violation for violation in monitor.violations() if violation.kind == names.FOREIGN_CONTENT]


def hash_of(monitor: IsolationMonitor, user: str) -> str:
    return monitor.principals.named(user).hash


async def test_words_of_one_user_in_the_answer_to_another_are_a_crossing(monitor: IsolationMonitor) -> None:
    """The modal bug: an agent kept for the process remembers who spoke last."""
    app = FastAPI()
    last: dict[str, str] = {}

    @app.post("/chat")
    async def chat(request: Request) -> dict[str, str]:
        earlier = last.get("said", "")
        last["said"] = (await request.json())["say"]
        return {"reply": f"you said {earlier}"}

    client = Client(monitor.instrument(app))
    await client.post("/chat", user="ana", json={"say": "my code is QX81-77Z2-0K4P"})
    await client.post("/chat", user="ben", json={"say": "hello"})

    [violation] = found(monitor)
    assert violation.grade == "crossed"
    assert violation.victim is not None
    assert violation.victim.principal == hash_of(monitor, "ana")
    assert violation.offender is not None
    assert violation.offender.principal == hash_of(monitor, "ben")
    assert "QX81" not in json.dumps(violation.as_record())


async def test_headers_in_capitals_are_headers_too(monitor: IsolationMonitor) -> None:
    """ASGI has them in lower case; some frameworks send them as they are written."""
    app = FastAPI()
    last: dict[str, str] = {}

    @app.post("/chat")
    async def chat(request: Request) -> dict[str, str]:
        earlier = last.get("said", "")
        last["said"] = (await request.json())["say"]
        return {"reply": f"you said {earlier}"}

    async def capitalised(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [(name.title(), value) for name, value in message["headers"]]}
            await send(message)

        await app(scope, receive, sending)

    client = Client(monitor.instrument(capitalised))
    await client.post("/chat", user="ana", json={"say": "my code is QX81-77Z2-0K4P"})
    await client.post("/chat", user="ben", json={"say": "hello"})

    assert len(found(monitor)) == 1


async def test_what_the_request_itself_read_by_a_driver_alone_is_no_leak(monitor: IsolationMonitor, tmp_path: Path) -> None:
    """Whom a query may return rows of is the application's business, with SQLAlchemy or without."""
    app = FastAPI()
    database = str(tmp_path / "notes.sqlite3")

    def ask(statement: str, *values: str) -> Any:
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            return connection.execute(statement, values).fetchone()

    @app.post("/notes")
    async def write(request: Request) -> dict[str, str]:
        ask("INSERT INTO notes VALUES (?)", (await request.json())["say"])
        return {"note": ask("SELECT note FROM notes ORDER BY rowid LIMIT 1")[0]}

    ask("CREATE TABLE notes (note TEXT)")
    client = Client(monitor.instrument(app))
    monitor.integrations.look()
    for user in ("ana", "ben", "cleo"):
        await client.post("/notes", user=user, json={"say": f"my code is QX81-{user}7-77Z2-0K4P"})

    assert found(monitor) == []


async def test_a_phrase_is_recognised_without_any_token(monitor: IsolationMonitor) -> None:
    app = FastAPI()
    said: list[str] = []

    @app.post("/chat")
    async def chat(request: Request) -> Response:
        said.append((await request.json())["say"])
        return PlainTextResponse(" / ".join(said))

    client = Client(monitor.instrument(app))
    words = "yesterday the physician explained that my treatment would begin again after winter"
    await client.post("/chat", user="ana", json={"say": words})
    await client.post("/chat", user="ben", json={"say": "good morning"})

    assert [violation.grade for violation in found(monitor)] == ["crossed"]


async def answers(client: Client, users: tuple[str, ...], path: str, rounds: int) -> None:
    for _ in range(rounds):
        for user in users:
            await client.get(path, user=user)


async def test_a_value_that_an_endpoint_gives_to_one_user_alone_is_known_in_anothers_answer(
    monitor: IsolationMonitor,
) -> None:
    """Nobody ever sent these values: they are minted by the service. Each user's own is learned from the service's answers."""
    app = FastAPI()
    mixed: dict[str, str] = {}

    @app.get("/me")
    async def me(request: Request) -> dict[str, str]:
        user = user_of(request.scope) or ""
        return {"secret": PRIVATE[mixed.pop(user, user)]}

    client = Client(monitor.instrument(app))
    await answers(client, USERS, "/me", 4)
    assert found(monitor) == []
    mixed["ben"] = "ana"
    await client.get("/me", user="ben")
    monitor.detection.shared_state.look_now()
    # Twice: what the first one proves waits for one that begins later.
    monitor.detection.shared_state.look_now()

    [violation] = found(monitor)
    assert violation.victim is not None
    assert violation.victim.principal == hash_of(monitor, "ana")


async def test_what_answers_made_likely_is_proven_by_the_key_it_is_kept_under(monitor: IsolationMonitor) -> None:
    """The answer that crossed came before any walk through memory, and its owner is not given his value again."""
    app = FastAPI()
    kept: dict[str, str] = {}
    mixed: dict[str, str] = {}

    @app.get("/me")
    async def me(request: Request) -> dict[str, str]:
        user = user_of(request.scope) or ""
        return {"secret": PRIVATE[mixed.pop(user, user)][::-1]}

    @app.get("/keep")
    async def keep(request: Request) -> None:
        kept.update({user: PRIVATE[user][::-1] for user in USERS})

    client = Client(monitor.instrument(app))
    await answers(client, USERS, "/me", 4)
    mixed["ben"] = "ana"
    await client.get("/me", user="ben")
    monitor.detection.shared_state.look_now()
    assert found(monitor) == []

    await client.get("/keep", user="cleo")
    monitor.detection.shared_state.look_now()
    monitor.detection.shared_state.look_now()

    [violation] = found(monitor)
    assert violation.victim is not None
    assert violation.victim.principal == hash_of(monitor, "ana")


async def test_a_leak_seen_before_its_owner_is_known_is_reported_when_the_owner_is(
    monitor: IsolationMonitor,
) -> None:
    """A leak seen first must not make the wrong user the owner."""
    app = FastAPI()
    mixed = {"ben": "ana"}

    @app.get("/me")
    async def me(request: Request) -> dict[str, str]:
        user = user_of(request.scope) or ""
        return {"secret": PRIVATE[mixed.pop(user, user)]}

    client = Client(monitor.instrument(app))
    await client.get("/me", user="ben")
    await answers(client, USERS, "/me", 8)
    monitor.detection.shared_state.look_now()

    [violation] = found(monitor)
    assert violation.victim is not None
    assert violation.victim.principal == hash_of(monitor, "ana")
    assert violation.offender is not None
    assert violation.offender.principal == hash_of(monitor, "ben")


async def test_content_that_is_picked_anew_for_each_user_is_no_leak(monitor: IsolationMonitor) -> None:
    """What a user usually got until now goes to another, and does not come back to him."""
    app = FastAPI()
    served = [0] * len(USERS)

    @app.get("/offer")
    async def offer(request: Request) -> dict[str, str]:
        number = USERS.index(user_of(request.scope) or "")
        served[number] += 1
        return {"offer": f"offer-{(number + (served[number] - 1) // 4) % 6:04}-x7k2m9q4"}

    await answers(Client(monitor.instrument(app)), USERS, "/offer", 24)

    assert found(monitor) == []


async def shown_to_ben_what_memory_keeps_for_ana(monitor: IsolationMonitor) -> None:
    app = FastAPI()

    @app.get("/value")
    async def value() -> dict[str, str]:
        return {"secret": PRIVATE["ana"]}

    client = Client(monitor.instrument(app))
    await client.get("/value", user="ana")
    monitor.detection.foreign_content.belongs(PRIVATE["ana"], monitor.principals.named("ana"), "state")
    await client.get("/value", user="ben")


async def test_memory_kept_under_a_users_id_tells_whose_a_value_is(monitor: IsolationMonitor) -> None:
    await shown_to_ben_what_memory_keeps_for_ana(monitor)
    assert monitor.violations() == [], "it may have been handed over since the latest walk"
    monitor.detection.shared_state.look_now()

    assert len(found(monitor)) == 1


class Mailer:
    settings: dict[str, str] | None = None


async def test_what_memory_keeps_under_an_id_is_known_where_an_alias_is_nearer(monitor: IsolationMonitor) -> None:
    """The first user's row of a table, kept as everybody's: a walk comes to it without passing the table."""
    app = FastAPI()
    rows = {user: {"host": "mail.example.org", "password": PRIVATE[user]} for user in USERS}
    app.state.mailer, app.state.rows = Mailer(), rows

    @app.get("/settings")
    async def settings(request: Request) -> dict[str, str]:
        mailer: Mailer = app.state.mailer
        mailer.settings = mailer.settings or rows[user_of(request.scope) or ""]
        return mailer.settings

    await answers(Client(monitor.instrument(app)), USERS, "/settings", 3)
    monitor.detection.shared_state.look_now()
    await answers(Client(monitor.instrument(app)), USERS, "/settings", 1)

    assert found(monitor)


async def test_what_waits_for_a_walk_is_reported_when_the_monitor_closes(monitor: IsolationMonitor) -> None:
    await shown_to_ben_what_memory_keeps_for_ana(monitor)
    monitor.close()

    assert len(found(monitor)) == 1


@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson", "text/plain"])
async def test_streams_are_read_across_the_borders_of_their_chunks(
    monitor: IsolationMonitor, kind: str, settled: Callable[[], None]
) -> None:
    app = FastAPI()
    said: list[str] = ["nothing"]

    @app.post("/chat")
    async def chat(request: Request) -> Response:
        text = f"data: {said[-1]}\n\n"
        said.append((await request.json())["say"])
        middle = len(text) // 2

        async def parts() -> Any:
            yield text[:middle]
            yield text[middle:]

        return StreamingResponse(parts(), media_type=kind)

    client = Client(monitor.instrument(app))
    await client.post("/chat", user="ana", json={"say": "QX81-77Z2-0K4P"})
    await client.post("/chat", user="ben", json={"say": "x"})
    settled()

    assert [violation.grade for violation in found(monitor)] == ["crossed"]


async def test_a_foreign_cookie_in_a_header_is_seen(monitor: IsolationMonitor) -> None:
    app = FastAPI()
    sessions: list[str] = []

    @app.post("/login")
    async def login(request: Request) -> Response:
        sessions.append((await request.json())["session"])
        return JSONResponse({}, headers={"set-cookie": f"sid={sessions[0]}"})

    client = Client(monitor.instrument(app))
    await client.post("/login", user="ana", json={"session": "9f8e7d6c5b4a"})
    await client.post("/login", user="ben", json={"session": "1a2b3c4d5e6f"})

    assert len(found(monitor)) == 1


@pytest.mark.parametrize("media_type", ["application/msgpack", "application/x-protobuf", "application/octet-stream", "message/rfc822", ""])
async def test_a_value_between_the_lengths_and_tags_of_a_binary_format_is_seen(monitor: IsolationMonitor, media_type: str) -> None:
    app = FastAPI()
    last: list[bytes] = []

    @app.post("/notes")
    async def note(request: Request) -> Response:
        last.append(await request.body())
        answer = Response(b"\x82\xa3tel\xb8" + last[0].rpartition(b"\xb8")[2] + b"\x0a\xc0", media_type=media_type)
        if not media_type:
            del answer.headers["content-type"]
        return answer

    client = Client(monitor.instrument(app))
    for user in ("ana", "ben"):
        await client.get("/notes", user=user, method="POST", body=b"\x81\xa4note\xb8" + PRIVATE[user].encode())

    assert len(found(monitor)) == 1


# --- sharing as it should be ------------------------------------------------------------------------------------------


async def test_a_room_that_both_name_is_shared(monitor: IsolationMonitor) -> None:
    app = FastAPI()
    rooms: dict[str, list[str]] = {}

    @app.post("/rooms/{room}")
    async def say(room: str, request: Request) -> dict[str, list[str]]:
        rooms.setdefault(room, []).append((await request.json())["say"])
        return {"messages": rooms[room]}

    client = Client(monitor.instrument(app))
    for user in USERS:
        await client.post("/rooms/general", user=user, json={"say": f"I am {PRIVATE[user]}"})

    assert found(monitor) == []


async def test_an_error_that_echoes_another_users_words_is_a_crossing(monitor: IsolationMonitor) -> None:
    """The endpoint has never answered anybody well: one exception object is raised for all, with the fields of who failed last."""
    app = FastAPI()
    fields: list[str] = []

    @app.post("/transfer")
    async def transfer(request: Request) -> Response:
        fields.append((await request.json())["iban"])
        return JSONResponse({"refused": fields[0]}, 422)

    client = Client(monitor.instrument(app))
    await client.post("/transfer", user="ana", json={"iban": "DE02120300000000202051"})
    assert found(monitor) == []
    await client.post("/transfer", user="ben", json={"iban": "DE02500105170137075030"})

    [violation] = found(monitor)
    assert violation.victim is not None
    assert violation.victim.principal == hash_of(monitor, "ana")


async def test_an_error_tells_nothing_about_who_is_turned_away(monitor: IsolationMonitor) -> None:
    """Who gets 403 does not use the endpoint: it may be an administrator's, whose errors show what users said."""
    app = FastAPI()
    reported: list[str] = []

    @app.post("/report")
    async def report(request: Request) -> dict[str, bool]:
        reported.append((await request.json())["text"])
        return {"ok": True}

    @app.post("/reports/close")
    async def close(request: Request) -> Response:
        return JSONResponse({"not closed": reported[0]}, 409) if user_of(request.scope) == "root" else JSONResponse({}, 403)

    client = Client(monitor.instrument(app))
    await client.post("/report", user="ana", json={"text": PRIVATE["ana"]})
    await client.post("/reports/close", user="ana", json={})
    await client.post("/reports/close", user="root", json={})

    assert found(monitor) == []


@pytest.mark.parametrize("is_signed", [True, False])
async def test_a_list_whose_items_are_signed_by_nicknames_is_public(monitor: IsolationMonitor, *, is_signed: bool) -> None:
    """A list of everybody's words without a sign of whose they are is an agent's memory, sent out."""
    app = FastAPI()
    said: list[dict[str, str]] = []

    @app.post("/say")
    async def say(request: Request) -> dict[str, bool]:
        nick = f"flower {USERS.index(str(user_of(request.scope)))}" if is_signed else "user"
        said.append({"nick": nick, "text": (await request.json())["text"]})
        return {"ok": True}

    @app.get("/said")
    async def read() -> dict[str, list[dict[str, str]]]:
        return {"said": said}

    client = Client(monitor.instrument(app))
    for round in range(2):
        for user in USERS:
            await client.post("/say", user=user, json={"text": f"{round}{PRIVATE[user]}"})
            await client.get("/said", user=user)

    assert bool(found(monitor)) is not is_signed


async def test_an_administrators_view_is_no_leak(monitor: IsolationMonitor) -> None:
    app = FastAPI()

    @app.post("/secret")
    async def secret(request: Request) -> dict[str, str]:
        return {"kept": (await request.json())["secret"]}

    @app.get("/admin")
    async def admin() -> dict[str, list[str]]:
        return {"secrets": list(PRIVATE.values())}

    client = Client(monitor.instrument(app))
    for user in USERS:
        await client.post("/secret", user=user, json={"secret": PRIVATE[user]})
    await client.get("/admin", user="root")

    assert found(monitor) == []


async def test_the_id_of_a_user_is_not_the_secret_of_whoever_speaks_of_him(monitor: IsolationMonitor) -> None:
    """A list of authors, kept for all, shows to everybody whom somebody has just written to."""
    app = FastAPI()
    ids = PRIVATE
    authors: list[dict[str, str]] = []

    @app.get("/articles")
    async def articles() -> list[dict[str, str]]:
        return authors

    @app.post("/messages")
    async def send(message: dict[str, str]) -> None:
        assert message["to"]

    client = Client(monitor.instrument(app))
    authors += [{"title": "On hedges", "author": ids["ana"]}]
    await client.get("/articles", user=ids["ana"])
    await client.get("/articles", user=ids["ben"])
    # As if the index had overflowed since.
    monitor.detection.foreign_content.ownership.entries.clear()
    await client.post("/messages", user=ids["ben"], json={"to": ids["ana"], "text": "a good one"})
    await client.get("/articles", user=ids["cleo"])

    assert not found(monitor)


async def test_what_everybody_gets_belongs_to_nobody(monitor: IsolationMonitor) -> None:
    app = FastAPI()
    issue = {"n": 0}

    @app.get("/news")
    async def news() -> dict[str, str]:
        return {"headline": f"issue-{issue['n']}ab{issue['n']}99f"}

    client = Client(monitor.instrument(app))
    for number in range(5):
        issue["n"] = number
        await answers(client, USERS, "/news", 3)

    assert found(monitor) == []


async def test_what_one_asks_for_by_name_is_given_on_purpose(monitor: IsolationMonitor) -> None:
    """Whether it may be given is authorisation: the application's business, and declared with `owns`."""
    app = FastAPI()
    articles: dict[str, str] = {}

    @app.post("/articles")
    async def write(request: Request) -> dict[str, str]:
        articles["17"] = (await request.json())["text"]
        return {"id": "17"}

    @app.get("/articles/{id}")
    async def read(id: str) -> dict[str, str]:
        return {"text": articles[id]}

    client = Client(monitor.instrument(app))
    await client.post("/articles", user="ana", json={"text": "reference QX81-77Z2-0K4P"})
    for user in USERS:
        await client.get("/articles/17", user=user)

    assert found(monitor) == []


async def test_a_direct_message_names_its_receiver(
    monitor: IsolationMonitor, socket: Callable[..., Any], settled: Callable[[], None]
) -> None:
    app = FastAPI()
    open_sockets: dict[str, WebSocket] = {}

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        open_sockets[user_of(websocket.scope) or ""] = websocket
        async for message in websocket.iter_json():
            await open_sockets[message["to"]].send_json({"text": message["text"]})

    served = monitor.instrument(app)
    ana, ben = await socket(served, "ana"), await socket(served, "ben")
    ana.say({"to": "ben", "text": "the code is QX81-77Z2-0K4P"})
    await ben.hear()
    settled()

    assert found(monitor) == []


@pytest.mark.parametrize("is_bens_by_now", [True, False])
async def test_what_memory_keeps_for_another_is_looked_for_once_more_when_it_is_pushed(
    monitor: IsolationMonitor, socket: Callable[..., Any], settled: Callable[[], None], *, is_bens_by_now: bool
) -> None:
    app = FastAPI()

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_json()
        await websocket.send_json({"ticket": PRIVATE["ana"]})

    content = monitor.detection.foreign_content
    ben = await socket(monitor.instrument(app), "ben")
    content.belongs(PRIVATE["ana"], monitor.principals.named("ana"), "state")
    ben.say({"mine": "please"})
    await ben.hear()
    if is_bens_by_now:
        content.belongs(PRIVATE["ana"], monitor.principals.named("ben"), "state")
    settled()
    monitor.detection.shared_state.look_now()

    assert len(found(monitor)) == (0 if is_bens_by_now else 1)


async def test_a_frame_with_anothers_words_is_a_crossing_unless_it_is_a_broadcast(
    monitor: IsolationMonitor, socket: Callable[..., Any], settled: Callable[[], None]
) -> None:
    app = FastAPI()
    latest: list[WebSocket] = []

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        latest.append(websocket)
        async for message in websocket.iter_json():
            receivers = latest if message["all"] else latest[-1:]
            for receiver in receivers:
                await receiver.send_json({"text": message["text"]})

    served = monitor.instrument(app)
    ana, ben = await socket(served, "ana"), await socket(served, "ben")
    ana.say({"all": True, "text": "to everybody QX81-77Z2-0K4P"})
    await ben.hear()
    await ana.hear()
    settled()
    assert found(monitor) == []

    ana.say({"all": False, "text": "only an echo ZZ91-77Z2-0K4Q"})
    await ben.hear()
    settled()

    assert [violation.grade for violation in found(monitor)] == ["crossed"]


# --- block mode, power, failure -----------------------------------------------------------------------------------------


async def test_in_block_mode_the_foreign_answer_is_withheld_and_others_are_not(make_monitor: Callable[..., IsolationMonitor]) -> None:
    monitor = make_monitor(detectors=("foreign_content=block",))
    app = FastAPI()
    last = {"said": "nothing"}

    @app.post("/chat")
    async def chat(request: Request) -> dict[str, str]:
        earlier, last["said"] = last["said"], (await request.json())["say"]
        return {"reply": earlier}

    client = Client(monitor.instrument(app))
    first = await client.post("/chat", user="ana", json={"say": "QX81-77Z2-0K4P"})
    second = await client.post("/chat", user="ben", json={"say": "x"})

    assert (first.status, first.json()) == (200, {"reply": "nothing"})
    assert second.status == 500
    assert b"QX81" not in second.body
    assert second.headers["content-type"] == "application/problem+json"


async def test_switched_off_it_neither_learns_nor_judges(make_monitor: Callable[..., IsolationMonitor]) -> None:
    monitor = make_monitor(detectors=("foreign_content=off",))
    app = FastAPI()

    @app.get("/value")
    async def value() -> dict[str, str]:
        return {"secret": PRIVATE["ana"]}

    await Client(monitor.instrument(app)).get("/value", user="ana")

    assert monitor.detection.foreign_content.ownership.entries == {}


def test_the_planted_fault_is_reported_as_synthetic_and_leaves_nothing(monitor: IsolationMonitor) -> None:
    lab = Lab(monitor.principals)

    monitor.detection.foreign_content.plant(lab)

    [violation] = monitor.violations(synthetic=True)
    assert violation.synthetic
    assert not any(lab.name in token for token in monitor.detection.foreign_content.ownership.entries)


async def test_a_failure_of_its_own_is_counted_and_changes_no_answer(
    monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch, samples: Callable[..., float]
) -> None:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, str]:
        return {"said": (await request.json())["say"]}

    def broken(*_: Any, **__: Any) -> bool:
        raise RuntimeError("planted")

    client = Client(monitor.instrument(app))
    content = monitor.detection.foreign_content
    for name in ("leaving", "came_in", "entered"):
        monkeypatch.setattr(content, name, broken)
    answer = await client.post("/echo", user="ana", json={"say": "x"})

    assert (answer.status, answer.json()) == (200, {"said": "x"})
    assert samples(monitor, "isolation_checks_total", detector=names.FOREIGN_CONTENT, result="error") > 0
