"""Additions: what an application puts on its framework's objects and sets on its clients is shared state like its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from isolation_monitor.telemetry.detectors.additions import Additions
from isolation_monitor.telemetry.detectors.raw_objects import Layouts
from tests.telemetry.detectors.test_shared_state import found, load, watched  # noqa: F401 - fixtures

ADDED = {
    "app.messages[*]": """
app.messages = []

@app.get("/")
async def home(user: str = Depends(me)):
    app.messages.append(SECRET[user])
    return {}
""",
    "app.ctx.note": """
from types import SimpleNamespace

app.ctx = SimpleNamespace()

@app.get("/")
async def home(user: str = Depends(me)):
    app.ctx.note = SECRET[user]
    return {}
""",
    "session.params['note']": """
import requests

session = requests.Session()

@app.get("/")
async def home(user: str = Depends(me)):
    session.params = {"note": SECRET[user]}
    return {}
""",
    "home.note": """
@app.get("/")
async def home(user: str = Depends(me)):
    home.note = SECRET[user]
    return {}
""",
}


@pytest.mark.parametrize(("place", "body"), ADDED.items(), ids=ADDED)
async def test_what_is_put_on_objects_of_frameworks_is_looked_at(monitor, client, watched, place: str, body: str) -> None:  # noqa: F811
    app = watched(body)
    monitor.started()

    calls = client(app)
    for user in ("ann", "bob", "cid"):
        assert (await calls.get("/", user=user)).status == 200
        monitor.detection.shared_state.look_now()

    assert [name.partition(":")[2] for name in found(monitor)] == [place]


class Client:
    """As clients and frameworks are: settings, a state of its own, and what a property keeps."""

    def __init__(self) -> None:
        self.timeout = 5
        self.latest: object = None
        self._headers: object = {}

    def send(self, call: object) -> None:
        self.latest = call

    @property
    def headers(self) -> object:
        return self._headers

    @headers.setter
    def headers(self, value: object) -> None:
        self._headers = value


def test_the_books_of_a_framework_are_its_own_business() -> None:
    layouts = Layouts()
    additions = Additions(layouts)
    additions.assigned = {"latest", "timeout", "headers", "note"}
    additions.mentioned = {*additions.assigned, "carts"}
    client: Any = Client()
    client.note, client.carts, client.unmentioned, client.bag = "", {}, {}, SimpleNamespace()

    assert additions.of(client, layouts.of(client)) == {"timeout", "_headers", "note", "carts", "bag"}

    client.scope = {"type": "http"}
    assert additions.of(client, layouts.of(client)) == frozenset()
