"""The walk as a guest: hostile objects, changing containers and failing parts of our own never reach the host."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import pytest

from isolation_monitor.telemetry.context import RequestContext, Served
from isolation_monitor.telemetry.detectors.knowledge import Knowledge
from isolation_monitor.telemetry.detectors.object_walk import NODES_LIMIT, Node, Root, Walk
from isolation_monitor.telemetry.detectors.planted_owners import PlantedOwners
from isolation_monitor.telemetry.detectors.raw_objects import CHILDREN_LIMIT
from isolation_monitor.telemetry.detectors.residue import Residue
from isolation_monitor.telemetry.detectors.territory import Territory
from isolation_monitor.telemetry.lab import Lab
from isolation_monitor.telemetry.principals import Principal, PrincipalHasher

touched: list[str] = []


class Hostile:
    """Every way by which looking could run the host's code."""

    def __init__(self) -> None:
        self.kept = "kept"

    @property
    def secret(self) -> str:
        touched.append("property")
        raise RuntimeError("looked at")

    def __getattr__(self, name: str) -> Any:
        touched.append(f"getattr {name}")
        raise RuntimeError("looked at")

    def __getattribute__(self, name: str) -> Any:
        touched.append(f"getattribute {name}")
        return object.__getattribute__(self, name)

    def __eq__(self, other: object) -> bool:
        touched.append("eq")
        raise RuntimeError("compared")

    def __hash__(self) -> int:
        touched.append("hash")
        return 1

    def __repr__(self) -> str:
        touched.append("repr")
        raise RuntimeError("printed")

    def __len__(self) -> int:
        touched.append("len")
        raise RuntimeError("measured")

    def __bool__(self) -> bool:
        touched.append("bool")
        raise RuntimeError("asked")

    @property
    def __dict__(self) -> Any:
        touched.append("dict")
        raise RuntimeError("opened")


class HostileDict(dict[Any, Any]):
    def items(self) -> Any:
        touched.append("items")
        raise RuntimeError("listed")

    def __iter__(self) -> Any:
        touched.append("iter")
        raise RuntimeError("walked")

    def __getitem__(self, key: Any) -> Any:
        touched.append("getitem")
        raise RuntimeError("read")


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        touched.append(f"meta {name}")
        return super().__getattribute__(name)

    def __eq__(cls, other: object) -> bool:
        touched.append("meta eq")
        return False

    def __hash__(cls) -> int:
        touched.append("meta hash")
        return 1


class WithMeta(metaclass=HostileMeta):
    rules: list[str] = []  # noqa: RUF012


def walk(*roots: Root) -> list[Node]:
    return list(Walk(Territory()).nodes(roots))


def test_no_code_of_the_host_runs() -> None:
    hostile, table, other = Hostile(), HostileDict(), WithMeta()
    dict.__setitem__(table, Hostile(), {"inner": hostile})
    dict.__setitem__(table, "text", "value")
    place = {"one": hostile, "two": table, "three": [hostile, {"four": hostile}], "five": other, "six": WithMeta}
    touched.clear()

    nodes = walk(Root("place", place))

    assert touched == []
    assert any(child.value == "value" for node in nodes for child in node.holds if type(child.value) is str)


def test_no_code_of_a_hosts_key_runs_where_it_is_looked_for_whom_a_value_is_kept() -> None:
    ann = Principal("ann", PrincipalHasher("k"))
    knowledge = Knowledge()
    knowledge.ids, knowledge.owners = {"ann": ann}, PlantedOwners({})
    walker = Walk(Territory())
    residue = Residue(knowledge, walker.layouts)
    told: list[tuple[str, Principal]] = []
    residue.on_keyed.append(lambda token, owner: told.append((token, owner)))
    place = {"ann": {Hostile(): {"code": "k7f3b9d1e0c2"}}}
    touched.clear()

    for node in walker.nodes([Root("place", place)]):
        residue.look(node, 0.0)

    assert told == [("k7f3b9d1e0c2", ann)]
    assert touched == []


def test_a_cycle_is_walked_once_and_a_huge_structure_in_part() -> None:
    ring: list[Any] = []
    ring.append(ring)
    huge = {n: {m: [str(m)] for m in range(200)} for n in range(200)}

    nodes = walk(Root("ring", ring), Root("huge", huge))

    assert sum(node.value is ring for node in nodes) == 1
    assert len(nodes) <= NODES_LIMIT
    assert all(len(node.holds) <= CHILDREN_LIMIT for node in nodes)


def test_containers_that_change_while_they_are_walked_do_no_harm() -> None:
    table: dict[str, Any] = {"first": []}
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            table[f"key{n % 500}"] = [n]
            table.pop(f"key{(n * 7) % 500}", None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            walk(Root("table", {"table": table}))
    finally:
        stop.set()
        thread.join()


def test_the_walk_keeps_nothing_of_the_host_alive() -> None:
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    walker = Walk(Territory())

    list(walker.nodes([Root("holder", {"thing": thing})]))
    del thing
    gc.collect()

    assert gone() is None


def ended(monitor: Any, user: str, endpoint: Any) -> RequestContext:
    """Return a request that an endpoint has just answered."""
    request = RequestContext(monitor.principals.named(user), {"type": "http", "method": "GET"}, None, None)
    request.served = Served({"endpoint": endpoint, "method": "GET"})
    request.scope = None
    request.finished = True
    return request


def endpoint() -> None:
    """Stands for the host's."""


def test_errors_of_our_own_are_counted_and_never_raised(monitor, samples, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = monitor.detection.shared_state

    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(detector.residue, "look", broken)

    detector.at_end(ended(monitor, "ann", endpoint))

    assert samples(monitor, "isolation_checks_total", detector="shared_state", result="error") == 1


def test_switched_off_it_learns_and_walks_nothing(make_monitor) -> None:
    monitor = make_monitor(detectors="shared_state=off")
    detector = monitor.detection.shared_state

    detector.at_end(ended(monitor, "ann", endpoint))
    detector.watch(endpoint)

    # The process's environment is there without learning.
    assert [root.label for root in detector._roots] == ["os.environ"]


def test_tables_stay_bounded_however_many_principals_and_places_come(monitor) -> None:
    detector = monitor.detection.shared_state

    for n in range(30_000):
        detector.at_end(ended(monitor, f"user-{n}", endpoint))

    assert len(detector.knowledge.ids) <= 10_001
    assert len(detector._ended_at) <= 10_001


def test_the_planted_violation_is_reported_as_synthetic(monitor) -> None:
    monitor.detection.shared_state.plant(Lab(monitor.principals))

    [violation] = monitor.violations(synthetic=True)
    assert (violation.kind, violation.grade, violation.synthetic) == ("shared_state", "reachable", True)
    assert not monitor.detection.shared_state.residue.places, "nothing is left behind"


def test_the_end_of_a_request_costs_little(monitor) -> None:
    """Under 1 us on the machine it was written on; the bound holds on one fifty times slower."""
    detector = monitor.detection.shared_state
    requests = [ended(monitor, user, endpoint) for user in ("ann", "bob")]
    for request in requests:
        detector.at_end(request)

    begun = time.perf_counter()
    for _ in range(1_000):
        detector.at_end(requests[0])
        detector.at_end(requests[1])
    each = (time.perf_counter() - begun) / 2_000

    assert each < 50e-6
