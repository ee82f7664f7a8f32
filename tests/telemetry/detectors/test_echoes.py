"""What comes to its owner too is a broadcast, each time anew."""

from __future__ import annotations

from isolation_monitor.telemetry.detectors import echoes
from isolation_monitor.telemetry.detectors.echoes import Echoes


def test_what_its_owner_heard_explains_that_others_hear_it() -> None:
    said = Echoes()
    said.heard("hello")

    assert said.explain("hello", {1, 2})
    assert said.explain("hello", {3})
    assert not said.explain("other", {1})


def test_what_comes_to_one_socket_again_while_its_owner_hears_nothing_is_no_broadcast() -> None:
    """A push by the clock that has changed its receiver: its owner heard it until a moment ago."""
    said = Echoes()
    said.heard("balance")

    assert said.explain("balance", {1})
    assert not said.explain("balance", {1})


def test_a_broadcast_that_is_repeated_is_heard_by_its_owner_each_time() -> None:
    said = Echoes()
    for _ in range(3):
        said.heard("balance")

        assert said.explain("balance", {1, 2})


def test_an_echo_explains_nothing_after_a_while(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(echoes.time, "monotonic", lambda: now[0])
    said = Echoes()
    said.heard("hello")
    now[0] += echoes.ECHO_S + 0.1

    assert not said.explain("hello", {1})


def test_what_is_remembered_is_bounded() -> None:
    said = Echoes()
    for number in range(echoes.KEYS_LIMIT + 100):
        said.heard(str(number))
        said.explain(str(number), {number})

    assert len(said._heard) <= echoes.KEYS_LIMIT
    assert len(said._explained) <= echoes.KEYS_LIMIT
