"""Fields under watch: read where they stand now, also when what holds them is replaced, and judged at the end of their owner's request."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.detectors.fields import Field
from isolation_monitor.telemetry.detectors.knowledge import Evidence
from isolation_monitor.telemetry.detectors.object_walk import Node, Root, Walk
from isolation_monitor.telemetry.detectors.raw_objects import Child
from isolation_monitor.telemetry.detectors.residue import Place
from isolation_monitor.telemetry.detectors.spots import STEPS_LIMIT, Spot
from isolation_monitor.telemetry.detectors.territory import Territory
from tests.telemetry.conftest import Client, user_of

KEPT = "kept"
CLIENT = SimpleNamespace(params={"account": ""})
"""What all requests share. Its parameters are a new dictionary each time."""


def met(root: object, label: str) -> tuple[Node, Child]:
    """Return where a walk meets a field."""
    for node in Walk(Territory()).nodes([Root("shop:client", root)]):
        for child in node.holds:
            if f"{node.label}.{child.key}" == f"shop:client.{label}" or f"{node.label}['{child.key}']" == f"shop:client.{label}":
                return node, child
    raise AssertionError(label)


def test_a_field_is_read_in_the_object_that_stands_there_now() -> None:
    client = SimpleNamespace(params={"account": "ann"})
    kept, followed = Spot(*met(client, "params['account']")), Spot(*met(client, "params['account']"), follows=True)

    client.params = {"account": "bob"}

    assert (kept.read(), followed.read()) == ("ann", "bob")
    assert followed.is_for(*met(client, "params['account']"))
    assert not kept.is_for(*met(client, "params['account']"))


def test_also_when_more_than_its_holder_is_replaced() -> None:
    state = SimpleNamespace(now=SimpleNamespace(user={"id": "ann"}))
    spot = Spot(*met(state, "now.user['id']"), follows=True)

    state.now = SimpleNamespace(user={"id": "bob"})

    assert spot.read() == "bob"


def test_what_is_of_another_class_is_not_followed() -> None:
    """Another class has other fields, and its layout is not known; what stood there before does so no more."""
    client = SimpleNamespace(params={"account": "ann"})
    where = met(client, "params['account']")
    spot = Spot(*where, follows=True)

    client.params = None

    assert spot.read() is None
    assert not spot.is_for(*where)


def test_a_spot_among_many_alike_stays_with_its_own() -> None:
    """The entries of a list move: the first one now is not the one that was met."""
    pool = SimpleNamespace(workers=[SimpleNamespace(user="ann"), SimpleNamespace(user="bob")])
    node = next(node for node in Walk(Territory()).nodes([Root("shop:client", pool)]) if node.is_varying)
    spot = Spot(node, next(child for child in node.holds if child.key == "user"), follows=True)

    pool.workers.reverse()

    assert spot.read() == "ann"


def test_the_way_is_bounded() -> None:
    inner: Any = "ann"
    for _ in range(STEPS_LIMIT + 2):
        inner = {"a": inner}
    top = SimpleNamespace(a=inner)
    label = "a" + "['a']" * (STEPS_LIMIT + 2)

    assert len(Spot(*met(top, label), follows=True)._way) == STEPS_LIMIT


@pytest.mark.parametrize("follows", [False, True])
def test_what_was_said_in_an_object_that_is_made_anew_is_that_request_kept(monitor: IsolationMonitor, follows: bool) -> None:
    """`last["body"] = await request.json()`: the id in it tells of its user, and his words are in it because he said them."""
    client = SimpleNamespace(params={"account": "ann"})
    where = met(client, "params['account']")
    ann = monitor.principals.named("ann")
    field = Field(Place("label", (), "holder", 0.0), *where)
    if follows:
        field.follow(*where)
    evidence = [Evidence(ann, "ann", "id"), Evidence(ann, "her words", "token"), Evidence(ann, "her key", "token")]

    field.holds(evidence, lambda token: token == "her words")

    assert [one.token for one in field.found] == (["ann", "her key"] if follows else ["ann", "her words", "her key"])


@pytest.fixture
def unwalked(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make walks by appointment rest: what is found then was read at the ends of requests."""
    detector = monitor.detection.shared_state
    monkeypatch.setattr(detector.pace, "schedule", lambda: None)
    monkeypatch.setattr(detector.pace, "is_due", True)
    monkeypatch.setattr(detector.pace, "is_lost", lambda now: False)
    detector._first_looks = detector._early_looks = 0
    return detector


class Turns:
    """Requests of which each ends when it is told to, on a service whose client carries the latest one's user."""

    def __init__(self, monitor: IsolationMonitor, leaves: object) -> None:
        CLIENT.params = {"account": None}
        self._arrived = asyncio.Event()
        self._gates: dict[str, asyncio.Event] = {}
        app = FastAPI()

        @app.get("/")
        async def home(request: Request) -> dict[str, str]:
            user = user_of(request.scope) or ""
            CLIENT.params = {"account": user}
            self._arrived.set()
            await self._gates[user].wait()
            account = (CLIENT.params or {}).get("account")
            if leaves is not KEPT and account == user:
                CLIENT.params = leaves  # type: ignore[assignment]  # whatever a service resets it to
            return {"ok": str(account)[:1]}

        self._calls = Client(monitor.instrument(app))
        monitor.started()

    async def begin(self, user: str) -> asyncio.Task[Any]:
        self._gates[user] = asyncio.Event()
        self._arrived.clear()
        task = asyncio.create_task(self._calls.get("/", user=user))
        await self._arrived.wait()
        return task

    async def end(self, user: str, task: asyncio.Task[Any]) -> None:
        self._gates[user].set()
        await task


@pytest.mark.parametrize("leaves", [KEPT, {"account": {}}, {"account": None}, {}, None], ids=repr)
async def test_what_was_seen_at_the_end_of_another_request_is_judged_at_the_end_of_its_owners(monitor, unwalked, leaves: object) -> None:
    """Two at once: at the first end the second one's value stands there, and at the second end it still does, or was taken away."""
    turns = Turns(monitor, leaves)
    # Walks learn of the field, and that its holder is one that is replaced.
    for _ in range(2):
        task = await turns.begin("eve")
        unwalked.look_now()
        await turns.end("eve", task)
        unwalked.look_now()

    for first, second in (("ann", "bob"), ("bob", "ann"), ("ann", "bob")):
        running = {user: await turns.begin(user) for user in (first, second)}
        for user, task in running.items():
            await turns.end(user, task)
    unwalked._readers.answer_now()

    labels = [v.resource.name for v in monitor.violations() if v.kind == names.SHARED_STATE]
    assert bool(labels) is (leaves is KEPT)
    assert all("CLIENT.params" in label for label in labels), labels
