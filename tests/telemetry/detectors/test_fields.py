"""Fields under watch: read where they stand now, also when what holds them is replaced, and judged at the end of their owner's request."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.detectors.object_walk import Node, Root, Walk
from isolation_monitor.telemetry.detectors.raw_objects import Child
from isolation_monitor.telemetry.detectors.spots import STEPS_LIMIT, Spot
from isolation_monitor.telemetry.detectors.territory import Territory
from tests.telemetry.conftest import Client, user_of

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
    """Another class has other fields, and its layout is not known."""
    client = SimpleNamespace(params={"account": "ann"})
    spot = Spot(*met(client, "params['account']"), follows=True)

    client.params = None

    assert spot.read() == "ann"


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


@pytest.fixture
def unwalked(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make walks by appointment rest: what is found then was read at the ends of requests."""
    detector = monitor.detection.shared_state
    monkeypatch.setattr(detector.pace, "schedule", lambda: None)
    monkeypatch.setattr(detector.pace, "is_due", True)
    monkeypatch.setattr(detector.pace, "is_lost", lambda now: False)
    detector._first_looks = detector._early_looks = 0
    return detector


async def test_what_was_seen_at_the_end_of_another_request_is_judged_at_the_end_of_its_owners(monitor, unwalked) -> None:
    """Two at once: at the first end the second one's value stands there, and it still does at the second end."""
    CLIENT.params = {"account": ""}
    app = FastAPI()
    gates = {user: asyncio.Event() for user in ("ann", "bob", "eve")}
    arrived = asyncio.Event()

    @app.get("/")
    async def home(request: Request) -> dict[str, str]:
        user = user_of(request.scope) or ""
        CLIENT.params = {"account": user}
        arrived.set()
        await gates[user].wait()
        return {"ok": CLIENT.params["account"][:1]}

    calls = Client(monitor.instrument(app))
    monitor.started()
    # Walks learn of the field, and that its holder is one that is replaced.
    for user in ("eve", "eve"):
        gates[user].set()
        await calls.get("/", user=user)
        arrived.clear()
        unwalked.look_now()

    for first, second in (("ann", "bob"), ("bob", "ann")):
        gates["ann"].clear()
        gates["bob"].clear()
        running = []
        for user in (first, second):
            running.append(asyncio.create_task(calls.get("/", user=user)))
            await arrived.wait()
            arrived.clear()
        for user, task in zip((first, second), running, strict=True):
            gates[user].set()
            await task
    unwalked._readers.answer_now()

    labels = [v.resource.name for v in monitor.violations() if v.kind == names.SHARED_STATE]
    assert labels
    assert all("CLIENT.params" in label for label in labels), labels
