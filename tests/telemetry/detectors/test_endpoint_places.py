"""Which places an answer is judged by: few where the endpoint is known, and never for long where it is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from isolation_monitor.telemetry.detectors import endpoint_places
from isolation_monitor.telemetry.detectors.endpoint_places import READ_AGAIN_S, EndpointPlaces
from isolation_monitor.telemetry.detectors.naming import names_in
from isolation_monitor.telemetry.detectors.places import Place, Places
from isolation_monitor.telemetry.housekeeper import Housekeeper

current = SimpleNamespace(user="")
late: Callable[[], str] | None = None


def reads_it() -> str:
    return current.user


def reads_it_later() -> object:
    return late() if late is not None else None


def reads_nothing() -> int:
    return 1


def place(name: str, value: object, root: str = "", kind: str = "global") -> Place:
    return Place(kind, name, name, frozenset((name,)), lambda: value, root)


@pytest.fixture
def housekeeper() -> Iterator[Housekeeper]:
    housekeeper = Housekeeper(lambda error: None)
    yield housekeeper
    housekeeper.close()


@pytest.fixture
def places() -> Places:
    places = Places()
    places.shared = [
        place("user", current, root="current"),
        place("user", SimpleNamespace(user=""), root="another"),
        place("tenant", "nobody"),
        place("held", {}, kind="context_variable"),
    ]
    return places


@pytest.fixture
def chosen(places: Places, housekeeper: Housekeeper) -> Callable[[object], list[str]]:
    chooser = EndpointPlaces(places, housekeeper)

    def run(endpoint: object) -> list[str]:
        list(chooser.of(endpoint, {}))
        housekeeper.settle(0.1)
        return [" ".join((one.name, *one.roots)) for one in chooser.of(endpoint, {})]

    run.chooser = chooser  # type: ignore[attr-defined]
    return run


def test_an_endpoint_is_judged_by_what_its_code_mentions_and_by_context_variables(chosen) -> None:
    assert chosen(reads_it) == ["user current", "held"]
    assert chosen(reads_nothing) == ["held"]


def test_until_its_code_was_read_and_where_no_endpoint_is_known_all_places_are_looked_at(places, housekeeper) -> None:
    chooser = EndpointPlaces(places, housekeeper)

    assert [one.name for one in chooser.of(reads_nothing, {})] == ["tenant", "user", "user", "held"]
    assert [one.name for one in chooser.of(None, {})] == ["tenant", "user", "user", "held"]


def test_places_found_later_are_chosen_from_as_well(chosen, places) -> None:
    assert "tenant" not in chosen(reads_it)

    places.shared = [place("user", "somebody")]

    assert chosen(reads_it) == ["user"]


def test_what_was_made_late_leads_on_to_more_code(chosen, monkeypatch) -> None:
    assert chosen(reads_it_later) == ["held"]

    monkeypatch.setitem(globals(), "late", reads_it)
    chosen.chooser.tick(time.monotonic())
    assert chosen(reads_it_later) == ["held"]
    chosen.chooser.tick(time.monotonic() + READ_AGAIN_S + 1.0)
    assert chosen(reads_it_later) == ["user current", "held"]


def test_places_that_named_somebody_and_are_not_mentioned_are_learned_from(chosen, places) -> None:
    """A middleware writes them at every request; only some endpoints read them."""
    telling = {one.key: one for one in places.shared[:3:2]}

    assert chosen(reads_it) == ["user current", "held"]
    assert [one.name for one in chosen.chooser.beside(reads_it, telling)] == ["tenant"]
    assert list(chosen.chooser.beside(reads_nothing, telling)) == [], "all are looked at until its code was read"
    assert list(chosen.chooser.beside(None, telling)) == []


def test_places_are_looked_at_in_turn_for_a_moment_and_telling_ones_each_time(housekeeper, monkeypatch) -> None:
    """Thousands of them, each a microsecond, would hold up the loop at every answer of a framework that names no endpoint."""
    monkeypatch.setattr(endpoint_places, "LOOK_S", 0.0)
    places = Places()
    telling, few = Place("global", "telling", "telling", frozenset(), lambda: current), endpoint_places.LOOKS_BETWEEN_CLOCKS - 1
    objects = [Place("global", f"object {n}", f"object {n}", frozenset(), lambda: current) for n in range(3 * few)]
    plain = [Place("global", f"plain {n}", f"plain {n}", frozenset(), lambda: "nobody") for n in range(3 * few)]
    empty = [Place("global", f"empty {n}", f"empty {n}", frozenset(), lambda: None) for n in range(3 * few)]
    places.shared = [telling, *objects, *plain, *empty]
    closure = Place("closure", "closure", "closure", frozenset(), lambda: current)
    chooser = EndpointPlaces(places, housekeeper)
    seen: set[str] = set()

    for _ in range(20):
        looked = [one.name for one in chooser.of(None, {"telling": telling, "closure": closure})]
        seen.update(looked)
        assert looked[0] == "telling"
        assert len(looked) <= 1 + 2 * few
    assert seen == {one.name for one in (telling, *objects, *plain)}


def test_objects_do_not_use_up_the_time_of_plain_values(housekeeper, monkeypatch) -> None:
    places = Places()
    large = SimpleNamespace(**{f"field{n}": [SimpleNamespace(**{f"f{m}": "x" for m in range(40)})] * 40 for n in range(40)})
    places.shared = [*(Place("global", f"object {n}", n, frozenset(), lambda: large) for n in range(1_000)), place("plain", "nobody")]
    chooser = EndpointPlaces(places, housekeeper)

    answers = [[one.name for one in chooser.of(None, {}) if not list(names_in(one.read(), lambda text: None))] for _ in range(5)]
    assert any("plain" in names for names in answers)
    assert max(map(len, answers)) < 1_000
