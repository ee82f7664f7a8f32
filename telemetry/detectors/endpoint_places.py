"""Which of all places an answer is judged by: those that the code of its endpoint mentions, which are few.

A large application has thousands of places, and a look at each would hold up its loop at every answer. A place that an
endpoint's code never mentions is never reported for it, so nothing is lost by leaving it out.
What an endpoint mentions is read off the loop, after its first request, and again each minute, since objects that are made late
lead on to more code. Until then, and where no endpoint is known, looked at are: places that ever named somebody, and the others in turn,
those with a plain value and those with an object for half of `LOOK_S` each. One that names somebody does so each time, and is found
within a few answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import CodeType
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry.detectors.naming import PLAIN, fields_of
from isolation_monitor.telemetry.detectors.places import Place, Places
from isolation_monitor.telemetry.detectors.reach import functions_of, reach_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.housekeeper import Housekeeper

LOOK_S: Final = 0.001
"""Processor time at most, at one answer."""
LOOKS_BETWEEN_CLOCKS: Final = 16
BESIDE: Final = 16
ENDPOINTS_LIMIT: Final = 1_000
READ_AGAIN_S: Final = 60.0
READS_A_SECOND: Final = 5
"""Endpoints whose code is read again, at most. Measured: 0.7 ms for one (median), 7 ms for one that reaches much."""


class _Endpoint:
    """What one endpoint mentions, and which places of one scan these are. The endpoint is held, so that its id is not used again."""

    __slots__ = ("at", "endpoint", "keys", "places", "scan", "words")

    def __init__(self, endpoint: object) -> None:
        self.endpoint = endpoint
        self.words: frozenset[str] | None = None
        self.at = 0.0
        self.places: list[Place] = []
        self.keys: frozenset[object] = frozenset()
        self.scan: tuple[list[Place], list[Place], frozenset[str]] | None = None
        """What `places` were chosen from, and by which words."""

    def read(self) -> None:
        self.at = time.monotonic()
        self.words = frozenset(name for code in codes_of_endpoint(self.endpoint) for name in (*code.co_names, *code.co_freevars))


class EndpointPlaces:
    """Chooses the places for one answer. `of` is called on the loop, `tick` on the housekeeper's thread."""

    def __init__(self, places: Places, housekeeper: Housekeeper) -> None:
        self._places = places
        self._housekeeper = housekeeper
        self._endpoints: dict[int, _Endpoint] = {}
        self._plain, self._objects = _Round(is_plain=True), _Round(is_plain=False)
        self._all: tuple[Place, ...] = ()
        self._by_key: dict[object, Place] = {}
        self._scan: tuple[list[Place], list[Place]] | None = None
        """What these two were made of."""

    def of(self, endpoint: object | None, telling: Mapping[object, Place]) -> Iterable[Place]:
        """Return the places to look at; `telling` are those that have named somebody, by their keys."""
        known = None if endpoint is None else self._endpoint(endpoint)
        words = None if known is None else known.words
        if known is None or words is None:
            return self._in_turn(telling)
        shared, locals, scan = self._places.shared, self._places.locals, known.scan
        if scan is None or scan[0] is not shared or scan[1] is not locals or scan[2] is not words:
            known.places = [place for place in (*shared, *locals) if _is_mentioned(place, words)]
            known.keys = frozenset(place.key for place in known.places)
            known.scan = (shared, locals, words)
        return known.places

    def beside(self, endpoint: object | None, telling: Mapping[object, Place]) -> Iterator[Place]:
        """Yield some places that have named somebody and that `of` leaves out for this endpoint: what they name now is worth knowing."""
        known = self._endpoints.get(id(endpoint)) if telling else None
        if known is not None and known.scan is not None:
            for key, place in islice(list(telling.items()), BESIDE):
                if key not in known.keys:
                    yield place

    def tick(self, now: float) -> None:
        """Read the code of some endpoints again, those first that were read longest ago."""
        waiting = sorted((one for one in list(self._endpoints.values()) if now - one.at > READ_AGAIN_S), key=lambda one: one.at)
        for one in waiting[:READS_A_SECOND]:
            one.read()

    def _endpoint(self, endpoint: object) -> _Endpoint | None:
        known = self._endpoints.get(id(endpoint))
        if known is None and len(self._endpoints) < ENDPOINTS_LIMIT:
            known = self._endpoints[id(endpoint)] = _Endpoint(endpoint)
            self._housekeeper.after(0.0, known.read)
        return known

    def _in_turn(self, telling: Mapping[object, Place]) -> Iterator[Place]:
        shared, locals = self._places.shared, self._places.locals
        if self._scan is None or self._scan[0] is not shared or self._scan[1] is not locals:
            self._all, self._scan = (*shared, *locals), (shared, locals)
            self._by_key = {place.key: place for place in self._all}
        for key in list(telling):
            # Only the application's own: what a closure holds is looked at where its endpoint is.
            if (place := self._by_key.get(key)) is not None:
                yield place
        yield from self._plain.of(self._all, telling)
        yield from self._objects.of(self._all, telling)


class _Round:
    """Goes round the places that hold a plain value, or those that hold an object: a look at an object costs ten times as much."""

    def __init__(self, *, is_plain: bool) -> None:
        self._is_plain = is_plain
        self._next = 0

    def of(self, places: Sequence[Place], telling: Mapping[object, Place]) -> Iterator[Place]:
        """Yield as many as there is time for, beginning behind the last one of the last time."""
        # Of this thread's processor: where others have it meanwhile, nobody is held up by us.
        until = time.thread_time() + LOOK_S / 2
        begin = self._next if self._next < len(places) else 0
        for looks, at in enumerate((*range(begin, len(places)), *range(begin)), 1):
            if looks % LOOKS_BETWEEN_CLOCKS == 0 and time.thread_time() > until:
                self._next = at
                return
            place = places[at]
            value = place.read()
            if value is not None and (type(value) in PLAIN) is self._is_plain and place.key not in telling:
                yield place


def codes_of_endpoint(endpoint: object) -> Iterator[CodeType]:
    """Yield the code that an endpoint reaches, that of the dependencies in its signature too."""
    yield from reach_of(endpoint)
    declared: list[object] = []
    for function in functions_of(endpoint):
        declared += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for annotation in list(function.__annotations__.values()):
            metadata = dict(fields_of(annotation)).get("__metadata__")
            declared.extend(metadata if type(metadata) is tuple else ())
    for one in declared:
        yield from reach_of(dict(fields_of(one)).get("dependency"))


def _is_mentioned(place: Place, words: frozenset[str]) -> bool:
    if place.kind == "context_variable":
        # Reached through the variable, which whoever has it may hand on under any name.
        return True
    return not words.isdisjoint(place.words) and (not place.roots or not words.isdisjoint(place.roots))
