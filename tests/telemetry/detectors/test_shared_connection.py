"""Two principals on one connection, by uses and by replies; and all the ways in which sharing one is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.detectors import shared_connection
from isolation_monitor.telemetry.detectors.shared_connection import SharedConnection
from isolation_monitor.telemetry.lab import Lab
from tests.telemetry.acting import Acting


class Wire:
    """A client's connection object, of which nothing may be asked."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("code of the host ran")

    def __hash__(self) -> int:
        raise AssertionError("code of the host ran")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("code of the host ran")


@pytest.fixture
def acting(monitor: IsolationMonitor) -> Acting:
    return Acting(monitor)


@pytest.fixture
def detector(monitor: IsolationMonitor) -> SharedConnection:
    return SharedConnection(monitor.detection.kit)


def test_a_second_principal_within_a_use_is_reported_with_both_sides(acting: Acting, detector: SharedConnection) -> None:
    first, second, wire = acting.request("u1"), acting.request("u2"), Wire()

    acting.inside(first, detector.used, wire, "db")
    acting.inside(second, detector.used, wire, "db")

    (violation,) = acting.found(names.SHARED_CONNECTION)
    assert violation.grade == "reachable"
    assert violation.victim is not None
    assert violation.victim.principal == acting.monitor.principals.named("u1").hash
    assert violation.offender is not None
    assert violation.offender.principal == acting.monitor.principals.named("u2").hash
    assert violation.victim.stack
    assert violation.offender.stack
    assert first.violated
    assert second.violated


def test_each_request_is_reported_once(acting: Acting, detector: SharedConnection) -> None:
    wire, second = Wire(), acting.request("u2")
    acting.inside(acting.request("u1"), detector.used, wire, "db")

    for _ in range(5):
        acting.inside(second, detector.used, wire, "db")

    assert len(acting.found()) == 1


@pytest.mark.parametrize("end", ["idle", "closed"])
def test_a_use_that_is_over_harms_nobody(acting: Acting, detector: SharedConnection, end: str) -> None:
    first, wire = acting.request("u1"), Wire()
    acting.inside(first, detector.used, wire, "db")
    acting.inside(first, getattr(detector, end), wire)

    acting.inside(acting.request("u2"), detector.used, wire, "db")

    assert acting.found() == []
    assert acting.checks(names.SHARED_CONNECTION, "pass") == 1


def test_the_intruder_cannot_end_the_use_it_came_into(acting: Acting, detector: SharedConnection) -> None:
    """A statement inside of another principal's transaction is over before the transaction is."""
    wire, second = Wire(), acting.request("u2")
    acting.inside(acting.request("u1"), detector.used, wire, "db")
    acting.inside(second, detector.used, wire, "db")
    acting.inside(second, detector.idle, wire)

    acting.inside(acting.request("u3"), detector.used, wire, "db")

    assert len(acting.found()) == 2


@pytest.mark.parametrize(("owner", "user"), [("u1", "u1"), (None, "u2"), ("u1", None)])
def test_one_principal_and_unknown_ones_accuse_nobody(
    acting: Acting, detector: SharedConnection, owner: str | None, user: str | None
) -> None:
    wire = Wire()

    acting.inside(acting.request(owner), detector.used, wire, "db")
    acting.inside(acting.request(user), detector.used, wire, "db")

    assert acting.found() == []


def test_code_outside_of_requests_and_of_finished_ones_accuses_nobody(acting: Acting, detector: SharedConnection) -> None:
    """A worker that was started lazily lives in the context of the request that came first."""
    wire, finished = Wire(), acting.request("u2")
    finished.finished = True
    acting.inside(acting.request("u1"), detector.used, wire, "db")

    acting.inside(None, detector.used, wire, "db")
    acting.inside(finished, detector.used, wire, "db")

    assert acting.found() == []


def test_a_connection_made_for_many_is_not_looked_at(acting: Acting, detector: SharedConnection) -> None:
    wire = Wire()

    for user in ("u1", "u2"):
        acting.inside(acting.request(user), lambda: detector.used(wire, "multiplexed", exclusive=False))

    assert acting.found() == []


def test_a_reply_that_another_principal_reads_has_crossed(acting: Acting, detector: SharedConnection) -> None:
    """The off-by-one of a cancelled command: its reply goes to whoever asks next."""
    wire, first, second = Wire(), acting.request("u1"), acting.request("u2")
    acting.inside(first, detector.sent, wire, "kv")

    acting.inside(second, detector.sent, wire, "kv")
    acting.inside(second, detector.received, wire)

    (violation,) = acting.found(names.SHARED_CONNECTION)
    assert violation.grade == "crossed"
    assert detector.unread(wire) == 1
    assert first.violated
    assert second.violated


def test_replies_in_step_are_checked_and_pass(acting: Acting, detector: SharedConnection) -> None:
    wire = Wire()

    for user in ("u1", "u2", "u1"):
        request = acting.request(user)
        acting.inside(request, lambda: detector.sent(wire, "kv", 3))
        for _ in range(3):
            acting.inside(request, detector.received, wire)

    assert acting.found() == []
    assert detector.unread(wire) == 0
    assert acting.checks(names.SHARED_CONNECTION, "pass") == 9


def test_a_new_connection_owes_nothing(acting: Acting, detector: SharedConnection) -> None:
    wire = Wire()
    acting.inside(acting.request("u1"), detector.sent, wire, "kv")
    detector.reconnected(wire)

    request = acting.request("u2")
    acting.inside(request, detector.sent, wire, "kv")
    acting.inside(request, detector.received, wire)

    assert acting.found() == []


def test_messages_that_come_unasked_are_not_counted(acting: Acting, detector: SharedConnection) -> None:
    wire = Wire()
    acting.inside(acting.request("u1"), detector.sent, wire, "kv")
    detector.uncounted(wire)

    acting.inside(acting.request("u2"), detector.received, wire)

    assert acting.found() == []


def test_what_was_not_sent_is_owed_no_reply(acting: Acting, detector: SharedConnection) -> None:
    wire = Wire()
    entry = acting.inside(acting.request("u1"), detector.sent, wire, "kv")
    assert entry is not None

    detector.unsent(wire, entry)

    assert detector.unread(wire) == 0


def test_unread_replies_are_bounded(acting: Acting, detector: SharedConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_connection, "UNREAD_LIMIT", 10)
    wire, request = Wire(), acting.request("u1")

    for _ in range(50):
        acting.inside(request, detector.sent, wire, "kv")

    assert detector.unread(wire) == 0


def test_connections_are_forgotten_when_they_die(acting: Acting, detector: SharedConnection) -> None:
    for _ in range(100):
        acting.inside(acting.request("u1"), detector.used, Wire(), "db")
        acting.inside(acting.request("u1"), detector.sent, Wire(), "kv")

    assert len(detector._uses) == len(detector._lines) == 0


def test_an_object_that_cannot_be_followed_is_skipped(acting: Acting, detector: SharedConnection) -> None:
    acting.inside(acting.request("u1"), detector.used, object(), "db")

    assert acting.checks(names.SHARED_CONNECTION, "skipped") == 1


def test_it_does_nothing_when_it_is_off(make_monitor: Callable[..., IsolationMonitor]) -> None:
    acting = Acting(make_monitor(detectors="shared_connection=off"))
    detector, wire = SharedConnection(acting.monitor.detection.kit), Wire()

    for user in ("u1", "u2"):
        acting.inside(acting.request(user), detector.used, wire, "db")
        acting.inside(acting.request(user), detector.sent, wire, "kv")
    acting.inside(acting.request("u2"), detector.received, wire)

    assert acting.found() == []


def test_a_planted_fault_is_reported_as_synthetic(acting: Acting, detector: SharedConnection) -> None:
    detector.plant(Lab(acting.monitor.principals))

    (violation,) = acting.monitor.violations(synthetic=True)
    assert violation.synthetic
    assert len(detector._uses) == 0
