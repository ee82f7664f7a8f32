"""Foreign context: a place for the request at hand names another principal than the request that runs.

Sees, at the start of an answer: module globals, class attributes, fields of a module's one object and closure variables
that functions assign to; `threading.local` objects on the loop's thread; and mutable objects that several requests find
in one context variable (its default, or what was there before any request). Two levels deep, by the ids of known
principals.
Only identity-carrying slots count: those seen to name several principals, and the right one on this route; and only
where the place named this request's own principal since it began, so that somebody else wrote over it. The endpoint
must have read it (of a class its method that serves): a branch never taken, a value only written, an endpoint that never
waits or that holds a lock are safe. What the request itself said (path, query, headers) or read from a store is not
foreign. A value that the request set in its own context is its own: impersonation by an administrator and the owner of a
shown page stay silent.
Learns from looks at the places after the first step of tasks, which `instrument/asyncio_tasks.py` asks for, and at every
answer from those that have named somebody.
Cannot see: endpoints whose reading function is called dynamically, or ran less than about ten times; identities that do
not contain the principal's id; places that always name the first one ever seen; a place that was right again by the
time of the answer; principals known by their credential only.
Cost: 1.5 us a request where no place is known, about 1 us more for each place that its endpoint mentions and each object in a
context variable; 1 ms at most where the endpoint is not known (`endpoint_places.py`).
Precision: near 1 once learned.
Grades: `reachable`.
"""

from __future__ import annotations

import re
import time
import weakref
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.detectors.endpoint_places import ENDPOINTS_LIMIT, EndpointPlaces, codes_of_endpoint
from isolation_monitor.telemetry.detectors.naming import PLAIN, Slots, is_telling, names_in
from isolation_monitor.telemetry.detectors.places import Place, Places, cell_places
from isolation_monitor.telemetry.detectors.reach import (
    handler_of,
    has_read,
    is_locked,
    loads,
    may_have_read,
    mentions_in,
    never_waits,
)
from isolation_monitor.telemetry.provenance import was_fetched
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.principals import Principal

RESCAN_S: Final = 60.0
GLANCES_A_SECOND: Final = 2_000
"""Places looked at between the judgements, to learn who is named when: 2 to 4 ms a second at most."""
GLANCE_SLICE: Final = 16
"""A glance is at the places that ever named somebody, and at so many of the others, in turn: a large application has
hundreds of them, and the budget would be gone after a few requests."""
TELLING_LIMIT: Final = 200
BARREN_GLANCES: Final = 1_000
BARREN_SHARE: Final = 16
"""After so many looks in a row at places that named nobody, as those of libraries do, one task in sixteen is followed by one."""
HOLDERS_LIMIT: Final = 200
_MISSING: Final = object()
_WORD: Final = re.compile(r"[^\s/?&=,;:\"'()]+")


class _Holder:
    """The object that a context variable held for the latest request: weak where possible, else until that request is over."""

    __slots__ = ("request", "serial", "strong", "weak")

    def __init__(self, value: object, request: RequestContext) -> None:
        self.serial = request.serial
        self.weak: weakref.ref[Any] | None = None
        self.strong: object = None
        self.request: RequestContext | None = None
        try:
            self.weak = weakref.ref(value)
        except TypeError:
            self.strong, self.request = value, request

    def is_of(self, value: object) -> bool:
        return (self.strong if self.weak is None else self.weak()) is value


class ForeignContext:
    """Learns which places carry identity, and compares them with the request's own."""

    plants_on_loop = True

    def __init__(self, kit: Kit, places: Places | None = None) -> None:
        self._reporter = kit.reporter
        self._switch = kit.switches[names.FOREIGN_CONTEXT]
        self._principals = kit.principals
        self._housekeeper = kit.housekeeper
        self._exposure = kit.exposure
        self.places = places or Places()
        self._endpoint_places = EndpointPlaces(self.places, kit.housekeeper)
        self._slots = Slots()
        self._cells: dict[int, tuple[object, list[Place]]] = {}
        """Places in the closures of endpoints, by identity; the endpoint is held, so that it is not used again."""
        self._holders: dict[ContextVar[Any], _Holder] = {}
        self._closures: dict[object, Place] = {}
        """The same by their keys."""
        self.glances_left = GLANCES_A_SECOND
        self._barren = 0
        """Looks in a row that found nobody named anywhere; a name found in a judgement counts as well."""
        self._turn = 0
        self._telling: dict[object, Place] = {}
        """By their keys, the places that have named somebody."""
        self._next_slice = 0
        self._has_asked = False
        """For the first look for places, at the first request."""
        self._scanned = 0.0
        kit.housekeeper.every_second(self._tick)

    def judge(self, request: RequestContext) -> None:
        """Look at the places of a request at the start of its answer. Called in its context, on its thread."""
        if not self._switch.is_on:
            return
        try:
            principal = request.principal
            if principal is None or principal.is_credential or not self._switch.sampled():
                self._reporter.skipped(names.FOREIGN_CONTEXT)
                return
            self._slots.seen(principal)
            if not self._has_asked:
                self._has_asked = True
                self._housekeeper.after(0.0, self._scan)
            found = False
            endpoint = request.scope.get("endpoint") if request.scope is not None else None
            for place in self._endpoint_places.of(endpoint, self._telling):
                found = self._look(place, place.read(), request, principal) or found
            for place in self._endpoint_places.beside(endpoint, self._telling):
                # Who is named in it now, by a middleware for one, may be named no more when an endpoint answers that reads it.
                self._learn(place)
            for place in self._cells_of(endpoint):
                found = self._look(place, place.read(), request, principal) or found
            found = self._look_at_context(request, principal) or found
            if not found:
                self._reporter.checked(names.FOREIGN_CONTEXT)
        except Exception as error:
            self._reporter.check_failed(names.FOREIGN_CONTEXT, "detector", error)

    def wants_glance(self) -> bool:
        if self._barren >= BARREN_GLANCES:
            self._turn += 1
            if self._turn % BARREN_SHARE:
                return False
        return self.glances_left > 0 and self._switch.is_on and bool(self.places.shared or self.places.locals or self._closures)

    def glance(self) -> None:
        """Look at the places after a task's first step: they then hold what it wrote. Learns, judges nothing."""
        try:
            others = (*self.places.shared, *self.places.locals, *self._closures.values())
            begin = self._next_slice if self._next_slice < len(others) else 0
            self._next_slice = begin + GLANCE_SLICE
            places = (*self._telling.values(), *(one for one in others[begin : begin + GLANCE_SLICE] if one.key not in self._telling))
            self.glances_left -= len(places)
            self._barren += 1
            for place in places:
                self._learn(place)
        except Exception as error:
            self._reporter.check_failed(names.FOREIGN_CONTEXT, "asyncio", error)

    def _learn(self, place: Place) -> None:
        if (value := place.read()) is not None:
            for path, id in names_in(value, self._principals.known):
                self._barren = 0
                self._tells(place)
                self._slots.names(place.key, path, id)

    def _tells(self, place: Place) -> None:
        # What a context variable holds for this one request is no place of the application's.
        is_lasting = place.read is not _nothing and place.kind != "planted"
        if is_lasting and (place.key in self._telling or len(self._telling) < TELLING_LIMIT):
            # Each scan makes the places anew; the newest stands.
            self._telling[place.key] = place

    # --- looking ----------------------------------------------------------------------------------------------------

    def _look_at_context(self, request: RequestContext, principal: Principal) -> bool:
        found, baseline = False, request.baseline
        for variable, value in copy_context().items():
            if type(value) in PLAIN or variable is CURRENT or not is_telling(value):
                continue
            key: object
            if baseline is not None and baseline.get(variable, _MISSING) is value:
                key = ("held", variable, id(value))
            else:
                holder = self._holders.get(variable)
                if holder is None or not holder.is_of(value):
                    if holder is not None or len(self._holders) < HOLDERS_LIMIT:
                        self._holders[variable] = _Holder(value, request)
                    continue
                # The same object as in the request before, so state of its own: what it names is learned for it alone.
                key = ("set", variable, holder.serial)
            place = Place("context_variable", variable.name, key, frozenset((variable.name,)), _nothing)
            found = self._look(place, value, request, principal) or found
        return found

    def _look(self, place: Place, value: object, request: RequestContext, principal: Principal) -> bool:
        if value is None or value is True or value is False:
            return False
        named: dict[str, set[str]] = {}
        for path, id in names_in(value, self._principals.known):
            named.setdefault(path, set()).add(id)
        if not named:
            return False
        self._barren = 0
        self._tells(place)
        route = _route_key(request)
        for path, ids in named.items():
            own = principal.id in ids
            is_many = len(ids) > 1
            for id in () if is_many else ids:
                self._slots.names(place.key, path, id)
            if own:
                self._slots.right(place.key, path, principal, route)
            if self._exposure.latest_overlap < request.serial:
                self._slots.quiet(place.key, path, route, own)
            if (own and not is_many) or not self._slots.carries_identity(place.key, path, place.name, route):
                continue
            if is_many and not (place.kind == "context_variable" and path.startswith("[*]")):
                # Several at once is a list of people, unless a context variable's own value is a list that grows.
                continue
            foreign = self._foreign(ids, request, principal)
            if foreign is not None and not self._is_safe(place, path, route, request):
                self._report(place, path, request, foreign)
                return True
        return False

    def _is_safe(self, place: Place, path: str, route: object, request: RequestContext) -> bool:
        """Return whether this request cannot have been disturbed, as far as the code of its endpoint tells.

        An endpoint that only writes the place (a statistic), that never waits (nothing comes in between), or that uses it
        under a lock is safe; the place may then name somebody else by the time of the answer. Where no endpoint is known, a
        place that is right whenever nobody else is at work is one that the request writes.
        """
        if place.kind in ("context_variable", "planted"):
            return False
        if request.principal is None or not self._slots.named_since(place.key, path, request.principal.id, request.started):
            # It never was this request's place: who holds a lock or hosts a game is named to everybody.
            return True
        endpoint = None
        if request.scope is not None:
            endpoint = handler_of(request.scope.get("endpoint"), request.scope.get("method", ""))
        using = [code for code in codes_of_endpoint(endpoint) if mentions_in(code, place.words)]
        if endpoint is None:
            return not self._slots.is_written_by(place.key, path, route)
        if not any(loads(code, place.words) for code in using) or never_waits(endpoint) or any(is_locked(code) for code in using):
            return True
        # A branch that reads the place may be there and never be taken.
        if place.kind == "closure":
            return not any(may_have_read(code, place.words) for code in using)
        return bool(place.roots) and not any(has_read(code, root) for code in using for root in place.roots)

    def _foreign(self, ids: Iterable[str], request: RequestContext, principal: Principal) -> Principal | None:
        for id in ids:
            other = self._principals.known(id)
            if (
                other is not None
                and other.id != principal.id
                and other.is_synthetic == principal.is_synthetic
                and self._slots.is_active(other)
                and not was_said(request, id)
                and not was_fetched(request, id, ("sql", "kv", "http"))
            ):
                return other
        return None

    def _report(self, place: Place, path: str, request: RequestContext, foreign: Principal) -> None:
        name = f"{place.name}{path}"
        self._reporter.report(
            Violation(
                kind=names.FOREIGN_CONTEXT,
                grade="reachable",
                summary=f"{request.route}: {place.kind.replace('_', ' ')} {name} named another principal while this request was answered",
                resource=Resource("context_variable", name, {"place": place.kind}),
                victim=side_of(None, principal=foreign),
                offender=side_of(request),
                arm=request.arm,
            ),
            request,
        )

    def _cells_of(self, endpoint: object | None) -> list[Place]:
        if endpoint is None:
            return []
        known = self._cells.get(id(endpoint))
        if known is not None and known[0] is endpoint:
            return known[1]
        places = list({place.key: place for place in cell_places(endpoint)}.values())[:20]
        if len(self._cells) < ENDPOINTS_LIMIT:
            self._cells[id(endpoint)] = (endpoint, places)
            self._closures.update((place.key, place) for place in places)
        return places

    def _tick(self, now: float) -> None:
        for variable, holder in list(self._holders.items()):
            if holder.request is not None and holder.request.finished:
                self._holders.pop(variable, None)
        self.glances_left = GLANCES_A_SECOND
        if not self._switch.is_on:
            return
        if self._scanned and (self.places.is_stale() or now - self._scanned > RESCAN_S):
            self._scan()
        self._endpoint_places.tick(now)

    def _scan(self) -> None:
        self._scanned = time.monotonic()
        self.places.scan()

    # --- proof ------------------------------------------------------------------------------------------------------

    def plant(self, lab: Lab) -> None:
        """Let one place name its own principal for both, then the wrong one while a request of the other runs."""
        state: dict[str, str] = {}
        place = Place("planted", "isolation_monitor.planted", ("planted", id(state)), frozenset(), lambda: state)
        own, other = lab.request(), lab.request(of_offender=True)
        for request in (own, other):
            if request.principal is not None:
                self._slots.seen(request.principal)
                state["user"] = request.principal.id
                self._look(place, state, request, request.principal)
        if own.principal is not None:
            lab.inside(own, self._look, place, state, own, own.principal)
        self._slots.forget(place.key)


def _route_key(request: RequestContext) -> object:
    scope = request.scope
    endpoint = scope.get("endpoint") if scope is not None else None
    return request.route if endpoint is None else id(endpoint)


def _nothing() -> None:
    return None


def was_said(request: RequestContext, id: str) -> bool:
    """Return whether the request itself named `id` in path, query or headers."""
    scope = request.scope
    if scope is None:
        return False
    said = [str(scope.get("path", "")), scope.get("query_string", b"").decode("latin-1")]
    said += [value.decode("latin-1") for _, value in scope.get("headers", ())]
    return any(id == word or id == unquote(word) for text in said for word in _WORD.findall(text))
