"""Whose queues are the deepest: what a worker says of them, how often, and that saying it harms nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isolation_monitor.telemetry.delivery.deepest_queues import REPEAT_AFTER_S, TELL_EVERY_S, TOLD_USERS, DeepestQueues
from isolation_monitor.telemetry.delivery.queues import Backlog
from isolation_monitor.telemetry.principals import Principal, PrincipalHasher
from tests.telemetry.delivery.conftest import Pusher, eventually

AWAY = {"collector_url": "http://127.0.0.1:9", "collector_token": "none"}
HASHER = PrincipalHasher("a key for tests")


def user(name: str) -> Principal:
    return Principal(name, HASHER)


class Teller:
    """The part itself, with a clock that moves only when told; `said` are its statements."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []
        self.now = 1_000.0
        self.part = DeepestQueues(self.said.append, self.errors.append)

    def look(self, *backlogs: Backlog, later_s: float = TELL_EVERY_S) -> list[dict[str, Any]]:
        """Return what one more look, `later_s` after the last, makes it say."""
        self.now += later_s
        before = len(self.said)
        self.part.look([one._replace(age_s=self.now - one.age_s) for one in backlogs], self.now)
        return self.said[before:]

    def since(self, at: float, events: int, owner: Principal | None, *, size: int = 10, connections: int = 0) -> Backlog:
        """Return what waits since `at`; `look` makes an age of it."""
        return Backlog(events, size, at, owner, connections)


@pytest.fixture
def teller() -> Teller:
    return Teller()


def test_the_deepest_are_named_by_their_hashes_and_the_others_counted(teller: Teller) -> None:
    """30 users wait, with 1 to 30 events of 10 bytes altogether each: 20 are named, deepest first."""
    users = [user(f"user-{n}@example.com") for n in range(1, 31)]

    (said,) = teller.look(*(teller.since(990, n, one) for n, one in enumerate(users, 1)))

    assert said["type"] == "queues"
    assert said["waiting"] == {"users": 30, "events": 465, "bytes": 300}
    assert [one["events"] for one in said["users"]] == list(range(30, 30 - TOLD_USERS, -1))
    assert said["users"][0]["principal"] == users[-1].hash
    assert "example.com" not in json.dumps(said)


def test_all_that_waits_for_one_user_is_one_queue(teller: Teller) -> None:
    """His queue, and two connections that did not ask for the envelope: 5 + 2 + 1 events, the oldest since 900."""
    ann, again = user("ann"), user("ann")

    (said,) = teller.look(
        teller.since(950, 5, ann), teller.since(900, 2, again, connections=1), teller.since(960, 1, ann, size=0, connections=1)
    )

    (one,) = said["users"]
    assert (one["events"], one["bytes"], one["connections"]) == (8, 20, 2)
    assert said["waiting"]["users"] == 1


def test_who_is_being_served_nobody_knows_or_is_synthetic_is_not_named(teller: Teller) -> None:
    planted = user("planted")
    planted.is_synthetic = True

    assert teller.look(teller.since(1_004, 9, user("quick")), teller.since(900, 9, None), teller.since(900, 9, planted)) == []


def test_nothing_is_said_twice_until_it_must_be_repeated(teller: Teller) -> None:
    """The collector forgets a silent worker after 90 s: what still holds is said again before."""
    ann = teller.since(990, 3, user("ann"))
    (first,) = teller.look(ann)

    while teller.now + TELL_EVERY_S < 1_005 + REPEAT_AFTER_S:
        assert teller.look(ann) == []
    (again,) = teller.look(ann)

    assert again["users"][0]["events"] == first["users"][0]["events"]
    assert (again["id"], again["sequence"]) == (first["id"], first["sequence"] + 1)


def test_changes_are_said_at_most_every_few_seconds(teller: Teller) -> None:
    ann = user("ann")
    teller.look(teller.since(990, 1, ann))

    said = [teller.look(teller.since(990, 1 + n, ann), later_s=1.0) for n in range(1, 21)]

    assert sum(map(len, said)) == 4
    assert said[4][0]["users"][0]["events"] == 6


def test_that_nobody_waits_any_more_is_said_at_once_and_once(teller: Teller) -> None:
    assert teller.look() == []
    teller.look(teller.since(990, 1, user("ann")))

    (last,) = teller.look(later_s=0.1)

    assert (last["users"], last["waiting"]) == ([], {"users": 0, "events": 0, "bytes": 0})
    assert teller.look() == []


def test_a_forked_worker_speaks_for_itself(teller: Teller) -> None:
    (parents,) = teller.look(teller.since(990, 1, user("ann")))
    teller.part.forked()

    assert teller.look() == [], "the parent's word is not the child's to take back"
    (childs,) = teller.look(teller.since(990, 1, user("ann")))

    assert childs["id"] != parents["id"]
    assert childs["sequence"] == 1


def test_it_never_raises(teller: Teller) -> None:
    """Half of the looks come from a timer that would not come again."""

    class Broken:
        is_synthetic = False

        @property
        def id(self) -> str:
            raise RuntimeError("no")

    teller.look(teller.since(900, 1, Broken()))  # type: ignore[arg-type]
    teller.part._tell = lambda record: 1 / 0  # type: ignore[assignment,return-value]
    teller.look(teller.since(900, 1, user("ann")))

    assert [type(error) for error in teller.errors] == [RuntimeError, ZeroDivisionError]


async def test_without_a_collector_nobody_is_looked_for(monitor: Any, make_monitor: Any) -> None:
    assert monitor.delivery.deepest is None
    assert make_monitor(**AWAY, mode="off").delivery.deepest is None


async def test_who_is_there_is_told_from_who_is_not(make_monitor: Any, serve: Any, dial: Any) -> None:
    """ann does not acknowledge, bob's page never asked for the envelope and does not read, cleo has no connection."""
    monitor, said = make_monitor(**AWAY), []
    monitor.delivery.deepest._tell = said.append
    service = Pusher(monitor)
    url = await serve(service.app)
    await (await dial(url, "ann")).welcomed()
    bob = await dial(url, "bob", asks=False)
    await eventually(lambda: {"ann", "bob"} <= service.sends.keys(), "the application accepted")
    bob.socket.transport.pause_reading()

    await monitor.deliver("cleo", '{"n": 1}')
    await service.push("ann", {"n": 1})
    await service.push("bob", {"n": 1})
    named = {monitor.principals.named(name).hash: name for name in ("ann", "bob", "cleo")}

    def connections() -> dict[str, int]:
        return {named[one["principal"]]: one["connections"] for one in said[-1]["users"]} if said else {}

    await eventually(lambda: connections() == {"ann": 1, "bob": 1, "cleo": 0}, "all three are named")
    bob.socket.transport.resume_reading()


async def test_a_forked_worker_of_a_service_speaks_for_itself(make_monitor: Any) -> None:
    monitor, said = make_monitor(**AWAY), []
    part = monitor.delivery.deepest
    part._tell = said.append
    backlog = Backlog(1, 10, 60.0, monitor.principals.named("ann"), 0)
    part.look([backlog], 1_000.0)

    monitor.delivery.forked()
    part.look([backlog], 1_000.0)

    assert len({one["id"] for one in said}) == 2


async def test_a_broken_teller_stops_neither_delivery_nor_its_metrics(make_monitor: Any, samples: Any, serve: Any, dial: Any) -> None:
    monitor = make_monitor(**AWAY)
    calls = []

    def broken(record: dict[str, Any]) -> None:
        calls.append(record)
        raise RuntimeError("no")

    monitor.delivery.deepest._tell = broken
    service = Pusher(monitor)
    url = await serve(service.app)
    await monitor.deliver("ann", '{"n": 1}')
    bob = await dial(url, "bob", asks=False)
    await eventually(lambda: service.sends.get("bob"), "the application accepted")
    bob.socket.transport.pause_reading()
    await service.push("bob", {"n": 1})

    await eventually(lambda: calls, "it was asked to tell")
    count = samples(monitor, "isolation_user_queue_events_count")
    await eventually(lambda: samples(monitor, "isolation_user_queue_events_count") > count + 2, "the looks go on")
    bob.socket.transport.resume_reading()
    ann = await dial(url, "ann")
    await ann.welcomed()

    assert (await ann.hear())["n"] == 1
    assert (await bob.hear())["n"] == 1
    assert samples(monitor, "isolation_monitor_errors_total", hook="delivery") >= 1
